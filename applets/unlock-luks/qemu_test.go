package unlockluks_test

import (
	"context"
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"attestbox/internal/image/disk"
	"attestbox/internal/luks"
	"attestbox/internal/secret"
	"attestbox/internal/snpsim/qemu"
	"attestbox/internal/snpsim/qemu/guesttest"
	"attestbox/internal/testenv"
	"attestbox/internal/wire"
)

// The applet of the guest binary opens a disk of mkimage's on a real kernel,
// maps nothing for a wrong key or another record, and changes the key while the
// disk is mounted.
func TestOpenInGuest(t *testing.T) {
	kernel := guesttest.Kernel(t)
	testenv.Tool(t, "mke2fs", "e2fsprogs")
	dir := t.TempDir()
	src := filepath.Join(dir, "src")
	if err := os.Mkdir(src, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(src, "motd"), []byte("hello from the disk"), 0o644); err != nil {
		t.Fatal(err)
	}
	key := secret.Random(32)
	defer key.Zero()
	newKey := secret.Random(32)
	defer newKey.Zero()
	build := func(name string) (string, []byte) {
		t.Helper()
		img := filepath.Join(dir, name)
		res, err := disk.Build(t.Context(), key, disk.Options{From: src, Out: img, Size: 24 << 20, Integrity: luks.IntegrityHMAC})
		if err != nil {
			t.Fatal(err)
		}
		record, err := json.Marshal(res.Record)
		if err != nil {
			t.Fatal(err)
		}
		return img, record
	}
	img, record := build("disk.img")
	_, other := build("other.img")
	var rec wire.HeaderRecord
	if err := json.Unmarshal(record, &rec); err != nil {
		t.Fatal(err)
	}
	guest := filepath.Join(dir, "attestbox-guest")
	cmd := exec.Command("go", "build", "-tags", "guest", "-trimpath", "-o", guest, ".")
	cmd.Dir = testenv.Root()
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building the guest binary: %v\n%s", err, out)
	}
	binary, err := os.ReadFile(guest)
	if err != nil {
		t.Fatal(err)
	}
	files := append([]guesttest.File{
		{Name: "init", Mode: 0o755, Data: guesttest.Build(t, "testdata/guest")},
		{Name: "bin/unlock-luks", Mode: 0o755, Data: binary},
		{Name: "disk.key", Mode: 0o600, Data: key.Bytes()},
		{Name: "new.key", Mode: 0o600, Data: newKey.Bytes()},
		{Name: "disk.json", Mode: 0o644, Data: record},
		{Name: "other.json", Mode: 0o644, Data: other},
	}, guesttest.Modules(t, modulePaths(t, "virtio_blk", "dm-mod", "dm-crypt", "gf128mul", "ecb", "xts",
		"dm-bufio", "xor", "async_tx", "async_xor", "dm-integrity", "authenc")...)...)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	m := qemu.Machine{Kernel: kernel, Initrd: guesttest.Initramfs(files...), Append: guesttest.CommandLine, Disks: []qemu.Disk{{Path: img}}}
	vm, err := m.Start(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Stop()
	if err := vm.Wait(); err != nil {
		t.Errorf("the VM did not power itself off: %v", err)
	}
	console := vm.Console.String()
	for _, want := range []string{
		`CASE wrong key: exit 3, out "", err "unlock-luks: unlocking \"/dev/vda\": the key does not open the keyslot [luks-wrong-key]`,
		`CASE other record: exit 3, out "", err "unlock-luks: unlocking \"/dev/vda\": SHA-256 of the header area is ` + rec.Digest,
		"CASE mapped after refusals: 0",
		`CASE open: exit 0, out "/dev/mapper/root\n", err ""`,
		`CASE read: "hello from the disk" <nil>`,
		`CASE again: exit 1, out "", err "unlock-luks: mapping \"/dev/vda\" as \"root\": a mapping of that name or UUID exists`,
		`CASE rotate: exit 0, err "unlock-luks rotate: writing the keyslot area\nunlock-luks rotate: writing the secondary header\nunlock-luks rotate: writing the primary header\nunlock-luks rotate: writing the wipe of the rest\n"`,
		`CASE read while rotated: "hello from the disk" <nil>`,
		"CASE close: <nil>",
		`CASE old record: exit 3, out "", err "unlock-luks: unlocking \"/dev/vda\": SHA-256 of the header area is `,
		`CASE old key: exit 3, out "", err "unlock-luks: unlocking \"/dev/vda\": the key does not open the keyslot [luks-wrong-key]`,
		`CASE new key: exit 0, out "/dev/mapper/root\n", err ""`,
		`CASE read after rotation: "hello from the disk" <nil>`,
		"CASE done",
	} {
		if !strings.Contains(console, want) {
			t.Errorf("lacks %q", want)
		}
	}
	if t.Failed() {
		t.Log(console)
	}
}

// modulePaths are virtio's modules and these, found by name, since kernels move
// them between folders.
func modulePaths(t *testing.T, names ...string) []string {
	t.Helper()
	dir := filepath.Join(os.Getenv("ATTESTBOX_MODULES"), "kernel")
	found := map[string]string{}
	if err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if rel, ok := strings.CutPrefix(p, dir+"/"); ok {
			rel, _, _ = strings.Cut(rel, ".ko")
			found[filepath.Base(rel)] = rel
		}
		return err
	}); err != nil {
		testenv.Skip(t, "ATTESTBOX_MODULES: "+err.Error())
	}
	paths := guesttest.Virtio[:len(guesttest.Virtio):len(guesttest.Virtio)]
	for _, n := range names {
		if rel, ok := found[n]; ok { // else it is built in
			paths = append(paths, rel)
		}
	}
	return paths
}
