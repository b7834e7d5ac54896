package unlock

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"attestbox/internal/image/disk"
	"attestbox/internal/luks"
	"attestbox/internal/secret"
	"attestbox/internal/snpsim/qemu"
	"attestbox/internal/snpsim/qemu/guesttest"
)

// machine is a guest that does what it is asked, and the disks that its host
// can write to while it runs.
type machine struct {
	t    *testing.T
	vm   *qemu.VM
	conn net.Conn
	in   *bufio.Scanner
}

// integrityModules in load order, found by name.
var integrityModules = []string{"virtio_console", "dm-bufio", "xor", "async_tx", "async_xor", "dm-integrity", "authenc"}

// startMachine boots with these disks as /dev/vda and on, and these files.
func startMachine(t *testing.T, disks []string, modules []string, files ...guesttest.File) *machine {
	t.Helper()
	kernel := guesttest.Kernel(t)
	_, dir := kernelFiles(t)
	files = append(files, guesttest.File{Name: "init", Mode: 0o755, Data: guesttest.Build(t, "testdata/integrity")})
	for i, name := range append(append([]string(nil), moduleNames...), modules...) {
		if path := moduleFile(dir, name); path != "" {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, guesttest.File{Name: fmt.Sprintf("modules/%02d-%s", i, filepath.Base(path)), Mode: 0o644, Data: b})
		}
	}
	m := &machine{t: t}
	ready := make(chan net.Conn, 1)
	q := qemu.Machine{Kernel: kernel, Initrd: guesttest.Initramfs(files...), Append: guesttest.CommandLine,
		Ports: []qemu.Port{{Name: "ctl", Serve: func(ctx context.Context, c net.Conn) { ready <- c; <-ctx.Done() }}}}
	for _, d := range disks {
		q.Disks = append(q.Disks, qemu.Disk{Path: d})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	t.Cleanup(cancel)
	var err error
	if m.vm, err = q.Start(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.vm.Stop()
		if t.Failed() {
			t.Log(m.vm.Console)
		}
	})
	m.conn = <-ready
	m.in = bufio.NewScanner(m.conn)
	for i := range disks {
		m.want("ok", "wait", "/dev/vd"+string(rune('a'+i)))
	}
	return m
}

// ask sends one command and waits for its answer.
func (m *machine) ask(args ...string) string {
	m.t.Helper()
	if _, err := fmt.Fprintln(m.conn, strings.Join(args, "\t")); err != nil {
		m.t.Fatal(err)
	}
	if !m.in.Scan() {
		m.t.Fatalf("%q: the guest is gone: %v", args, m.in.Err())
	}
	return m.in.Text()
}

// want asks, and says what came where it is something else.
func (m *machine) want(answer string, args ...string) {
	m.t.Helper()
	if got := m.ask(args...); got != answer {
		m.t.Errorf("%q: %s, want %s", args, got, answer)
	}
}

func (m *machine) off() {
	m.t.Helper()
	m.want("ok", "off")
	if err := m.vm.Wait(); err != nil {
		m.t.Errorf("the VM did not power itself off: %v", err)
	}
}

// raw is a disk as the host has it.
type raw struct {
	t    *testing.T
	f    *os.File
	path string
	*luks.Layout
	record string
}

func (r *raw) at(off, n int64) []byte {
	r.t.Helper()
	b := make([]byte, n)
	if _, err := r.f.ReadAt(b, off); err != nil {
		r.t.Fatal(err)
	}
	return b
}

func (r *raw) put(off int64, b []byte) {
	r.t.Helper()
	if _, err := r.f.WriteAt(b, off); err != nil {
		r.t.Fatal(err)
	}
}

// sector is the data and the tag at byte off of the mapping.
func (r *raw) sector(off int64) (data, tag []byte) {
	return r.at(r.DataOffset(off), int64(r.SectorSize)), r.at(r.TagOffset(off), int64(r.Suite.TagBytes))
}

func (r *raw) putSector(off int64, data, tag []byte) {
	r.put(r.DataOffset(off), data)
	r.put(r.TagOffset(off), tag)
}

func newRaw(t *testing.T, path, record string, integrity string, sector int, offset int64) *raw {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	suite, err := luks.SuiteNamed(integrity)
	if err != nil {
		t.Fatal(err)
	}
	l, err := luks.NewLayout(suite, sector, offset, st.Size())
	if err != nil {
		t.Fatal(err)
	}
	return &raw{t, f, path, l, record}
}

