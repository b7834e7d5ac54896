package claim

import (
	"bytes"
	"testing"
	"time"

	"attestbox/internal/wire"
)

func policyMessage(text []byte) []byte { return wire.PolicyMessage(text) }

// What Parse accepts prints in a form that parses to the same.
func FuzzPolicy(f *testing.F) {
	f.Add([]byte(handwritten(f)))
	f.Add([]byte(text(f, "# x")))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := Parse(b)
		if err != nil {
			return
		}
		out := p.Format()
		again, err := Parse(out)
		if err != nil {
			t.Fatalf("what was printed does not parse: %v\n%s", err, out)
		}
		if !bytes.Equal(again.Format(), out) {
			t.Fatalf("printed twice, two texts:\n%s\n%s", out, again.Format())
		}
		for i, c := range p.Claims() {
			if !c.Statement.Equal(again.Claims()[i].Statement) {
				t.Fatalf("%s became %s", c, again.Claims()[i])
			}
		}
	})
}

// A statement prints as it parses.
func FuzzStatement(f *testing.F) {
	f.Add("Environment[Platform[amd-sev-snp, debug: no, tcb.snp = 22], Measurement[" + digestA + "] with-instance[" + hash + "]] is-environment")
	f.Add("Image[id-key: " + digestA + ", image-id: " + image + ", family-id: " + image + ", svn >= 3] with-instance[" + hash + "] may-succeed Measurement[" + digestB + "]")
	f.Add("Key[ed25519, a, " + hash + "] says Key[rsa, b, " + hash + "] speaks-for Measurement[" + prog + "]")
	f.Fuzz(func(t *testing.T, s string) {
		st, err := ParseStatement(s)
		if err != nil {
			return
		}
		again, err := ParseStatement(st.String())
		if err != nil || again.String() != st.String() || !again.Equal(st) {
			t.Fatalf("%q became %q: %v", s, st, err)
		}
	})
}

// A claim that travels alone marshals to what it was read from.
func FuzzSignedClaim(f *testing.F) {
	st, err := ParseStatement("Key[ed25519, keys, " + hash + "] is-trusted-for-serving Role[\"key-server\"]")
	if err != nil {
		f.Fatal(err)
	}
	s, err := SignClaim("bank.example", PolicyKeyName, testKey(1), Claim{Statement: st, Serial: 7, NotBefore: now, NotAfter: now.Add(time.Hour)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(s.Marshal())
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseSignedClaim(b)
		if err == nil && !bytes.Equal(s.Marshal(), b) {
			t.Fatalf("%q marshals to %q", b, s.Marshal())
		}
	})
}

// A signed policy whose signature is good is accepted in its canonical form only.
func FuzzSignedPolicy(f *testing.F) {
	f.Add([]byte(handwritten(f)))
	f.Add(signed(f, testKey(1), 3, "Measurement["+digestA+"] is-trusted"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, _, _, err := splitSigned(b); err == nil {
			if _, err := Verify(b, testKey(1).Public(), 0); err == nil && !bytes.Contains(b, []byte("version 3")) {
				t.Fatal("forged")
			}
		}
		b = signText(t, testKey(1), bytes.Clone(b))
		v, err := Verify(b, testKey(1).Public(), 0)
		if err == nil && !bytes.Equal(append(v.policy.Format(), b[bytes.LastIndex(b, []byte("signature ")):]...), b) {
			t.Fatalf("accepted, and prints otherwise: %q", b)
		}
	})
}
