package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"attestbox/internal/applet"
	"attestbox/internal/secret"
)

// maxKeyPEM bounds a key file, in bytes.
const maxKeyPEM = 16 << 10

// idKeys sign an ID block.
type idKeys struct{ id, author *ecdsa.PrivateKey } // author: nil for none

// keys reads or makes the keys that the flags name.
func (f *idBlockFlags) keys(env *applet.Env) (k idKeys, err error) {
	for _, q := range []struct {
		what, old, new string
		to             **ecdsa.PrivateKey
	}{{"ID key", f.idKey, f.newIDKey, &k.id}, {"author key", f.authorKey, f.newAuthorKey, &k.author}} {
		switch {
		case q.old != "":
			*q.to, err = readIDKey(env, q.old)
		case q.new != "":
			*q.to, err = newIDKey(q.new)
		}
		if err != nil {
			return k, fmt.Errorf("%s: %w", q.what, err)
		}
	}
	return k, nil
}

// newIDKey makes a key and writes it, PKCS #8 in PEM and mode 0600, to a new
// file on tmpfs: its owner moves it to where keys are kept offline.
func newIDKey(path string) (*ecdsa.PrivateKey, error) {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		if err == nil {
			err = errors.New("it exists, and a key is not overwritten")
		}
		return nil, fmt.Errorf("making %q: %w", path, err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	defer clear(der)
	text := secret.Take(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	defer text.Zero()
	return key, applet.CreateSecretFile(path, text)
}

// readIDKey reads a P-384 key: PKCS #8, or SEC 1 as openssl ecparam writes it.
func readIDKey(env *applet.Env, name string) (*ecdsa.PrivateKey, error) {
	text, err := applet.ReadSecret(env, name, maxKeyPEM)
	if err != nil {
		return nil, err
	}
	defer text.Zero()
	for rest := text.Bytes(); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil, fmt.Errorf("reading %q: no private key in PEM", name)
		}
		key, err := parseIDKey(block)
		clear(block.Bytes)
		switch {
		case err != nil:
			return nil, fmt.Errorf("reading %q: %w", name, err)
		case key != nil:
			return key, nil
		}
	}
}

// parseIDKey gives no key for a block that holds none, such as EC PARAMETERS.
func parseIDKey(block *pem.Block) (*ecdsa.PrivateKey, error) {
	var key any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	default:
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	k, ok := key.(*ecdsa.PrivateKey)
	if !ok || k.Curve != elliptic.P384() {
		return nil, errors.New("the secure processor takes ECDSA keys on P-384 alone")
	}
	return k, nil
}
