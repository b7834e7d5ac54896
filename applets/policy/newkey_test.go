package policy

import (
	"testing"

	"attestbox/internal/claim"
)

func TestNewKey(t *testing.T) {
	for _, alg := range []string{claim.Ed25519, claim.P384, claim.RSA} {
		if k, err := newKey(alg); err != nil || k == nil {
			t.Errorf("%s: %v", alg, err)
		}
	}
	for _, alg := range []string{"", "dsa", claim.P256} {
		if _, err := newKey(alg); err == nil {
			t.Errorf("made a key of %q", alg)
		}
	}
}
