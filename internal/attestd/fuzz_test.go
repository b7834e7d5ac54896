package attestd

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

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
