package main

import (
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

// newKeyFile writes a key, PKCS #8 in PEM and mode 0600, to a new file on tmpfs:
// its owner moves it to where keys are kept offline.
func newKeyFile(path string, key any) error {
	if err := notThere(path); err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	defer clear(der)
	text := secret.Take(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	defer text.Zero()
	return applet.CreateSecretFile(path, text)
}

// notThere refuses a file that a new key would replace.
func notThere(path string) error {
	_, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err == nil:
		err = errors.New("it exists, and a key is not overwritten")
	}
	return fmt.Errorf("making %q: %w", path, err)
}

// readKeyFile gives the first key that parse finds in a PEM file; parse gives
// nil for a block that holds none.
func readKeyFile[K any](env *applet.Env, name string, parse func(*pem.Block) (*K, error)) (*K, error) {
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
		key, err := parse(block)
		clear(block.Bytes)
		switch {
		case err != nil:
			return nil, fmt.Errorf("reading %q: %w", name, err)
		case key != nil:
			return key, nil
		}
	}
}
