package claim

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"strings"
	"testing"
	"time"
)

func signers(t testing.TB) map[string]crypto.Signer {
	t.Helper()
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]crypto.Signer{Ed25519: testKey(1), P384: p384, RSA: rsaKey}
}

func signed(t testing.TB, key crypto.Signer, version uint64, lines ...string) []byte {
	t.Helper()
	src := "attestbox-policy 1\ndomain bank.example\nversion 0\nlast-serial 0\n" + decl(t, PolicyKeyName, key.Public()) + "\n" + strings.Join(lines, "\n")
	p, err := Parse([]byte(src))
	if err != nil {
		t.Fatal(err)
	}
	p.Version = version
	p.Complete(now, 90*24*time.Hour)
	b, err := p.Sign(key)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestSignAndVerify(t *testing.T) {
	for alg, key := range signers(t) {
		b := signed(t, key, 3, "Measurement["+digestA+"] is-trusted", "# end")
		v, err := Verify(b, key.Public(), 3)
		if err != nil {
			t.Fatal(alg, err)
		}
		if v.Domain() != "bank.example" || v.Version() != 3 || len(v.Claims()) != 1 || v.PolicyKey().Alg != alg || v.Claims()[0].Serial != 1 {
			t.Errorf("%s: %+v", alg, v)
		}
		if _, err := Verify(b, key.Public(), 4); !errors.Is(err, ErrRollback) {
			t.Errorf("%s: rolled back: %v", alg, err)
		}
		if _, err := Verify(b, testKey(9).Public(), 0); !errors.Is(err, ErrSignature) {
			t.Errorf("%s: another key: %v", alg, err)
		}
		step := 1
		if alg == RSA {
			step = 3 // slow
		}
		for i := 0; i < len(b); i += step {
			b[i] ^= 1
			if _, err := Verify(b, key.Public(), 0); err == nil {
				t.Fatalf("%s: byte %d flipped, accepted", alg, i)
			}
			b[i] ^= 1
		}
		for _, cut := range [][]byte{nil, b[:len(b)-1], append(b[:len(b):len(b)], '\n'), b[1:]} {
			if _, err := Verify(cut, key.Public(), 0); err == nil {
				t.Errorf("%s: %d bytes of %d accepted", alg, len(cut), len(b))
			}
		}
	}
}

// A policy in another than the canonical form, with drafts, or with another
// key's declaration does not count although its signature is good.
func TestSignedButWrong(t *testing.T) {
	key := testKey(1)
	for name, src := range map[string]string{
		"not canonical": strings.Replace(text(t, " # indented"), "version 0", "version 1", 1),
		"draft":         strings.Replace(text(t, "Measurement["+digestA+"] is-trusted"), "version 0", "version 1", 1),
		"version 0":     text(t),
		"other key":     strings.Replace(text(t), decl(t, PolicyKeyName, key.Public()), decl(t, PolicyKeyName, testKey(2).Public()), 1),
		"two texts":     text(t) + text(t),
	} {
		b := signText(t, key, []byte(src))
		if _, err := Verify(b, key.Public(), 0); err == nil || errors.Is(err, ErrSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
	p, err := Parse([]byte(text(t, "Measurement["+digestA+"] is-trusted")))
	if err != nil {
		t.Fatal(err)
	}
	p.Version = 1
	if _, err := p.Sign(key); !errors.Is(err, ErrDraft) {
		t.Errorf("signing a draft: %v", err)
	}
	if _, err := p.Sign(testKey(2)); err == nil {
		t.Error("another key signed")
	}
}

func TestFollows(t *testing.T) {
	key := testKey(1)
	get := func(b []byte) *VerifiedPolicy {
		v, err := Verify(b, key.Public(), 0)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	a := "Measurement[" + digestA + "] is-trusted"
	b := "Measurement[" + digestB + "] is-trusted"
	old := get(signed(t, key, 2, a))
	if err := get(signed(t, key, 3, a, b)).Follows(old); err != nil {
		t.Error(err)
	}
	if err := old.Follows(nil); err != nil {
		t.Error(err)
	}
	for name, next := range map[string]*VerifiedPolicy{
		"same version":    get(signed(t, key, 2, a, b)),
		"older":           get(signed(t, key, 1, a, b)),
		"changed claim":   get(signed(t, key, 3, b)),
		"fewer serials":   get(signed(t, key, 3)),
		"another's owner": func() *VerifiedPolicy { v, _ := Verify(signed(t, testKey(2), 3, a), testKey(2).Public(), 0); return v }(),
	} {
		if next.Follows(old) == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func signText(t testing.TB, key crypto.Signer, text []byte) []byte {
	t.Helper()
	alg, sig, err := sign(key, policyMessage(text))
	if err != nil {
		t.Fatal(err)
	}
	return append(text, signatureLine(alg, sig)...)
}

func TestSignedClaim(t *testing.T) {
	for alg, key := range signers(t) {
		st, err := ParseStatement("Key[ed25519, keys, " + hash + "] is-trusted-for-serving Role[\"key-server\"]")
		if err != nil {
			t.Fatal(err)
		}
		c := Claim{Statement: st, Serial: 7, NotBefore: now, NotAfter: now.Add(time.Hour)}
		s, err := SignClaim("bank.example", PolicyKeyName, key, c)
		if err != nil {
			t.Fatal(err)
		}
		b := s.Marshal()
		v, err := s.Verify(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		var spki [32]byte
		for i := range spki {
			spki[i] = 0x3f
		}
		if err := v.Serves("bank.example", spki, "key-server", now); err != nil {
			t.Error(err)
		}
		for name, err := range map[string]error{
			"domain": v.Serves("other.example", spki, "key-server", now),
			"key":    v.Serves("bank.example", [32]byte{1}, "key-server", now),
			"role":   v.Serves("bank.example", spki, "verifier", now),
			"late":   v.Serves("bank.example", spki, "key-server", now.Add(2*time.Hour)),
			"early":  v.Serves("bank.example", spki, "key-server", now.Add(-time.Hour)),
		} {
			if err == nil {
				t.Errorf("%s: accepted", name)
			}
		}
		if _, err := s.Verify(testKey(9).Public()); err == nil {
			t.Error("another key verified it")
		}
		for i := range b {
			b[i] ^= 1
			if s, err := ParseSignedClaim(b); err == nil {
				if _, err := s.Verify(key.Public()); err == nil {
					t.Fatalf("%s: byte %d flipped, accepted", alg, i)
				}
			}
			b[i] ^= 1
		}
	}
	// A policy's signature is none of a claim's, and the reverse.
	key := testKey(1)
	p := signed(t, key, 1)
	if _, err := ParseSignedClaim(p); err == nil {
		t.Error("a policy passed as a claim")
	}
	if _, err := ParseSignedClaim(make([]byte, MaxSignedClaim+1)); err == nil {
		t.Error("too large")
	}
}
