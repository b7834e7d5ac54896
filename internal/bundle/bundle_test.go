package bundle

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"testing"

	"attestbox/internal/wire"
)

var testKey = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32))

var parts = [][]byte{[]byte("the kernel"), bytes.Repeat([]byte("initramfs "), 60_000), []byte("console=ttyS0 panic=1")}

func header() *Header {
	return &Header{Name: "web", Version: 7, NotBefore: 1_700_000_000, NotAfter: 1_900_000_000, KernelRelease: "6.12.38+deb13-cloud-amd64",
		Kernel: PartOf(parts[0]), Initrd: PartOf(parts[1]), Cmdline: PartOf(parts[2])}
}

func sample(t testing.TB) []byte {
	t.Helper()
	b, err := Sign(testKey, header())
	if err != nil {
		t.Fatal(err)
	}
	return append(b, bytes.Join(parts, nil)...)
}

var owner = testKey.Public().(ed25519.PublicKey)

// readAll is what a caller does.
func readAll(b []byte, key ed25519.PublicKey) ([][]byte, *Reader, error) {
	r, err := Open(bytes.NewReader(b), key)
	if err != nil {
		return nil, nil, err
	}
	var out [][]byte
	for range 3 {
		var p bytes.Buffer
		if err := r.Next(&p); err != nil {
			return nil, r, err
		}
		out = append(out, p.Bytes())
	}
	return out, r, nil
}

func TestRoundTrip(t *testing.T) {
	got, r, err := readAll(append(sample(t), make([]byte, 100)...), owner)
	if err != nil || r.Header() != *header() {
		t.Fatalf("%+v, %v", r, err)
	}
	for i := range parts {
		if !bytes.Equal(got[i], parts[i]) {
			t.Errorf("part %d differs", i)
		}
	}
	if err := r.Next(io.Discard); err == nil {
		t.Error("a fourth part")
	}
}

// The worked example of docs/bundle.md.
func TestExample(t *testing.T) {
	h := header()
	h.Initrd = PartOf([]byte("the initramfs"))
	b, err := Sign(testKey, h)
	if err != nil {
		t.Fatal(err)
	}
	r, err := Open(bytes.NewReader(b), owner)
	if err != nil {
		t.Fatal(err)
	}
	n := int(binary.LittleEndian.Uint32(b[12:]))
	const (
		wantStart  = "415442554e444c45010000009a010000"
		wantDigest = "76520cb43573c18145b8b8326ce87a6d91083e01e6c8ac2644db503685d150cd"
		wantSig    = "b2785e4435145f18816f6f9d08128c7fb8b1fccf64d95e74f63e19c1b446427c2447786d32d7d77a65c6e2ba4fab050863aaa0711e50ce9b49743fa90a8c6700"
	)
	if got := hex.EncodeToString(b[:16]); got != wantStart {
		t.Errorf("start %s", got)
	}
	if got := r.Digest().String(); got != wantDigest {
		t.Errorf("digest %s", got)
	}
	if got := hex.EncodeToString(b[16+n : 16+n+64]); got != wantSig {
		t.Errorf("signature %s\nJSON %s", got, b[16:16+n])
	}
}

// A bundle with one byte changed, anywhere, is refused.
func TestEveryByteCounts(t *testing.T) {
	small := header()
	small.Initrd = PartOf([]byte("the initramfs"))
	b, err := Sign(testKey, small)
	if err != nil {
		t.Fatal(err)
	}
	b = append(b, "the kernelthe initramfsconsole=ttyS0 panic=1"...)
	if _, _, err := readAll(b, owner); err != nil {
		t.Fatal(err)
	}
	for i := range b {
		c := bytes.Clone(b)
		c[i] ^= 0x20
		if _, _, err := readAll(c, owner); err == nil {
			t.Errorf("byte %d does not count", i)
		}
		if _, _, err := readAll(b[:i], owner); !errors.Is(err, ErrFormat) {
			t.Errorf("cut at %d: %v", i, err)
		}
	}
}

func TestAnotherKey(t *testing.T) {
	other := ed25519.NewKeyFromSeed(make([]byte, 32)).Public().(ed25519.PublicKey)
	if _, _, err := readAll(sample(t), other); !errors.Is(err, ErrSignature) {
		t.Error(err)
	}
	if _, err := Open(bytes.NewReader(sample(t)), nil); err == nil {
		t.Error("no key at all")
	}
}

