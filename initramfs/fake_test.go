package initramfs

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"attestbox/initramfs/config"
	"attestbox/internal/code"
)

// fakeSystem notes what was asked of the kernel.
type fakeSystem struct {
	calls []string
	fail  map[string]error // by prefix of the call
	now   time.Time
	root  string
}

func (f *fakeSystem) note(format string, args ...any) error {
	call := strings.ReplaceAll(fmt.Sprintf(format, args...), f.root, "")
	f.calls = append(f.calls, call)
	for prefix, err := range f.fail {
		if strings.HasPrefix(call, prefix) {
			return err
		}
	}
	return nil
}

func (f *fakeSystem) Mount(source, target, fstype string, flags uintptr, data string) error {
	return f.note("mount %s %s %s %#x %s", source, target, fstype, flags, data)
}
func (f *fakeSystem) LoadModule(file *os.File, flags int) error {
	return f.note("module %s %d", filepath.Base(file.Name()), flags)
}
func (f *fakeSystem) Now() time.Time            { return f.now }
func (f *fakeSystem) SetTime(t time.Time) error { f.now = t; return f.note("time %d", t.Unix()) }
func (f *fakeSystem) Uptime() time.Duration     { return time.Second }
func (f *fakeSystem) Random() error             { return f.note("random") }
func (f *fakeSystem) Release() (string, error)  { return "6.1", nil }
func (f *fakeSystem) Chdir(dir string) error    { return f.note("chdir %s", dir) }
func (f *fakeSystem) Chroot(dir string) error   { return f.note("chroot %s", dir) }
func (f *fakeSystem) Exec(path string, argv, env []string) error {
	return f.note("exec %s %q %q", path, argv, env)
}
func (f *fakeSystem) LoadKernel(kernel, initrd *os.File, cmdline string) error {
	return f.note("kexec load %s %s %q", sealedText(kernel), sealedText(initrd), cmdline)
}
func (f *fakeSystem) StartKernel() error { return f.note("kexec start") }
func (f *fakeSystem) Sync()              { f.note("sync") }
func (f *fakeSystem) PowerOff() error    { return f.note("poweroff") }
func (f *fakeSystem) Restart() error     { return f.note("restart") }

// fakeInit is an Init on a folder, and what it printed.
func fakeInit(t *testing.T) (*Init, *fakeSystem, *strings.Builder) {
	t.Helper()
	root := t.TempDir()
	sys := &fakeSystem{fail: map[string]error{}, now: time.Unix(1_800_000_000, 0), root: root}
	out := &strings.Builder{}
	in := &Init{sys: sys, root: root, deps: realDeps(), log: &console{w: out, level: config.LogDebug, uptime: sys.Uptime}}
	in.deps.chown = func(file string, uid, gid int) error { return sys.note("chown %s %d %d", file, uid, gid) }
	in.deps.sameDevice = func(node, target string) error { return sys.note("same %s %s", node, target) }
	in.deps.empty = func(dir string) error { return sys.note("empty %s", dir) }
	in.deps.pause = func(d time.Duration) { sys.note("pause %s", d) }
	return in, sys, out
}

func put(t *testing.T, in *Init, name, content string) {
	t.Helper()
	file := in.path(name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func wantCode(t *testing.T, err error, want code.Code) {
	t.Helper()
	if c, _ := code.Of(err); err == nil || c != want {
		t.Errorf("error %v with code %q, want %q", err, c, want)
	}
}
