package dm

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"attestbox/internal/code"
	"attestbox/internal/luks"
	"attestbox/internal/secret"
)

const testUUID = "01234567-89ab-cdef-0123-456789abcdef"

func testVolume(t testing.TB) *luks.Volume { return testVolumeWith(t, luks.IntegrityNone) }

func testVolumeWith(t testing.TB, integrity string) *luks.Volume {
	suite, err := luks.SuiteNamed(integrity)
	if err != nil {
		t.Fatal(err)
	}
	v := &luks.Volume{VolumeKey: secret.Random(suite.KeyBytes), Offset: 1 << 20, SectorSize: 4096, Suite: suite, UUID: testUUID}
	t.Cleanup(v.Close)
	return v
}

func TestTableOf(t *testing.T) {
	v := testVolume(t)
	got, err := tableOf("root", v, 254, 3, v.Offset, 63<<20+512) // half a sector too much
	if err != nil {
		t.Fatal(err)
	}
	want := table{
		uuid:   "CRYPT-LUKS2-0123456789abcdef0123456789abcdef-root",
		target: target{0, (63 << 20) / 512, "crypt", "aes-xts-plain64 :64:logon:attestbox:" + testUUID + " 0 254:3 2048 1 sector_size:4096"},
	}
	if got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	v.SectorSize = 512
	if got, err := tableOf("root", v, 8, 0, v.Offset, 1<<20); err != nil || got.target != (target{0, 2048, "crypt", "aes-xts-plain64 :64:logon:attestbox:" + testUUID + " 0 8:0 2048"}) {
		t.Errorf("%+v, %v", got, err)
	}
	if strings.Contains(want.target.params, fmt.Sprintf("%x", v.VolumeKey.Bytes())) {
		t.Error("the key is in the table")
	}
	for name, change := range map[string]func(*luks.Volume){
		"suite":       func(v *luks.Volume) { v.Suite = nil },
		"short key":   func(v *luks.Volume) { v.VolumeKey = secret.New(63) },
		"no key":      func(v *luks.Volume) { v.VolumeKey = nil },
		"UUID":        func(v *luks.Volume) { v.UUID = "x 0 1:1 0" },
		"sector size": func(v *luks.Volume) { v.SectorSize = 8192 },
		"offset 0":    func(v *luks.Volume) { v.Offset = 0 },
		"offset odd":  func(v *luks.Volume) { v.Offset = 4097 },
	} {
		w := *testVolume(t)
		change(&w)
		if _, err := tableOf("root", &w, 1, 1, w.Offset, 64<<20); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for _, size := range []int64{-4096, 0, 4095} {
		_, err := tableOf("root", testVolume(t), 1, 1, 1<<20, size)
		if c, _ := code.Of(err); c != code.LUKSTruncated {
			t.Errorf("%d bytes of data: %v", size, err)
		}
	}
}

// The tables that cryptsetup 2.6 makes on a disk of 64 MiB, but for the key's name.
func TestIntegrityTables(t *testing.T) {
	for _, tc := range []struct {
		integrity string
		sector    int
		lower     string
		upper     string
	}{
		{luks.IntegrityHMAC, 4096,
			"0 96736 integrity 254:0 32768 32 J 7 block_size:4096 journal_sectors:792 interleave_sectors:32768 buffer_sectors:128 journal_watermark:50 commit_time:10000 fix_padding",
			"0 96736 crypt capi:authenc(hmac(sha256),xts(aes))-plain64 :96:logon:attestbox:" + testUUID + " 0 253:0 0 2 integrity:32:aead sector_size:4096"},
		{luks.IntegrityHMAC, 512,
			"0 91184 integrity 254:0 32768 32 J 6 journal_sectors:968 interleave_sectors:32768 buffer_sectors:128 journal_watermark:50 commit_time:10000 fix_padding",
			"0 91184 crypt capi:authenc(hmac(sha256),xts(aes))-plain64 :96:logon:attestbox:" + testUUID + " 0 253:0 0 1 integrity:32:aead"},
	} {
		v := testVolumeWith(t, tc.integrity)
		v.SectorSize, v.Offset = tc.sector, 16<<20
		l, err := luks.NewLayout(v.Suite, v.SectorSize, v.Offset, 64<<20)
		if err != nil {
			t.Fatal(err)
		}
		lower := integrityTable("x_dif", v.UUID, l, 254, 0)
		if got := lower.target.String(); got != tc.lower || lower.uuid != "CRYPT-INTEGRITY-0123456789abcdef0123456789abcdef-x_dif" || lower.status != fmt.Sprintf("0 %d -", l.Provided) {
			t.Errorf("%+v\n%s, want\n%s", lower, got, tc.lower)
		}
		upper, err := tableOf("x", v, 253, 0, 0, l.Provided*512)
		if err != nil || upper.target.String() != tc.upper {
			t.Errorf("%s, want\n%s (%v)", upper.target, tc.upper, err)
		}
	}
}

func TestValidName(t *testing.T) {
	for name, want := range map[string]bool{
		"root": true, "a": true, "Root-2_x.y+z": true, strings.Repeat("a", 64): true,
		"": false, "control": false, "..": false, ".a": false, "-a": false, "a/b": false, "a b": false, "a\x00": false, "\u00e4": false, strings.Repeat("a", 65): false,
	} {
		if ValidName(name) != want {
			t.Errorf("%q: %v", name, !want)
		}
	}
}

func TestOpenCryptRefusesFiles(t *testing.T) {
	p := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(p, make([]byte, 4<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(p)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := OpenCrypt("root", f, testVolume(t)); err == nil || !strings.Contains(err.Error(), "no block device") {
		t.Error(err)
	}
	if _, err := OpenCrypt("../x", f, testVolume(t)); err == nil || !strings.Contains(err.Error(), "mapping name") {
		t.Error(err)
	}
}

// spec is one struct dm_target_spec with its parameters, next from data's start.
func spec(start, length uint64, kind, params string, next uint32) []byte {
	b := binary.NativeEndian.AppendUint64(nil, start)
	b = binary.NativeEndian.AppendUint64(b, length)
	b = binary.NativeEndian.AppendUint32(b, 0)
	b = binary.NativeEndian.AppendUint32(b, next)
	b = append(b, make([]byte, 16)...)
	copy(b[24:], kind)
	b = append(append(b, params...), 0)
	return append(b, make([]byte, -len(b)&7)...)
}

func TestParseTable(t *testing.T) {
	one := spec(0, 2048, "crypt", "aes-xts-plain64 :64:logon:x 0 1:2 3", 0)
	two := append(spec(0, 8, "linear", "1:2 0", 48), spec(8, 8, "zero", "", 96)...)
	for name, tc := range map[string]struct {
		buf   []byte
		start int
		count int
		want  string // "" is an error
	}{
		"none":             {nil, 0, 0, "[]"},
		"one":              {append(make([]byte, 312), one...), 312, 1, "[0 2048 crypt aes-xts-plain64 :64:logon:x 0 1:2 3]"},
		"two":              {two, 0, 2, "[0 8 linear 1:2 0 8 8 zero ]"},
		"key is not shown": {spec(0, 8, "crypt", "aes-xts-plain64 0011 0 1:2 3", 0), 0, 1, "[0 8 crypt [key in the table, not shown]]"},
		"too few":          {one[:20], 0, 1, ""},
		"unterminated":     {bytes.ReplaceAll(one[:60], []byte{0}, []byte{1}), 0, 1, ""},
		"loop":             {append(spec(0, 8, "linear", "1:2 0", 0), two...), 0, 2, ""},
		"next outside":     {spec(0, 8, "linear", "1:2 0", 1<<31), 0, 2, ""},
		"start outside":    {one, 10000, 1, ""},
		"negative":         {one, 0, -1, ""},
		"many":             {one, 0, 1 << 30, ""},
	} {
		got, err := parseTable(tc.buf, tc.start, tc.count)
		if (err != nil) != (tc.want == "") || err == nil && fmt.Sprint(got) != tc.want {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

// FuzzTable: the kernel's answer is trusted, its reader must not panic anyway.
// Accepted entries are written out and read again the same.
func FuzzTable(f *testing.F) {
	f.Add(spec(0, 2048, "crypt", "aes-xts-plain64 :64:logon:x 0 1:2 3", 0), 0, 1)
	f.Add(append(spec(0, 8, "linear", "1:2 0", 48), spec(8, 8, "zero", "", 96)...), 0, 2)
	f.Fuzz(func(t *testing.T, buf []byte, start, count int) {
		targets, err := parseTable(buf, start, count)
		if err != nil {
			return
		}
		if len(targets) != count {
			t.Fatalf("%d targets, want %d", len(targets), count)
		}
		var out []byte
		for _, g := range targets {
			one := spec(g.start, g.length, g.kind, g.params, 0)
			binary.NativeEndian.PutUint32(one[20:], uint32(len(out)+len(one)))
			out = append(out, one...)
		}
		again, err := parseTable(out, 0, count)
		if err != nil || fmt.Sprint(again) != fmt.Sprint(targets) {
			t.Fatalf("%v, then %v: %v", targets, again, err)
		}
	})
}
