package image

import (
	"bytes"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"attestbox/initramfs/config"
	"attestbox/internal/image/imagetest"
)

// inputs is a folder with everything, and a manifest for it.
func inputs(t testing.TB) (string, *Manifest) {
	dir := t.TempDir()
	imagetest.Inputs(t, dir)
	return dir, manifestFor(dir)
}

func manifestFor(dir string) *Manifest {
	return &Manifest{Kernel: dir + "/vmlinuz", ModulesDir: dir + "/lib/modules/" + imagetest.Release,
		Guest: dir + "/guest", Config: dir + "/init.json", Append: "console=ttyS0"}
}

func build(t testing.TB, m *Manifest) *Image {
	t.Helper()
	img, err := Build(m, Options{})
	ok(t, err)
	return img
}

func contents(t testing.TB, img *Image) *Archive {
	t.Helper()
	data, _, err := Decompress(img.Initrd)
	ok(t, err)
	a, err := ReadArchive(data)
	ok(t, err)
	return a
}

func paths(t testing.TB, img *Image) []string {
	list, err := contents(t, img).Entries()
	ok(t, err)
	var out []string
	for _, e := range list {
		s := ModeString(e.Mode) + " /" + e.Path
		if e.Mode&TypeMask == TypeSymlink {
			s += " -> " + string(e.Data)
		}
		out = append(out, s)
	}
	return out
}

// The whole production layout, so that nothing gets in that nobody asked for:
// no resolver, no shell, no tool of a library's default base.
func TestProductionLayout(t *testing.T) {
	_, m := inputs(t)
	img := build(t, m)
	tree := "/lib/modules/" + imagetest.Release
	want := []string{
		"drwxr-xr-x /bin", "-rwxr-xr-x /bin/attestbox", "lrwxrwxrwx /bin/fetch-secret -> attestbox",
		"lrwxrwxrwx /bin/init -> attestbox", "lrwxrwxrwx /bin/unlock-luks -> attestbox",
		"drwxr-xr-x /dev", "crw------- /dev/console", "crw-rw-rw- /dev/null",
		"drwxr-xr-x /etc", "drwxr-xr-x /etc/attestbox", "-rw-r--r-- /etc/attestbox/init.json", "-rw-r--r-- /etc/attestbox/modules",
		"lrwxrwxrwx /init -> bin/attestbox",
		"drwxr-xr-x /proc", "drwxr-xr-x /run", "dr-xr-xr-x /sys", "drwxr-xr-x /sysroot", "drwxrwxrwt /tmp",
	}
	want[slices.Index(want, "drwxr-xr-x /proc")] = "dr-xr-xr-x /proc"
	got := slices.DeleteFunc(paths(t, img), func(s string) bool { return strings.Contains(s, " /lib") })
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	a := contents(t, img)
	e, _ := a.Get("etc/attestbox/modules")
	wantModules := "kernel/drivers/virtio/virtio_ring.ko\nkernel/drivers/virtio/virtio_pci.ko\nkernel/drivers/block/virtio_blk.ko\n" +
		"kernel/drivers/md/dm-mod.ko\nkernel/drivers/md/dm-crypt.ko\nkernel/crypto/ecb.ko\nkernel/crypto/xts.ko\n" +
		"kernel/drivers/md/dm-bufio.ko\nkernel/drivers/md/dm-integrity.ko\nkernel/crypto/authenc.ko\n" +
		"kernel/net/core/failover.ko\nkernel/drivers/net/net_failover.ko\nkernel/drivers/net/virtio_net.ko\n" +
		"kernel/fs/configfs/configfs.ko\nkernel/drivers/virt/coco/tsm.ko\nkernel/drivers/virt/coco/sev-guest/sev-guest.ko\n"
	if string(e.Data) != wantModules {
		t.Errorf("modules:\n%s", e.Data)
	}
	for line := range strings.Lines(wantModules) {
		if e, ok := a.Get(tree + "/" + strings.TrimSpace(line)); !ok || e.Mode != TypeRegular|0o644 {
			t.Errorf("%s is not in the image", line)
		}
	}
	wantLine := "console=ttyS0 init_on_free=1 sysctl.kernel.sysrq=0 panic=1 noresume rng_core.default_quality=0 systemd.import_credentials=no systemd.gpt_auto=no efi=noruntime"
	if img.Cmdline != wantLine {
		t.Errorf("command line %q", img.Cmdline)
	}
	r := img.Record
	if r.Debug || r.Simulator || !r.SNPHardware || !r.Measurement.Complete || len(r.Measurement.LaunchDigest) != 96 || len(r.Notes) != 0 {
		t.Errorf("record %+v", r)
	}
	if _, err := config.CheckCommandLine(img.Cmdline); err != nil {
		t.Error(err)
	}
}

