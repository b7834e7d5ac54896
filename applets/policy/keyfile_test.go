package policy

import (
	"bytes"
	"crypto"
	"errors"
	"testing"

	"attestbox/internal/claim"
	"attestbox/internal/recipient"
	"attestbox/internal/secret"
)

func seal(t testing.TB, key crypto.Signer, p *protection) []byte {
	t.Helper()
	s, err := sealKey(key, p)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Zero()
	return bytes.Clone(s.Bytes())
}

// Every way of keeping a key gives it back, and no other way does.
func TestKeyFile(t *testing.T) {
	key, err := newKey(claim.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	private, public, err := recipient.New()
	if err != nil {
		t.Fatal(err)
	}
	pass := &protection{passphrase: secret.Copy([]byte("correct horse battery"))}
	to, by := &protection{public: public}, &protection{private: private}
	defer pass.zero()
	defer by.zero()
	for name, tc := range map[string]struct{ seal, open *protection }{
		"passphrase": {pass, pass}, "recipient": {to, by}, "plain": {&protection{}, &protection{}},
	} {
		b := seal(t, key, tc.seal)
		got, err := openKey(secret.Copy(b), tc.open)
		if err != nil || !claim.SamePublicKey(got.Public(), key.Public()) {
			t.Errorf("%s: %v", name, err)
		}
		if name == "plain" {
			continue
		}
		if bytes.Contains(b, []byte(kindPlain)) {
			t.Errorf("%s: kept plain", name)
		}
		for _, other := range []*protection{{}, {passphrase: secret.Copy([]byte("another passphrase"))}} {
			if _, err := openKey(secret.Copy(b), other); !errors.Is(err, errKeyFile) {
				t.Errorf("%s: opened by another: %v", name, err)
			}
			other.zero()
		}
	}
	for _, alg := range []string{"", "dsa", claim.P256} {
		if _, err := newKey(alg); err == nil {
			t.Errorf("made a key of %q", alg)
		}
	}
}

// Flipped bytes of a key file are noticed. With a passphrase each try costs an
// Argon2id, so only every 16th byte is flipped there.
func TestKeyFileFlipped(t *testing.T) {
	key, err := newKey(claim.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	private, public, err := recipient.New()
	if err != nil {
		t.Fatal(err)
	}
	pass := &protection{passphrase: secret.Copy([]byte("correct horse battery"))}
	by := &protection{private: private}
	defer pass.zero()
	defer by.zero()
	for _, tc := range []struct {
		seal, open *protection
		step       int
	}{{&protection{public: public}, by, 1}, {pass, pass, 16}} {
		b := seal(t, key, tc.seal)
		for i := 0; i < len(b)-1; i += tc.step { // but for the line's end
			b[i] ^= 1
			if _, err := openKey(secret.Copy(b), tc.open); err == nil {
				t.Errorf("byte %d flipped, opened: %s", i, b)
			}
			b[i] ^= 1
		}
	}
}

// A key file of any content is refused or opened, within bounds.
func FuzzKeyFile(f *testing.F) {
	key, err := newKey(claim.Ed25519)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seal(f, key, &protection{}))
	f.Add([]byte(`{"format":1,"protection":"argon2id","salt":"","time":1,"memory":4294967295,"lanes":1,"nonce":"","sealed":""}`))
	f.Add([]byte(`{"format":1,"protection":"recipient","sealed":"AAAA"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := secret.Copy(b)
		defer s.Zero()
		k, err := openKey(s, &protection{})
		if (k == nil) != (err != nil) {
			t.Fatalf("key %v, error %v", k, err)
		}
	})
}
