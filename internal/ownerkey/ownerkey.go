// Package ownerkey keeps a private signing key of the owner's in a file: the
// policy key, the bundle key. It is JSON: how it is protected, and the key in
// PKCS #8 (RFC 5958), sealed. With a passphrase: Argon2id (RFC 9106) and
// AES-256-GCM, whose additional data is the kind's domain string and the other
// fields. With a recipient: HPKE with the domain string as info. Plain: the key
// itself. It reads and writes no files.
package ownerkey

import (
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"

	"golang.org/x/crypto/argon2"

	"attestbox/internal/recipient"
	"attestbox/internal/secret"
	"attestbox/internal/strictjson"
)

// Kind is what a key is for. A file of one kind does not open as another, but a
// plain one.
type Kind struct{ name, domain string }

// The kinds.
var (
	Policy = Kind{"policy key", "attestbox/policy-key/1"}
	Bundle = Kind{"bundle key", "attestbox/bundle-key/1"}
)

// MaxFile bounds a key file, in bytes.
const MaxFile = 64 << 10

const minPassphrase = 12

// Argon2id's cost, the second recommendation of RFC 9106 section 4, and the
// most that a file may ask for.
const (
	argonTime, argonMemory, argonLanes = 3, 64 << 10, 4
	maxArgonTime, maxArgonMemory       = 16, 1 << 20
)

const (
	kindPassphrase = "argon2id"
	kindRecipient  = "recipient"
	kindPlain      = "plain"
)

type keyFile struct {
	Format     int    `json:"format"` // 1
	Protection string `json:"protection"`
	Salt       []byte `json:"salt,omitempty"`
	Time       uint32 `json:"time,omitempty"`
	Memory     uint32 `json:"memory,omitempty"` // KiB
	Lanes      uint8  `json:"lanes,omitempty"`
	Nonce      []byte `json:"nonce,omitempty"`
	Sealed     []byte `json:"sealed"`
}

// Protection is how a key file is made or opened; one field is set, or none for
// plain.
type Protection struct {
	Passphrase *secret.Bytes
	Public     []byte        // PEM, to make
	Private    *secret.Bytes // PEM, to open
}

// Zero wipes what opens a key.
func (p *Protection) Zero() { p.Passphrase.Zero(); p.Private.Zero() }

func (f *keyFile) aead(domain string, passphrase *secret.Bytes) (cipher.AEAD, []byte, error) {
	bare := *f
	bare.Sealed = nil
	ad, err := json.Marshal(bare)
	if err != nil {
		return nil, nil, err
	}
	k := argon2.IDKey(passphrase.Bytes(), f.Salt, f.Time, f.Memory, f.Lanes, 32)
	defer clear(k)
	block, err := aes.NewCipher(k)
	if err != nil {
		return nil, nil, err
	}
	gcm, err := cipher.NewGCM(block)
	return gcm, append([]byte(domain), ad...), err
}

// Seal makes the content of a key file.
func (kind Kind) Seal(key crypto.Signer, p *Protection) (*secret.Bytes, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	plain := secret.Take(der)
	defer plain.Zero()
	f := &keyFile{Format: 1}
	switch {
	case p.Passphrase.Len() > 0:
		if p.Passphrase.Len() < minPassphrase {
			return nil, fmt.Errorf("passphrase of %d bytes, want at least %d", p.Passphrase.Len(), minPassphrase)
		}
		f.Protection, f.Time, f.Memory, f.Lanes = kindPassphrase, argonTime, argonMemory, argonLanes
		f.Salt, f.Nonce = make([]byte, 32), make([]byte, 12)
		rand.Read(f.Salt)
		rand.Read(f.Nonce)
		gcm, ad, err := f.aead(kind.domain, p.Passphrase)
		if err != nil {
			return nil, err
		}
		f.Sealed = gcm.Seal(nil, f.Nonce, plain.Bytes(), ad)
	case len(p.Public) > 0:
		to, err := recipient.ParsePublic(p.Public)
		if err != nil {
			return nil, err
		}
		f.Protection = kindRecipient
		if f.Sealed, err = recipient.Seal(to, []byte(kind.domain), plain.Bytes()); err != nil {
			return nil, err
		}
	default:
		f.Protection, f.Sealed = kindPlain, plain.Bytes()
	}
	b, err := json.Marshal(f)
	if err != nil {
		return nil, err
	}
	return secret.Take(append(b, '\n')), nil
}

// ErrOpen is a key that does not open.
var ErrOpen = errors.New("it does not open")

// Open reads a key file's content.
func (kind Kind) Open(content *secret.Bytes, p *Protection) (crypto.Signer, error) {
	s, err := kind.open(content, p)
	if err != nil {
		return nil, fmt.Errorf("the %s: %w", kind.name, err)
	}
	return s, nil
}

func (kind Kind) open(content *secret.Bytes, p *Protection) (crypto.Signer, error) {
	var f keyFile
	if err := strictjson.Unmarshal(content.Bytes(), &f); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrOpen, err)
	}
	defer clear(f.Sealed)
	// Base64 has spare bits, which must not make two files of one.
	b, err := json.Marshal(f)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrOpen, err)
	}
	again := secret.Take(append(b, '\n'))
	defer again.Zero()
	if !again.Equal(content) {
		return nil, fmt.Errorf("%w: not as it was written", ErrOpen)
	}
	if f.Format != 1 {
		return nil, fmt.Errorf("%w: format %d, this program knows 1", ErrOpen, f.Format)
	}
	plain := &secret.Bytes{}
	switch f.Protection {
	case kindPlain:
		plain = secret.Copy(f.Sealed)
	case kindPassphrase:
		if p.Passphrase.Len() == 0 {
			return nil, fmt.Errorf("%w: it needs its passphrase: -passphrase FILE", ErrOpen)
		}
		if f.Time < 1 || f.Time > maxArgonTime || f.Memory < 8<<10 || f.Memory > maxArgonMemory || f.Lanes < 1 || f.Lanes > 16 || len(f.Salt) != 32 || len(f.Nonce) != 12 {
			return nil, fmt.Errorf("%w: costs or sizes that are not allowed", ErrOpen)
		}
		gcm, ad, err := f.aead(kind.domain, p.Passphrase)
		if err != nil {
			return nil, err
		}
		b, err := gcm.Open(nil, f.Nonce, f.Sealed, ad)
		if err != nil {
			return nil, fmt.Errorf("%w: wrong passphrase, or the file was changed", ErrOpen)
		}
		plain = secret.Take(b)
	case kindRecipient:
		if p.Private.Len() == 0 {
			return nil, fmt.Errorf("%w: it needs the recipient's private key: -identity FILE", ErrOpen)
		}
		by, err := recipient.ParsePrivate(p.Private)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrOpen, err)
		}
		if plain, err = recipient.Open(by, []byte(kind.domain), f.Sealed); err != nil {
			return nil, fmt.Errorf("%w: it was made for another recipient, or changed", ErrOpen)
		}
	default:
		return nil, fmt.Errorf("%w: unknown protection %.40q", ErrOpen, f.Protection)
	}
	defer plain.Zero()
	k, err := x509.ParsePKCS8PrivateKey(plain.Bytes())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrOpen, err)
	}
	s, ok := k.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%w: it does not sign", ErrOpen)
	}
	return s, nil
}
