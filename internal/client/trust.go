package client

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	"attestbox/internal/admission"
	"attestbox/internal/wire"
)

// serverTrust judges a server's certificate: its key is pinned, or it carries a
// claim of the policy key that trusts that key for serving in the role. The
// claim is short-lived or revocable only as far as the clock is honest; the
// freshness of what a server says comes from the nonce.
func (c *Config) serverTrust(role string) (func(*x509.Certificate) error, error) {
	if len(c.Pins) == 0 && c.Policy == nil {
		return nil, errors.New("neither a server's key nor a policy certificate is pinned")
	}
	pins, policy, now := slices.Clone(c.Pins), c.Policy, c.now
	return func(cert *x509.Certificate) error {
		got := wire.PinOf(cert)
		if slices.Contains(pins, got) {
			return nil
		}
		if policy == nil {
			return fmt.Errorf("%w: it presented %s", wire.ErrPin, got)
		}
		if err := admission.CheckServing(cert, policy, role, now()); err != nil {
			return fmt.Errorf("%w %q: %v", wire.ErrUntrusted, role, err) // its code is for members
		}
		return nil
	}, nil
}
