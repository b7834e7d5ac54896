package initramfs

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"attestbox/internal/code"
	"attestbox/internal/testenv"
)

func wantFile(t *testing.T, file, content string) {
	t.Helper()
	if b, err := os.ReadFile(file); err != nil || string(b) != content {
		t.Errorf("%s: %q, %v", file, b, err)
	}
}

// memFolder is a folder on a tmpfs.
func memFolder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "attestbox-test-")
	if err != nil {
		testenv.Skip(t, "a tmpfs on /dev/shm: "+err.Error())
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// Deleting everything is for an initramfs with a new root on it, and for
// nothing else.
func TestEmptyRefuses(t *testing.T) {
	tree := func(dir string, files ...string) string {
		for _, f := range files {
			if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(f)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, f), []byte("keep"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	mem := memFolder(t)
	for name, dir := range map[string]string{
		"nothing on sysroot":  tree(filepath.Join(mem, "a"), "init", "sysroot/file"),
		"no sysroot":          tree(filepath.Join(mem, "b"), "init"),
		"sysroot is a link":   tree(filepath.Join(mem, "c"), "init", "file"),
		"no init, no sysroot": tree(filepath.Join(mem, "d"), "file"),
	} {
		if name == "sysroot is a link" {
			if err := os.Symlink("/", filepath.Join(dir, "sysroot")); err != nil {
				t.Fatal(err)
			}
		}
		before := list(t, dir)
		if err := emptyInitramfs(dir); !errors.Is(err, errNotInitramfs) {
			t.Errorf("%s: %v", name, err)
		}
		if after := list(t, dir); !slices.Equal(before, after) {
			t.Errorf("%s: %q became %q", name, before, after)
		}
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(".", &fs); err != nil {
		t.Fatal(err)
	}
	if fs.Type != tmpfsMagic {
		if err := emptyInitramfs("."); !errors.Is(err, errNotInitramfs) {
			t.Errorf("on a disk: %v", err)
		}
	}
}

func list(t *testing.T, dir string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		names = append(names, strings.TrimPrefix(p, dir))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// TestEmpty mounts a new root in a mount namespace of its own and empties the
// folder around it.
func TestEmpty(t *testing.T) {
	if dir := os.Getenv("ATTESTBOX_TEST_EMPTY"); dir != "" {
		emptyHelper(t, dir)
		return
	}
	dir := memFolder(t)
	cmd := exec.Command(os.Args[0], "-test.run=^TestEmpty$", "-test.v")
	cmd.Env = append(os.Environ(), "ATTESTBOX_TEST_EMPTY="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) {
		testenv.Skip(t, "user namespaces (sysctl kernel.unprivileged_userns_clone=1): "+err.Error())
	}
	if err != nil || !strings.Contains(string(out), "emptied") {
		t.Fatalf("%v\n%s", err, out)
	}
}

func emptyHelper(t *testing.T, dir string) {
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(unix.Mount("tmpfs", dir, "tmpfs", 0, ""))
	outside := t.TempDir()
	check(os.WriteFile(filepath.Join(outside, "outside"), nil, 0o644))
	for _, d := range []string{"sysroot", "bin", "lib/modules/x/kernel", "mnt/deep"} {
		check(os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	check(unix.Mount("tmpfs", filepath.Join(dir, "sysroot"), "tmpfs", 0, ""))
	check(unix.Mount("tmpfs", filepath.Join(dir, "mnt/deep"), "tmpfs", 0, ""))
	for _, f := range []string{"init", "bin/x", "lib/modules/x/kernel/a.ko", "sysroot/keep", "mnt/deep/keep"} {
		check(os.WriteFile(filepath.Join(dir, f), []byte("x"), 0o400))
	}
	check(os.Symlink(outside, filepath.Join(dir, "lib/link")))
	check(emptyInitramfs(dir))
	if got, want := list(t, dir), []string{"", "/mnt", "/mnt/deep", "/mnt/deep/keep", "/sysroot", "/sysroot/keep"}; !slices.Equal(got, want) {
		t.Errorf("left %q, want %q", got, want)
	}
	if _, err := os.Stat(filepath.Join(outside, "outside")); err != nil {
		t.Errorf("a link was followed: %v", err)
	}
	if !t.Failed() {
		fmt.Println("emptied")
	}
}

func TestCheckRoot(t *testing.T) {
	good := func(t *testing.T) *Init {
		in, _, _ := fakeInit(t)
		for _, d := range []string{"dev", "proc", "sys", "run"} {
			if err := os.MkdirAll(in.path(sysroot+"/"+d), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		put(t, in, sysroot+"/lib/systemd/systemd", "ELF")
		put(t, in, sysroot+"/sbin/x", "")
		if err := os.Chmod(in.path(sysroot+"/lib/systemd/systemd"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("/lib/systemd/systemd", in.path(sysroot+"/sbin/init")); err != nil {
			t.Fatal(err)
		}
		return in
	}
	if err := good(t).checkRoot("/sbin/init"); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(in *Init) error{
		"no init":             func(in *Init) error { return os.Remove(in.path(sysroot + "/sbin/init")) },
		"init not executable": func(in *Init) error { return os.Chmod(in.path(sysroot+"/lib/systemd/systemd"), 0o644) },
		"init is a folder": func(in *Init) error {
			return errors.Join(os.Remove(in.path(sysroot+"/sbin/init")), os.Mkdir(in.path(sysroot+"/sbin/init"), 0o755))
		},
		"init is outside": func(in *Init) error {
			return errors.Join(os.Remove(in.path(sysroot+"/sbin/init")), os.Symlink("../../../../../../../bin/sh", in.path(sysroot+"/sbin/init")))
		},
		"no proc": func(in *Init) error { return os.Remove(in.path(sysroot + "/proc")) },
		"run is a link": func(in *Init) error {
			return errors.Join(os.Remove(in.path(sysroot+"/run")), os.Symlink("/dev", in.path(sysroot+"/run")))
		},
	} {
		t.Run(name, func(t *testing.T) {
			in := good(t)
			if err := change(in); err != nil {
				t.Fatal(err)
			}
			wantCode(t, in.checkRoot("/sbin/init"), code.BootSwitch)
		})
	}
}
