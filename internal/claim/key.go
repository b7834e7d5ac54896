package claim

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
)

// Algorithms of keys, as they stand in Key[alg, name, hash].
const (
	Ed25519 = "ed25519"
	P256    = "p256"
	P384    = "p384"
	RSA     = "rsa"
)

// Key names a public key. Two keys are the same key where their IDs are equal;
// the name is for readers.
type Key struct {
	Alg  string
	Name string
	// ID is the SHA-256 of the key's SubjectPublicKeyInfo (RFC 5280) in DER, 64
	// lower-case hex digits.
	ID string
}

func (k Key) String() string { return "Key[" + k.Alg + ", " + k.Name + ", " + k.ID + "]" }

// IsZero says that there is no key.
func (k Key) IsZero() bool { return k == Key{} }

// Same says whether both name the same public key; zero keys are never the
// same.
func (k Key) Same(o Key) bool { return k.ID != "" && k.ID == o.ID && k.Alg == o.Alg }

// KeyOf names a public key.
func KeyOf(name string, pub crypto.PublicKey) (Key, error) {
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return Key{}, fmt.Errorf("key %q: %w", name, err)
	}
	k, _, err := keyFromSPKI(name, spki)
	return k, err
}

// KeyOfSPKI names the key of a SubjectPublicKeyInfo in DER.
func KeyOfSPKI(name string, spki []byte) (Key, error) {
	k, _, err := keyFromSPKI(name, spki)
	return k, err
}

// maxSPKI bounds a public key, in bytes; RSA-8192 needs 1062.
const maxSPKI = 2048

func keyFromSPKI(name string, spki []byte) (Key, crypto.PublicKey, error) {
	if err := checkName(name); err != nil {
		return Key{}, nil, err
	}
	if len(spki) > maxSPKI {
		return Key{}, nil, fmt.Errorf("key %q: %d bytes, want at most %d", name, len(spki), maxSPKI)
	}
	pub, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return Key{}, nil, fmt.Errorf("key %q: %w", name, err)
	}
	alg, err := algorithm(pub)
	if err != nil {
		return Key{}, nil, fmt.Errorf("key %q: %w", name, err)
	}
	again, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil || string(again) != string(spki) {
		return Key{}, nil, fmt.Errorf("key %q: not in canonical DER", name)
	}
	sum := sha256.Sum256(spki)
	return Key{Alg: alg, Name: name, ID: hex.EncodeToString(sum[:])}, pub, nil
}

func algorithm(pub crypto.PublicKey) (string, error) {
	switch k := pub.(type) {
	case ed25519.PublicKey:
		return Ed25519, nil
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return P256, nil
		case elliptic.P384():
			return P384, nil
		}
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < 2048 || n > 8192 {
			return "", fmt.Errorf("RSA of %d bits, want 2048 to 8192", n)
		}
		return RSA, nil
	}
	return "", errors.New("want Ed25519, ECDSA P-256 or P-384, or RSA")
}

// SamePublicKey says whether two public keys are equal.
func SamePublicKey(a, b crypto.PublicKey) bool {
	e, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && b != nil && e.Equal(b)
}

func marshalSPKI(pub crypto.PublicKey) ([]byte, error) { return x509.MarshalPKIXPublicKey(pub) }
