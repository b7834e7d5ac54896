package unlock

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
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
	"attestbox/internal/testenv"
)

// kernelFiles names the kernel and the modules folder that the tests boot.
func kernelFiles(t *testing.T) (kernel, modules string) {
	t.Helper()
	kernel, modules = os.Getenv("ATTESTBOX_KERNEL"), os.Getenv("ATTESTBOX_MODULES")
	if kernel == "" || modules == "" {
		testenv.Skip(t, "ATTESTBOX_KERNEL (vmlinuz of Debian's linux-image-cloud-amd64) and ATTESTBOX_MODULES (its lib/modules/<release>)")
	}
	return kernel, modules
}

// Modules in load order; what a kernel does not have as a module is built in.
var moduleNames = []string{"virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_blk",
	"dm-mod", "dm-crypt", "gf128mul", "ecb", "xts"}

// cpio writes files in the newc format (Documentation/driver-api/early-userspace/buffer-format.rst).
type cpio struct {
	bytes.Buffer
	ino int
}

func (c *cpio) add(name string, mode int, data []byte) {
	c.ino++
	fmt.Fprintf(c, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		c.ino, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0, name)
	c.pad()
	c.Write(data)
	c.pad()
}

func (c *cpio) pad() { c.Write(make([]byte, -c.Len()&3)) }

func guestInitramfs(t *testing.T, modules string, key *secret.Bytes, res *disk.Result) string {
	t.Helper()
	dir := t.TempDir()
	bin := filepath.Join(dir, "guest")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", bin, "./testdata/guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the guest: %v\n%s", err, out)
	}
	var c cpio
	put := func(name string, mode int, path string) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		c.add(name, mode, b)
	}
	for _, d := range []string{"dev", "proc", "sys", "modules"} {
		c.add(d, 0o40755, nil)
	}
	put("init", 0o100755, bin)
	for i, name := range moduleNames {
		if p := moduleFile(modules, name); p != "" {
			put(fmt.Sprintf("modules/%02d-%s", i, filepath.Base(p)), 0o100644, p)
		}
	}
	record, err := json.Marshal(res.Record)
	if err != nil {
		t.Fatal(err)
	}
	c.add("record.json", 0o100644, record)
	c.add("key", 0o100600, key.Bytes())
	c.add("TRAILER!!!", 0, nil)
	out := filepath.Join(dir, "initramfs")
	if err := os.WriteFile(out, c.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestInGuest opens a disk of mkimage's in a real kernel, and refuses what a
// host may put in its place.
func TestInGuest(t *testing.T) {
	kernel, modules := kernelFiles(t)
	qemu := testenv.Tool(t, "qemu-system-x86_64", "qemu-system-x86")
	testenv.Tool(t, "mke2fs", "e2fsprogs")
	dir := t.TempDir()
	src := filepath.Join(dir, "src")
	if err := os.MkdirAll(filepath.Join(src, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(src, "etc/motd"), []byte("hello from the disk\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	key := secret.Random(32)
	defer key.Zero()
	img := func(n string) string { return filepath.Join(dir, n) }
	build := func(name string) *disk.Result {
		t.Helper()
		res, err := disk.Build(context.Background(), key, disk.Options{From: src, Out: img(name), Size: 24 << 20, Integrity: luks.IntegrityNone})
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	res := build("a")
	build("b") // another valid disk of the same key
	if err := os.WriteFile(img("c"), res.Header[:512<<10], 0o600); err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	args := []string{"-M", "q35", "-accel", "tcg", "-cpu", "EPYC-Milan,-cx16", "-m", "512", "-nographic", "-no-reboot", "-nodefaults", "-serial", "stdio",
		"-kernel", kernel, "-initrd", guestInitramfs(t, modules, key, res), "-append", "console=ttyS0 panic=-1 quiet no_timer_check"}
	for _, n := range []string{"a", "b", "c"} {
		args = append(args, "-drive", "if=virtio,format=raw,file="+img(n))
	}
	start := time.Now()
	raw, err := exec.CommandContext(ctx, qemu, args...).CombinedOutput()
	out := strings.ReplaceAll(string(raw), "\r", "")
	t.Logf("guest ran %v", time.Since(start).Round(time.Millisecond))
	if err != nil || !strings.Contains(out, "\nDONE\n") {
		t.Fatalf("guest: %v\n%s", err, out)
	}
	for _, want := range []string{
		"wrong key: luks-wrong-key # refusal true",
		"wrong digest: luks-header-digest # refusal true",
		"other sector size: luks-sector-size # refusal true",
		"header of another disk: luks-header-digest # refusal true",
		"truncated disk: luks-truncated # refusal true",
		"no block device: luks-truncated # refusal true",
		"bad name: error # refusal false",
		"nothing mapped: [/dev/mapper/control]",
		"open: ok", "digest: true", "check: ok",
		"same name again: error",
		"key left in a keyring: false",
		"mount: ok", `read: "hello from the disk\n" <nil>`, "write: ok",
		"remove while mounted: error", "check while mounted: ok", "unmount: ok",
		"linear table: dm-table # refusal true",
		"cleartext key: dm-table # refusal true",
		"another device: dm-table # refusal true",
		"suspended: dm-table # refusal true",
		"remove: ok", "check after remove: dm-table",
		"nodes after remove: [/dev/mapper/control]",
		"open again: ok", "mount again: ok", "read again: 130000 <nil>", "unmount again: ok", "remove again: ok",
	} {
		if !strings.Contains(out, "CASE "+want) {
			t.Errorf("lacks %q", want)
		}
	}
	if i := strings.Index(out, "CASE "); i >= 0 {
		t.Log(out[i:])
	}
	disk, err := os.ReadFile(img("a"))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(disk, []byte("GUEST-CANARY-")) || bytes.Contains(disk, []byte("hello from")) {
		t.Error("plain text on the raw disk")
	}
	if !bytes.Equal(disk[:len(res.Header)], res.Header) {
		t.Error("the guest wrote to the header")
	}
}

// moduleFile finds a module by name, since kernels move them between folders.
func moduleFile(modules, name string) (found string) {
	filepath.WalkDir(modules, func(p string, d fs.DirEntry, err error) error {
		if base, _, _ := strings.Cut(filepath.Base(p), ".ko"); err == nil && !d.IsDir() && base == name {
			found = p
			return filepath.SkipAll
		}
		return nil
	})
	return found
}
