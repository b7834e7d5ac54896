package policy

import (
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"

	"golang.org/x/crypto/argon2"

	"attestbox/internal/claim"
	"attestbox/internal/recipient"
	"attestbox/internal/secret"
	"attestbox/internal/strictjson"
)

// A policy key file is JSON: how it is protected, and the key in PKCS #8 (RFC
// 5958), sealed. With a passphrase: Argon2id (RFC 9106) and AES-256-GCM, whose
// additional data is domainKeyFile and the other fields. With a recipient: HPKE
// with domainKeyFile as info. Plain: the key itself.
const (
	domainKeyFile = "attestbox/policy-key/1"
	minPassphrase = 12
	maxKeyFile    = 64 << 10
)

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

// protection is how a key file is made or opened; one field is set, or none for
// plain.
type protection struct {
	passphrase *secret.Bytes
	public     []byte        // PEM, to make
	private    *secret.Bytes // PEM, to open
}

func (p *protection) zero() { p.passphrase.Zero(); p.private.Zero() }

func (f *keyFile) aead(passphrase *secret.Bytes) (cipher.AEAD, []byte, error) {
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
	return gcm, append([]byte(domainKeyFile), ad...), err
}

// sealKey makes the content of a key file.
func sealKey(key crypto.Signer, p *protection) (*secret.Bytes, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	plain := secret.Take(der)
	defer plain.Zero()
	f := &keyFile{Format: 1}
	switch {
	case p.passphrase.Len() > 0:
		if p.passphrase.Len() < minPassphrase {
			return nil, fmt.Errorf("passphrase of %d bytes, want at least %d", p.passphrase.Len(), minPassphrase)
		}
		f.Protection, f.Time, f.Memory, f.Lanes = kindPassphrase, argonTime, argonMemory, argonLanes
		f.Salt, f.Nonce = make([]byte, 32), make([]byte, 12)
		rand.Read(f.Salt)
		rand.Read(f.Nonce)
		gcm, ad, err := f.aead(p.passphrase)
		if err != nil {
			return nil, err
		}
		f.Sealed = gcm.Seal(nil, f.Nonce, plain.Bytes(), ad)
	case len(p.public) > 0:
		to, err := recipient.ParsePublic(p.public)
		if err != nil {
			return nil, err
		}
		f.Protection = kindRecipient
		if f.Sealed, err = recipient.Seal(to, []byte(domainKeyFile), plain.Bytes()); err != nil {
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

var errKeyFile = errors.New("the policy key does not open")

// openKey reads a key file's content.
func openKey(content *secret.Bytes, p *protection) (crypto.Signer, error) {
	var f keyFile
	if err := strictjson.Unmarshal(content.Bytes(), &f); err != nil {
		return nil, fmt.Errorf("%w: %w", errKeyFile, err)
	}
	defer clear(f.Sealed)
	// Base64 has spare bits, which must not make two files of one.
	b, err := json.Marshal(f)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errKeyFile, err)
	}
	again := secret.Take(append(b, '\n'))
	defer again.Zero()
	if !again.Equal(content) {
		return nil, fmt.Errorf("%w: not as it was written", errKeyFile)
	}
	if f.Format != 1 {
		return nil, fmt.Errorf("%w: format %d, this program knows 1", errKeyFile, f.Format)
	}
	plain := &secret.Bytes{}
	switch f.Protection {
	case kindPlain:
		plain = secret.Copy(f.Sealed)
	case kindPassphrase:
		if p.passphrase.Len() == 0 {
			return nil, fmt.Errorf("%w: it needs its passphrase: -passphrase FILE", errKeyFile)
		}
		if f.Time < 1 || f.Time > maxArgonTime || f.Memory < 8<<10 || f.Memory > maxArgonMemory || f.Lanes < 1 || f.Lanes > 16 || len(f.Salt) != 32 || len(f.Nonce) != 12 {
			return nil, fmt.Errorf("%w: costs or sizes that are not allowed", errKeyFile)
		}
		gcm, ad, err := f.aead(p.passphrase)
		if err != nil {
			return nil, err
		}
		b, err := gcm.Open(nil, f.Nonce, f.Sealed, ad)
		if err != nil {
			return nil, fmt.Errorf("%w: wrong passphrase, or the file was changed", errKeyFile)
		}
		plain = secret.Take(b)
	case kindRecipient:
		if p.private.Len() == 0 {
			return nil, fmt.Errorf("%w: it needs the recipient's private key: -identity FILE", errKeyFile)
		}
		by, err := recipient.ParsePrivate(p.private)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errKeyFile, err)
		}
		if plain, err = recipient.Open(by, []byte(domainKeyFile), f.Sealed); err != nil {
			return nil, fmt.Errorf("%w: it was made for another recipient, or changed", errKeyFile)
		}
	default:
		return nil, fmt.Errorf("%w: unknown protection %.40q", errKeyFile, f.Protection)
	}
	defer plain.Zero()
	k, err := x509.ParsePKCS8PrivateKey(plain.Bytes())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errKeyFile, err)
	}
	s, ok := k.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%w: it does not sign", errKeyFile)
	}
	return s, nil
}
