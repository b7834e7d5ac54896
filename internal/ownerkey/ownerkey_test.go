package ownerkey

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"errors"
	"testing"

	"attestbox/internal/recipient"
	"attestbox/internal/secret"
)

func seal(t testing.TB, key crypto.Signer, p *Protection) []byte {
	t.Helper()
	s, err := Policy.Seal(key, p)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Zero()
	return bytes.Clone(s.Bytes())
}

// Every way of keeping a key gives it back, and no other way does.
func TestKeyFile(t *testing.T) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	private, public, err := recipient.New()
	if err != nil {
		t.Fatal(err)
	}
	pass := &Protection{Passphrase: secret.Copy([]byte("correct horse battery"))}
	to, by := &Protection{Public: public}, &Protection{Private: private}
	defer pass.Zero()
	defer by.Zero()
	for name, tc := range map[string]struct{ seal, open *Protection }{
		"passphrase": {pass, pass}, "recipient": {to, by}, "plain": {&Protection{}, &Protection{}},
	} {
		b := seal(t, key, tc.seal)
		got, err := Policy.Open(secret.Copy(b), tc.open)
		if err != nil || !key.Public().(ed25519.PublicKey).Equal(got.Public()) {
			t.Errorf("%s: %v", name, err)
		}
		if name == "plain" {
			continue
		}
		if bytes.Contains(b, []byte(kindPlain)) {
			t.Errorf("%s: kept plain", name)
		}
		if _, err := Bundle.Open(secret.Copy(b), tc.open); !errors.Is(err, ErrOpen) {
			t.Errorf("%s: a policy key opened as a bundle key: %v", name, err)
		}
		for _, other := range []*Protection{{}, {Passphrase: secret.Copy([]byte("another passphrase"))}} {
			if _, err := Policy.Open(secret.Copy(b), other); !errors.Is(err, ErrOpen) {
				t.Errorf("%s: opened by another: %v", name, err)
			}
			other.Zero()
		}
	}
}

// Flipped bytes of a key file are noticed. With a passphrase each try costs an
// Argon2id, so only every 16th byte is flipped there.
func TestKeyFileFlipped(t *testing.T) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	private, public, err := recipient.New()
	if err != nil {
		t.Fatal(err)
	}
	pass := &Protection{Passphrase: secret.Copy([]byte("correct horse battery"))}
	by := &Protection{Private: private}
	defer pass.Zero()
	defer by.Zero()
	for _, tc := range []struct {
		seal, open *Protection
		step       int
	}{{&Protection{Public: public}, by, 1}, {pass, pass, 16}} {
		b := seal(t, key, tc.seal)
		for i := 0; i < len(b)-1; i += tc.step { // but for the line's end
			b[i] ^= 1
			if _, err := Policy.Open(secret.Copy(b), tc.open); err == nil {
				t.Errorf("byte %d flipped, opened: %s", i, b)
			}
			b[i] ^= 1
		}
	}
}

// A key file of any content is refused or opened, within bounds.
func FuzzKeyFile(f *testing.F) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seal(f, key, &Protection{}))
	f.Add([]byte(`{"format":1,"protection":"argon2id","salt":"","time":1,"memory":4294967295,"lanes":1,"nonce":"","sealed":""}`))
	f.Add([]byte(`{"format":1,"protection":"recipient","sealed":"AAAA"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := secret.Copy(b)
		defer s.Zero()
		k, err := Policy.Open(s, &Protection{})
		if (k == nil) != (err != nil) {
			t.Fatalf("key %v, error %v", k, err)
		}
	})
}
