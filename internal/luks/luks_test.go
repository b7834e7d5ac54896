package luks

import (
	"bytes"
	stdpbkdf2 "crypto/pbkdf2"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"attestbox/internal/code"
	"attestbox/internal/secret"
	"attestbox/internal/wire"
)

func TestWrongKeys(t *testing.T) {
	v := newVictim(t)
	for i := range v.key.Len() {
		k := secret.Copy(v.key.Bytes())
		k.Bytes()[i] ^= 0x10
		_, err := Open(bytes.NewReader(v.header), v.record, k)
		if c, _ := code.Of(err); c != code.LUKSWrongKey {
			t.Errorf("key with byte %d changed: %v", i, err)
		}
		k.Zero()
	}
	for _, n := range []int{0, 1, 31, 33} {
		k := secret.New(n)
		copy(k.Bytes(), v.key.Bytes())
		if n > v.key.Len() {
			k.Bytes()[n-1] = 1 // HMAC pads with zeros, so a zero more is the same key
		}
		_, err := Open(bytes.NewReader(v.header), v.record, k)
		if c, _ := code.Of(err); c != code.LUKSWrongKey {
			t.Errorf("key of %d bytes: %v", n, err)
		}
		k.Zero()
	}
}

// Another valid disk of the same key and UUID is not this disk.
func TestSwappedHeader(t *testing.T) {
	v, w := newVictim(t), newVictim(t)
	if _, err := Open(bytes.NewReader(w.header), w.record, w.key); err != nil {
		t.Fatal(err)
	}
	_, err := Open(bytes.NewReader(w.header), v.record, v.key)
	if c, _ := code.Of(err); c != code.LUKSHeaderDigest {
		t.Error(err)
	}
}

// changing serves the true header once and a changed one ever after.
type changing struct {
	first, later []byte
	reads        int
}

func (c *changing) ReadAt(p []byte, off int64) (int, error) {
	c.reads++
	src := c.first
	if c.reads > 1 {
		src = c.later
	}
	return bytes.NewReader(src).ReadAt(p, off)
}

func TestHeaderIsReadOnce(t *testing.T) {
	v := newVictim(t)
	evil := v.withJSON(strings.Replace(v.json(), `"iv_tweak":"0","encryption":"aes-xts-plain64"`, `"iv_tweak":"0","encryption":"cipher_null-ecb"`, 1))
	c := &changing{first: v.header, later: evil}
	vol, err := Open(c, v.record, v.key)
	if err != nil {
		t.Fatal(err)
	}
	vol.Close()
	if c.reads != 1 || vol.Suite != &suites[0] {
		t.Errorf("%d reads, cipher %s", c.reads, vol.Suite.Cipher)
	}
}

// once serves every byte one time: what is read again is another.
type once struct {
	header []byte
	read   []bool // by 512 bytes
}

func (o *once) ReadAt(p []byte, off int64) (int, error) {
	n, err := bytes.NewReader(o.header).ReadAt(p, off)
	for i := off / 512; i < (off+int64(n)+511)/512; i++ {
		if o.read[i] {
			clear(p)
		}
		o.read[i] = true
	}
	return n, err
}