// After a part that is not the signed one nothing more comes.
func TestFailureIsFinal(t *testing.T) {
	b := sample(t)
	b[bytes.Index(b, parts[0])] ^= 1
	r, err := Open(bytes.NewReader(b), owner)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Next(io.Discard); !errors.Is(err, ErrContent) {
		t.Error(err)
	}
	if err := r.Next(io.Discard); err == nil {
		t.Error("the next part was read")
	}
}

// fickle is a disk that says something else when it is read again: it must not
// be read twice.
type fickle struct {
	b   []byte
	at  int
	max int
}

func (f *fickle) Read(p []byte) (int, error) {
	n := copy(p, f.b[f.at:min(len(f.b), f.at+f.max)])
	clear(f.b[f.at : f.at+n]) // gone
	f.at += n
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

func TestReadOnceAndInShortReads(t *testing.T) {
	r, err := Open(&fickle{b: sample(t), max: 1000}, owner)
	if err != nil {
		t.Fatal(err)
	}
	for i := range parts {
		var p bytes.Buffer
		if err := r.Next(&p); err != nil || !bytes.Equal(p.Bytes(), parts[i]) {
			t.Errorf("part %d: %v", i, err)
		}
	}
}

func TestHeaderBounds(t *testing.T) {
	for what, edit := range map[string]func(*Header){
		"no name":          func(h *Header) { h.Name = "" },
		"name":             func(h *Header) { h.Name = "../web" },
		"long name":        func(h *Header) { h.Name = strings.Repeat("a", 33) },
		"version 0":        func(h *Header) { h.Version = 0 },
		"version 2^53":     func(h *Header) { h.Version = 1 << 53 },
		"ends first":       func(h *Header) { h.NotAfter = h.NotBefore },
		"negative date":    func(h *Header) { h.NotBefore = -1 },
		"empty kernel":     func(h *Header) { h.Kernel.Size = 0 },
		"huge kernel":      func(h *Header) { h.Kernel.Size = MaxKernel + 1 },
		"negative size":    func(h *Header) { h.Initrd.Size = -1 },
		"no command line":  func(h *Header) { h.Cmdline.Size = 0 },
		"long line":        func(h *Header) { h.Cmdline.Size = MaxCmdline + 1 },
		"escape in a text": func(h *Header) { h.KernelRelease = "\x1b[2J" },
		"long release":     func(h *Header) { h.KernelRelease = strings.Repeat("6", 129) },
	} {
		h := header()
		edit(h)
		if _, err := Sign(testKey, h); err == nil {
			t.Errorf("%s: signed", what)
		}
	}
}

// signed makes a signature over any header text, as nobody but the owner could.
func signed(text string) []byte {
	b := binary.LittleEndian.AppendUint32([]byte(magic), format)
	b = append(binary.LittleEndian.AppendUint32(b, uint32(len(text))), text...)
	return append(b, ed25519.Sign(testKey, wire.BundleMessage(wire.BundleDigest(b)))...)
}

// What the owner signed by mistake is refused all the same.
func TestSignedButMalformed(t *testing.T) {
	good := sample(t)
	text := string(good[16 : 16+binary.LittleEndian.Uint32(good[12:])])
	if _, err := Open(bytes.NewReader(signed(text)), owner); err != nil {
		t.Fatal(err)
	}
	for what, bad := range map[string]string{
		"space":     " " + text,
		"unknown":   strings.Replace(text, `{"name"`, `{"more":1,"name"`, 1),
		"twice":     strings.Replace(text, `"version":7`, `"version":6,"version":7`, 1),
		"missing":   strings.Replace(text, `"not_after":1900000000,`, ``, 1),
		"float":     strings.Replace(text, `"version":7`, `"version":7.0`, 1),
		"no object": "[]",
		"case":      strings.Replace(text, `"name"`, `"Name"`, 1),
	} {
		if _, err := Open(bytes.NewReader(signed(bad)), owner); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func FuzzOpen(f *testing.F) {
	good, _ := Sign(testKey, header())
	f.Add(good)
	f.Add(good[:40])
	f.Add(append([]byte(magic), 1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		// The parser, as if the owner had signed.
		if len(b) >= prefixLen {
			if n, err := prefix(b); err == nil && prefixLen+n <= len(b) {
				head := b[:prefixLen+n]
				if h, err := parse(head); err == nil {
					if again, err := h.marshal(); err != nil || !bytes.Equal(again, head) {
						t.Fatalf("accepted, yet another form: %v", err)
					}
				}
			}
		}
		// Nobody but the owner's key signs.
		if r, err := Open(bytes.NewReader(b), owner); err == nil && r.Header() != *header() {
			t.Fatal("accepted what nobody signed")
		}
	})
}
