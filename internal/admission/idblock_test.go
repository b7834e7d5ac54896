package admission

import (
	"bytes"
	"encoding/asn1"
	"testing"
)

func signedIdentity() *Identity {
	id := testIdentity("bank-a.example")
	id.IDKeyDigest, id.ImageID, id.FamilyID, id.GuestSVN = [48]byte{0x1d}, [16]byte{'w'}, [16]byte{'f'}, 1<<32-1
	return id
}

// What the ID block of a launch says travels in the certificate; without one the
// extension is as programs that know version 1 alone read it.
func TestIDBlock(t *testing.T) {
	w := newWorld(t, "bank-a.example", newKey(), newKey())
	for name, want := range map[string]*Identity{"with an ID block": signedIdentity(), "without": testIdentity("bank-a.example")} {
		got, err := w.trust.Verify([][]byte{w.issue(want), w.issuer.Raw}, testNow)
		if err != nil {
			t.Fatal(err)
		}
		if got.IDKeyDigest != want.IDKeyDigest || got.ImageID != want.ImageID || got.FamilyID != want.FamilyID || got.GuestSVN != want.GuestSVN {
			t.Errorf("%s: got %+v", name, got)
		}
		var e extensionDER
		if _, err := asn1.Unmarshal(must(want.marshalExtension()), &e); err != nil || (e.Version == 2) != (want.GuestSVN != 0) {
			t.Errorf("%s: version %d, %v", name, e.Version, err)
		}
	}
	for name, edit := range map[string]func(*Identity){
		"key": func(id *Identity) { id.IDKeyDigest[47] ^= 1 }, "image": func(id *Identity) { id.ImageID[15] ^= 1 },
		"family": func(id *Identity) { id.FamilyID[15] ^= 1 }, "svn": func(id *Identity) { id.GuestSVN-- },
	} {
		id := signedIdentity()
		edit(id)
		if bytes.Equal(must(id.marshalExtension()), must(signedIdentity().marshalExtension())) {
			t.Errorf("%s does not count", name)
		}
	}
}

func TestIDBlockMalformed(t *testing.T) {
	whole := func() extensionDER {
		var e extensionDER
		if _, err := asn1.Unmarshal(must(signedIdentity().marshalExtension()), &e); err != nil {
			t.Fatal(err)
		}
		return e
	}
	for name, edit := range map[string]func(*extensionDER){
		"version 1 with an ID block": func(e *extensionDER) { e.Version = 1 },
		"version 2 without one":      func(e *extensionDER) { e.IDBlock = idBlockDER{} },
		"version 3":                  func(e *extensionDER) { e.Version = 3 },
		"zeros":                      func(e *extensionDER) { e.IDBlock = idBlockDER{make([]byte, 48), make([]byte, 16), make([]byte, 16), 0} },
		"short key":                  func(e *extensionDER) { e.IDBlock.IDKeyDigest = e.IDBlock.IDKeyDigest[1:] },
		"no key":                     func(e *extensionDER) { e.IDBlock.IDKeyDigest = []byte{} },
		"long image":                 func(e *extensionDER) { e.IDBlock.ImageID = make([]byte, 17) },
		"no family":                  func(e *extensionDER) { e.IDBlock.FamilyID = []byte{} },
		"negative SVN":               func(e *extensionDER) { e.IDBlock.GuestSVN = -1 },
		"SVN of 33 bits":             func(e *extensionDER) { e.IDBlock.GuestSVN = 1 << 32 },
	} {
		e := whole()
		edit(&e)
		der, err := asn1.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		if err := new(Identity).parseExtension(der); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	good := must(signedIdentity().marshalExtension())
	if err := new(Identity).parseExtension(append(good, 0)); err == nil {
		t.Error("trailing bytes: accepted")
	}
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 1
		id := new(Identity)
		if err := id.parseExtension(bad); err == nil && bytes.Equal(must(id.marshalExtension()), good) {
			t.Errorf("byte %d does not count", i)
		}
	}
}
