package cryptstore

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"attestbox/internal/code"
	"attestbox/internal/recipient"
	"attestbox/internal/secret"
	"attestbox/internal/testenv"
)

var update = flag.Bool("update", false, "write the worked example into docs/cryptstore.md")

// The worked example of docs/cryptstore.md: with counting bytes instead of
// random ones, a store "main" sealed by a key file, with one blob.
func TestWorkedExample(t *testing.T) {
	saved := random
	defer func() { random = saved }()
	next := byte(0)
	random = func(b []byte) {
		for i := range b {
			b[i] = next
			next++
		}
	}
	file := secret.New(32)
	defer file.Zero()
	for i := range file.Bytes() {
		file.Bytes()[i] = byte(0x80 + i)
	}
	raw := memory{}
	s, err := Create(t.Context(), raw, "main", KeyFile{file}, options())
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, "db/password", "hunter2")
	var got strings.Builder
	dump := func(name string, b []byte) {
		got.WriteString(name + "\n")
		for i := 0; i < len(b); i += 32 {
			got.WriteString("  " + hex.EncodeToString(b[i:min(i+32, len(b))]) + "\n")
		}
	}
	dump("cryptstore/main/head", raw["cryptstore/main/head"])
	for key, b := range raw {
		if strings.Contains(key, "/v/") {
			dump(key, b)
		}
	}
	page := filepath.Join(testenv.Root(), "docs", "cryptstore.md")
	doc, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "```hex\n", "```\n"
	a, rest, ok := strings.Cut(string(doc), begin)
	old, b, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatal("docs/cryptstore.md has no block of hex")
	}
	if *update {
		if err := os.WriteFile(page, []byte(a+begin+got.String()+end+b), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if old != got.String() {
		t.Errorf("the example is now:\n%s", got.String())
	}
	want(t, s, "db/password", 1, "hunter2")
}

func TestExport(t *testing.T) {
	s, _, _ := fresh(t)
	ctx := t.Context()
	by, err := recipient.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	e, err := s.Generate(ctx, "tls/key", Ed25519, true)
	if err != nil {
		t.Fatal(err)
	}
	out, _, err := s.Export(ctx, e.Tag, e.Type, 0, by.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	other, _, _ := fresh(t)
	in, err := other.Import(ctx, out, by)
	if err != nil || in.Tag != e.Tag || in.Type != e.Type || in.Alg != Ed25519 || !in.Exportable || in.Version != 1 {
		t.Fatalf("%+v, %v", in, err)
	}
	a, _, err := s.Get(ctx, e.Tag, e.Type, 0)
	if err != nil {
		t.Fatal(err)
	}
	b, _, err := other.Get(ctx, e.Tag, e.Type, 0)
	if err != nil || !a.Equal(b) {
		t.Errorf("another key came in: %v", err)
	}
	if in, err := other.Import(ctx, out, by); err != nil || in.Version != 2 {
		t.Errorf("imported again: version %d, %v", in.Version, err)
	}
	for i := range out {
		bad := bytes.Clone(out)
		bad[i] ^= 1
		if _, err := other.Import(ctx, bad, by); !errors.Is(err, ErrExport) {
			t.Fatalf("byte %d changed: %v", i, err)
		}
	}
	stranger, err := recipient.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Import(ctx, out, stranger); !errors.Is(err, ErrExport) {
		t.Errorf("opened by a stranger: %v", err)
	}
	for _, alg := range Algs() {
		if _, err := s.Generate(ctx, "kept", alg, false); err != nil {
			t.Fatal(err)
		}
		_, _, err := s.Export(ctx, "kept", alg.Type(), 0, by.PublicKey())
		if c, _ := code.Of(err); c != code.CryptstoreNotExportable {
			t.Errorf("%s: exported what is not exportable: %v", alg, err)
		}
	}
}

func sampleIndex() []record {
	return []record{
		{Entry: Entry{Tag: "a", Type: PrivateKey, Version: 1, Time: epoch0, Alg: Ed25519, Size: 48}, epoch: 2, id: [16]byte{1}},
		{Entry: Entry{Tag: "a", Type: Blob, Version: 3, Time: epoch0, Exportable: true, Size: 9}, epoch: 3, id: [16]byte{2}},
		{Entry: Entry{Tag: "a", Type: Blob, Version: 4, Time: epoch0}, epoch: 5, deleted: true},
	}
}

func TestIndexRefusals(t *testing.T) {
	good := sampleIndex()
	if _, err := parseIndex(marshalIndex(good)); err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]func(r []record){
		"order":              func(r []record) { r[0], r[1] = r[1], r[0] },
		"twice":              func(r []record) { r[1] = r[0] },
		"version 0":          func(r []record) { r[0].Version = 0 },
		"type":               func(r []record) { r[0].Type = 9 },
		"tag":                func(r []record) { r[0].Tag = "/" },
		"epoch":              func(r []record) { r[0].epoch = 0 },
		"algorithm":          func(r []record) { r[0].Alg = "des" },
		"no size":            func(r []record) { r[0].Size = 0 },
		"size":               func(r []record) { r[0].Size = MaxValue + 1 },
		"deleted with value": func(r []record) { r[2].Size = 1 },
		"deleted with ID":    func(r []record) { r[2].id[0] = 1 },
	} {
		r := sampleIndex()
		f(r)
		if _, err := parseIndex(marshalIndex(r)); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	b := marshalIndex(good)
	for n := range b {
		if _, err := parseIndex(b[:n]); err == nil {
			t.Errorf("cut to %d bytes: accepted", n)
		}
	}
}

// Whatever the size, a full index refuses and leaves what is there.
func TestFull(t *testing.T) {
	s, raw, by := fresh(t)
	h, err := s.Header(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var x index
	for i := range 4200 {
		x = append(x, record{Entry: Entry{Tag: strings.Repeat("a", 20), Type: Blob, Version: i + 1, Size: 1, Time: epoch0}, epoch: 1})
	}
	if _, err := marshalHead(&h, s.key, x); !errors.Is(err, ErrFull) {
		t.Errorf("%d entries: %v", len(x), err)
	}
	big, err := marshalHead(&h, s.key, x[:4050])
	if err != nil {
		t.Fatal(err)
	}
	set(t, raw, "cryptstore/main/head", big)
	again, err := Open(t.Context(), raw, "main", by, options())
	if err != nil {
		t.Fatal(err)
	}
	before := len(contents(t, raw))
	var full error
	v := secret.New(1)
	defer v.Zero()
	for range 100 {
		if _, full = again.Put(t.Context(), Item{Tag: strings.Repeat("b", 128), Type: Blob, Value: v}); full != nil {
			break
		}
		before++
	}
	if !errors.Is(full, ErrFull) || len(contents(t, raw)) != before {
		t.Errorf("%v, %d values, want %d", full, len(contents(t, raw)), before)
	}
}

func FuzzHead(f *testing.F) {
	h := Header{Binding: Binding{Name: "main", ID: [16]byte{1}}, Epoch: 7, Kind: KindKeyFile, Params: make([]byte, 32), Escrow: []byte("escrow")}
	f.Add(append(h.marshal(), make([]byte, boxOverhead+4)...))
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, raw, index, err := parseHead(b)
		if err == nil && !bytes.Equal(append(h.marshal(), index...), b) || err == nil && !bytes.Equal(h.marshal(), raw) {
			t.Error("accepted, and marshals to something else")
		}
	})
}

func FuzzIndex(f *testing.F) {
	f.Add(marshalIndex(sampleIndex()))
	f.Add(marshalIndex(nil))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		records, err := parseIndex(b)
		if err == nil && !bytes.Equal(marshalIndex(records), b) {
			t.Error("accepted, and marshals to something else")
		}
	})
}

func FuzzExport(f *testing.F) {
	v := secret.Copy([]byte("value"))
	e := Entry{Tag: "a", Type: Blob, Version: 1, Time: epoch0, Exportable: true, Size: v.Len()}
	f.Add(append([]byte(nil), marshalExport(e, v).Bytes()...))
	f.Add([]byte{1, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		e, v, err := parseExport(b)
		if err != nil {
			return
		}
		defer v.Zero()
		again := marshalExport(e, v)
		defer again.Zero()
		if !bytes.Equal(again.Bytes(), b) {
			t.Error("accepted, and marshals to something else")
		}
	})
}
