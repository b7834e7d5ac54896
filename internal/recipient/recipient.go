// Package recipient is whom backups, exported entries and escrow copies are
// encrypted to: an HPKE key pair (RFC 9180; KEM from draft-ietf-hpke-pq), suite
// MLKEM768-X25519, HKDF-SHA256, AES-256-GCM, base mode, in PEM files.
//
// Base mode says nothing about who encrypted: whoever knows the public key can.
package recipient

import (
	"crypto/hpke"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"strings"

	"attestbox/internal/secret"
)

// Types of the PEM blocks. The names say backup, which these keys were made
// for first. Variables, so that the linker does not put a whole begin line into
// the program, which mkimage would take for a key when it packs a server.
var (
	pemPrivate = "ATTESTBOX BACKUP PRIVATE KEY"
	pemPublic  = "ATTESTBOX BACKUP PUBLIC KEY"
)

// MaxFile bounds a PEM file of a key, in bytes.
const MaxFile = 64 << 10

func suite() (hpke.KEM, hpke.KDF, hpke.AEAD) {
	return hpke.MLKEM768X25519(), hpke.HKDFSHA256(), hpke.AES256GCM()
}

// New makes a key pair: the private key as PEM in a secret that the caller
// zeroes, the public key as PEM.
func New() (private *secret.Bytes, public []byte, err error) {
	kem, _, _ := suite()
	k, err := kem.GenerateKey()
	if err != nil {
		return nil, nil, err
	}
	b, err := k.Bytes()
	if err != nil {
		return nil, nil, err
	}
	raw := secret.Take(b)
	defer raw.Zero()
	head, tail := "-----BEGIN "+pemPrivate+"-----\n", "\n-----END "+pemPrivate+"-----\n"
	n := base64.StdEncoding.EncodedLen(raw.Len())
	private = secret.New(len(head) + n + len(tail))
	p := private.Bytes()
	copy(p, head)
	base64.StdEncoding.Encode(p[len(head):], raw.Bytes())
	copy(p[len(head)+n:], tail)
	return private, pem.EncodeToMemory(&pem.Block{Type: pemPublic, Bytes: k.PublicKey().Bytes()}), nil
}

// NewKey makes a key pair for this process alone.
func NewKey() (hpke.PrivateKey, error) {
	kem, _, _ := suite()
	return kem.GenerateKey()
}

func onePEM(b []byte, kind string) ([]byte, error) {
	block, rest := pem.Decode(b)
	if block == nil || block.Type != kind || len(strings.TrimSpace(string(rest))) > 0 {
		return nil, fmt.Errorf("not one PEM block %q", kind)
	}
	return block.Bytes, nil
}

// ParsePublic reads a recipient's public key from PEM.
func ParsePublic(public []byte) (hpke.PublicKey, error) {
	b, err := onePEM(public, pemPublic)
	if err != nil {
		return nil, fmt.Errorf("reading recipient: %w", err)
	}
	k, err := ParsePublicBytes(b)
	if err != nil {
		return nil, fmt.Errorf("reading recipient: %w", err)
	}
	return k, nil
}

// ParsePublicBytes reads a recipient's public key as the suite encodes it.
func ParsePublicBytes(b []byte) (hpke.PublicKey, error) {
	kem, _, _ := suite()
	return kem.NewPublicKey(b)
}

// ParsePrivate reads a recipient's private key from PEM.
func ParsePrivate(private *secret.Bytes) (hpke.PrivateKey, error) {
	b, err := onePEM(private.Bytes(), pemPrivate)
	if err != nil {
		return nil, fmt.Errorf("reading recipient's private key: %w", err)
	}
	defer clear(b)
	kem, _, _ := suite()
	k, err := kem.NewPrivateKey(b)
	if err != nil {
		return nil, fmt.Errorf("reading recipient's private key: %w", err)
	}
	return k, nil
}

// Seal encrypts plain to a recipient; info must be the same at Open.
func Seal(to hpke.PublicKey, info, plain []byte) ([]byte, error) {
	_, kdf, aead := suite()
	return hpke.Seal(to, kdf, aead, info, plain)
}

// Open decrypts what Seal made. The caller zeroes the secret.
func Open(by hpke.PrivateKey, info, sealed []byte) (*secret.Bytes, error) {
	_, kdf, aead := suite()
	b, err := hpke.Open(by, kdf, aead, info, sealed)
	if err != nil {
		return nil, err
	}
	return secret.Take(b), nil
}
