package wire

import "testing"

// Every field of a bundle transcript changes what the report binds.
func TestBundleTranscriptBindsEveryField(t *testing.T) {
	base := func() *BundleTranscript {
		return &BundleTranscript{Version: 1, ID: Hex32{4}, Bundle: Hex32{5}, BundleVersion: 7}
	}
	seen := map[[64]byte]string{base().ReportData(): "nothing"}
	for name, change := range map[string]func(*BundleTranscript){
		"version":        func(c *BundleTranscript) { c.Version++ },
		"SPKI":           func(c *BundleTranscript) { c.SPKI[0] = 1 },
		"exporter":       func(c *BundleTranscript) { c.Exporter[0] = 1 },
		"nonce":          func(c *BundleTranscript) { c.Nonce[0] = 1 },
		"ID":             func(c *BundleTranscript) { c.ID[0] = 1 },
		"bundle":         func(c *BundleTranscript) { c.Bundle[31] = 1 },
		"bundle version": func(c *BundleTranscript) { c.BundleVersion++ },
	} {
		c := base()
		change(c)
		if other, ok := seen[c.ReportData()]; ok {
			t.Errorf("changing %s gives the report data of changing %s", name, other)
		}
		seen[c.ReportData()] = name
	}
}

func TestBundleRefusesMalformed(t *testing.T) {
	for what, m := range map[string]Message{
		"no bundle":          &BundleBegin{Version: 1, BundleVersion: 1},
		"version 0":          &BundleBegin{Version: 1, Bundle: Hex32{1}},
		"version over 2^53":  &BundleBegin{Version: 1, Bundle: Hex32{1}, BundleVersion: MaxBundleVersion + 1},
		"protocol version":   &BundleBegin{Bundle: Hex32{1}, BundleVersion: 1},
		"approval of none":   &BundleApproved{BundleVersion: 1},
		"approved version 0": &BundleApproved{Bundle: Hex32{1}},
	} {
		body, err := Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		refused(t, what, body)
	}
}

// The digest of a bundle, what is signed of it and what is asked about it
// cannot be taken for each other.
func TestBundleDomains(t *testing.T) {
	d := BundleDigest([]byte("header"))
	if d == BundleDigest(BundleMessage(d)) || d == BundleDigest(nil) {
		t.Error("two inputs, one digest")
	}
}
