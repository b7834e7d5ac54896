package client

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"attestbox/internal/admission"
)

// MaxPolicy bounds a file with a policy certificate, in bytes.
const MaxPolicy = 64 << 10

// ParsePolicy reads a domain's policy certificate, one, in PEM or DER. Whether
// it is the right domain's is the reader's trust: the file is pinned.
func ParsePolicy(b []byte) (*x509.Certificate, error) {
	if len(b) > MaxPolicy {
		return nil, fmt.Errorf("%d bytes, at most %d", len(b), MaxPolicy)
	}
	if block, rest := pem.Decode(b); block != nil {
		if block.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) > 0 {
			return nil, errors.New("want one certificate and nothing else")
		}
		b = block.Bytes
	}
	cert, err := x509.ParseCertificate(b)
	if err != nil {
		return nil, err
	}
	if _, err := admission.DomainOf(cert); err != nil {
		return nil, err
	}
	return cert, nil
}
