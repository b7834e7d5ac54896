package wire

import (
	"strings"
	"testing"

	"attestbox/internal/secret"
)

// Every field of a maintain transcript changes what the report binds.
func TestMaintainTranscriptBindsEveryField(t *testing.T) {
	base := func() *MaintainTranscript {
		return &MaintainTranscript{Version: 1, ID: Hex32{4}, Purpose: PurposeRotate, Suite: SuiteID(), Key: []byte("key")}
	}
	seen := map[[64]byte]string{base().ReportData(): "nothing"}
	for name, change := range map[string]func(*MaintainTranscript){
		"version":  func(c *MaintainTranscript) { c.Version++ },
		"SPKI":     func(c *MaintainTranscript) { c.SPKI[0] = 1 },
		"exporter": func(c *MaintainTranscript) { c.Exporter[0] = 1 },
		"nonce":    func(c *MaintainTranscript) { c.Nonce[0] = 1 },
		"ID":       func(c *MaintainTranscript) { c.ID[0] = 1 },
		"purpose":  func(c *MaintainTranscript) { c.Purpose = PurposeHeaders },
		"suite":    func(c *MaintainTranscript) { c.Suite = nil },
		"key":      func(c *MaintainTranscript) { c.Key = nil },
	} {
		c := base()
		change(c)
		if other, ok := seen[c.ReportData()]; ok {
			t.Errorf("changing %s gives the report data of changing %s", name, other)
		}
		seen[c.ReportData()] = name
	}
}

func TestMaintainRefusesMalformed(t *testing.T) {
	digest := strings.Repeat("ab", 48)
	good := Nominate{Digest: digest, Kernel: Hex32{1}, Initrd: Hex32{1}, Cmdline: Hex32{1}, Source: "x"}
	nominate := func(edit func(*Nominate)) Message {
		n := good
		edit(&n)
		return &n
	}
	for what, m := range map[string]Message{
		"purpose":           &MaintainBegin{Version: 1, Purpose: "release", Key: []byte{1}},
		"no purpose":        &MaintainBegin{Version: 1, Key: []byte{1}},
		"no HPKE key":       &MaintainBegin{Version: 1, Purpose: PurposeRotate, Key: []byte{}},
		"nothing to do":     &RegisterHeaders{},
		"too many records":  &RegisterHeaders{Add: make([]HeaderRecord, MaxHeaders+1)},
		"too many to drop":  &RegisterHeaders{Drop: make([]Hex32, MaxHeaders+1)},
		"digest of SHA-256": nominate(func(n *Nominate) { n.Digest = digest[:64] }),
		"digest of zeros":   nominate(func(n *Nominate) { n.Digest = strings.Repeat("0", 96) }),
		"upper-case digest": nominate(func(n *Nominate) { n.Digest = strings.ToUpper(digest) }),
		"no initramfs":      nominate(func(n *Nominate) { n.Initrd = Hex32{} }),
		"no source":         nominate(func(n *Nominate) { n.Source = "" }),
		"long source":       nominate(func(n *Nominate) { n.Source = strings.Repeat("x", MaxSource+1) }),
		"escape in source":  nominate(func(n *Nominate) { n.Source = "\x1b[2J" }),
		"state with many":   &MaintainState{Headers: make([]HeaderRecord, MaxHeaders+1)},
		"unknown rotation":  &MaintainState{Rotation: "both"},
		"digest in a state": &MaintainState{Allowed: []string{"x"}},
		"many nominations":  &MaintainState{Nominations: []string{digest, digest, digest}},
	} {
		body, err := Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		refused(t, what, body)
	}
}

// What keeps a key is for one instance, one record and one key.
func TestKeepMAC(t *testing.T) {
	key, other := secret.Copy([]byte("the key of a disk, of 32 bytes..")), secret.Copy([]byte("the key of a disk, of 32 bytes.,"))
	m := &RotateEnd{Keep: Hex32{2}}
	m.MAC = KeepMAC(key, Hex32{1}, m.Keep)
	if !VerifyKeep(key, Hex32{1}, m) {
		t.Fatal("refused")
	}
	changed := *m
	changed.Keep[31] ^= 1
	if VerifyKeep(other, Hex32{1}, m) || VerifyKeep(key, Hex32{3}, m) || VerifyKeep(key, Hex32{1}, &changed) {
		t.Error("another key, instance or record is accepted")
	}
	for i := range m.MAC {
		changed := *m
		changed.MAC[i] ^= 0x40
		if VerifyKeep(key, Hex32{1}, &changed) {
			t.Fatalf("byte %d of the MAC does not count", i)
		}
	}
	empty := &RotateEnd{MAC: KeepMAC(nil, Hex32{1}, Hex32{})}
	if VerifyKeep(nil, Hex32{1}, empty) || VerifyKeep(secret.New(0), Hex32{1}, empty) {
		t.Error("no key verifies")
	}
}