// An image with one changed input has another digest; the same inputs have the
// same bytes under another umask, folder, TMPDIR, file order and mode, and at
// any number of processors.
func TestReproducible(t *testing.T) {
	dir, m := inputs(t)
	extra := t.TempDir()
	for _, n := range []string{"one", "two", "three"} {
		ok(t, os.WriteFile(extra+"/"+n, []byte(n), 0o644))
	}
	m.Files = []File{{Path: "/opt/one", Source: extra + "/one"}, {Path: "/opt/two", Source: extra + "/two"}, {Path: "/opt/three", Source: extra + "/three", Mode: "0400"}}
	for _, kind := range []string{Zstd, Xz, Gzip, None} {
		m.Compress = kind
		first := build(t, m)

		other := t.TempDir()
		t.Chdir(other)
		t.Setenv("TMPDIR", other)
		old := syscall.Umask(0o077)
		imagetest.Inputs(t, other)
		m2 := manifestFor(".")
		ok(t, os.Chmod("guest", 0o600), os.Chmod("vmlinuz", 0o400), os.Chmod(extra+"/one", 0o640))
		m2.Compress, m2.Files = kind, []File{m.Files[2], m.Files[0], m.Files[1]}
		procs := runtime.GOMAXPROCS(1)
		second, err := Build(m2, Options{})
		runtime.GOMAXPROCS(procs)
		syscall.Umask(old)
		ok(t, err)
		if !bytes.Equal(first.Initrd, second.Initrd) {
			t.Errorf("%s: initramfs differs", kind)
		}
		one, two := first.Record, second.Record
		if a, b := string(must(one.Marshal())), string(must(two.Marshal())); a != b {
			t.Errorf("%s: record differs:\n%s\n%s", kind, a, b)
		}
	}
	m.Compress = ""
	base := build(t, m).Record.Measurement.LaunchDigest
	seen := map[string]string{base: "nothing"}
	for what, change := range map[string]func(m *Manifest){
		"config":  func(m *Manifest) { m.Config = dir + "/init2.json" },
		"guest":   func(m *Manifest) { m.Guest = dir + "/sim-device" },
		"cmdline": func(m *Manifest) { m.Append += " quiet" },
		"kernel":  func(m *Manifest) { m.Kernel = dir + "/vmlinuz2" },
		"mode":    func(m *Manifest) { m.Files = slices.Clone(m.Files); m.Files[0].Mode = "0600" },
		"vcpus":   func(m *Manifest) { m.VCPUs = 2 },
		"product": func(m *Manifest) { m.Product = "Genoa" },
		"debug":   func(m *Manifest) { m.Debug, m.Busybox = true, dir+"/busybox" },
		"sim":     func(m *Manifest) { m.SimDevice = dir + "/sim-device" },
	} {
		m2 := *m
		ok(t, os.WriteFile(dir+"/init2.json", []byte(imagetest.InitJSON+" "), 0o644),
			os.WriteFile(dir+"/vmlinuz2", append(imagetest.Kernel(imagetest.Release), 1), 0o644))
		change(&m2)
		d := build(t, &m2).Record.Measurement.LaunchDigest
		if seen[d] != "" {
			t.Errorf("a changed %s gives the digest of a changed %s", what, seen[d])
		}
		seen[d] = what
	}
	img, err := Build(m, Options{SourceDateEpoch: 1700000000})
	ok(t, err)
	if a := contents(t, img); a.MTime != 1700000000 {
		t.Errorf("mtime %d", a.MTime)
	}
}

