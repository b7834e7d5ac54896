package disk

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/aes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/crypto/xts"
	"golang.org/x/sys/unix"

	"attestbox/internal/bootcount"
	"attestbox/internal/luks"
	"attestbox/internal/secret"
	"attestbox/internal/testenv"
)

const testUUID = "01234567-89ab-cdef-0123-456789abcdef"

func testKey(t testing.TB) *secret.Bytes {
	key := secret.Random(32)
	t.Cleanup(key.Zero)
	return key
}

func needTools(t testing.TB) {
	testenv.Tool(t, "mke2fs", "e2fsprogs")
	testenv.Tool(t, "debugfs", "e2fsprogs")
	testenv.Tool(t, "e2fsck", "e2fsprogs")
}

// canary occurs in a file of every test source.
const canary = "CANARY-plain-text-of-the-owner-CANARY"

func testDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	put := func(name, content string, mode fs.FileMode) {
		t.Helper()
		p := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(content), 0o600), os.Chmod(p, mode)); err != nil {
			t.Fatal(err)
		}
	}
	put("etc/motd", canary+"\n", 0o644)
	put("usr/bin/su", strings.Repeat("x", 5000), 0o755|fs.ModeSetuid)
	put(`odd "name" with space`, "q", 0o640)
	if err := errors.Join(os.Symlink("usr/bin", filepath.Join(dir, "bin")), os.Link(filepath.Join(dir, "etc/motd"), filepath.Join(dir, "etc/motd2")), os.Mkdir(filepath.Join(dir, "proc"), 0o555)); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		when := unix.Timeval{Sec: 1600000000}
		return errors.Join(err, unix.Lutimes(p, []unix.Timeval{when, when})) // of links, too
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// plain decrypts the image's data area by way of luks.Open.
func plain(t testing.TB, img string, res *Result, key *secret.Bytes) string {
	t.Helper()
	f, err := os.Open(img)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	v, err := luks.Open(f, res.Record, key)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	c, err := xts.NewCipher(aes.NewCipher, v.VolumeKey.Bytes()[:64])
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	data := sectors(t, v, raw)
	for i := 0; i < len(data); i += v.SectorSize {
		c.Decrypt(data[i:i+v.SectorSize], data[i:i+v.SectorSize], uint64(i/512))
	}
	out := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(out, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return out
}

// sectors are the encrypted data of an image, every tag verified: as crypto/
// authenc.c has it, over the sector number, the IV and what was encrypted.
func sectors(t testing.TB, v *luks.Volume, raw []byte) []byte {
	t.Helper()
	if v.Suite.TagBytes == 0 {
		return bytes.Clone(raw[v.Offset:])
	}
	l, err := luks.NewLayout(v.Suite, v.SectorSize, v.Offset, int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	if err := l.CheckSuperblock(raw[v.Offset:][:luks.SuperblockBytes]); err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(raw[v.Offset+luks.SuperblockBytes:], l.Journal()) {
		t.Fatal("the journal is not an empty one")
	}
	var out []byte
	for off := int64(0); off < l.Provided*512; off += int64(v.SectorSize) {
		s := raw[l.DataOffset(off):][:v.SectorSize]
		n := binary.LittleEndian.AppendUint64(nil, uint64(off/512))
		mac := hmac.New(sha256.New, v.VolumeKey.Bytes()[64:])
		mac.Write(slices.Concat(n, n, make([]byte, 8), s))
		if !bytes.Equal(mac.Sum(nil), raw[l.TagOffset(off):][:32]) {
			t.Fatalf("the tag of the sector at %d does not match", off)
		}
		out = append(out, s...)
	}
	return out
}

func output(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(testenv.Tool(t, name, "e2fsprogs"), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func TestBuildFromFolder(t *testing.T) {
	needTools(t)
	for _, tc := range []struct {
		sector    int
		integrity string
	}{{512, luks.IntegrityNone}, {4096, luks.IntegrityNone}, {512, luks.IntegrityHMAC}, {4096, luks.IntegrityHMAC}} {
		key := testKey(t)
		img := filepath.Join(t.TempDir(), "disk.img")
		res, err := Build(context.Background(), key, Options{From: testDir(t), Out: img, Size: 12 << 20, UUID: testUUID, SectorSize: tc.sector, Integrity: tc.integrity})
		if err != nil {
			t.Fatal(err)
		}
		if res.Record.Integrity != tc.integrity {
			t.Errorf("record %+v", res.Record)
		}
		raw, err := os.ReadFile(img)
		if err != nil || len(raw) != 12<<20 {
			t.Fatalf("image is %d bytes (%v)", len(raw), err)
		}
		if bytes.Contains(raw, []byte(canary)) || bytes.Contains(raw, key.Bytes()) {
			t.Error("plain text or key in the image")
		}
		if !bytes.Equal(raw[:len(res.Header)], res.Header) {
			t.Error("the image does not begin with the header")
		}
		// Empty sectors are encrypted as well.
		v, err := luks.Open(bytes.NewReader(raw), res.Record, key)
		if err != nil {
			t.Fatal(err)
		}
		for data := sectors(t, v, raw); len(data) > 0; data = data[4096:] {
			if bytes.Count(data[:4096], []byte{0}) > 200 {
				t.Fatalf("block %d from the end looks empty", len(data)/4096)
			}
		}
		v.Close()
		p := plain(t, img, res, key)
		output(t, "e2fsck", "-fn", p)
		if got := output(t, "debugfs", "-R", "cat /etc/motd2", p); !strings.Contains(got, canary) {
			t.Errorf("motd2: %q", got)
		}
		for path, want := range map[string][]string{
			"/usr/bin/su":                {"Mode:  04755", "User:     0   Group:     0", "mtime: 0x5f5e1000"},
			`"/odd ""name"" with space"`: {"Mode:  0640", "crtime: 0x5f5e1000", "ctime: 0x5f5e1000"},
			"/etc/motd":                  {"Links: 2"},
			"/proc":                      {"Mode:  0555", "Type: directory"},
			"/":                          {"Mode:  0755"},
		} {
			got := output(t, "debugfs", "-R", "stat "+path, p)
			for _, w := range want {
				if !strings.Contains(got, w) {
					t.Errorf("%s lacks %q:\n%s", path, w, got)
				}
			}
		}
	}
}

// fsOnly makes the plain file system, for comparisons.
func fsOnly(t testing.TB, o Options) []byte {
	t.Helper()
	const size = 16 << 20
	f, err := memfd("test", size)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	o.UUID = testUUID
	o.Progress = func(string, int64, int64) {}
	if err := makeFS(context.Background(), f, size, &o); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(io.NewSectionReader(f, 0, size))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestFileSystemIsReproducible(t *testing.T) {
	needTools(t)
	if !bytes.Equal(fsOnly(t, Options{From: testDir(t)}), fsOnly(t, Options{From: testDir(t)})) {
		t.Error("two folders of the same content give two file systems")
	}
	tarball := writeFile(t, tarOf(t, false))
	if !bytes.Equal(fsOnly(t, Options{From: tarball}), fsOnly(t, Options{From: tarball})) {
		t.Error("one tarball gives two file systems")
	}
	late := testDir(t)
	os.Chtimes(filepath.Join(late, "etc/motd"), time.Now(), time.Now())
	os.Chtimes(filepath.Join(late, "etc"), time.Now(), time.Now())
	epoch := time.Unix(1600000000, 0)
	if !bytes.Equal(fsOnly(t, Options{From: testDir(t), Epoch: epoch}), fsOnly(t, Options{From: late, Epoch: epoch})) {
		t.Error("times after SOURCE_DATE_EPOCH reach the file system")
	}
}

func tarOf(t testing.TB, hostile bool, extra ...*tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	when := time.Unix(1600000000, 0)
	hdrs := []*tar.Header{
		{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "./dev/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "./dev/console", Typeflag: tar.TypeChar, Mode: 0o600, Devmajor: 5, Devminor: 1},
		{Name: "./usr/bin/ping", Typeflag: tar.TypeReg, Mode: 0o4755, Size: int64(len(canary)), Uid: 0, Gid: 70001,
			PAXRecords: map[string]string{"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"}},
		{Name: "./usr/bin/ping6", Typeflag: tar.TypeLink, Linkname: "./usr/bin/ping"},
		{Name: "./bin", Typeflag: tar.TypeSymlink, Linkname: "usr/bin", Mode: 0o777, Uid: 3},
		{Name: "./run/pipe", Typeflag: tar.TypeFifo, Mode: 0o620, Uid: 1, Gid: 2},
		{Name: "./root/secret", Typeflag: tar.TypeReg, Mode: 0},
	}
	if hostile {
		hdrs = nil
	}
	for _, h := range append(hdrs, extra...) {
		h.ModTime = when
		if h.PAXRecords != nil {
			h.Format = tar.FormatPAX
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			io.WriteString(w, canary)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func writeFile(t testing.TB, b []byte) string {
	p := filepath.Join(t.TempDir(), "source")
	if err := os.WriteFile(p, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestBuildFromTarball(t *testing.T) {
	needTools(t)
	raw := tarOf(t, false)
	var gz, zs bytes.Buffer
	g := gzip.NewWriter(&gz)
	g.Write(raw)
	g.Close()
	z, _ := zstd.NewWriter(&zs)
	z.Write(raw)
	z.Close()
	for name, b := range map[string][]byte{"tar": raw, "gzip": gz.Bytes(), "zstd": zs.Bytes()} {
		key := testKey(t)
		img := filepath.Join(t.TempDir(), "disk.img")
		res, err := Build(context.Background(), key, Options{From: writeFile(t, b), Out: img, Size: 24 << 20, Integrity: luks.IntegrityHMAC})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		p := plain(t, img, res, key)
		output(t, "e2fsck", "-fn", p)
		for path, want := range map[string][]string{
			"/dev/console":   {"Type: character special", "Mode:  0600", "Device major/minor number: 05:01"},
			"/usr/bin/ping":  {"Mode:  04755", "User:     0   Group: 70001", "Links: 2", "security.capability (20)"},
			"/usr/bin":       {"Mode:  0755", "User:     0"},
			"/bin":           {"Type: symlink", "User:     3", `Fast link dest: "usr/bin"`},
			"/run/pipe":      {"Type: FIFO", "Mode:  0620", "User:     1   Group:     2"},
			"/root/secret":   {"Mode:  0000", "Type: regular"},
			"/usr/bin/ping6": {"Links: 2"},
			"/lost+found":    {"Mode:  0700"},
		} {
			got := output(t, "debugfs", "-R", "stat "+path, p)
			for _, w := range want {
				if !strings.Contains(got, w) {
					t.Errorf("%s: %s lacks %q:\n%s", name, path, w, got)
				}
			}
		}
	}
	if left, _ := filepath.Glob("/dev/shm/attestbox-disk-*"); len(left) != 0 {
		t.Errorf("unpacked files stay behind: %q", left)
	}
}

// More small files than mke2fs has inodes for by default.
func TestManySmallFiles(t *testing.T) {
	needTools(t)
	src := t.TempDir()
	for i := range 3000 {
		if err := os.WriteFile(filepath.Join(src, strconv.Itoa(i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Build(context.Background(), testKey(t), Options{From: src, Out: filepath.Join(t.TempDir(), "d"), Size: 16 << 20, Integrity: luks.IntegrityHMAC}); err != nil {
		t.Error(err)
	}
}

// A disk for state begins empty, and is the same every time.
func TestEmpty(t *testing.T) {
	needTools(t)
	var sums [2][32]byte
	for i := range sums {
		out := filepath.Join(t.TempDir(), "disk.img")
		o := Options{Empty: true, Out: out, Size: 24 << 20, UUID: testUUID, Integrity: luks.IntegrityHMAC}
		f, err := os.Create(out)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := f.Truncate(o.Size); err != nil {
			t.Fatal(err)
		}
		o.Progress = func(string, int64, int64) {}
		if err := makeFS(t.Context(), f, o.Size, &o); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		sums[i] = sha256.Sum256(b)
		list := output(t, "debugfs", "-R", "ls -p /", out)
		if strings.Count(list, "/0407") > 3 || !strings.Contains(list, "/040755/0/0/") {
			t.Errorf("%s", list)
		}
	}
	if sums[0] != sums[1] {
		t.Error("two empty file systems differ")
	}
}

func TestRefusesHostileTarballs(t *testing.T) {
	needTools(t)
	outside := filepath.Join(t.TempDir(), "outside")
	for name, hdrs := range map[string][]*tar.Header{
		"upwards":          {{Name: "../x", Typeflag: tar.TypeReg, Mode: 0o644}},
		"upwards inside":   {{Name: "a/../../x", Typeflag: tar.TypeReg, Mode: 0o644}},
		"through a link":   {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: outside}, {Name: "l/x", Typeflag: tar.TypeReg, Mode: 0o644}},
		"through a link 2": {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "../../.."}, {Name: "l", Typeflag: tar.TypeReg, Mode: 0o644}},
		"hard link out":    {{Name: "l", Typeflag: tar.TypeLink, Linkname: "/etc/passwd"}},
		"twice":            {{Name: "a", Typeflag: tar.TypeReg}, {Name: "./a", Typeflag: tar.TypeReg}},
		"line end":         {{Name: "a\nrm /etc", Typeflag: tar.TypeReg}},
		"unknown type":     {{Name: "a", Typeflag: 'Z'}},
		"nothing":          nil,
		"long name":        {{Name: strings.Repeat("a/", 4000) + "x", Typeflag: tar.TypeReg}},
	} {
		img := filepath.Join(t.TempDir(), "disk.img")
		_, err := Build(context.Background(), testKey(t), Options{From: writeFile(t, tarOf(t, true, hdrs...)), Out: img, Size: 24 << 20, Integrity: luks.IntegrityHMAC})
		if !errors.Is(err, ErrSource) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(img); err == nil {
			t.Errorf("%s: an image was written", name)
		}
	}
	if _, err := os.Stat(outside); err == nil {
		t.Error("a file was written outside")
	}
}

func TestBuildRefuses(t *testing.T) {
	needTools(t)
	short := secret.Random(16)
	defer short.Zero()
	out := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(out, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	big := t.TempDir()
	if err := os.WriteFile(filepath.Join(big, "x"), bytes.Repeat([]byte("x"), 30<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	ok := Options{From: testDir(t), Out: out, Size: 24 << 20, Integrity: luks.IntegrityHMAC}
	for name, tc := range map[string]struct {
		change func(*Options)
		key    *secret.Bytes
		want   string
	}{
		"short key":        {func(*Options) {}, short, "want at least 32"},
		"no source":        {func(o *Options) { o.From = "/nonexistent" }, nil, "no such file"},
		"too small":        {func(o *Options) { o.Size = 9 << 20 }, nil, "want at least 8388608"},
		"no integrity":     {func(o *Options) { o.Integrity = "" }, nil, "integrity is"},
		"no room for tags": {func(o *Options) { o.Size = 1 << 20 }, nil, "no room"},
		"odd size":         {func(o *Options) { o.Size++ }, nil, "want a multiple of 4096"},
		"does not fit":     {func(o *Options) { o.From = big }, nil, "does not fit"},
		"empty folder":     {func(o *Options) { o.From = t.TempDir() }, nil, "is empty"},
		"no source at all": {func(o *Options) { o.From = "" }, nil, "no such file"},
		"tar on no tmpfs":  {func(o *Options) { o.From = writeFile(t, tarOf(t, false)); o.TempDir = "/usr" }, nil, "tmpfs"},
		"bad UUID":         {func(o *Options) { o.UUID = "x" }, nil, "malformed"},
	} {
		o := ok
		tc.change(&o)
		key := tc.key
		if key == nil {
			key = testKey(t)
		}
		if _, err := Build(context.Background(), key, o); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if b, _ := os.ReadFile(out); string(b) != "old" {
		t.Error("a failed build touched the old image")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Build(ctx, testKey(t), ok); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func BenchmarkEncrypt(b *testing.B) {
	const size = 64 << 20
	f, err := memfd("bench", size)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	out, err := memfd("bench", size)
	if err != nil {
		b.Fatal(err)
	}
	defer out.Close()
	for _, integrity := range []string{luks.IntegrityNone, luks.IntegrityHMAC} {
		b.Run(integrity, func(b *testing.B) {
			suite, err := luks.SuiteNamed(integrity)
			if err != nil {
				b.Fatal(err)
			}
			v := &luks.Volume{VolumeKey: secret.Random(suite.KeyBytes), Offset: 1 << 20, SectorSize: 4096, Suite: suite}
			defer v.Close()
			w, err := newWriter(v, size)
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(w.size())
			for b.Loop() {
				if err := w.encrypt(context.Background(), out, f, func(string, int64, int64) {}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// A tarball that stands for more than the image holds fills no memory: a bomb
// of zeros, and one of names.
func TestTarballIsBounded(t *testing.T) {
	needTools(t)
	const size = 24 << 20
	temp, err := os.MkdirTemp("/dev/shm", "attestbox-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(temp)
	write := func(fill func(w *tar.Writer)) string {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		w := tar.NewWriter(z)
		fill(w)
		z.Close() // the tarball may end early: what is before is enough
		return writeFile(t, b.Bytes())
	}
	for name, from := range map[string]string{
		"contents": write(func(w *tar.Writer) {
			for i := range 64 {
				if err := w.WriteHeader(&tar.Header{Name: strconv.Itoa(i), Typeflag: tar.TypeReg, Size: 1 << 20}); err != nil {
					t.Fatal(err)
				}
				w.Write(make([]byte, 1<<20))
			}
		}),
		"one huge file": write(func(w *tar.Writer) {
			if err := w.WriteHeader(&tar.Header{Name: "huge", Typeflag: tar.TypeReg, Size: 1 << 50}); err != nil {
				t.Fatal(err)
			}
		}),
		"names": write(func(w *tar.Writer) {
			for i := range size/256 + 1 {
				if err := w.WriteHeader(&tar.Header{Name: strconv.Itoa(i), Typeflag: tar.TypeFifo}); err != nil {
					t.Fatal(err)
				}
			}
		}),
	} {
		_, err := openTar(from, temp, size)
		if !errors.Is(err, ErrSource) || !strings.Contains(err.Error(), "do not fit") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// The instance's ID goes into the volume, whatever the source is, as root's own
// file; a source that has such a folder already is another volume's.
func TestInstance(t *testing.T) {
	needTools(t)
	id := [32]byte{0xab, 31: 1}
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	empty := Options{Empty: true}
	folder := Options{From: testDir(t)}
	archive := Options{From: filepath.Join(t.TempDir(), "x.tar")}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := errors.Join(w.WriteHeader(&tar.Header{Name: "hello", Mode: 0o644, Typeflag: tar.TypeReg}), w.Close(), os.WriteFile(archive.From, b.Bytes(), 0o600)); err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]Options{"empty": empty, "folder": folder, "tarball": archive} {
		key := testKey(t)
		o.Out, o.Size, o.Instance, o.Integrity = filepath.Join(t.TempDir(), "disk.img"), 16<<20, &id, luks.IntegrityHMAC
		res, err := Build(t.Context(), key, o)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		p := plain(t, o.Out, res, key)
		output(t, "e2fsck", "-fn", p)
		if got := output(t, "debugfs", "-R", "cat /.attestbox/instance", p); !strings.HasSuffix(got, string(bootcount.MarshalID(id))) {
			t.Errorf("%s: %q", name, got)
		}
		for file, mode := range map[string]string{"/.attestbox": "0700", "/.attestbox/instance": "0400"} {
			if got := output(t, "debugfs", "-R", "stat "+file, p); !strings.Contains(got, "Mode:  "+mode) || !strings.Contains(got, "User:     0   Group:     0") {
				t.Errorf("%s: %s: %s", name, file, got)
			}
		}
	}
	used := testDir(t)
	if err := os.Mkdir(filepath.Join(used, ".attestbox"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, i := range []*[32]byte{nil, &id} {
		_, err := Build(t.Context(), testKey(t), Options{From: used, Out: filepath.Join(t.TempDir(), "x"), Size: 16 << 20, Instance: i, Integrity: luks.IntegrityHMAC})
		if !errors.Is(err, ErrSource) {
			t.Errorf("a folder of another volume: %v", err)
		}
	}
	if left, err := filepath.Glob(filepath.Join(tmp, "attestbox-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