// buildRaw writes a disk as mkimage does.
func buildRaw(t *testing.T, key *secret.Bytes, sector int) *raw {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.img")
	res, err := disk.Build(t.Context(), key, disk.Options{Empty: true, Out: path, Size: 24 << 20, Integrity: luks.IntegrityHMAC, SectorSize: sector})
	if err != nil {
		t.Fatal(err)
	}
	record, err := json.Marshal(res.Record)
	if err != nil {
		t.Fatal(err)
	}
	return newRaw(t, path, string(record), luks.IntegrityHMAC, sector, res.Record.SegmentOffset)
}

// copyOf is another file with the first n bytes of a disk.
func (r *raw) copyOf(n int64) string {
	r.t.Helper()
	path := filepath.Join(r.t.TempDir(), "copy.img")
	if err := os.WriteFile(path, r.at(0, n), 0o600); err != nil {
		r.t.Fatal(err)
	}
	return path
}

// TestIntegrity attacks disks with integrity from the host's side, between and
// during the times at which the guest has them open. One boot.
func TestIntegrity(t *testing.T) {
	key := secret.Random(32)
	defer key.Zero()
	a := buildRaw(t, key, 4096)
	b := buildRaw(t, key, 4096) // another disk of the same key
	short := a.copyOf(16 << 20)
	cut := a.copyOf(a.Offset + 512)
	fresh, empty, data := blank(t, 12<<20), blank(t, 12<<20), blank(t, 12<<20)
	other := secret.Random(32)
	defer other.Zero()
	m := startMachine(t, []string{a.path, b.path, short, cut, fresh, empty, data}, integrityModules, append(mke2fsFiles(t),
		guesttest.File{Name: "key", Mode: 0o600, Data: bytes.Clone(key.Bytes())},
		guesttest.File{Name: "other", Mode: 0o600, Data: bytes.Clone(other.Bytes())})...)
	open := func(want string) {
		t.Helper()
		m.want(want, "open", "/dev/vda", "root", a.record, "/key")
	}
	const node = "/dev/mapper/root"

	// Not this disk, not this key, not whole.
	m.want("luks-wrong-key", "open", "/dev/vda", "root", a.record, "/other")
	m.want("luks-header-digest", "open", "/dev/vdb", "root", a.record, "/key")
	m.want("luks-superblock-size", "open", "/dev/vdc", "root", a.record, "/key")
	m.want("luks-truncated", "open", "/dev/vdd", "root", a.record, "/key")

	// Every sector authenticates, and a file that the guest writes is nowhere in clear.
	open("ok")
	m.want("ok", "check", "root")
	if got := m.ask("readall", node); !strings.HasPrefix(got, fmt.Sprintf("%d bytes", a.Provided*512)) || !strings.HasSuffix(got, " 0 bad") {
		t.Errorf("reading all: %s", got)
	}
	m.want("ok", "mount", node)
	m.want("ok", "put", "canary", "GUEST-CANARY-")
	m.want("ok", "umount")
	m.want("ok", "close", "root")
	all := a.at(0, 24<<20)
	if bytes.Contains(all, []byte("GUEST-CANARY-")) {
		t.Error("plain text on the raw disk")
	}

	attackSectors(t, m, a, b, open)
	attackHeader(t, m, a, b, open)
	attackSuperblock(t, m, a, open)
	localVolumes(t, m, empty)
	mountedVolumes(t, m, empty, data)
	m.off()
}