// Hard links are files of their own with their content, files that look alike
// stay apart, and a folder's modes on the building machine do not matter.
func TestTraps(t *testing.T) {
	_, m := inputs(t)
	src := t.TempDir()
	ok(t, os.MkdirAll(src+"/sub", 0o700), os.WriteFile(src+"/a", []byte("content"), 0o664), os.Link(src+"/a", src+"/sub/linked"),
		os.WriteFile(src+"/sub/alike", []byte("CONTENT"), 0o664), os.WriteFile(src+"/run.bin", []byte("x"), 0o700), os.Symlink("a", src+"/link"),
		os.Chmod(src+"/a", 0o4777), os.Chtimes(src+"/sub/alike", must(os.Stat(src+"/a")).ModTime(), must(os.Stat(src+"/a")).ModTime()))
	m.Files = []File{{Path: "/opt", Source: src}}
	a := contents(t, build(t, m))
	for p, want := range map[string]struct {
		mode uint32
		data string
	}{
		"opt/a": {TypeRegular | 0o755, "content"}, "opt/sub/linked": {TypeRegular | 0o755, "content"},
		"opt/sub/alike": {TypeRegular | 0o644, "CONTENT"}, "opt/run.bin": {TypeRegular | 0o755, "x"},
		"opt/link": {TypeSymlink | 0o777, "a"}, "opt/sub": {TypeDir | 0o755, ""},
	} {
		if e, ok := a.Get(p); !ok || e.Mode != want.mode || string(e.Data) != want.data {
			t.Errorf("%s: mode %o, %q", p, e.Mode, e.Data)
		}
	}
}

func TestSimulatorImage(t *testing.T) {
	dir, m := inputs(t)
	m.SimDevice = dir + "/sim-device"
	img := build(t, m)
	a := contents(t, img)
	e, _ := a.Get("init")
	sim, _ := a.Get("etc/snp-sim/modules")
	mods, _ := a.Get("etc/attestbox/modules")
	if string(e.Data) != "bin/snp-sim-device" || !img.Record.Simulator || !strings.Contains(string(sim.Data), "fuse/fuse.ko\nkernel/fs/fuse/cuse.ko\n") ||
		!strings.Contains(string(sim.Data), "virtio_console") || strings.Contains(string(mods.Data), "fuse") {
		t.Errorf("init %q, simulator's modules %q, modules %q", e.Data, sim.Data, mods.Data)
	}
	plain := contents(t, build(t, manifestFor(dir)))
	for _, p := range []string{"bin/attestbox", "etc/attestbox/modules", "etc/attestbox/init.json"} {
		x, _ := a.Get(p)
		y, _ := plain.Get(p)
		if !bytes.Equal(x.Data, y.Data) {
			t.Errorf("%s is another than in a production image", p)
		}
	}
}

func TestDebugImage(t *testing.T) {
	dir, m := inputs(t)
	m.Debug, m.Busybox = true, dir+"/busybox"
	img := build(t, m)
	a := contents(t, img)
	_, marked := a.Get("etc/attestbox/debug")
	sh, _ := a.Get("bin/sh")
	init, _ := a.Get("init")
	if !marked || !img.Record.Debug || string(sh.Data) != "busybox" || string(init.Data) != "bin/attestbox" {
		t.Errorf("marked %v, sh %q, init %q", marked, sh.Data, init.Data)
	}
}

