package policy

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"fmt"

	"attestbox/internal/claim"
)

// newKey makes a policy key.
func newKey(alg string) (crypto.Signer, error) {
	switch alg {
	case claim.Ed25519:
		_, k, err := ed25519.GenerateKey(rand.Reader)
		return k, err
	case claim.P384:
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case claim.RSA:
		return rsa.GenerateKey(rand.Reader, 3072)
	}
	return nil, fmt.Errorf("unknown algorithm %.40q, want ed25519, p384 or rsa", alg)
}
