package snpsim_test

import (
	"errors"
	"testing"

	"attestbox/internal/snp"
	"attestbox/internal/snpsim"
	"attestbox/internal/snpsim/snpsimtest"
)

const selectAll = snpsim.SelectPolicy | snpsim.SelectImageID | snpsim.SelectFamilyID |
	snpsim.SelectMeasurement | snpsim.SelectSVN | snpsim.SelectTCB

// A field that was selected changes the key, one that was not leaves it the
// same.
func TestDerivedKeySelection(t *testing.T) {
	p := snpsimtest.PSP(t, snp.Milan)
	tcb := snp.EncodeTCB(snp.Milan, p.State().Committed)
	older := p.State().Committed
	older.SNP--
	mit := uint64(3)
	base := config
	base.LaunchMitVector = &mit
	for _, tc := range []struct {
		name   string
		bit    uint64
		guest  func(*snpsim.GuestConfig)
		ask    func(*snpsim.KeyRequest)
		always bool // changes the key whatever is selected
	}{
		{"policy", snpsim.SelectPolicy, func(c *snpsim.GuestConfig) { c.Policy = uint64(snpsim.DefaultPolicy | snp.PolicyDebug) }, nil, false},
		{"image ID", snpsim.SelectImageID, func(c *snpsim.GuestConfig) { c.ImageID[15]++ }, nil, false},
		{"family ID", snpsim.SelectFamilyID, func(c *snpsim.GuestConfig) { c.FamilyID[15]++ }, nil, false},
		{"measurement", snpsim.SelectMeasurement, func(c *snpsim.GuestConfig) { c.Measurement[47]++ }, nil, false},
		{"SVN asked for", snpsim.SelectSVN, nil, func(q *snpsim.KeyRequest) { q.GuestSVN-- }, false},
		{"guest's own SVN", 0, func(c *snpsim.GuestConfig) { c.SVN++ }, nil, false},
		{"TCB asked for", snpsim.SelectTCB, nil, func(q *snpsim.KeyRequest) { q.TCBVersion = snp.EncodeTCB(snp.Milan, older) }, false},
		{"mitigation vector", snpsim.SelectMitVector, nil, func(q *snpsim.KeyRequest) { q.LaunchMitVector = 1 }, false},
		{"HOST_DATA", 0, func(c *snpsim.GuestConfig) { c.HostData[0]++ }, nil, false},
		{"VMPL", 0, nil, func(q *snpsim.KeyRequest) { q.VMPL = 1 }, true},
	} {
		for _, selected := range []uint64{0, tc.bit, (selectAll | snpsim.SelectMitVector) &^ tc.bit, selectAll | snpsim.SelectMitVector} {
			q := snpsim.KeyRequest{Version: 2, GuestFieldSelect: selected, GuestSVN: 7, TCBVersion: tcb, LaunchMitVector: 3}
			c, changed := base, q
			if tc.guest != nil {
				tc.guest(&c)
			}
			if tc.ask != nil {
				tc.ask(&changed)
			}
			a, err := p.Launch(base).DerivedKey(q)
			if err != nil {
				t.Fatal(err)
			}
			b, err := p.Launch(c).DerivedKey(changed)
			if err != nil {
				t.Fatalf("%s: %v", tc.name, err)
			}
			if want := tc.always || selected&tc.bit != 0; (a != b) != want {
				t.Errorf("%s with selection %#x: key changed = %v, want %v", tc.name, selected, a != b, want)
			}
		}
	}
}

func TestDerivedKeyRoots(t *testing.T) {
	p := snpsimtest.PSP(t, snp.Milan)
	other, err := p.AnotherChip()
	if err != nil {
		t.Fatal(err)
	}
	newer, err := p.SameChip(func(s *snpsim.State) { s.Current.SNP++; s.Committed.SNP++; s.Reported.SNP++ })
	if err != nil {
		t.Fatal(err)
	}
	key := func(g *snpsim.Guest, root uint32) [32]byte {
		t.Helper()
		k, err := g.DerivedKey(snpsim.KeyRequest{RootKeySelect: root, GuestFieldSelect: snpsim.SelectMeasurement})
		if err != nil || k == [32]byte{} {
			t.Fatalf("key %x, %v", k, err)
		}
		return k
	}
	g := p.Launch(config)
	if key(g, 0) != key(p.Launch(config), 0) {
		t.Error("the chip's root: another launch got another key")
	}
	if key(g, 0) != key(newer.Launch(config), 0) {
		t.Error("the chip's root: newer firmware cannot ask for the old key")
	}
	if key(g, 0) == key(other.Launch(config), 0) {
		t.Error("the chip's root: another chip got the same key")
	}
	if key(g, 0) == key(g, snpsim.RootVMRK) || key(g, snpsim.RootVMRK) == key(p.Launch(config), snpsim.RootVMRK) {
		t.Error("VMRK is not the launch's own")
	}
}

func TestDerivedKeyRefusals(t *testing.T) {
	p := snpsimtest.PSP(t, snp.Milan)
	c := config
	c.VMPL = 1
	g := p.Launch(c)
	above := p.State().Committed
	above.Microcode++
	for name, tc := range map[string]struct {
		q    snpsim.KeyRequest
		want error
	}{
		"SVN above the guest's":       {snpsim.KeyRequest{VMPL: 1, GuestSVN: 8}, snpsim.ErrInvalidParam},
		"TCB above the committed one": {snpsim.KeyRequest{VMPL: 1, TCBVersion: snp.EncodeTCB(snp.Milan, above)}, snpsim.ErrInvalidParam},
		"reserved byte of the TCB":    {snpsim.KeyRequest{VMPL: 1, TCBVersion: 1 << 16}, snpsim.ErrInvalidParam},
		"VMPL below the guest's":      {snpsim.KeyRequest{VMPL: 0}, snpsim.ErrInvalidParam},
		"VMPL 4":                      {snpsim.KeyRequest{VMPL: 4}, snpsim.ErrInvalidParam},
		"reserved bit of the root":    {snpsim.KeyRequest{VMPL: 1, RootKeySelect: 8}, snpsim.ErrInvalidParam},
		"reserved KEY_SEL":            {snpsim.KeyRequest{VMPL: 1, RootKeySelect: 6}, snpsim.ErrInvalidParam},
		"VLEK":                        {snpsim.KeyRequest{VMPL: 1, RootKeySelect: 4}, snpsim.ErrInvalidKey},
		"reserved field":              {snpsim.KeyRequest{VMPL: 1, GuestFieldSelect: 1 << 7, Version: 2}, snpsim.ErrInvalidParam},
		"vector in version 1":         {snpsim.KeyRequest{VMPL: 1, GuestFieldSelect: snpsim.SelectMitVector}, snpsim.ErrInvalidParam},
		"vector the guest lacks":      {snpsim.KeyRequest{VMPL: 1, Version: 2, LaunchMitVector: 8}, snpsim.ErrInvalidParam},
		"message version 3":           {snpsim.KeyRequest{VMPL: 1, Version: 3}, snpsim.ErrInvalidParam},
	} {
		if k, err := g.DerivedKey(tc.q); !errors.Is(err, tc.want) || k != [32]byte{} {
			t.Errorf("%s: %x, %v", name, k, err)
		}
	}
	if _, err := g.DerivedKey(snpsim.KeyRequest{VMPL: 1, RootKeySelect: 2}); err != nil {
		t.Errorf("KEY_SEL 1, VCEK: %v", err)
	}
}