// A large area is hashed while it is read.
func TestLargeAreaIsReadOnce(t *testing.T) {
	key := testKey(t)
	header, v, record, err := Format(key, Params{UUID: testUUID, Integrity: IntegrityNone, HeaderArea: 5*readChunk + 4096})
	if err != nil {
		t.Fatal(err)
	}
	v.Close()
	vol, err := Open(&once{header, make([]bool, len(header)/512)}, record, key)
	if err != nil {
		t.Fatal(err)
	}
	vol.Close()
	for _, at := range []int{0, readChunk - 1, readChunk, 3*readChunk + 7, len(header) - 1} {
		changed := bytes.Clone(header)
		changed[at] ^= 1
		area, err := ReadRegistered(bytes.NewReader(changed), record)
		if c, _ := code.Of(err); c != code.LUKSHeaderDigest || area != nil {
			t.Errorf("byte %d changed: %v", at, err)
		}
	}
	for _, n := range []int{0, 100, readChunk, 2*readChunk + 1, len(header) - 1} {
		area, err := ReadRegistered(bytes.NewReader(header[:n]), record)
		if c, _ := code.Of(err); c != code.LUKSTruncated || area != nil {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

type failing struct{ n int }

func (f failing) ReadAt(p []byte, off int64) (int, error) { return f.n, errors.New("I/O error") }

func TestReadErrors(t *testing.T) {
	v := newVictim(t)
	_, err := Open(failing{100}, v.record, v.key)
	if c, _ := code.Of(err); c != code.LUKSRead {
		t.Error(err)
	}
	if _, err := ReadHeader(failing{0}); err == nil {
		t.Error("ReadHeader hides an I/O error")
	}
}

// Nothing is read for a record that asks for too much.
func TestRecords(t *testing.T) {
	v := newVictim(t)
	for name, change := range map[string]func(*wire.HeaderRecord){
		"no digest":          func(r *wire.HeaderRecord) { r.Digest = "" },
		"digest in capitals": func(r *wire.HeaderRecord) { r.Digest = strings.Repeat("A", 64) },
		"digest short":       func(r *wire.HeaderRecord) { r.Digest = r.Digest[:62] },
		"size 0":             func(r *wire.HeaderRecord) { r.Size, r.SegmentOffset = 0, 0 },
		"size negative":      func(r *wire.HeaderRecord) { r.Size, r.SegmentOffset = -4096, -4096 },
		"size huge":          func(r *wire.HeaderRecord) { r.Size, r.SegmentOffset = 1<<40, 1<<40 },
		"size unaligned":     func(r *wire.HeaderRecord) { r.Size++; r.SegmentOffset++ },
		"size is not offset": func(r *wire.HeaderRecord) { r.Size -= 4096 },
		"UUID":               func(r *wire.HeaderRecord) { r.UUID = "x" },
		"sector size":        func(r *wire.HeaderRecord) { r.SectorSize = 1024 },
		"null cipher":        func(r *wire.HeaderRecord) { r.Cipher = "cipher_null-ecb" },
		"key bytes":          func(r *wire.HeaderRecord) { r.KeyBytes = 32 },
		"no integrity named": func(r *wire.HeaderRecord) { r.Integrity = "" },
		"other integrity":    func(r *wire.HeaderRecord) { r.Integrity = IntegrityHMAC },
		"key too long":       func(r *wire.HeaderRecord) { r.KeyBytes = 96 },
		"unknown integrity":  func(r *wire.HeaderRecord) { r.Integrity = "hmac(sha256)" },
		"integrity of GCM":   func(r *wire.HeaderRecord) { r.Integrity, r.KeyBytes = IntegrityGCM, 32 },
		"cipher of GCM":      func(r *wire.HeaderRecord) { r.Cipher = "aes-gcm-random" },
		"no room for 96": func(r *wire.HeaderRecord) {
			r.Integrity, r.KeyBytes, r.Size, r.SegmentOffset = IntegrityHMAC, 96, 290816, 290816
		},
		"everything absent": func(r *wire.HeaderRecord) { *r = wire.HeaderRecord{} },
	} {
		r := *v.record
		change(&r)
		c := &changing{first: v.header, later: v.header}
		_, err := Open(c, &r, v.key)
		if got, _ := code.Of(err); got != code.LUKSRecord || c.reads != 0 {
			t.Errorf("%s: %v, %d reads", name, err, c.reads)
		}
		if _, ok := Check(v.header, &r, Limits{}); ok {
			t.Errorf("%s: check finds nothing", name)
		}
	}
	if _, err := Open(bytes.NewReader(v.header), nil, v.key); err == nil {
		t.Error("opens without a record")
	}
}

// Every byte of the two headers is covered by their own checks, also where an
// attacker has the digest match; keyslot bytes break the key.
func TestFlipEveryByte(t *testing.T) {
	v := newVictim(t)
	h := bytes.Clone(v.header)
	for i := range 2 * minHdrSize {
		h[i] ^= 1 << (i % 8)
		if _, err := parse(h, nil, Limits{}); err == nil {
			t.Errorf("byte %d of the headers may be changed", i)
		}
		h[i] ^= 1 << (i % 8)
	}
	for i := 2 * minHdrSize; i < 2*minHdrSize+suites[0].afSize(); i += 1777 {
		h[i] ^= 1
		if _, err := Open(bytes.NewReader(h), v.registered(h), v.key); err == nil {
			t.Errorf("byte %d of the keyslot may be changed", i)
		}
		h[i] ^= 1
	}
	// With the registered digest no byte may change, used or not.
	for i := 0; i < len(h); i += 1009 {
		h[i] ^= 1
		err := checkDigest(h, v.record)
		if c, _ := code.Of(err); c != code.LUKSHeaderDigest {
			t.Errorf("byte %d: %v", i, err)
		}
		h[i] ^= 1
	}
}

func TestArgonWithinLimits(t *testing.T) {
	v := newVictim(t)
	text := v.json()
	i := strings.Index(text, `"kdf":{`)
	j := i + strings.Index(text[i:], `}}`)
	h := v.withJSON(text[:i] + `"kdf":{"type":"argon2id","time":1,"memory":65536,"cpus":4,"salt":"` + strings.Repeat("A", 43) + `="` + text[j:])
	for _, tc := range []struct {
		memory uint64
		want   code.Code
	}{
		{65535, code.LUKSKDFCost},
		{65536, code.LUKSWrongKey}, // computed, and the key is not the one
		{0, code.LUKSWrongKey},
		{1 << 40, code.LUKSWrongKey},
	} {
		_, err := OpenWithin(bytes.NewReader(h), v.registered(h), v.key, Limits{MemoryKiB: tc.memory})
		if c, _ := code.Of(err); c != tc.want {
			t.Errorf("limit %d KiB: %v", tc.memory, err)
		}
	}
}

func TestFormatRefuses(t *testing.T) {
	key := testKey(t)
	for name, p := range map[string]Params{
		"no UUID":         {},
		"UUID":            {UUID: strings.ToUpper(testUUID)},
		"label":           {UUID: testUUID, Label: strings.Repeat("x", 48)},
		"label with NUL":  {UUID: testUUID, Label: "a\x00b"},
		"sector size":     {UUID: testUUID, SectorSize: 2048},
		"header size":     {UUID: testUUID, HdrSize: 12345},
		"area too small":  {UUID: testUUID, HeaderArea: suites[0].minHeaderArea() - 4096},
		"area too large":  {UUID: testUUID, HeaderArea: MaxHeaderArea + 4096},
		"area unaligned":  {UUID: testUUID, HeaderArea: 1<<20 + 512},
		"few iterations":  {UUID: testUUID, Iterations: 999},
		"many iterations": {UUID: testUUID, Iterations: 1_000_001},
		"no integrity":    {UUID: testUUID, Integrity: " "},
		"nonces":          {UUID: testUUID, Integrity: IntegrityGCM},
		"area for a key":  {UUID: testUUID, Integrity: IntegrityHMAC, HeaderArea: suites[0].minHeaderArea()},
		"no randomness":   {UUID: testUUID, Rand: strings.NewReader("short")},
	} {
		if p.Integrity == "" {
			p.Integrity = IntegrityNone
		}
		if _, v, _, err := Format(key, p); err == nil {
			v.Close()
			t.Errorf("%s: accepted", name)
		}
	}
	short := secret.New(MinKey - 1)
	defer short.Zero()
	if _, _, _, err := Format(short, Params{UUID: testUUID}); err == nil {
		t.Error("a short key is accepted")
	}
}

// endless gives the same bytes each time, so that Format repeats itself.
type endless struct{ n byte }

func (e *endless) Read(p []byte) (int, error) {
	for i := range p {
		e.n = e.n*5 + 17
		p[i] = e.n
	}
	return len(p), nil
}

func TestFormatFollowsItsRandomness(t *testing.T) {
	var sums [3][32]byte
	for i, r := range []io.Reader{&endless{}, &endless{}, nil} {
		header, v, _, err := Format(testKey(t), Params{UUID: testUUID, Integrity: IntegrityNone, Rand: r})
		if err != nil {
			t.Fatal(err)
		}
		v.Close()
		sums[i] = sha256.Sum256(header)
	}
	if sums[0] != sums[1] || sums[0] == sums[2] {
		t.Error("Format uses other randomness than it is given")
	}
}

func TestPBKDF2(t *testing.T) {
	// RFC 7914 section 11.
	pw := secret.Copy([]byte("passwd"))
	defer pw.Zero()
	if got := fmt.Sprintf("%x", pbkdf2(pw, []byte("salt"), 1, 64).Bytes()); got != "55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc49ca9cccf179b645991664b39d77ef317c71b845b1e30bd509112041d3a19783" {
		t.Error(got)
	}
	for _, n := range []int{1, 32, 33, 64, 100} {
		key := testKey(t)
		want, err := stdpbkdf2.Key(sha256.New, string(key.Bytes()), []byte("salt"), 7, n)
		if got := pbkdf2(key, []byte("salt"), 7, n); err != nil || !bytes.Equal(got.Bytes(), want) {
			t.Errorf("%d bytes: differs from the standard library's", n)
		}
	}
}

func TestAFSplitter(t *testing.T) {
	for i := range suites {
		testAFSplitter(t, suites[i].KeyBytes)
	}
}

func testAFSplitter(t *testing.T, n int) {
	key := secret.Random(n)
	defer key.Zero()
	stripes := secret.Random(n * afStripes)
	defer stripes.Zero()
	afSplit(key, stripes.Bytes())
	got := afMerge(stripes.Bytes(), n)
	defer got.Zero()
	if !got.Equal(key) {
		t.Error("merge does not undo split")
	}
	stripes.Bytes()[0] ^= 1
	other := afMerge(stripes.Bytes(), n)
	defer other.Zero()
	same := 0
	for i := range min(n, sha256.Size) { // diffusion works on blocks of this size
		if other.Bytes()[i] == key.Bytes()[i] {
			same++
		}
	}
	if same > sha256.Size/4 {
		t.Errorf("one bit of the first stripe leaves %d bytes of the key as they were", same)
	}
}

// The hex example of docs/luks.md: the binary header that Format writes.
func TestHeaderExample(t *testing.T) {
	header, v, _, err := Format(testKey(t), Params{UUID: testUUID, Integrity: IntegrityNone, Label: "root", Rand: &endless{}})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	for _, tc := range []struct {
		at   int
		want string
	}{
		{offMagic, "4c554b53babe" + "0002" + "0000000000004000" + "0000000000000001" + "726f6f7400"},
		{offCsumAlg, "736861323536" + "0000"},
		{offUUID, "30313233343536372d383961622d636465662d303132332d34353637383961626364656600000000"},
		{offHdrOffset, "0000000000000000"},
		{minHdrSize, "534b554cbabe" + "0002" + "0000000000004000"},
		{minHdrSize + offHdrOffset, "0000000000004000"},
	} {
		if got := fmt.Sprintf("%x", header[tc.at:tc.at+len(tc.want)/2]); got != tc.want {
			t.Errorf("at %d: %s, want %s", tc.at, got, tc.want)
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	v := newVictim(b)
	for b.Loop() {
		vol, err := Open(bytes.NewReader(v.header), v.record, v.key)
		if err != nil {
			b.Fatal(err)
		}
		vol.Close()
	}
}
