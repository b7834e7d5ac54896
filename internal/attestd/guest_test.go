package attestd_test

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"attestbox/internal/snpsim/qemu"
	"attestbox/internal/snpsim/qemu/guesttest"
	"attestbox/internal/testenv"
)

// A real kernel says what a program is: the initramfs once it is read-only,
// fs-verity, dm-verity, and nothing else.
func TestKernelMeasures(t *testing.T) {
	kernel := guesttest.Kernel(t)
	mke2fs := testenv.Tool(t, "mke2fs", "e2fsprogs")
	veritysetup := testenv.Tool(t, "veritysetup", "cryptsetup-bin")
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	dir := t.TempDir()
	program := guesttest.Build(t, "testdata/guest")

	// /dev/vda: ext4 with the feature verity, filled by the guest.
	a := filepath.Join(dir, "a.img")
	tool(t, mke2fs, "-q", "-t", "ext4", "-b", "4096", "-O", "verity", a, "64M")
	// /dev/vdb: ext4 with the program, its dm-verity tree behind it.
	tree := filepath.Join(dir, "tree")
	if err := os.Mkdir(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(tree, "program"), program, 0o755); err != nil {
		t.Fatal(err)
	}
	const blocks = 8192 // of 4096 bytes
	b := filepath.Join(dir, "b.img")
	tool(t, mke2fs, "-q", "-t", "ext4", "-b", "4096", "-O", "^has_journal", "-d", tree, b, "32M")
	if err := os.Truncate(b, 34<<20); err != nil {
		t.Fatal(err)
	}
	out := tool(t, veritysetup, "format", "--data-blocks", fmt.Sprint(blocks), "--hash-offset", fmt.Sprint(blocks*4096), b, b)
	word := func(name string) string {
		m := regexp.MustCompile(name + `:\s+([0-9a-f]{64})`).FindStringSubmatch(out)
		if m == nil {
			t.Fatalf("veritysetup gave no %s:\n%s", name, out)
		}
		return m[1]
	}

	files := guesttest.Modules(t, append(guesttest.Virtio, "drivers/block/virtio_blk", "drivers/md/dm-mod", "drivers/md/dm-bufio",
		"lib/reed_solomon/reed_solomon", "drivers/md/dm-verity", "fs/overlayfs/overlay")...)
	vm, err := (&qemu.Machine{
		Kernel: kernel, Initrd: guesttest.Initramfs(append(files, guesttest.File{Name: "init", Mode: 0o755, Data: program})...),
		Append: fmt.Sprintf("%s test.blocks=%d test.hash=%d test.root=%s test.salt=%s", guesttest.CommandLine, blocks, blocks+1, word("Root hash"), word("Salt")),
		Disks:  []qemu.Disk{{Path: a}, {Path: b, ReadOnly: true}},
	}).Start(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(vm.Stop)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("console:\n%s", vm.Console)
		}
	})
	if _, err := vm.Console.WaitFor(ctx, "guest done"); err != nil {
		t.Fatalf("%v", err)
	}
	console := strings.ReplaceAll(vm.Console.String(), "\r\n", "\n")
	digest := fmt.Sprintf("%x", sha256.Sum256(program))
	for _, want := range []string{
		"writable initramfs: unmeasured its executable",
		"initramfs: image:sha256:" + digest,
		"tmpfs: unmeasured its executable",
		"ext4: unmeasured its executable",
		"fs-verity: fs-verity:sha256:" + verityDigest(program),
		"dm-verity: dm-verity:sha256:" + digest,
		"overlay: unmeasured its executable",
		"user, same: hidden",
		"user, other user: error: attestd: unseal: the data was sealed for another program",
		"user, other program: error: attestd: unseal: the data was sealed for another program",
		"user, unmeasured: error: attestd: unseal: an unmeasured program may not unseal",
		"program, same: hidden",
		"program, other user: hidden",
		"program, other program: error: attestd: unseal: the data was sealed for another program",
		"served: <nil>",
		`maps: true before, false after "two"`,
	} {
		if !strings.Contains("\n"+console, "\n"+want) {
			t.Errorf("the guest did not say %q", want)
		}
	}
}

func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// verityDigest computes a file's fs-verity digest as the kernel's page
// Documentation/filesystems/fsverity.rst has it, for SHA-256, blocks of 4096
// bytes and no salt.
func verityDigest(data []byte) string {
	level := data
	for len(level) > 4096 || len(level) == len(data) {
		var next []byte
		for i := 0; i < len(level); i += 4096 {
			block := make([]byte, 4096)
			copy(block, level[i:])
			h := sha256.Sum256(block)
			next = append(next, h[:]...)
		}
		level = next
		if len(level) == 32 {
			break
		}
	}
	root := level
	if len(root) > 32 {
		block := make([]byte, 4096)
		copy(block, root)
		h := sha256.Sum256(block)
		root = h[:]
	}
	descriptor := make([]byte, 256)
	descriptor[0], descriptor[1], descriptor[2] = 1, 1, 12 // version, SHA-256, log2 of the block
	binary.LittleEndian.PutUint64(descriptor[8:], uint64(len(data)))
	copy(descriptor[16:], root)
	h := sha256.Sum256(descriptor)
	return fmt.Sprintf("%x", h)
}
