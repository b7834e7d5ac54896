package wire

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"

	"attestbox/internal/code"
	"attestbox/internal/secret"
)

func samples() []Message {
	return []Message{
		&Begin{Version: 1, ID: Hex32{1}, Suite: SuiteHex(), Key: []byte{1, 2}},
		&Challenge{Exchange: ExchangeID{9}, Nonce: Hex32{2}},
		&Evidence{Platform: "amd-sev-snp", Report: make([]byte, 1184), Endorsements: []Endorsement{{Kind: "vek", DER: []byte{1}}}},
		&Release{Sealed: []byte{1, 2, 3}},
		&Refused{Code: code.LaunchRefused},
		&Later{Code: code.LaunchLater, Seconds: 5},
		&Outcome{ID: Hex32{1}, ReportID: Hex32{2}, Boot: 3, Result: ResultOpened, Headers: []Hex32{{4}}},
		&Outcome{ID: Hex32{1}, ReportID: Hex32{2}, Boot: 3, Result: ResultFailed, Reason: "luks-header-digest"},
		&Ack{Boot: 3, Time: 1700000000, MinPolicyVersion: 2},
		&CertifyBegin{Version: 1, Domain: "example.org", Role: RoleClient, CSR: []byte{1}, Suite: SuiteHex(), Key: []byte{1}},
		&Admission{Chain: [][]byte{{1}, {2}}, Proof: "1. ...", Sealed: []byte{3}, Time: 5, MinPolicyVersion: 2},
		&KeyRequest{Op: OpGet, Name: "db/password", Value: []byte{}, Key: []byte{}},
		&KeyReply{Name: "db/password", Version: 2, Kind: "blob", Value: []byte("x"), Names: []KeyName{}},
		&KeyReply{Code: "key-refused", Value: []byte{}, Names: []KeyName{{"a", 1, "blob"}}},
		&MaintainBegin{Version: 1, ID: Hex32{1}, Purpose: PurposeRotate, Suite: SuiteHex(), Key: []byte{1}},
		&MaintainState{Headers: []HeaderRecord{{Digest: "ab", Scope: ScopePrimary, HdrSize: 16384}}, HasKey: true, Rotation: RotationRotate,
			Allowed: []string{strings.Repeat("ab", 48)}, Nominations: []string{}, Time: 5, MinPolicyVersion: 2},
		&RegisterHeaders{Add: []HeaderRecord{{Digest: "ab"}}, Drop: []Hex32{{1}}},
		&Rotate{},
		&RotateEnd{Keep: Hex32{1}, MAC: Hex32{2}},
		&Nominate{Digest: strings.Repeat("ab", 48), Kernel: Hex32{1}, Initrd: Hex32{2}, Cmdline: Hex32{3}, Source: "linux-image 6.12.5"},
		&BundleBegin{Version: 1, ID: Hex32{1}, Bundle: Hex32{2}, BundleVersion: 7},
		&BundleApproved{Exchange: ExchangeID{9}, Bundle: Hex32{2}, BundleVersion: 7, Time: 5, MinPolicyVersion: 2},
	}
}

func TestRoundTrip(t *testing.T) {
	for _, m := range samples() {
		var buf bytes.Buffer
		if err := Write(&buf, m); err != nil {
			t.Fatal(err)
		}
		got, err := Read(&buf)
		if err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("%s: got %+v, %v; want %+v", m.kind(), got, err, m)
		}
	}
}

// Every field of every message is required, once, in exact case, and nothing else.
func TestStrict(t *testing.T) {
	for _, m := range samples() {
		body, err := Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(body, &fields); err != nil {
			t.Fatal(err)
		}
		for name, value := range fields {
			without := map[string]json.RawMessage{}
			for k, v := range fields {
				if k != name {
					without[k] = v
				}
			}
			cut, _ := json.Marshal(without)
			refused(t, m.kind()+" without "+name, cut)
			twice := append(bytes.TrimSuffix(bytes.Clone(body), []byte("}")), []byte(`,"`+name+`":`+string(value)+"}")...)
			refused(t, m.kind()+" with two "+name, twice)
			without[strings.ToUpper(name[:1])+name[1:]] = value
			upper, _ := json.Marshal(without)
			refused(t, m.kind()+" with upper-case "+name, upper)
		}
		refused(t, m.kind()+" with unknown field", append(bytes.TrimSuffix(bytes.Clone(body), []byte("}")), []byte(`,"more":1}`)...))
		refused(t, m.kind()+" with trailing bytes", append(bytes.Clone(body), '{', '}'))
	}
	for _, bad := range []string{`{}`, `{"type":"hello"}`, `[]`, `null`, ``,
		`{"type":"later","exchange":"00000000000000000000000000000000","code":"launch-later","seconds":0}`,
		`{"type":"later","exchange":"00000000000000000000000000000000","code":"launch-later","seconds":301}`,
		`{"type":"refused","exchange":"00000000000000000000000000000000","code":"Bad Code\u001b[2J"}`,
		`{"type":"challenge","exchange":"00000000000000000000000000000000","nonce":"AB"}`,
	} {
		refused(t, bad, []byte(bad))
	}
}

func refused(t *testing.T, what string, body []byte) {
	t.Helper()
	if m, err := Parse(body); !errors.Is(err, ErrMalformed) {
		t.Errorf("%s: %+v, %v; want ErrMalformed", what, m, err)
	}
}

