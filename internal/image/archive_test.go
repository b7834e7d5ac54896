package image

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/u-root/u-root/pkg/cpio"

	"attestbox/internal/testenv"
)

func write(t testing.TB, a *Archive) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := a.Write(&out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func ok(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func sample(t testing.TB) *Archive {
	a := &Archive{MTime: 1700000000}
	ok(t, a.AddFile("/etc/b", 0o644, []byte("same")), a.AddFile("/etc/a", 0o644, []byte("same")),
		a.AddFile("etc/a-b/c", 0o600, []byte("other")), a.AddFile("etc/empty", 0o4755, nil),
		a.AddSymlink("/init", "bin/x"), a.AddFile("bin/x", 0o755, []byte("12345")),
		a.AddDir("tmp", 0o1777), a.AddChar("dev/console", 0o600, 5, 1))
	return a
}

// The order is that of paths, folders come before what is in them, and every
// entry has a number of its own.
func TestArchiveAgainstOtherReader(t *testing.T) {
	data := write(t, sample(t))
	var got []string
	r := cpio.Newc.Reader(bytes.NewReader(data))
	seen := map[uint64]bool{}
	for {
		rec, err := r.ReadRecord()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(io.NewSectionReader(rec, 0, int64(rec.FileSize)))
		if err != nil {
			t.Fatal(err)
		}
		if seen[rec.Ino] || rec.NLink != 1 || rec.UID != 0 || rec.GID != 0 || rec.MTime != 1700000000 {
			t.Errorf("%s: %v", rec.Name, rec.Info)
		}
		seen[rec.Ino] = true
		got = append(got, fmt.Sprintf("%o %s %s %d:%d", rec.Mode, rec.Name, body, rec.Rmajor, rec.Rminor))
	}
	want := []string{
		"40755 bin  0:0", "100755 bin/x 12345 0:0", "40755 dev  0:0", "20600 dev/console  5:1", "40755 etc  0:0",
		"100644 etc/a same 0:0", "40755 etc/a-b  0:0", "100600 etc/a-b/c other 0:0", "100644 etc/b same 0:0",
		"104755 etc/empty  0:0", "120777 init bin/x 0:0", "41777 tmp  0:0",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestArchiveRoundTrip(t *testing.T) {
	data := write(t, sample(t))
	a, err := ReadArchive(data)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(write(t, a), data) {
		t.Error("another archive after reading and writing")
	}
	for n := range len(data) {
		if _, err := ReadArchive(data[:n]); err == nil {
			t.Fatalf("accepted when cut to %d of %d bytes", n, len(data))
		}
	}
	if _, err := ReadArchive(append(bytes.Clone(data), 0, 0, 0, 0)); !errors.Is(err, ErrForeign) {
		t.Errorf("bytes behind the trailer: %v", err)
	}
}

// A flipped bit is an error, or it is content, which comes out as it went in.
func TestArchiveFlips(t *testing.T) {
	data := write(t, sample(t))
	refused := 0
	for i := range data {
		for bit := range 8 {
			bad := bytes.Clone(data)
			bad[i] ^= 1 << bit
			a, err := ReadArchive(bad)
			if err != nil {
				refused++
			} else if !bytes.Equal(write(t, a), bad) {
				t.Fatalf("byte %d bit %d: accepted, and written differently", i, bit)
			}
		}
	}
	if refused < len(data)*4 {
		t.Errorf("only %d of %d flips refused", refused, len(data)*8)
	}
}

func TestArchiveRefuses(t *testing.T) {
	dir := Entry{Path: "d", Mode: TypeDir | 0o755}
	for name, entries := range map[string][]Entry{
		"duplicate":          {dir, {Path: "/d", Mode: TypeRegular | 0o644}},
		"parent is a file":   {{Path: "f", Mode: TypeRegular | 0o644}, {Path: "f/x", Mode: TypeRegular | 0o644}},
		"parent is a link":   {dir, {Path: "l", Mode: TypeSymlink | 0o777, Data: []byte("d")}, {Path: "l/x", Mode: TypeRegular | 0o644}},
		"dots":               {{Path: "a/../b", Mode: TypeRegular | 0o644}},
		"up":                 {{Path: "../b", Mode: TypeRegular | 0o644}},
		"double slash":       {{Path: "a//b", Mode: TypeRegular | 0o644}},
		"two leading":        {{Path: "//b", Mode: TypeRegular | 0o644}},
		"trailing slash":     {{Path: "a/", Mode: TypeDir | 0o755}},
		"empty":              {{Path: "", Mode: TypeRegular | 0o644}},
		"root":               {{Path: "/", Mode: TypeDir | 0o755}},
		"newline":            {{Path: "a\nb", Mode: TypeRegular | 0o644}},
		"NUL":                {{Path: "a\x00b", Mode: TypeRegular | 0o644}},
		"not UTF-8":          {{Path: "a\xff", Mode: TypeRegular | 0o644}},
		"trailer":            {{Path: cpio.Trailer, Mode: TypeRegular | 0o644}},
		"long":               {{Path: strings.Repeat("a", MaxPath+1), Mode: TypeRegular | 0o644}},
		"no type":            {{Path: "a", Mode: 0o644}},
		"block device":       {{Path: "a", Mode: 0o060600}},
		"folder with data":   {{Path: "a", Mode: TypeDir | 0o755, Data: []byte("x")}},
		"link without":       {{Path: "a", Mode: TypeSymlink | 0o777}},
		"link with escapes":  {{Path: "a", Mode: TypeSymlink | 0o777, Data: []byte("\x1b[2J")}},
		"link of other mode": {{Path: "a", Mode: TypeSymlink | 0o755, Data: []byte("x")}},
		"device number":      {{Path: "a", Mode: TypeRegular | 0o644, Major: 1}},
		"high mode":          {{Path: "a", Mode: 1<<17 | TypeRegular}},
	} {
		t.Run(name, func(t *testing.T) {
			a := &Archive{}
			var err error
			for _, e := range entries {
				if err = a.Add(e); err != nil {
					break
				}
			}
			if err == nil {
				err = a.Write(io.Discard)
			}
			if err == nil {
				t.Error("accepted")
			}
			if (name == "duplicate") != errors.Is(err, ErrDuplicate) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestCompression(t *testing.T) {
	data := bytes.Repeat([]byte(newcMagic+" some text that repeats "), 5000)
	for _, c := range []struct {
		kind  string
		small bool
	}{{Zstd, false}, {Zstd, true}, {Xz, false}, {Gzip, false}, {None, false}} {
		var one, two bytes.Buffer
		for _, out := range []*bytes.Buffer{&one, &two} {
			z, err := compressor(out, c.kind, c.small)
			ok(t, err)
			_, err = z.Write(data)
			ok(t, err, z.Close())
		}
		if !bytes.Equal(one.Bytes(), two.Bytes()) {
			t.Errorf("%v: two runs differ", c)
		}
		got, is, err := Decompress(one.Bytes())
		if err != nil || is != c.kind || !bytes.Equal(got, data) {
			t.Errorf("%v: read as %q, %v", c, is, err)
		}
		// Another program reads it too.
		if c.kind == None {
			continue
		}
		cmd := exec.Command(testenv.Tool(t, c.kind, map[string]string{Zstd: "zstd", Xz: "xz-utils", Gzip: "gzip"}[c.kind]), "-dc")
		cmd.Stdin = &one
		if plain, err := cmd.Output(); err != nil || !bytes.Equal(plain, data) {
			t.Errorf("%v: %s gives %d bytes, %v", c, c.kind, len(plain), err)
		}
	}
	if _, err := compressor(io.Discard, "lzma", false); err == nil {
		t.Error("lzma accepted")
	}
	if _, _, err := Decompress([]byte("BZh9")); !errors.Is(err, ErrForeign) {
		t.Errorf("bzip2: %v", err)
	}
}

// An xz file that the kernel would not unpack, or that names a dictionary
// without bounds, is refused before memory is taken for it.
func TestXzRefused(t *testing.T) {
	var out bytes.Buffer
	z, err := compressor(&out, Xz, false)
	ok(t, err)
	_, err = z.Write([]byte("text"))
	ok(t, err, z.Close())
	good := out.Bytes()
	for what, at := range map[string]struct {
		pos int
		to  byte
	}{"CRC64": {7, 4}, "no check": {7, 0}, "two filters": {13, 1}, "x86 filter": {14, 4}, "4 GiB": {16, 40}, "96 MiB": {16, 29}, "code 41": {16, 41}} {
		bad := bytes.Clone(good)
		bad[at.pos] = at.to
		if _, err := checkXz(bad); err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
	for n := range len(good) {
		if _, _, err := Decompress(good[:n]); err == nil {
			t.Errorf("accepted when cut to %d of %d bytes", n, len(good))
		}
	}
	if n, err := checkXz(good); err != nil || n != 4 {
		t.Errorf("%d bytes, %v", n, err)
	}
}
