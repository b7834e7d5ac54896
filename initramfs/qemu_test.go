package initramfs

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"attestbox/initramfs/config"
	"attestbox/internal/image/disk"
	"attestbox/internal/luks"
	"attestbox/internal/secret"
	"attestbox/internal/snpsim/qemu"
	"attestbox/internal/snpsim/qemu/guesttest"
	"attestbox/internal/testenv"
)

const cmdline = "console=ttyS0 quiet init_on_free=1 sysctl.kernel.sysrq=0 panic=1 noresume " + guesttest.NoTimerCheck

const testPin = "sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

// testInit is this test binary without cgo: /init of the VMs.
var testInit = sync.OnceValues(func() ([]byte, error) { return goBuild("test", "-c", "-ldflags=-s -w") })

// testGuest is the program of testdata/guest.
var testGuest = sync.OnceValues(func() ([]byte, error) { return goBuild("build", "./testdata/guest") })

func goBuild(args ...string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "attestbox-test-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	out := filepath.Join(dir, "out")
	cmd := exec.Command("go", append([]string{args[0], "-trimpath", "-o", out}, args[1:]...)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if b, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%v: %w\n%s", args, err, b)
	}
	return os.ReadFile(out)
}

func must(t *testing.T, b []byte, err error) []byte {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// vmImage is an initramfs of ours.
type vmImage struct {
	config  string
	files   []guesttest.File
	modules []string // by name; nil: none at all
	append  string
	machine qemu.Machine
}

func (v *vmImage) boot(t *testing.T) *qemu.VM {
	t.Helper()
	m := v.machine
	m.Kernel = guesttest.Kernel(t)
	initB, err := testInit()
	files := append([]guesttest.File{
		{Name: "init", Mode: 0o755, Data: must(t, initB, err)},
		{Name: config.Path[1:], Mode: 0o644, Data: []byte(v.config)},
	}, v.files...)
	guest, err := testGuest()
	files = append(files, guesttest.File{Name: "bin/guest", Mode: 0o755, Data: must(t, guest, err)})
	var list strings.Builder
	release := filepath.Base(os.Getenv("ATTESTBOX_MODULES"))
	var modules []guesttest.File
	if v.modules != nil {
		modules = moduleFiles(t, v.modules)
	}
	for _, f := range modules {
		f.Name = strings.TrimPrefix(f.Name, "modules/")
		fmt.Fprintln(&list, f.Name)
		f.Name = "lib/modules/" + release + "/" + f.Name
		files = append(files, f)
	}
	files = append(files, guesttest.File{Name: modulesFile[1:], Mode: 0o644, Data: []byte(list.String())})
	m.Initrd = guesttest.Initramfs(files...)
	m.Append = cmdline + v.append
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	vm, err := m.Start(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		vm.Stop()
		if t.Failed() || testing.Verbose() {
			t.Logf("console:\n%s", vm.Console)
		}
	})
	return vm
}

// expect waits for lines in any order.
func expect(t *testing.T, vm *qemu.VM, lines ...string) {
	t.Helper()
	for _, l := range lines {
		if _, err := vm.Console.WaitFor(t.Context(), l); err != nil {
			t.Errorf("no line with %q: %v", l, err)
		}
	}
}

// expectOff waits until the guest has powered itself off.
func expectOff(t *testing.T, vm *qemu.VM) {
	t.Helper()
	if err := vm.Wait(); err != nil {
		t.Errorf("the VM did not power itself off: %v", err)
	}
}

var (
	diskModules = []string{"virtio_blk", "dm-mod", "dm-crypt", "gf128mul", "ecb", "xts",
		"dm-bufio", "xor", "async_tx", "async_xor", "dm-integrity", "authenc"}
	netModules = []string{"failover", "net_failover", "virtio_net"}
	// Only newer kernels have all of these.
	reportModules = []string{"configfs", "tsm", "sev-guest"}
)

// moduleFiles finds modules by name, since kernels move them between folders.
// Names that the kernel has nowhere are left out: they are built in, or too new.
func moduleFiles(t *testing.T, names []string) []guesttest.File {
	t.Helper()
	found := map[string]string{}
	dir := filepath.Join(os.Getenv("ATTESTBOX_MODULES"), "kernel")
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if base, _, ok := strings.Cut(filepath.Base(p), ".ko"); ok && err == nil {
			rel, _ := filepath.Rel(dir, p)
			rel, _, _ = strings.Cut(rel, ".ko")
			found[base] = rel
		}
		return err
	})
	if err != nil {
		testenv.Skip(t, "ATTESTBOX_MODULES: "+err.Error())
	}
	paths := guesttest.Virtio[:len(guesttest.Virtio):len(guesttest.Virtio)]
	for _, n := range names {
		if rel, ok := found[n]; ok {
			paths = append(paths, rel)
		}
	}
	return guesttest.Modules(t, paths...)
}

