package initramfs

import (
	"crypto/x509"
	"fmt"
	"os"

	"attestbox/internal/client"
	"attestbox/internal/code"
)

// policy reads the domain's policy certificate, if the image has one: by it,
// a verifier whose key is not pinned is trusted for its serving claim. The
// dates of claims are judged by the clock, whose floor is the image's.
func (in *Init) policy() (*x509.Certificate, error) {
	if in.cfg.Policy == "" {
		return nil, nil
	}
	b, err := os.ReadFile(in.path(in.cfg.Policy))
	if err != nil {
		return nil, code.Wrap(code.ConfigBad, fmt.Errorf("reading the policy certificate: %w", err))
	}
	cert, err := client.ParsePolicy(b)
	if err != nil {
		return nil, code.Wrap(code.ConfigBad, fmt.Errorf("policy certificate %s: %w", in.cfg.Policy, err))
	}
	return cert, nil
}
