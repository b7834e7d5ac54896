package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"attestbox/internal/applet"
)

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

func newIDKey(path string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return key, newKeyFile(path, key)
}

// readIDKey reads a P-384 key: PKCS #8, or SEC 1 as openssl ecparam writes it.
func readIDKey(env *applet.Env, name string) (*ecdsa.PrivateKey, error) {
	return readKeyFile(env, name, parseIDKey)
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