// rootSource is the files of a small real system.
func rootSource(t *testing.T) string {
	t.Helper()
	testenv.Tool(t, "mke2fs", "e2fsprogs")
	src := t.TempDir()
	for _, d := range []string{"dev", "proc", "sys", "run", "sbin", "usr/bin"} {
		if err := os.MkdirAll(filepath.Join(src, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	guest, err := testGuest()
	if err := os.WriteFile(filepath.Join(src, "usr/bin/system"), must(t, guest, err), 0o755); err != nil {
		t.Fatal(err)
	}
	// Absolute, as in Debian: it has to be followed inside the new root.
	if err := os.Symlink("/usr/bin/system", filepath.Join(src, "sbin/init")); err != nil {
		t.Fatal(err)
	}
	return src
}

// rootDisk makes an encrypted root and the verifier's file for it.
func rootDisk(t *testing.T, f fakeVerifier, change func(src string)) (string, guesttest.File) {
	t.Helper()
	src := rootSource(t)
	if change != nil {
		change(src)
	}
	return encrypted(t, f, disk.Options{From: src, Size: 24 << 20})
}

// encrypted makes a disk and the verifier's file for it.
func encrypted(t *testing.T, f fakeVerifier, o disk.Options) (string, guesttest.File) {
	t.Helper()
	key := secret.Random(32)
	defer key.Zero()
	f.Key = append([]byte(nil), key.Bytes()...)
	img := filepath.Join(t.TempDir(), "disk.img")
	o.Out, o.Integrity = img, luks.IntegrityHMAC
	res, err := disk.Build(t.Context(), key, o)
	if err != nil {
		t.Fatal(err)
	}
	if f.Record == nil {
		f.Record = res.Record
	}
	b, err := json.Marshal(f)
	return img, guesttest.File{Name: "verifier.json", Mode: 0o600, Data: must(t, b, err)}
}

const rootConfig = `{"mode":"switch-root","servers":["tcp://10.0.2.2:8451"],"pins":["` + testPin + `"],
 "network":{"method":"dhcp"},"timeout":"60s",
 "root":{"device":"/dev/vda","name":"root","fstype":"ext4","options":["ro"]}}`

// TestSwitchRoot goes all the way to a real system on an encrypted disk.
func TestSwitchRoot(t *testing.T) {
	future := time.Now().Add(1000 * time.Hour).Unix()
	img, verifier := rootDisk(t, fakeVerifier{Secrets: map[string]string{"token": "hello"}, Time: future}, nil)
	v := &vmImage{config: rootConfig, files: []guesttest.File{verifier}, modules: slices.Concat(diskModules, netModules, reportModules), append: " word ENV=1",
		machine: qemu.Machine{Net: qemu.NetUser, Disks: []qemu.Disk{{Path: img}}}}
	vm := v.boot(t)
	expect(t, vm,
		"] modules: ", "] network: eth0 10.0.2.15/24 by dhcp", "] attest: released by fake, boot 3 (exchange feed)",
		"] clock: set forward", "] unlock: /dev/vda is /dev/", "] mount: ",
		"] counter: found 0, wrote 3", `outcome "opened" "", 1 headers`,
		"] outcome: boot 3 acknowledged", "] switch-root: starting /sbin/init",
		"guest: system: up", `guest: system: args ["/sbin/init"] env ["HOME=/" "TERM=linux" "PATH=`,
		"guest: system: /proc/sys/kernel/sysrq: 0",
		fmt.Sprintf(`guest: system: /run/attestbox/floor: {"time":%d,"min_policy_version":6}`, future+1),
		"guest: system: stat: /run/attestbox/secrets drwx------", "guest: system: stat: /run/attestbox/secrets/token -r--------",
		"guest: system: done")
	mounts := 0
	for _, l := range vm.Console.Lines() {
		for _, m := range []string{"/dev/mapper/root / ext4 ro", "devtmpfs /dev devtmpfs", "proc /proc proc", "sysfs /sys sysfs", "tmpfs /run tmpfs"} {
			if strings.Contains(l, "/proc/mounts: "+m) {
				mounts++
			}
		}
		if strings.Contains(l, "ENV=1") || strings.Contains(l, "/proc/mounts: ") && strings.Contains(l, "/sysroot") {
			t.Errorf("handed over: %q", l)
		}
	}
	if mounts != 5 {
		t.Errorf("%d of the 5 expected mounts", mounts)
	}
}

// wantFailure is the shape of every failed boot: one line, a hint, power off.
func wantFailure(t *testing.T, vm *qemu.VM, line string) {
	t.Helper()
	expectOff(t, vm)
	n := 0
	for _, l := range vm.Console.Lines() {
		if strings.Contains(l, "attestbox: boot failed: ") {
			n++
			if !strings.Contains(l, line) {
				t.Errorf("failure line %q, want %q in it", l, line)
			}
		}
		if strings.Contains(l, "guest: ") || strings.Contains(l, "switch-root") {
			t.Errorf("went on: %q", l)
		}
	}
	if n != 1 {
		t.Errorf("%d failure lines, want one", n)
	}
}
