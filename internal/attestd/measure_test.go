package attestd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := Listen(path, -1)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	if _, err := Listen(path, -1); err == nil {
		t.Error("a socket in use was replaced")
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	l, err = Listen(path, os.Getgid())
	if err != nil {
		t.Fatalf("a stale socket was not replaced: %v", err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o660 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	l.Close()
	os.WriteFile(path, []byte("precious"), 0o600)
	if _, err := Listen(path, -1); err == nil {
		t.Error("a file was replaced")
	}
	if b, _ := os.ReadFile(path); string(b) != "precious" {
		t.Error("the file is gone")
	}
}

func TestMeasuredRoot(t *testing.T) {
	for in, want := range map[string]bool{
		"1 1 0:2 / / ro - rootfs rootfs ro\n":                                                        true,
		"1 1 0:2 / / ro - rootfs none ro,size=100k\n22 1 0:20 / /proc rw - proc proc rw\n":           true,
		"1 1 0:2 / / rw - rootfs rootfs rw\n":                                                        false,
		"1 1 0:2 / / ro - rootfs rootfs rw\n":                                                        false, // a read-only mount of what others can write
		"1 1 0:2 / / ro - rootfs rootfs ro\n30 1 254:0 / / rw shared:1 - ext4 /dev/mapper/root rw\n": false,
		"30 1 254:0 / / ro - ext4 /dev/mapper/root ro\n":                                             false,
		"1 1 0:2 / /mnt ro - rootfs rootfs ro\n":                                                     false,
		"1 1 0:2 /dir / ro - rootfs rootfs ro\n":                                                     false,
		"1 1 0:2 / / ro - tmpfs rootfs ro\n":                                                         false,
		"":                                                                                           false,
		"garbage\n- rootfs x ro\n":                                                                   false,
	} {
		if got := measuredRoot(in); got != want {
			t.Errorf("%q: %v", in, got)
		}
	}
}

func TestVerityDevice(t *testing.T) {
	sys := t.TempDir()
	add := func(dev, uuid, ro string) {
		dir := filepath.Join(sys, "dev/block", dev)
		os.MkdirAll(filepath.Join(dir, "dm"), 0o755)
		if uuid != "" {
			os.WriteFile(filepath.Join(dir, "dm/uuid"), []byte(uuid+"\n"), 0o644)
		}
		os.WriteFile(filepath.Join(dir, "ro"), []byte(ro+"\n"), 0o644)
	}
	add("254:0", "CRYPT-VERITY-0b0e1a6c6a334f3c9f533e2f3b1f2a10-root", "1")
	add("254:1", "CRYPT-VERITY-0b0e1a6c6a334f3c9f533e2f3b1f2a10-root", "0")
	add("254:2", "CRYPT-LUKS2-0b0e1a6c6a334f3c9f533e2f3b1f2a10-root", "1")
	add("8:0", "", "1")
	for minor, want := range []bool{true, false, false, false} {
		if got := onVerityDevice(sys, 254<<8|uint64(minor)); got != want {
			t.Errorf("254:%d: %v", minor, got)
		}
	}
	if onVerityDevice(sys, 8<<8) {
		t.Error("a plain disk is taken for dm-verity")
	}
}

// The kernel of the test machine vouches for nothing that the test can write.
func TestKernelUnmeasured(t *testing.T) {
	w := newWorld(t, false, func(o *Options) { o.Measurer = new(Kernel) })
	if got := w.run(nil, w.measured("good"), "ask", w.socket); !strings.HasPrefix(got, Unmeasured+" ") {
		t.Errorf("%q", got)
	}
}
