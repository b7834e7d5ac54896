package cryptstore

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"io"
	"slices"

	"attestbox/internal/secret"
)

// Alg is what a key was generated for.
type Alg string

// The algorithms of Generate.
const (
	Ed25519 Alg = "ed25519"
	P256    Alg = "p256"
	P384    Alg = "p384"
	RSA3072 Alg = "rsa-3072"
	AES256  Alg = "aes-256"
	HMAC256 Alg = "hmac-256"
)

// Algs lists all algorithms.
func Algs() []Alg { return []Alg{Ed25519, P256, P384, RSA3072, AES256, HMAC256} }

func (a Alg) valid() bool { return slices.Contains(Algs(), a) }

// Type is the type of the algorithm's keys.
func (a Alg) Type() Type {
	if a == AES256 || a == HMAC256 {
		return SymmetricKey
	}
	return PrivateKey
}

// newKey makes a key as it is stored.
func (a Alg) newKey() (*secret.Bytes, error) {
	var k any
	var err error
	switch a {
	case AES256, HMAC256:
		return secret.Random(32), nil
	case Ed25519:
		_, k, err = ed25519.GenerateKey(rand.Reader)
	case P256:
		k, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case P384:
		k, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case RSA3072:
		k, err = rsa.GenerateKey(rand.Reader, 3072)
	default:
		err = fmt.Errorf("%w: algorithm %.32q is none of %q", ErrInvalid, string(a), Algs())
	}
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if ed, ok := k.(ed25519.PrivateKey); ok {
		clear(ed)
	}
	if err != nil {
		return nil, err
	}
	return secret.Take(der), nil
}

// Generate makes a key and keeps it as the next version of the tag, as a
// private-key or a symmetric-key.
func (s *Store) Generate(ctx context.Context, tag string, a Alg, exportable bool) (Entry, error) {
	v, err := a.newKey()
	if err != nil {
		return Entry{}, err
	}
	defer v.Zero()
	return s.put(ctx, Item{Tag: tag, Type: a.Type(), Exportable: exportable, Value: v}, a)
}

// Rotate generates the next version of an entry that was generated: the same
// algorithm, and exportable as the latest one is.
func (s *Store) Rotate(ctx context.Context, tag string, t Type) (Entry, error) {
	s.keep.RLock()
	h, err := s.load(ctx)
	s.keep.RUnlock()
	if err != nil {
		return Entry{}, coded(err)
	}
	r, err := h.index.find(tag, t, 0)
	if err != nil {
		return Entry{}, coded(err)
	}
	if r.Alg == "" {
		return Entry{}, fmt.Errorf("%w: %s was put, not generated: put its next version", ErrInvalid, r.Entry)
	}
	return s.Generate(ctx, tag, r.Alg, r.Exportable)
}

// Signer signs with a private key of a store. The key itself has no way out.
type Signer struct {
	priv crypto.Signer
	// Entry is the version of the key that signs.
	Entry Entry
}

var _ crypto.Signer = (*Signer)(nil)

// Public is the public key.
func (k *Signer) Public() crypto.PublicKey { return k.priv.Public() }

// Sign is crypto.Signer's.
func (k *Signer) Sign(r io.Reader, digest []byte, o crypto.SignerOpts) ([]byte, error) {
	return k.priv.Sign(r, digest, o)
}

// Close wipes what can be wiped: an Ed25519 key. Others stay on the heap until
// they are collected.
func (k *Signer) Close() {
	if ed, ok := k.priv.(ed25519.PrivateKey); ok {
		clear(ed)
	}
}

func (k *Signer) String() string                   { return "[redacted]" }
func (k *Signer) GoString() string                 { return "[redacted]" }
func (k *Signer) Format(f fmt.State, _ rune)       { io.WriteString(f, "[redacted]") }
func (k *Signer) MarshalJSON() ([]byte, error)     { return []byte(`"[redacted]"`), nil }
func (k *Signer) MarshalText() (b []byte, _ error) { return []byte("[redacted]"), nil }

// parsePrivate reads a private-key value: PKCS #8, of an algorithm of Generate
// or RSA of 2048 to 8192 bits, and nothing behind it.
func parsePrivate(v *secret.Bytes) (*Signer, error) {
	var whole asn1.RawValue
	if rest, err := asn1.Unmarshal(v.Bytes(), &whole); err != nil || len(rest) > 0 {
		return nil, fmt.Errorf("%w: private-key: not one DER object", ErrInvalid)
	}
	k, err := x509.ParsePKCS8PrivateKey(v.Bytes())
	if err != nil {
		return nil, fmt.Errorf("%w: private-key: not PKCS #8", ErrInvalid) // the cause may quote the key
	}
	switch k := k.(type) {
	case ed25519.PrivateKey:
		return &Signer{priv: k}, nil
	case *ecdsa.PrivateKey:
		if k.Curve == elliptic.P256() || k.Curve == elliptic.P384() {
			return &Signer{priv: k}, nil
		}
	case *rsa.PrivateKey:
		if k.N.BitLen() >= 2048 && k.N.BitLen() <= 8192 {
			return &Signer{priv: k}, nil
		}
	}
	return nil, fmt.Errorf("%w: private-key of a kind that is not supported", ErrInvalid)
}

// Signer opens a private key for signing, 0 for the latest version. Close it.
func (s *Store) Signer(ctx context.Context, tag string, version int) (*Signer, error) {
	v, e, err := s.get(ctx, tag, PrivateKey, version, func(Entry) error { return nil })
	if err != nil {
		return nil, err
	}
	defer v.Zero()
	k, err := parsePrivate(v)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", e, err)
	}
	k.Entry = e
	return k, nil
}
