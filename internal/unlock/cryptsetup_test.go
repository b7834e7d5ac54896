package unlock

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"attestbox/internal/luks"
	"attestbox/internal/secret"
	"attestbox/internal/snpsim/qemu/guesttest"
	"attestbox/internal/testenv"
)

// cryptsetupFiles are cryptsetup and its libraries, for a guest: the machine's
// own, or those below ATTESTBOX_CRYPTSETUP, where packages were unpacked.
func cryptsetupFiles(t *testing.T) []guesttest.File {
	t.Helper()
	root := os.Getenv("ATTESTBOX_CRYPTSETUP")
	prog, loader := filepath.Join(root, "usr/sbin/cryptsetup"), filepath.Join(root, "usr/lib64/ld-linux-x86-64.so.2")
	args := []string{"--library-path", filepath.Join(root, "usr/lib/x86_64-linux-gnu"), "--list", prog}
	if root == "" {
		prog, loader = testenv.Tool(t, "cryptsetup", "cryptsetup-bin"), "/lib64/ld-linux-x86-64.so.2"
		args = []string{"--list", prog}
	}
	files := []guesttest.File{file(t, "bin/cryptsetup", prog), file(t, "bin/ld.so", loader), {Name: "run/empty", Mode: 0o644}}
	return append(files, libraries(t, loader, args...)...)
}

// libraries are what a program's loader lists, for a guest's /lib.
func libraries(t *testing.T, loader string, args ...string) (files []guesttest.File) {
	t.Helper()
	out, err := exec.Command(loader, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("listing the libraries of %s: %v\n%s", args[len(args)-1], err, out)
	}
	for _, m := range regexp.MustCompile(`(\S+) => (/\S+)`).FindAllStringSubmatch(string(out), -1) {
		files = append(files, file(t, "lib/"+m[1], m[2]))
	}
	return files
}

// mke2fsFiles are the machine's own mke2fs and its libraries, as /sbin/mke2fs.
func mke2fsFiles(t *testing.T) []guesttest.File {
	t.Helper()
	const loader = "/lib64/ld-linux-x86-64.so.2"
	prog := testenv.Tool(t, "mke2fs", "e2fsprogs")
	return append(libraries(t, loader, "--list", prog), file(t, "sbin/mke2fs", prog), file(t, loader[1:], loader))
}

func file(t *testing.T, name, path string) guesttest.File {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return guesttest.File{Name: name, Mode: 0o755, Data: b}
}