// localVolumes makes and opens a volume of a cryptstore on /dev/vde; the disks
// before it hold something else, and empty is another blank one, /dev/vdf.
func localVolumes(t *testing.T, m *machine, empty string) {
	const node = "/dev/mapper/db"
	m.want("volume-unknown", "vopen", "/dev/vde", "db", "db")
	m.want("volume-device", "vcreate", "/dev/vdb", "db", "db") // somebody's disk
	m.want("volume-unknown", "vopen", "/dev/vdb", "db", "db")
	if got := m.ask("vcreate", "/dev/vde", "db", "db", "cut"); !strings.Contains(got, "context canceled") {
		t.Errorf("cut off: %s", got)
	}
	m.want("volume-unfinished", "vopen", "/dev/vde", "db", "db")
	m.want("volume-device", "vcreate", "/dev/vdb", "db", "db")
	m.want("ok", "vcreate", "/dev/vde", "db", "db")
	if got := m.ask("readall", node); !strings.HasSuffix(got, " 0 bad") {
		t.Errorf("a new volume: %s", got)
	}
	m.want("ok", "write", node, "4096", "4096", "V")
	sum := m.ask("read", node, "4096", "4096")
	if got := m.ask("vcreate", "/dev/vde", "again", "other"); !strings.Contains(got, "in use") {
		t.Errorf("a volume on a disk in use: %s", got)
	}
	m.want("ok", "close", "db")
	m.want("volume-exists", "vcreate", "/dev/vde", "db", "db")
	m.want("volume-device", "vcreate", "/dev/vde", "db", "other")
	// What the store promises is not on these: refused, and nothing is written.
	m.want("luks-header-digest", "vopen", "/dev/vdb", "db", "db")
	m.want("luks-header-digest", "vopen", "/dev/vdf", "db", "db")
	m.want("volume-exists", "vcreate", "/dev/vdf", "db", "db")
	if b, err := os.ReadFile(empty); err != nil || !bytes.Equal(b, make([]byte, len(b))) {
		t.Errorf("an empty disk in place of a volume was written to (%v)", err)
	}
	m.want("ok", "vopen", "/dev/vde", "db", "db")
	if got := m.ask("read", node, "4096", "4096"); got != sum {
		t.Errorf("opened again: %s, want %s", got, sum)
	}
	m.want("ok", "close", "db")
}

// mountedVolumes has a volume made on /dev/vdg, data, only because the store
// knows nothing of it, and then uses it; /dev/vdf, empty, is still blank.
func mountedVolumes(t *testing.T, m *machine, empty, data string) {
	use := func(want, device, tag, mkfs string) {
		t.Helper()
		m.want(want, "vuse", device, "data", tag, "/mnt", mkfs)
	}
	untouched := func(path string) {
		t.Helper()
		if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, make([]byte, len(b))) {
			t.Errorf("%s was written to (%v)", path, err)
		}
	}
	const mkfs = "/sbin/mke2fs"
	use("volume-device", "/dev/vdb", "data", mkfs) // somebody's disk
	untouched(data)
	// Of a volume without a file system none is made once it is finished, as
	// localVolumes has left one.
	use("volume-mount", "/dev/vde", "db", mkfs)
	// Without a file system a new volume stays unfinished, and is made anew.
	use("volume-mount", "/dev/vdg", "data", "/sbin/none")
	m.want("volume-unfinished", "vopen", "/dev/vdg", "data", "data")
	use("volume-device", "/dev/vdb", "data", mkfs)
	use("ok", "/dev/vdg", "data", mkfs)
	m.want("7:8 nosuid true nodev true", "stat", "/mnt")
	m.want("ok", "put", "file", "GUEST-CANARY-")
	sum := m.ask("get", "file")
	m.want("ok", "umount")
	m.want("ok", "close", "data")
	// A blank disk in its place, or another: refused, never formatted.
	use("luks-header-digest", "/dev/vdf", "data", mkfs)
	untouched(empty)
	use("luks-header-digest", "/dev/vde", "data", mkfs)
	use("ok", "/dev/vdg", "data", "/sbin/none") // the same one: opened, nothing made
	if got := m.ask("get", "file"); got != sum || len(sum) != 64 {
		t.Errorf("a file in the volume: %s, then %s", sum, got)
	}
	m.want("7:8 nosuid true nodev true", "stat", "/mnt")
	m.want("ok", "umount")
	m.want("ok", "close", "data")
	if b, err := os.ReadFile(data); err != nil || bytes.Contains(b, []byte("GUEST-CANARY-")) {
		t.Errorf("plain text on the raw disk (%v)", err)
	}
}

const block = 4096

