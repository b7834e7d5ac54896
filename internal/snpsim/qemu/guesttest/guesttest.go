// Package guesttest gives tests what a real guest needs: a kernel, its modules,
// a Go program as init and an initramfs around them. It is for tests only; real
// images come from mkimage.
package guesttest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"attestbox/internal/testenv"
)

// CommandLine lets a guest say everything on its console and end on a panic.
const CommandLine = "console=ttyS0 panic=1 quiet loglevel=4 " + NoTimerCheck

// NoTimerCheck: on a busy machine an emulated CPU does not see the ticks that
// the kernel counts at its start, and it panics.
const NoTimerCheck = "no_timer_check"

// Kernel is the kernel image of ATTESTBOX_KERNEL; the test is skipped without.
func Kernel(t testing.TB) []byte {
	t.Helper()
	testenv.Tool(t, "qemu-system-x86_64", "qemu-system-x86")
	path := os.Getenv("ATTESTBOX_KERNEL")
	if path == "" {
		testenv.Skip(t, "a Linux kernel: set ATTESTBOX_KERNEL to its bzImage and ATTESTBOX_MODULES to its lib/modules/RELEASE (Debian package linux-image-cloud-amd64)")
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Virtio are the modules that every virtio device needs on a kernel that has
// them as modules (Debian's 6.1), in load order.
var Virtio = []string{
	"drivers/virtio/virtio_ring", "drivers/virtio/virtio", "drivers/virtio/virtio_pci_legacy_dev",
	"drivers/virtio/virtio_pci_modern_dev", "drivers/virtio/virtio_pci",
}

// Modules are files of an initramfs from which guestinit.Prepare loads these
// kernel modules in this order. Names are relative to ATTESTBOX_MODULES/kernel,
// without suffix; those built into the kernel are left out.
func Modules(t testing.TB, names ...string) []File {
	t.Helper()
	dir := os.Getenv("ATTESTBOX_MODULES")
	if dir == "" {
		testenv.Skip(t, "kernel modules: set ATTESTBOX_MODULES to lib/modules/RELEASE of the kernel in ATTESTBOX_KERNEL")
	}
	builtin, _ := os.ReadFile(filepath.Join(dir, "modules.builtin"))
	var files []File
next:
	for i, name := range names {
		for _, ext := range []string{".ko", ".ko.xz"} {
			if b, err := os.ReadFile(filepath.Join(dir, "kernel", name+ext)); err == nil {
				files = append(files, File{fmt.Sprintf("modules/%02d-%s%s", i, filepath.Base(name), ext), 0o644, b})
				continue next
			}
		}
		if !strings.Contains(string(builtin), "kernel/"+name+".ko\n") {
			t.Fatalf("no module %q below %q, and it is not built in", name, dir)
		}
	}
	return files
}

// Build compiles the Go program in a folder, statically.
func Build(t testing.TB, dir string) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "program")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v\n%s", dir, err, b)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// File is one file of an initramfs.
type File struct {
	Name string // without a leading slash
	Mode uint32 // permissions
	Data []byte
}

// Initramfs is a cpio archive ("newc") with these files, the folders above
// them, and /dev /proc /sys /tmp with /dev/console.
func Initramfs(files ...File) []byte {
	var b bytes.Buffer
	ino := 0
	entry := func(name string, mode, major, minor uint32, data []byte) {
		ino++
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
			ino, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name)+1, 0)
		b.WriteString(name)
		b.WriteByte(0)
		pad(&b)
		b.Write(data)
		pad(&b)
	}
	seen := map[string]bool{}
	var folder func(name string)
	folder = func(name string) {
		if name == "." || seen[name] {
			return
		}
		folder(filepath.Dir(name))
		seen[name] = true
		entry(name, 0o40755, 0, 0, nil)
	}
	for _, d := range strings.Fields("dev proc sys tmp") {
		folder(d)
	}
	entry("dev/console", 0o20600, 5, 1, nil)
	for _, f := range files {
		folder(filepath.Dir(f.Name))
		entry(f.Name, 0o100000|f.Mode, 0, 0, f.Data)
	}
	entry("TRAILER!!!", 0, 0, 0, nil)
	return b.Bytes()
}

func pad(b *bytes.Buffer) {
	for b.Len()%4 != 0 {
		b.WriteByte(0)
	}
}
