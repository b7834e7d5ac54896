package initramfs

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"attestbox/initramfs/config"
	"attestbox/internal/code"
	"attestbox/internal/image/disk"
	"attestbox/internal/secret"
	"attestbox/internal/snpsim/qemu"
	"attestbox/internal/snpsim/qemu/guesttest"
	"attestbox/internal/verity"
	"attestbox/internal/wire"
)

var verityModules = []string{"dm-bufio", "reed_solomon", "dm-verity"}

// verityDisk makes a read-only root.
func verityDisk(t *testing.T, src string) (string, *verity.Record) {
	t.Helper()
	img := filepath.Join(t.TempDir(), "root.img")
	rec, err := disk.BuildVerity(t.Context(), disk.Options{From: src, Out: img, Size: 12 << 20})
	if err != nil {
		t.Fatal(err)
	}
	return img, rec
}

func veritySource(t *testing.T) string {
	t.Helper()
	src := rootSource(t)
	if err := os.Mkdir(filepath.Join(src, "var"), 0o755); err != nil {
		t.Fatal(err)
	}
	return src
}

func verityConfig(t *testing.T, rec *verity.Record, state string) string {
	t.Helper()
	text, err := rec.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Replace(vsockRoot, `"options":["ro"]}`, `"verity":`+string(text)+`}`+state, 1)
}

// TestVerityRoot starts a system from a read-only root in clear, with an
// encrypted disk beside it, in which the boot counter is.
func TestVerityRoot(t *testing.T) {
	root, rec := verityDisk(t, veritySource(t))
	state, verifier := encrypted(t, fakeVerifier{}, disk.Options{Empty: true, Size: 16 << 20})
	v := &vmImage{config: verityConfig(t, rec, `,"state":{"type":"disk","device":"/dev/vdb","name":"var","fstype":"ext4","path":"/var","options":["nosuid","nodev"]}`),
		modules: slices.Concat(diskModules, verityModules), files: []guesttest.File{verifier},
		machine: qemu.Machine{Disks: []qemu.Disk{{Path: root}, {Path: state}}}}
	before, err := os.ReadFile(root)
	if err != nil {
		t.Fatal(err)
	}
	vm := v.boot(t)
	expect(t, vm, "] verity: /dev/vda is /dev/", "] unlock: /dev/vdb is /dev/", "] counter: found 0, wrote 3", `outcome "opened" "", 1 headers`,
		"/proc/mounts: /dev/mapper/root / ext4 ro", "/proc/mounts: /dev/mapper/var /var ext4 rw,nosuid,nodev", "guest: system: done")
	vm.Stop()
	if after, err := os.ReadFile(root); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the root was written to: %v", err)
	}
}

// TestVerityAttacks are roots that a host offers in place of the measured one.
func TestVerityAttacks(t *testing.T) {
	src := veritySource(t)
	older, _ := verityDisk(t, src)
	if err := os.WriteFile(filepath.Join(src, "update"), []byte("a hole was mended"), 0o644); err != nil {
		t.Fatal(err)
	}
	img, rec := verityDisk(t, src)
	good, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	guest, err := testGuest()
	at := bytes.Index(good, must(t, guest, err)[:verity.BlockSize])
	if at < 0 || at%verity.BlockSize != 0 {
		t.Fatal("the program is not in the image")
	}
	boot := func(t *testing.T, image string) *qemu.VM {
		t.Helper()
		_, verifier := encrypted(t, fakeVerifier{}, disk.Options{Empty: true, Size: 16 << 20})
		v := &vmImage{config: verityConfig(t, rec, ""), modules: slices.Concat(diskModules, verityModules), files: []guesttest.File{verifier},
			machine: qemu.Machine{Disks: []qemu.Disk{{Path: image}}}}
		return v.boot(t)
	}
	// Valid in itself, with the right tree of an older root.
	t.Run("older root", func(t *testing.T) {
		vm := boot(t, older)
		expectOff(t, vm)
		expect(t, vm, "[verity-root-hash] (exchange feed)", `fake verifier: outcome "failed" "verity-root-hash", 0 headers`)
	})
	leaves := (rec.DataBlocks + 127) / 128
	for name, offset := range map[string]uint64{
		"data block": uint64(at) + 100,
		"hash block": rec.Size() - leaves*verity.BlockSize + uint64(at/verity.BlockSize)*32 + 5,
	} {
		t.Run(name, func(t *testing.T) {
			b := bytes.Clone(good)
			b[offset] ^= 1
			bad := filepath.Join(t.TempDir(), "bad.img")
			if err := os.WriteFile(bad, b, 0o600); err != nil {
				t.Fatal(err)
			}
			vm := boot(t, bad)
			if err := vm.Wait(); !errors.Is(err, qemu.ErrReset) {
				t.Errorf("the machine did not stop: %v", err)
			}
			expect(t, vm, "dm-verity device corrupted")
			if strings.Contains(vm.Console.String(), "guest: system") {
				t.Error("the system started")
			}
		})
	}
}