// attackSectors changes, moves and rolls back data and tags.
func attackSectors(t *testing.T, m *machine, a, b *raw, open func(string)) {
	const node = "/dev/mapper/root"
	read := func(want string, off int64) {
		t.Helper()
		got := m.ask("read", node, fmt.Sprint(off), fmt.Sprint(block))
		if want == "data" && len(got) == 64 {
			return
		}
		if got != want {
			t.Errorf("reading %d: %s, want %s", off, got, want)
		}
	}
	const at, to = 5 << 20, 6 << 20
	data, tag := a.sector(at)
	data2, tag2 := a.sector(to)

	// While it is open.
	open("ok")
	read("data", at)
	for _, i := range []int{0, 1000, block - 1} {
		flipped := bytes.Clone(data)
		flipped[i] ^= 1
		a.put(a.DataOffset(at), flipped)
		read("EIO", at)
	}
	a.put(a.DataOffset(at), data)
	read("data", at)
	a.put(a.DataOffset(at), data2) // moved, the tag stays
	read("EIO", at)
	a.put(a.DataOffset(at), data)
	m.want("ok", "check", "root")
	m.want("ok", "close", "root")

	// While it is closed: the kernel has no tag in its cache.
	for name, change := range map[string]func(){
		"bit of the tag": func() {
			flipped := bytes.Clone(tag)
			flipped[31] ^= 0x80
			a.putSector(at, data, flipped)
		},
		"moved with its tag":     func() { a.putSector(at, data2, tag2) },
		"zeros":                  func() { a.putSector(at, make([]byte, block), make([]byte, 32)) },
		"sector of another disk": func() { d, t := b.sector(at); a.putSector(at, d, t) },
	} {
		change()
		open("ok")
		t.Log(name)
		read("EIO", at)
		read("data", to)
		m.want("ok", "close", "root")
		a.putSector(at, data, tag)
	}

	// Old data: with the tag of now refused, with its own old tag accepted.
	write := func(s string) (data, tag []byte, sum string) {
		t.Helper()
		open("ok")
		m.want("ok", "write", node, fmt.Sprint(at), fmt.Sprint(block), s)
		sum = m.ask("read", node, fmt.Sprint(at), fmt.Sprint(block))
		m.want("ok", "close", "root")
		data, tag = a.sector(at)
		return data, tag, sum
	}
	oldData, oldTag, oldSum := write("A")
	newData, newTag, newSum := write("B")
	if bytes.Equal(oldData, newData) || bytes.Equal(oldTag, newTag) || oldSum == newSum {
		t.Fatal("the guest's writes did not reach the disk")
	}
	a.putSector(at, oldData, newTag)
	open("ok")
	read("EIO", at)
	m.want("ok", "close", "root")
	a.putSector(at, oldData, oldTag)
	open("ok")
	if got := m.ask("read", node, fmt.Sprint(at), fmt.Sprint(block)); got != oldSum {
		t.Errorf("old data with its own old tag: %s; docs/integrity.md says that it is accepted", got)
	}
	// Within one session: refused while the kernel has the tag in its cache,
	// accepted as soon as that has let go.
	m.want("ok", "write", node, fmt.Sprint(at), fmt.Sprint(block), "B")
	m.want("ok", "drop")
	m.want("ok", "close", "root")
	open("ok")
	if got := m.ask("read", node, fmt.Sprint(at), fmt.Sprint(block)); got != newSum {
		t.Errorf("what was written is not what is read: %s", got)
	}
	a.putSector(at, oldData, oldTag)
	cached := m.ask("read", node, fmt.Sprint(at), fmt.Sprint(block))
	m.want("ok", "drop")
	dropped := m.ask("read", node, fmt.Sprint(at), fmt.Sprint(block))
	t.Logf("old sector with its own old tag, in one session: %q with the new tag in the kernel's cache, then old data: %v", cached, dropped == oldSum)
	if cached != "EIO" || dropped != oldSum && dropped != "EIO" {
		t.Errorf("in one session: %q, then %q", cached, dropped)
	}
	m.want("ok", "close", "root")
}