func TestBuildRefuses(t *testing.T) {
	key := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: make([]byte, 48)})
	for name, tc := range map[string]struct {
		change func(t *testing.T, dir string, m *Manifest)
		want   error
		text   string
	}{
		"fuse":               {func(t *testing.T, d string, m *Manifest) { m.Modules = []string{"default", "fuse"} }, ErrRefused, "fuse"},
		"cuse by dependency": {func(t *testing.T, d string, m *Manifest) { m.Modules = []string{"cuse"} }, ErrRefused, "fuse"},
		"fw_cfg":             {func(t *testing.T, d string, m *Manifest) { m.Modules = []string{"qemu_fw_cfg"} }, ErrRefused, "fw_cfg"},
		"virtio-rng":         {func(t *testing.T, d string, m *Manifest) { m.Modules = []string{"virtio-rng"} }, ErrRefused, "randomness"},
		"cuse in a simulator": {func(t *testing.T, d string, m *Manifest) {
			m.SimDevice = d + "/sim-device"
			m.Modules = []string{"cuse"}
		}, ErrRefused, "fuse"},
		"module as a file":     {addFileOf("/lib/modules/x/virtio-rng.ko.xz", []byte("x")), ErrRefused, "randomness"},
		"missing module":       {func(t *testing.T, d string, m *Manifest) { m.Modules = []string{"default", "needs-lost"} }, ErrNoModule, `"lost"`},
		"file system's module": {func(t *testing.T, d string, m *Manifest) { edit(t, m.Config, `"ext4"`, `"xfs"`) }, ErrNoModule, `"xfs"`},
		"shell by name":        {addFileOf("/bin/bash", []byte("x")), ErrRefused, "shell"},
		"shell by link":        {addTreeOf(func(dir string) error { return os.Symlink("/bin/dash", dir+"/x") }), ErrRefused, "shell"},
		"busybox by content":   {addFileOf("/bin/tool", []byte("..BusyBox v1.35.0..")), ErrRefused, "busybox"},
		"reserved: debug":      {addFileOf("/etc/attestbox/debug", []byte("x")), ErrRefused, "debug"},
		"reserved: simulator":  {addFileOf("/etc/snp-sim/modules", []byte("x")), ErrRefused, "simulator"},
		"duplicate: init":      {addFileOf("/init", []byte("x")), ErrDuplicate, "/init"},
		"duplicate: guest":     {addFileOf("/bin/attestbox", []byte("x")), ErrDuplicate, "/bin/attestbox"},
		"device node":          {addTreeOf(func(dir string) error { return syscall.Mkfifo(dir+"/x", 0o600) }), nil, "not a regular file"},
		"key as a file":        {addFileOf("/etc/ssl/key.pem", key), ErrPrivateKey, "input"},
		"key in a folder":      {addTreeOf(func(dir string) error { return os.WriteFile(dir+"/id_ed25519", key, 0o600) }), ErrPrivateKey, "id_ed25519"},
		"key in the guest":     {appendTo("guest", key), ErrPrivateKey, "guest"},
		"key in the config":    {appendTo("init.json", key), ErrPrivateKey, "init.json"},
		"key in a certificate": {func(t *testing.T, d string, m *Manifest) {
			ok(t, os.WriteFile(d+"/c.pem", key, 0o600))
			m.Certificates = []string{d + "/c.pem"}
		}, ErrPrivateKey, "c.pem"},
		"no certificate":      {func(t *testing.T, d string, m *Manifest) { m.Certificates = []string{d + "/init.json"} }, nil, "neither one DER certificate"},
		"dynamic guest":       {func(t *testing.T, d string, m *Manifest) { m.Guest = d + "/dynamic" }, nil, "dynamically linked"},
		"guest is no program": {func(t *testing.T, d string, m *Manifest) { m.Guest = d + "/init.json" }, nil, "not an ELF program"},
		"other kernel": {func(t *testing.T, d string, m *Manifest) {
			ok(t, os.WriteFile(m.Kernel, imagetest.Kernel("6.1.0"), 0o600))
		}, nil, `release "6.1.0"`},
		"empty kernel":         {func(t *testing.T, d string, m *Manifest) { ok(t, os.Truncate(m.Kernel, 0)) }, nil, "is empty"},
		"bad config":           {func(t *testing.T, d string, m *Manifest) { edit(t, m.Config, `"mode"`, `"made"`) }, nil, "init.json"},
		"program not there":    {func(t *testing.T, d string, m *Manifest) { ok(t, os.WriteFile(m.Config, []byte(runJSON), 0o600)) }, nil, `"/bin/app" is not in the image`},
		"program no program":   {addRun(0o644), nil, "not an executable file"},
		"applets without init": {func(t *testing.T, d string, m *Manifest) { m.Applets = []string{"fetch-secret"} }, nil, "lacks init"},
		"applet with a path":   {func(t *testing.T, d string, m *Manifest) { m.Applets = []string{"init", "../x"} }, nil, "plain name"},
		"unknown vCPU":         {func(t *testing.T, d string, m *Manifest) { m.VCPUType = "Xeon" }, nil, "Xeon"},
		"firmware for nothing": {func(t *testing.T, d string, m *Manifest) { m.Firmware = m.Kernel }, nil, "launch digest"},
		"command line":         {func(t *testing.T, d string, m *Manifest) { m.Append = "init_on_free=0" }, ErrCmdline, "init_on_free"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, m := inputs(t)
			tc.change(t, dir, m)
			_, err := Build(m, Options{})
			if err == nil || !strings.Contains(err.Error(), tc.text) || (tc.want != nil && !errors.Is(err, tc.want)) {
				t.Errorf("%v; want %v with %q", err, tc.want, tc.text)
			}
		})
	}
}

