package wire

import (
	"bytes"
	"encoding/hex"
	"reflect"
	"slices"
	"testing"

	"attestbox/internal/secret"
)

// The worked example of docs/protocol.md.
func TestTranscriptExample(t *testing.T) {
	tr := &Transcript{Version: 1, SPKI: [32]byte{0x11}, Exporter: [32]byte{0x22}, Nonce: Hex32{0x33}, ID: Hex32{0x44}, Suite: SuiteID(), Key: []byte{0x55, 0x66}}
	want := "12000000" + hex.EncodeToString([]byte("attestbox/launch/1")) +
		"0400000001000000" +
		"20000000" + "11" + zeros(31) + "20000000" + "22" + zeros(31) + "20000000" + "33" + zeros(31) + "20000000" + "44" + zeros(31) +
		"06000000" + "647a00010002" + "020000005566"
	if got := hex.EncodeToString(tr.Bytes()); got != want {
		t.Errorf("transcript\n%s, want\n%s", got, want)
	}
	data := tr.ReportData()
	if got, want := hex.EncodeToString(data[:16]), "a0df702a4ac3328736ee997fd5d209fa"; got != want {
		t.Errorf("REPORT_DATA begins %s, want %s", got, want)
	}
}

func zeros(n int) string { return hex.EncodeToString(make([]byte, n)) }

// Any two transcripts that differ in one field differ in REPORT_DATA.
func TestTranscriptBindsEveryField(t *testing.T) {
	base := Transcript{Version: 1, Suite: SuiteID(), Key: []byte{1}}
	seen := map[[64]byte]string{base.ReportData(): "base"}
	typ := reflect.TypeOf(base)
	for i := range typ.NumField() {
		c := base
		c.Suite, c.Key = slices.Clone(base.Suite), slices.Clone(base.Key)
		switch f := reflect.ValueOf(&c).Elem().Field(i); f.Kind() {
		case reflect.Int:
			f.SetInt(f.Int() + 1)
		default:
			f.Index(0).SetUint(f.Index(0).Uint() ^ 1)
		}
		d := c.ReportData()
		if other, dup := seen[d]; dup {
			t.Errorf("a change of %s is the same as %s", typ.Field(i).Name, other)
		}
		seen[d] = typ.Field(i).Name
	}
	// A byte moved from one field to its neighbour is seen too.
	c := base
	c.Suite, c.Key = append(slices.Clone(base.Suite), 1), nil
	if _, dup := seen[c.ReportData()]; dup {
		t.Error("field borders are not bound")
	}
}

func TestDomainsDiffer(t *testing.T) {
	all := domains()
	slices.Sort(all)
	if len(slices.Compact(all)) != len(domains()) {
		t.Errorf("domain strings repeat: %q", domains())
	}
}

func TestSealOpen(t *testing.T) {
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	tr := &Transcript{Version: 1, Nonce: Hex32{1}, ID: Hex32{2}, Suite: SuiteID(), Key: key.PublicKey().Bytes()}
	p := samplePayload()
	sealed, err := Seal(tr, p)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(sealed, p.DiskKey.Bytes()[:8]) {
		t.Error("the sealed payload shows the key")
	}
	got, err := Open(key, tr, sealed)
	if err != nil || !got.DiskKey.Equal(p.DiskKey) {
		t.Fatalf("%v", err)
	}
	for i := range sealed {
		bad := slices.Clone(sealed)
		bad[i] ^= 1
		if _, err := Open(key, tr, bad); err == nil {
			t.Fatalf("opened with byte %d flipped", i)
		}
	}
	other := *tr
	other.Nonce[0] ^= 1
	if _, err := Open(key, &other, sealed); err == nil {
		t.Error("opened under another transcript")
	}
	wrong, _ := NewKey()
	if _, err := Open(wrong, tr, sealed); err == nil {
		t.Error("opened with another key")
	}
	if _, err := Seal(&Transcript{Key: []byte("short")}, p); err == nil {
		t.Error("sealed to a malformed key")
	}
}

func TestOutcomeMAC(t *testing.T) {
	key := secret.Copy(bytes.Repeat([]byte{7}, 32))
	o := &Outcome{ID: Hex32{1}, ReportID: Hex32{2}, Boot: 3, Result: ResultOpened, Headers: []Hex32{{4}}}
	o.MAC = OutcomeMAC(key, o)
	if !VerifyOutcome(key, o) {
		t.Fatal("own MAC refused")
	}
	for what, change := range map[string]func(*Outcome){
		"ID": func(o *Outcome) { o.ID[0]++ }, "REPORT_ID": func(o *Outcome) { o.ReportID[0]++ }, "boot": func(o *Outcome) { o.Boot++ },
		"result": func(o *Outcome) { o.Result, o.Reason = ResultFailed, "x" }, "headers": func(o *Outcome) { o.Headers = nil },
		"header": func(o *Outcome) { o.Headers = []Hex32{{5}} },
	} {
		c := *o
		change(&c)
		if VerifyOutcome(key, &c) {
			t.Errorf("a changed %s is accepted", what)
		}
	}
	for i := range o.MAC {
		c := *o
		c.MAC[i] ^= 1
		if VerifyOutcome(key, &c) {
			t.Errorf("MAC with byte %d flipped is accepted", i)
		}
	}
	if VerifyOutcome(secret.Copy(bytes.Repeat([]byte{8}, 32)), o) || VerifyOutcome(nil, o) {
		t.Error("accepted under another key or none")
	}
}
