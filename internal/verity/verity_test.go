package verity

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"attestbox/internal/code"
	"attestbox/internal/testenv"
	"attestbox/internal/wire"
)

// memory is a device.
type memory []byte

func (m memory) ReadAt(b []byte, off int64) (int, error)  { return bytes.NewReader(m).ReadAt(b, off) }
func (m memory) WriteAt(b []byte, off int64) (int, error) { return copy(m[off:], b), nil }

var uuid = [16]byte{0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef}

func device(t testing.TB, blocks uint64) (memory, *Record) {
	t.Helper()
	r := &Record{DataBlocks: blocks, HashOffset: blocks * BlockSize}
	rand.Read(r.Salt[:])
	m := make(memory, r.Size())
	rand.Read(m[:blocks*BlockSize])
	if err := Format(t.Context(), m, m, r, uuid); err != nil {
		t.Fatal(err)
	}
	return m, r
}

func veritysetup(t *testing.T, args ...string) (string, error) {
	t.Helper()
	out, err := exec.Command(testenv.Tool(t, "veritysetup", "cryptsetup-bin"), args...).CombinedOutput()
	return string(out), err
}

func write(t *testing.T, name string, b []byte) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(p, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

// Both ways: veritysetup accepts what we wrote, and writes the same bytes.
func TestVeritysetup(t *testing.T) {
	for _, blocks := range []uint64{2, 127, 128, 129, 128*128 - 1, 128 * 128, 128*128 + 1} {
		m, r := device(t, blocks)
		file := write(t, "ours", m)
		at := fmt.Sprintf("--hash-offset=%d", r.HashOffset)
		if out, err := veritysetup(t, "verify", file, file, r.RootHash.String(), at); err != nil {
			t.Errorf("%d blocks: %v\n%s", blocks, err, out)
		}
		out, err := veritysetup(t, "dump", file, at)
		if err != nil || !strings.Contains(out, "01234567-89ab-cdef-0123-456789abcdef") || !strings.Contains(out, r.Salt.String()) {
			t.Errorf("%d blocks: %v\n%s", blocks, err, out)
		}
		theirs := write(t, "theirs", m[:r.HashOffset])
		out, err = veritysetup(t, "format", theirs, theirs, at, fmt.Sprintf("--data-blocks=%d", blocks), "--salt="+r.Salt.String(), "--uuid=01234567-89ab-cdef-0123-456789abcdef")
		if err != nil || !strings.Contains(out, r.RootHash.String()) {
			t.Errorf("%d blocks: %v\n%s", blocks, err, out)
		}
		if b, err := os.ReadFile(theirs); err != nil || !bytes.Equal(b, m) {
			t.Errorf("%d blocks: veritysetup writes other bytes (%d, ours are %d): %v", blocks, len(b), len(m), err)
		}
	}
}

// Every byte counts: of data, tree, salt and root hash.
func TestChanged(t *testing.T) {
	m, r := device(t, 300)
	file := func(change func(m memory)) string {
		c := bytes.Clone(m)
		change(c)
		return write(t, "changed", c)
	}
	verify := func(f string) error {
		_, err := veritysetup(t, "verify", f, f, r.RootHash.String(), fmt.Sprintf("--hash-offset=%d", r.HashOffset))
		return err
	}
	if err := verify(file(func(memory) {})); err != nil {
		t.Fatal(err)
	}
	for _, at := range []uint64{0, 299*BlockSize + 4095, r.TreeOffset(), r.TreeOffset() + BlockSize, r.Size() - BlockSize, r.HashOffset + 88} {
		if err := verify(file(func(m memory) { m[at] ^= 1 })); err == nil {
			t.Errorf("byte %d changed and accepted", at)
		}
	}
}

func TestCheckDevice(t *testing.T) {
	m, r := device(t, 300)
	want := func(name string, m memory, r Record, c code.Code) {
		t.Helper()
		err := r.CheckDevice(m, int64(len(m)))
		if got, _ := code.Of(err); got != c || (err == nil) != (c == "") {
			t.Errorf("%s: %v, want %q", name, err, c)
		}
	}
	want("right", m, *r, "")
	want("longer", append(bytes.Clone(m), 0), *r, "")
	want("shorter", m[:len(m)-1], *r, code.VerityTruncated)
	want("empty", nil, *r, code.VerityTruncated)
	older, o := device(t, 300)
	want("another image with its own tree", older, *r, code.VerityRootHash)
	o.Salt = r.Salt
	want("another salt", m, Record{RootHash: r.RootHash, Salt: wire.Hex32{1}, DataBlocks: 300, HashOffset: r.HashOffset}, code.VerityRootHash)
	// The superblock is not believed, and not read.
	c := bytes.Clone(m)
	clear(c[r.HashOffset:r.TreeOffset()])
	want("no superblock", c, *r, "")
	for i := range 100 {
		c := bytes.Clone(m)
		c[r.TreeOffset()+uint64(i*BlockSize/100)] ^= 0x10
		want("root block changed", c, *r, code.VerityRootHash)
	}
}

func TestRecord(t *testing.T) {
	good := Record{RootHash: wire.Hex32{1}, DataBlocks: 300, HashOffset: 300 * BlockSize}
	b, err := good.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if r, err := Parse(b); err != nil || *r != good {
		t.Fatalf("%+v, %v", r, err)
	}
	for name, bad := range map[string]Record{
		"no root hash":      {DataBlocks: 300, HashOffset: 300 * BlockSize},
		"one block":         {RootHash: wire.Hex32{1}, DataBlocks: 1, HashOffset: 300 * BlockSize},
		"too many blocks":   {RootHash: wire.Hex32{1}, DataBlocks: 1 << 63, HashOffset: 300 * BlockSize},
		"tree in the data":  {RootHash: wire.Hex32{1}, DataBlocks: 300, HashOffset: 299 * BlockSize},
		"odd offset":        {RootHash: wire.Hex32{1}, DataBlocks: 300, HashOffset: 300*BlockSize + 512},
		"offset at the end": {RootHash: wire.Hex32{1}, DataBlocks: 300, HashOffset: 1<<64 - BlockSize},
	} {
		b, _ := bad.Marshal()
		_, err := Parse(b)
		if c, _ := code.Of(err); c != code.VerityRecord {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, text := range []string{"", "{}", "null", `{"root_hash":"00"}`, strings.Replace(string(b), `"salt"`, `"Salt"`, 1), strings.Repeat(" ", maxRecord+1)} {
		if _, err := Parse([]byte(text)); err == nil {
			t.Errorf("accepted %.40q", text)
		}
	}
}

func TestDataBlocks(t *testing.T) {
	for size := uint64(0); size < 400*BlockSize; size += BlockSize / 2 {
		n := DataBlocks(size)
		fits := func(n uint64) bool { r := Record{DataBlocks: n, HashOffset: n * BlockSize}; return r.Size() <= size }
		if n > 0 && !fits(n) || fits(n+1) {
			t.Errorf("%d bytes: %d blocks", size, n)
		}
	}
	for _, size := range []uint64{1 << 30, 1<<40 + 12345, 1 << 50} {
		n := DataBlocks(size)
		r := Record{DataBlocks: n, HashOffset: n * BlockSize}
		next := Record{DataBlocks: n + 1, HashOffset: (n + 1) * BlockSize}
		if r.Size() > size || next.Size() <= size {
			t.Errorf("%d bytes: %d blocks", size, n)
		}
	}
}

func FuzzRecord(f *testing.F) {
	b, _ := (&Record{RootHash: wire.Hex32{1}, Salt: wire.Hex32{2}, DataBlocks: 300, HashOffset: 300 * BlockSize}).Marshal()
	f.Add(b)
	f.Add([]byte(`{"root_hash":"","salt":"","data_blocks":-1,"hash_offset":1e9}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Parse(b)
		if err != nil {
			return
		}
		if r.Size() <= r.HashOffset || r.HashOffset < r.DataBlocks*BlockSize {
			t.Fatalf("%+v describes a device of %d bytes", r, r.Size())
		}
		text, err := r.Marshal()
		if again, err2 := Parse(text); err != nil || err2 != nil || *again != *r {
			t.Fatalf("%+v, then %+v: %v, %v", r, again, err, err2)
		}
	})
}