// blank is an empty disk.
func blank(t *testing.T, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "blank.img")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestCryptsetupInGuest: cryptsetup opens what we write and reads every sector
// of it; we open what cryptsetup formats. One boot. With ATTESTBOX_CRYPTSETUP
// (the root folder of a cryptsetup; / is the machine's own) all suites.
func TestCryptsetupInGuest(t *testing.T) {
	key := secret.Random(32)
	defer key.Zero()
	a, b := buildRaw(t, key, 4096), buildRaw(t, key, 512)
	type format struct {
		integrity string
		sector    int
		args      []string
	}
	formats := []format{
		{luks.IntegrityHMAC, 4096, []string{"--cipher", "aes-xts-plain64", "--key-size", "512", "--integrity", "hmac-sha256"}},
		{luks.IntegrityHMAC, 512, []string{"--cipher", "aes-xts-plain64", "--key-size", "512", "--integrity", "hmac-sha256"}},
		{luks.IntegrityNone, 4096, []string{"--cipher", "aes-xts-plain64", "--key-size", "512"}},
		{luks.IntegrityNone, 512, []string{"--cipher", "aes-xts-plain64", "--key-size", "512"}},
		{luks.IntegrityGCM, 4096, []string{"--cipher", "aes-gcm-random", "--key-size", "256", "--integrity", "aead"}},
		{luks.IntegrityChaCha, 4096, []string{"--cipher", "chacha20-random", "--key-size", "256", "--integrity", "poly1305"}},
		{luks.IntegrityAEGIS128, 4096, []string{"--cipher", "aegis128-random", "--key-size", "128", "--integrity", "aead"}},
	}
	if os.Getenv("ATTESTBOX_CRYPTSETUP") == "" {
		formats = formats[:2]
	}
	disks := []string{a.path, b.path}
	for range formats {
		disks = append(disks, blank(t, 12<<20))
	}
	files := append(cryptsetupFiles(t), guesttest.File{Name: "key", Mode: 0o600, Data: bytes.Clone(key.Bytes())})
	modules := append(append([]string(nil), integrityModules...), "ctr", "ghash-generic", "gcm", "libchacha", "chacha_generic",
		"libpoly1305", "poly1305_generic", "chacha20poly1305", "aegis128", "af_alg", "algif_hash", "algif_skcipher", "algif_aead", "algif_rng")
	m := startMachine(t, disks, modules, files...)
	cryptsetup := func(args ...string) {
		t.Helper()
		m.want("ok", append([]string{"run", "/bin/ld.so", "--library-path", "/lib", "/bin/cryptsetup"}, args...)...)
	}

	for i, r := range []*raw{a, b} {
		dev := "/dev/vd" + string(rune('a'+i))
		cryptsetup("open", "--key-file", "/key", dev, "theirs")
		m.want("ok", "foreign", dev, "theirs", r.record)
		m.want("dm-table", "foreign", dev, "theirs", []*raw{b, a}[i].record)
		m.want("dm-table", "foreign", "/dev/vd"+string(rune('b'-i)), "theirs", r.record)
		all := m.ask("readall", "/dev/mapper/theirs")
		if !strings.HasPrefix(all, fmt.Sprintf("%d bytes", r.Provided*512)) || !strings.HasSuffix(all, " 0 bad") {
			t.Errorf("sectors of %d: cryptsetup reads %s", r.SectorSize, all)
		}
		m.want("ok", "write", "/dev/mapper/theirs", "8192", "4096", "W")
		sum := m.ask("read", "/dev/mapper/theirs", "8192", "4096")
		cryptsetup("close", "theirs")
		m.want("ok", "open", dev, "ours", r.record, "/key")
		if got := m.ask("read", "/dev/mapper/ours", "8192", "4096"); got != sum {
			t.Errorf("sectors of %d: we read %s where cryptsetup wrote %s", r.SectorSize, got, sum)
		}
		m.want("ok", "close", "ours")
	}
	for i, f := range formats {
		dev := "/dev/vd" + string(rune('c'+i))
		args := append([]string{"luksFormat", "-q", "--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000",
			"--luks2-keyslots-size", "1015808", "--sector-size", fmt.Sprint(f.sector), "--hash", "sha256", "--key-file", "/key"}, f.args...)
		cryptsetup(append(args, dev)...)
		record := m.ask("record", dev)
		if !strings.Contains(record, `"integrity":"`+f.integrity+`"`) {
			t.Errorf("%s, sectors of %d: record %s", f.integrity, f.sector, record)
			continue
		}
		m.want("ok", "open", dev, "ours", record, "/key")
		all := m.ask("readall", "/dev/mapper/ours")
		if !strings.HasSuffix(all, " 0 bad") {
			t.Errorf("%s, sectors of %d: we read %s", f.integrity, f.sector, all)
		}
		m.want("ok", "write", "/dev/mapper/ours", "1048576", "8192", "X")
		sum := m.ask("read", "/dev/mapper/ours", "1048576", "8192")
		m.want("ok", "check", "ours")
		m.want("ok", "close", "ours")
		cryptsetup("open", "--key-file", "/key", dev, "theirs")
		m.want("ok", "foreign", dev, "theirs", record)
		if got := m.ask("read", "/dev/mapper/theirs", "1048576", "8192"); got != sum {
			t.Errorf("%s, sectors of %d: cryptsetup reads %s where we wrote %s", f.integrity, f.sector, got, sum)
		}
		cryptsetup("close", "theirs")
	}
	m.off()
}