// frames too large, empty, truncated at every byte
func TestFrames(t *testing.T) {
	for _, head := range []string{"00000000", "00010001", "ffffffff", "80000000"} {
		b, _ := hex.DecodeString(head)
		if _, err := ReadFrame(io.MultiReader(bytes.NewReader(b), neverRead{t})); !errors.Is(err, ErrMalformed) {
			t.Errorf("length %s: %v", head, err)
		}
	}
	var whole bytes.Buffer
	if err := WriteFrame(&whole, []byte(`{"a":1}`)); err != nil {
		t.Fatal(err)
	}
	for n := 1; n < whole.Len(); n++ {
		if _, err := ReadFrame(bytes.NewReader(whole.Bytes()[:n])); !errors.Is(err, ErrMalformed) {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
	}
	if _, err := ReadFrame(bytes.NewReader(nil)); err != io.EOF {
		t.Errorf("clean end: %v", err)
	}
	if err := WriteFrame(io.Discard, make([]byte, MaxFrame+1)); !errors.Is(err, ErrMalformed) {
		t.Errorf("writing too much: %v", err)
	}
	if body, err := ReadFrame(bytes.NewReader(append([]byte{0, 1, 0, 0}, make([]byte, MaxFrame)...))); err != nil || len(body) != MaxFrame {
		t.Errorf("largest frame: %d bytes, %v", len(body), err)
	}
}

type neverRead struct{ t *testing.T }

func (n neverRead) Read([]byte) (int, error) {
	n.t.Error("read on after a wrong length")
	return 0, io.EOF
}

func FuzzParse(f *testing.F) {
	for _, m := range samples() {
		b, _ := Marshal(m)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		m, err := Parse(body)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("%v is not ErrMalformed", err)
			}
			return
		}
		again, err := Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		m2, err := Parse(again)
		if err != nil || !reflect.DeepEqual(m, m2) {
			t.Fatalf("%s: re-read as %+v, %v", again, m2, err)
		}
	})
}

func samplePayload() *Payload {
	return &Payload{
		DiskKey: secret.Copy(bytes.Repeat([]byte{0xAA}, 32)), PreviousDiskKey: secret.New(0),
		OutcomeKey: secret.Copy(bytes.Repeat([]byte{0xBB}, 32)),
		Headers:    []HeaderRecord{{Digest: strings.Repeat("ab", 32), Size: 1 << 20, SegmentOffset: 1 << 20, SectorSize: 4096, Cipher: "aes-xts-plain64", KeyBytes: 64, Integrity: "none"}},
		Boot:       7, Committed: 6, Time: 1700000000, MinPolicyVersion: 3,
		Secrets: []NamedSecret{{"db-password", secret.Copy([]byte("x\x00y"))}},
	}
}

func TestPayloadRoundTrip(t *testing.T) {
	p := samplePayload()
	plain, err := p.marshal()
	if err != nil {
		t.Fatal(err)
	}
	if n, _ := p.Size(); n != plain.Len() {
		t.Errorf("Size %d, encoding %d", n, plain.Len())
	}
	got, err := parsePayload(plain.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if !got.DiskKey.Equal(p.DiskKey) || !got.OutcomeKey.Equal(p.OutcomeKey) || got.Boot != 7 || got.Committed != 6 ||
		got.Time != p.Time || got.MinPolicyVersion != 3 || !reflect.DeepEqual(got.Headers, p.Headers) ||
		len(got.Secrets) != 1 || got.Secrets[0].Name != "db-password" || !got.Secrets[0].Value.Equal(p.Secrets[0].Value) {
		t.Errorf("got %+v", got)
	}
	for n := range plain.Len() {
		if _, err := parsePayload(plain.Bytes()[:n]); !errors.Is(err, ErrMalformed) {
			// a cut between two secrets is a shorter payload; there is one secret
			if n != plain.Len()-4-3-4-len("db-password") {
				t.Errorf("cut to %d bytes: %v", n, err)
			}
		}
	}
}

func TestPayloadRefusals(t *testing.T) {
	for what, change := range map[string]func(*Payload){
		"no outcome key":   func(p *Payload) { p.OutcomeKey = nil },
		"path as a name":   func(p *Payload) { p.Secrets[0].Name = "../x" },
		"dot file":         func(p *Payload) { p.Secrets[0].Name = ".x" },
		"name given twice": func(p *Payload) { p.Secrets = append(p.Secrets, p.Secrets[0]) },
		"too large":        func(p *Payload) { p.Secrets[0].Value = secret.New(MaxPayload) },
		"too many headers": func(p *Payload) { p.Headers = make([]HeaderRecord, MaxHeaders+1) },
	} {
		p := samplePayload()
		change(p)
		if _, err := p.marshal(); err == nil {
			t.Errorf("%s: marshalled", what)
		}
	}
}

func FuzzPayload(f *testing.F) {
	plain, err := samplePayload().marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(bytes.Clone(plain.Bytes()))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := parsePayload(b)
		if err != nil {
			return
		}
		defer p.Zero()
		again, err := p.marshal()
		if err != nil {
			t.Fatal(err)
		}
		defer again.Zero()
		if !bytes.Equal(again.Bytes(), b) {
			t.Fatalf("%x re-marshals to %x", b, again.Bytes())
		}
	})
}
