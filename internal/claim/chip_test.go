package claim

import (
	"strings"
	"testing"
)

// Turin's CHIP_ID, padded with zeros as a report has it, is the same chip.
func TestPaddedChip(t *testing.T) {
	short := strings.Repeat("ab", 8)
	long := short + strings.Repeat("0", 112)
	st, err := ParseStatement("Chip[" + long + "] is-revoked")
	if err != nil || st.String() != "Chip["+short+"] is-revoked" {
		t.Errorf("%v, %v", st, err)
	}
	for text, want := range map[string]string{
		"chip = " + long:                        "chip = " + short,
		"chip in {" + long + ", " + short + "}": "chip in {" + short + "}",
	} {
		p, err := ParseProp(text)
		if err != nil || p.String() != want {
			t.Errorf("%s: %v, %v", text, p, err)
		}
	}
	if err := (Prop{"chip", Eq, []string{long}}).check(); err == nil {
		t.Error("a property built by hand holds the padded form")
	}
	full := strings.Repeat("ab", 64)
	if st, err := ParseStatement("Chip[" + full + "] is-revoked"); err != nil || st.String() != "Chip["+full+"] is-revoked" {
		t.Errorf("%v, %v", st, err)
	}
	p := &Policy{Domain: "bank.example", Version: 1, LastSerial: 1}
	key := testKey(1)
	k, _ := KeyOf(PolicyKeyName, key.Public())
	spki, _ := marshalSPKI(key.Public())
	p.Items = []Item{{Key: &KeyDecl{Key: k, SPKI: spki}}, {Claim: &Claim{Statement: Statement{Speaker: k, Clause: Clause{Subject: Chip{long}, Verb: IsRevoked}}, Serial: 1, NotBefore: now}}}
	if _, err := p.Sign(key); err == nil {
		t.Error("signed what nobody would accept")
	}
	p.Items[1].Claim.Statement.Clause.Subject = Chip{short}
	if _, err := p.Sign(key); err != nil {
		t.Error(err)
	}
}