// The steps in their order, without a kernel.
func TestVeritySteps(t *testing.T) {
	in, sys, out := fakeInit(t)
	rec := &verity.Record{RootHash: wire.Hex32{0xab}, DataBlocks: 2, HashOffset: 8192}
	in.cfg = &config.Config{Mode: config.SwitchRoot,
		Root:  &config.Root{Device: "/dev/vda", Name: "root", FSType: "ext4", Options: []string{"noatime"}, Verity: rec},
		State: &config.State{Type: config.StateDisk, Path: "/var/lib", Owner: "5:6", Device: "/dev/vdb", Name: "var", FSType: "ext4"}}
	in.rel = &release{payload: &wire.Payload{Boot: 3, DiskKey: secret.Copy([]byte("key")), Headers: []wire.HeaderRecord{header(1)}}}
	in.deps.waitDevice = func(_ context.Context, device string) error { return sys.note("wait %s", device) }
	var calls []string
	in.deps.Unlock = unlocker(1, "key", &calls)
	in.deps.Verity = func(_ context.Context, device, name string, r *verity.Record) (*Unlocked, error) {
		if r != rec {
			t.Error("another record")
		}
		return &Unlocked{Node: "/dev/dm-7"}, sys.note("verity %s %s", device, name)
	}
	err := in.openVerityRoot(t.Context())
	wantCode(t, err, code.BootMount) // no /var/lib in the root
	if err := os.MkdirAll(in.path(sysroot+"/var"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc", in.path(sysroot+"/var/lib")); err != nil {
		t.Fatal(err)
	}
	wantCode(t, in.openVerityRoot(t.Context()), code.BootMount) // a link
	if err := errors.Join(os.Remove(in.path(sysroot+"/var/lib")), os.Mkdir(in.path(sysroot+"/var/lib"), 0o755)); err != nil {
		t.Fatal(err)
	}
	sys.calls = nil
	if err := in.openVerityRoot(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := []string{"wait /dev/vda", "verity /dev/vda root", "mount /dev/dm-7 /sysroot ext4 0x401 ", "same /dev/dm-7 /sysroot",
		"wait /dev/vdb", "mount /dev/dm-0 /sysroot/var/lib ext4 0x0 ", "same /dev/dm-0 /sysroot/var/lib", "chown /sysroot/var/lib 5 6"}
	if !slices.Equal(sys.calls, want) || unix.MS_RDONLY|unix.MS_NOATIME != 0x401 {
		t.Errorf("calls %q", sys.calls)
	}
	if !strings.Contains(out.String(), "counter: found 0, wrote 3") || len(in.opened) != 1 {
		t.Errorf("%q", out)
	}
	sys.fail["verity"] = code.Wrap(code.VerityRootHash, errors.New("another root"))
	sys.calls = nil
	wantCode(t, in.openVerityRoot(t.Context()), code.VerityRootHash)
	if len(sys.calls) != 2 {
		t.Errorf("it went on: %q", sys.calls)
	}
}
