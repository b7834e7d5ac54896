package main

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/google/renameio/v2"

	"attestbox/internal/applet"
	"attestbox/internal/ownerkey"
	"attestbox/internal/secret"
)

// signer reads or makes the key that signs. The caller clears it.
func (f *bundleFlags) signer(env *applet.Env) (ed25519.PrivateKey, error) {
	p := &ownerkey.Protection{}
	defer p.Zero()
	var err error
	if f.passphrase != "" {
		if p.Passphrase, err = applet.ReadPassphrase(env, f.passphrase); err != nil {
			return nil, err
		}
	}
	if f.recipient != "" {
		if p.Public, err = applet.ReadFile(env, f.recipient, ownerkey.MaxFile); err != nil {
			return nil, err
		}
	}
	if f.identity != "" {
		if p.Private, err = applet.ReadSecret(env, f.identity, ownerkey.MaxFile); err != nil {
			return nil, err
		}
	}
	if f.newKey != "" {
		return f.makeKey(p)
	}
	text, err := applet.ReadSecret(env, f.key, ownerkey.MaxFile)
	if err != nil {
		return nil, fmt.Errorf("bundle key: %w", err)
	}
	defer text.Zero()
	key, err := parseBundleKey(text, p)
	if err != nil {
		return nil, fmt.Errorf("bundle key %q: %w", f.key, err)
	}
	if k, ok := key.(ed25519.PrivateKey); ok {
		return k, nil
	}
	return nil, fmt.Errorf("bundle key %q: it is no Ed25519 key", f.key)
}

// parseBundleKey reads a key file, or PEM as openssl writes it.
func parseBundleKey(text *secret.Bytes, p *ownerkey.Protection) (crypto.PrivateKey, error) {
	if bytes.HasPrefix(text.Bytes(), []byte("{")) {
		return ownerkey.Bundle.Open(text, p)
	}
	block, _ := pem.Decode(text.Bytes())
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, errors.New("no private key in PEM, and no key file")
	}
	defer clear(block.Bytes)
	return x509.ParsePKCS8PrivateKey(block.Bytes)
}

func (f *bundleFlags) makeKey(p *ownerkey.Protection) (ed25519.PrivateKey, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	if p.Passphrase.Len() == 0 && len(p.Public) == 0 {
		return key, newKeyFile(f.newKey, key)
	}
	if err := notThere(f.newKey); err != nil {
		return nil, err
	}
	sealed, err := ownerkey.Bundle.Seal(key, p)
	if err != nil {
		return nil, fmt.Errorf("making %q: %w", f.newKey, err)
	}
	defer sealed.Zero()
	if err := renameio.WriteFile(f.newKey, sealed.Bytes(), 0o600); err != nil {
		return nil, fmt.Errorf("making %q: %w", f.newKey, err)
	}
	return key, nil
}

// publicBundleKey reads a public key: hex digits, or a PEM file.
func publicBundleKey(s string) (ed25519.PublicKey, error) {
	if b, err := hex.DecodeString(s); err == nil && len(b) == ed25519.PublicKeySize {
		return b, nil
	}
	text, err := applet.ReadFile(nil, s, maxKeyPEM)
	if err != nil {
		return nil, fmt.Errorf("public bundle key: %w", err)
	}
	if b, err := hex.DecodeString(strings.TrimSpace(string(text))); err == nil && len(b) == ed25519.PublicKeySize {
		return b, nil
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, fmt.Errorf("public bundle key %q: neither 64 hex digits nor a public key in PEM", s)
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("public bundle key %q: %w", s, err)
	}
	if k, ok := key.(ed25519.PublicKey); ok {
		return k, nil
	}
	return nil, fmt.Errorf("public bundle key %q: a bundle key is an Ed25519 key", s)
}