const runJSON = `{"mode":"run","network":{"method":"none"},` +
	`"programs":[{"name":"app","argv":["/bin/app"],"user":"root","restart":"never","required":true}]}`

type change = func(t *testing.T, dir string, m *Manifest)

func addFileOf(dst string, data []byte) change {
	return func(t *testing.T, dir string, m *Manifest) {
		ok(t, os.WriteFile(dir+"/input", data, 0o600))
		m.Files = []File{{Path: dst, Source: dir + "/input"}}
	}
}

func addTreeOf(make func(dir string) error) change {
	return func(t *testing.T, dir string, m *Manifest) {
		src := filepath.Join(dir, "tree")
		ok(t, os.Mkdir(src, 0o700), make(src))
		m.Files = []File{{Path: "/opt", Source: src}}
	}
}

func appendTo(name string, data []byte) change {
	return func(t *testing.T, dir string, m *Manifest) {
		old := must(os.ReadFile(dir + "/" + name))
		ok(t, os.WriteFile(dir+"/"+name, append(old, data...), 0o755))
	}
}

func addRun(mode os.FileMode) change {
	return func(t *testing.T, dir string, m *Manifest) {
		ok(t, os.WriteFile(m.Config, []byte(runJSON), 0o600), os.WriteFile(dir+"/app", []byte("x"), mode))
		m.Files = []File{{Path: "/bin/app", Source: dir + "/app"}}
	}
}

func edit(t *testing.T, name, old, new string) {
	data := must(os.ReadFile(name))
	if !bytes.Contains(data, []byte(old)) {
		t.Fatalf("%s lacks %q", name, old)
	}
	ok(t, os.WriteFile(name, bytes.ReplaceAll(data, []byte(old), []byte(new)), 0o600))
}

func TestRunImage(t *testing.T) {
	dir, m := inputs(t)
	addRun(0o755)(t, dir, m)
	build(t, m)
}

func TestHardwareNotes(t *testing.T) {
	dir, m := inputs(t)
	m.Modules = []string{"virtio_blk"}
	if r := build(t, m).Record; r.SNPHardware || len(r.Notes) != 1 || !strings.Contains(r.Notes[0], "leaves out sev-guest") {
		t.Errorf("%v %q", r.SNPHardware, r.Notes)
	}
	ok(t, os.RemoveAll(filepath.Join(m.ModulesDir, "kernel/drivers/virt")))
	m = manifestFor(dir)
	if r := build(t, m).Record; r.SNPHardware || len(r.Notes) != 1 ||
		r.Notes[0] != "kernel 6.12.99 has neither sev-guest nor tsm: for the simulator only; real SNP needs 6.12 or later" {
		t.Errorf("%v %q", r.SNPHardware, r.Notes)
	}
}

// Commands of u-root are symlinks to one program, a shell among them is for a
// debug image alone, and is what that image starts.
func TestURoot(t *testing.T) {
	dir, m := inputs(t)
	for names, want := range map[string]string{"gosh": "is a shell", "ls,gosh": "is a shell", "init": "own init", "../x": "not a command", "ls,ls": "twice"} {
		m.URoot = strings.Split(names, ",")
		if _, err := Build(m, Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", names, err)
		}
	}
	m.URoot, m.Debug = []string{"ls"}, true
	if err := m.Check(); err == nil || !strings.Contains(err.Error(), "needs a shell") {
		t.Errorf("a debug image without a shell: %v", err)
	}
	if testing.Short() {
		return // building takes some seconds
	}
	m.URoot = []string{"ls", "gosh"}
	a := contents(t, build(t, m))
	for p, want := range map[string]string{"bin/ls": "bb", "bin/gosh": "bb", "bin/sh": "gosh"} {
		if e, _ := a.Get(p); string(e.Data) != want {
			t.Errorf("%s -> %q", p, e.Data)
		}
	}
	if e, _ := a.Get("bin/bb"); e.Mode != TypeRegular|0o755 || checkStatic(e.Data) != nil {
		t.Errorf("the program: mode %o, %v", e.Mode, checkStatic(e.Data))
	}
	verify(t, dir, m)
}
