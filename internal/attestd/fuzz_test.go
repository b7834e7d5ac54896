package attestd

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"attestbox/internal/secret"
)

func FuzzRequest(f *testing.F) {
	f.Add([]byte(`{"op":"whoami","nonce":"0000000000000000000000000000000000000000000000000000000000000000"}`))
	f.Add([]byte(`{"op":"sign","nonce":"0000000000000000000000000000000000000000000000000000000000000001","context":"a/b","key":"program","scope":"user","size":7}`))
	f.Add([]byte(`{"op":"seal","context":"x","scope":"program"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseRequest(b)
		if err != nil {
			return
		}
		again, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		r2, err := ParseRequest(again)
		if err != nil || *r2 != *r {
			t.Fatalf("%s became %s: %v", b, again, err)
		}
	})
}

func FuzzUnseal(f *testing.F) {
	root := secret.Copy(bytes.Repeat([]byte{1}, RootSize))
	blob, err := seal(root, "p", scopeUser, 1, "c", secret.Copy([]byte("data")))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(blob)
	f.Add([]byte(sealMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		out, err := unseal(root, "p", 1, "c", b)
		if err == nil && out.Len() != len(b)-SealOverhead {
			t.Fatalf("%d bytes opened to %d", len(b), out.Len())
		}
	})
}

func FuzzProgram(f *testing.F) {
	f.Add(Unmeasured)
	f.Add("image:sha256:" + strings.Repeat("0a", 32))
	f.Add("fs-verity:sha512:" + strings.Repeat("0a", 64))
	f.Fuzz(func(t *testing.T, s string) {
		if p, err := ParseProgram(s); err == nil && p.String() != s {
			t.Fatalf("%q became %q", s, p)
		}
	})
}

func FuzzEvidence(f *testing.F) {
	own := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	good, err := MakeEvidence(own, [][]byte{{1}, {2}}, Program{KindImage, "sha256", make([]byte, 32)}, own, [64]byte{1}, time.Unix(1e9, 0))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ParseEvidence(b)
		if err != nil {
			return
		}
		if again, err := json.Marshal(e); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%s became %s: %v", b, again, err)
		}
		// Whoever signed it, it is about no other exchange.
		if e.Verify(own.Public(), [64]byte{2}, time.Unix(1e9, 0)) == nil {
			t.Fatalf("%s is about another exchange", b)
		}
	})
}