// attackHeader swaps and changes headers; the data of another disk does not fit.
func attackHeader(t *testing.T, m *machine, a, b *raw, open func(string)) {
	header, otherHeader := a.at(0, a.Offset), b.at(0, b.Offset)
	a.put(0, otherHeader)
	m.want("ok", "release")
	open("luks-header-digest")
	// With the record of the other disk the header opens, and nothing behind it.
	m.want("ok", "open", "/dev/vda", "root", b.record, "/key")
	if got := m.ask("readall", "/dev/mapper/root"); !strings.HasSuffix(got, fmt.Sprintf(" %d bad", a.Provided*512/block)) {
		t.Errorf("data of one disk behind the header of another: %s", got)
	}
	m.want("ok", "close", "root")
	a.put(0, header)

	// Changed after it was read: what is open stays so, and does not open again.
	open("ok")
	evil := bytes.Clone(header)
	copy(evil[bytes.Index(evil, []byte("aes-xts-plain64")):], "cipher_null-ecb")
	a.put(0, evil)
	m.want("ok", "check", "root")
	if got := m.ask("read", "/dev/mapper/root", "0", "4096"); len(got) != 64 {
		t.Errorf("reading after the header was changed: %s", got)
	}
	m.want("ok", "close", "root")
	open("luks-header-digest")
	a.put(0, header)
	open("ok")
	m.want("ok", "close", "root")
}

// attackSuperblock changes dm-integrity's superblock before we read it, and
// between our reading and the kernel's.
func attackSuperblock(t *testing.T, m *machine, a *raw, open func(string)) {
	good := a.at(a.Offset, luks.SuperblockBytes)
	le := binary.LittleEndian
	for _, tc := range []struct {
		name   string
		change func(b []byte)
		before string // changed before our reading
		after  string // changed between our reading and the kernel's; empty: not tried
	}{
		{"zeros", func(b []byte) { clear(b) }, "luks-superblock", "ok"}, // the kernel writes the same one again
		{"magic", func(b []byte) { b[0]++ }, "luks-superblock", "error"},
		{"version", func(b []byte) { b[8] = 3 }, "luks-superblock", "ok"}, // read by nobody
		{"recalculating", func(b []byte) { b[24] |= 2 }, "luks-superblock-flags", "error"},
		{"fixed HMAC", func(b []byte) { b[24], b[8] = b[24]|0x10, 5 }, "luks-superblock-flags", "dm-table"},
		// A kernel that reads this one without a hash of its own falls over it.
		{"dirty bitmap", func(b []byte) { b[24] |= 4 }, "luks-superblock-flags", ""},
		{"padding", func(b []byte) { b[24], b[8] = 0, 1 }, "luks-superblock-flags", "dm-table"},
		{"tag size", func(b []byte) { le.PutUint16(b[10:], 16) }, "luks-superblock-tag", "error"},
		{"block size", func(b []byte) { b[28] = 0 }, "luks-superblock-tag", "error"},
		{"interleave", func(b []byte) { b[9] = 14 }, "luks-superblock-size", "dm-table"},
		{"journal", func(b []byte) { le.PutUint32(b[12:], le.Uint32(b[12:])+1) }, "luks-superblock-size", "error"},
		{"no journal", func(b []byte) { le.PutUint32(b[12:], 0) }, "luks-superblock-size", "error"},
		{"provided", func(b []byte) { le.PutUint64(b[16:], 8) }, "luks-superblock-size", "ok"}, // the kernel corrects it
	} {
		evil := bytes.Clone(good)
		tc.change(evil)
		a.put(a.Offset, evil)
		m.want("ok", "release") // nothing of the device is cached now
		open(tc.before)
		a.put(a.Offset, good)
		if tc.after == "" {
			continue
		}
		// The guest's page cache keeps what we read; the kernel reads past it.
		m.want("ok", "release")
		m.want("ok", "hold", "/dev/vda")
		a.put(a.Offset, evil)
		got := m.ask("open", "/dev/vda", "root", a.record, "/key")
		if got != tc.after && (tc.after != "error" || !strings.HasPrefix(got, "error: ")) {
			t.Errorf("%s, between the two readings: %s, want %s", tc.name, got, tc.after)
		}
		if got == "ok" {
			if sum := m.ask("read", "/dev/mapper/root", "4096", "1048576"); len(sum) != 64 {
				t.Errorf("%s, between the two readings: %s", tc.name, sum)
			}
			m.want("ok", "close", "root")
			if !bytes.Equal(a.at(a.Offset, luks.SuperblockBytes), good) && tc.name != "version" {
				t.Errorf("%s: another superblock stays on the disk", tc.name)
			}
		}
		a.put(a.Offset, good)
		m.want("ok", "release")
	}
	open("ok")
	if all := m.ask("readall", "/dev/mapper/root"); !strings.HasSuffix(all, " 0 bad") {
		t.Errorf("after all attacks: %s", all)
	}
	m.want("ok", "close", "root")
}
