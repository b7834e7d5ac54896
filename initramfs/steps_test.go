package initramfs

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"attestbox/initramfs/config"
	"attestbox/internal/bootcount"
	"attestbox/internal/code"
	"attestbox/internal/platform"
	"attestbox/internal/platform/sevguest"
	"attestbox/internal/secret"
	"attestbox/internal/wire"
)

func TestLoadModules(t *testing.T) {
	in, sys, _ := fakeInit(t)
	for _, m := range []string{"a.ko", "b.ko.xz", "c.ko.zst", "sev-guest.ko", "there.ko"} {
		put(t, in, "/lib/modules/6.1/kernel/"+m, "x")
	}
	put(t, in, modulesFile, "kernel/a.ko\nkernel/b.ko.xz\nkernel/c.ko.zst\nkernel/sev-guest.ko\nkernel/there.ko\n")
	sys.fail["module sev-guest"] = unix.ENODEV
	sys.fail["module there"] = unix.EEXIST
	n, err := in.loadModules()
	want := []string{"module a.ko 0", "module b.ko.xz 4", "module c.ko.zst 4", "module sev-guest.ko 0", "module there.ko 0"}
	if err != nil || n != 3 || !slices.Equal(sys.calls, want) {
		t.Errorf("%d modules, %v, calls %q", n, err, sys.calls)
	}
	sys.fail["module b"] = unix.EINVAL
	_, err = in.loadModules()
	wantCode(t, err, code.BootModule)
	put(t, in, modulesFile, "kernel/none.ko\n")
	_, err = in.loadModules()
	wantCode(t, err, code.BootModule)
}

func TestModuleListIsJudged(t *testing.T) {
	for _, bad := range []string{"/etc/passwd.ko", "../x.ko", "a/../b.ko", "a//b.ko", "a.txt", "a.ko\x00", " a.ko "} {
		if names, err := parseModules("ok.ko\n" + bad + "\n"); err == nil {
			t.Errorf("%q was accepted: %q", bad, names)
		}
	}
}

func FuzzModules(f *testing.F) {
	f.Add("kernel/a.ko\nkernel/b.ko.xz\n")
	f.Fuzz(func(t *testing.T, list string) {
		names, err := parseModules(list)
		if err != nil {
			return
		}
		for _, n := range names {
			if !fs.ValidPath(n) {
				t.Fatalf("accepted %q", n)
			}
		}
		again, err := parseModules(strings.Join(names, "\n"))
		if err != nil || !slices.Equal(again, names) {
			t.Fatalf("%q became %q, %v", names, again, err)
		}
	})
}

// The host's RTC may say anything: the clock is never set back.
func TestClockOnlyRises(t *testing.T) {
	in, sys, _ := fakeInit(t)
	for _, tt := range []struct{ now, learn, want, floor int64 }{
		{1_800_000_000, 1_700_000_000, 1_800_000_000, 1_700_000_000},
		{1_800_000_000, 1_900_000_000, 1_900_000_000, 1_900_000_000},
		{100, 1_850_000_000, 1_900_000_000, 1_900_000_000}, // an older answer after the host's clock fell
	} {
		sys.now = time.Unix(tt.now, 0)
		if err := in.learn(tt.learn, 4); err != nil {
			t.Fatal(err)
		}
		var got floor
		b, err := os.ReadFile(in.path(floorFile))
		if err != nil || json.Unmarshal(b, &got) != nil || sys.now.Unix() != tt.want || got.Time != tt.floor || got.MinPolicyVersion != 4 {
			t.Errorf("%+v: clock %d, floor %+v, %v", tt, sys.now.Unix(), got, err)
		}
	}
	if err := in.learn(0, 3); err != nil || in.floor.MinPolicyVersion != 4 {
		t.Errorf("policy version fell to %d, %v", in.floor.MinPolicyVersion, err)
	}
}

func TestConfigure(t *testing.T) {
	const line = "init_on_free=1 sysctl.kernel.sysrq=0 panic=1 noresume"
	in, _, out := fakeInit(t)
	put(t, in, "/proc/cmdline", line+" attestbox.net=10.0.2.15/24 attestbox.loglevel=error\n")
	put(t, in, printkFile, "7 4 1 7\n")
	put(t, in, config.Path, rootConfig)
	if err := in.configure(); err != nil {
		t.Fatal(err)
	}
	if in.net.Method != config.Static || in.cfg.Network.Method != config.DHCP || in.log.level != config.LogError || in.debug {
		t.Errorf("net %+v, level %s, debug %v", in.net, in.log.level, in.debug)
	}
	if b, _ := os.ReadFile(in.path(printkFile)); string(b) != "4\n" {
		t.Errorf("printk %q", b)
	}
	in.restorePrintk()
	if b, _ := os.ReadFile(in.path(printkFile)); string(b) != "7 4 1 7\n" {
		t.Errorf("printk %q afterwards", b)
	}
	put(t, in, "/proc/cmdline", line+" attestbox.debug")
	wantCode(t, in.configure(), code.BootOverride)
	if in.debug {
		t.Error("a word on the command line made a debug image")
	}
	put(t, in, "/proc/cmdline", "panic=1")
	wantCode(t, in.configure(), code.BootParameter)
	put(t, in, "/proc/cmdline", line)
	put(t, in, config.Path, strings.Replace(rootConfig, "mode", "mood", 1))
	wantCode(t, in.configure(), code.ConfigBad)
	if err := os.Remove(in.path(config.Path)); err != nil {
		t.Fatal(err)
	}
	wantCode(t, in.configure(), code.ConfigBad)
	if strings.Contains(out.String(), "DEBUG") {
		t.Error("a production image warns like a debug image")
	}
	put(t, in, debugFile, "")
	_ = in.configure()
	if !in.debug || !strings.Contains(out.String(), "DEBUG IMAGE") {
		t.Error("a debug image does not say so")
	}
}

func header(b byte) wire.HeaderRecord {
	return wire.HeaderRecord{Digest: strings.Repeat(hex.EncodeToString([]byte{b}), 32)}
}

// unlocker answers by header and key, as a disk would.
func unlocker(disk byte, key string, calls *[]string) UnlockFunc {
	return func(_ context.Context, device, name string, r *wire.HeaderRecord, k *secret.Bytes) (*Unlocked, error) {
		*calls = append(*calls, r.Digest[:2]+" "+string(k.Bytes()))
		if r.Digest != header(disk).Digest {
			return nil, code.Wrap(code.LUKSHeaderDigest, errors.New("other header"))
		}
		if string(k.Bytes()) != key {
			return nil, code.Wrap(code.LUKSWrongKey, errors.New("wrong key"))
		}
		u := &Unlocked{Node: "/dev/dm-0"}
		for i := range u.HeaderDigest {
			u.HeaderDigest[i] = disk
		}
		return u, nil
	}
}

// Which of the delivered headers and keys are tried, and when it stops.
func TestUnlock(t *testing.T) {
	for _, tt := range []struct {
		name     string
		disk     byte
		diskKey  string
		previous string
		want     []string
		code     code.Code
	}{
		{"first header", 1, "new", "", []string{"01 new"}, ""},
		{"second header", 2, "new", "", []string{"01 new", "02 new"}, ""},
		{"rotation, old key still in the disk", 1, "old", "old", []string{"01 new", "01 old"}, ""},
		{"unregistered header", 9, "new", "old", []string{"01 new", "02 new"}, code.LUKSHeaderDigest},
		{"wrong key", 1, "other", "", []string{"01 new"}, code.LUKSWrongKey},
		{"wrong keys", 1, "other", "old", []string{"01 new", "01 old"}, code.LUKSWrongKey},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in, _, _ := fakeInit(t)
			if err := os.MkdirAll(in.path("/dev"), 0o755); err != nil {
				t.Fatal(err)
			}
			// Any block device node will do; a test as a user has none to make.
			in.deps.waitDevice = func(context.Context, string) error { return nil }
			var calls []string
			in.deps.Unlock = unlocker(tt.disk, tt.diskKey, &calls)
			p := &wire.Payload{DiskKey: secret.Copy([]byte("new")), Headers: []wire.HeaderRecord{header(1), header(2)}}
			if tt.previous != "" {
				p.PreviousDiskKey = secret.Copy([]byte(tt.previous))
			}
			_, err := in.unlock(t.Context(), "/dev/vda", "root", p)
			if !slices.Equal(calls, tt.want) {
				t.Errorf("tried %q, want %q", calls, tt.want)
			}
			if tt.code == "" && err != nil {
				t.Error(err)
			}
			if tt.code != "" {
				wantCode(t, err, tt.code)
			}
		})
	}
	in, _, _ := fakeInit(t)
	for _, p := range []*wire.Payload{{}, {DiskKey: secret.New(32)}, {Headers: []wire.HeaderRecord{header(1)}}} {
		_, err := in.unlock(t.Context(), "/dev/vda", "root", p)
		wantCode(t, err, code.BootRelease)
	}
	// A driver that opens another header than it was asked to.
	in.deps.waitDevice = func(context.Context, string) error { return nil }
	in.deps.Unlock = func(context.Context, string, string, *wire.HeaderRecord, *secret.Bytes) (*Unlocked, error) {
		return &Unlocked{}, nil
	}
	_, err := in.unlock(t.Context(), "/dev/vda", "root", &wire.Payload{DiskKey: secret.New(32), Headers: []wire.HeaderRecord{header(1)}})
	wantCode(t, err, code.LUKSHeaderDigest)
}

func TestWaitDevice(t *testing.T) {
	in, _, _ := fakeInit(t)
	put(t, in, "/dev/vda", "a file")
	wantCode(t, in.waitDevice(t.Context(), "/dev/vda"), code.BootMedia)
	if err := os.Symlink("/dev/null", in.path("/dev/vdb")); err != nil {
		t.Fatal(err)
	}
	wantCode(t, in.waitDevice(t.Context(), "/dev/vdb"), code.BootMedia)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	wantCode(t, in.waitDevice(ctx, "/dev/vdc"), code.BootMedia)
}

func TestMountOptions(t *testing.T) {
	flags, data := parseOptions([]string{"ro", "noatime", "data=ordered", "nosuid", "errors=remount-ro"})
	if flags != unix.MS_RDONLY|unix.MS_NOATIME|unix.MS_NOSUID || data != "data=ordered,errors=remount-ro" {
		t.Errorf("%#x %q", flags, data)
	}
	in, sys, _ := fakeInit(t)
	u := &Unlocked{Node: "/dev/dm-0"}
	if err := in.mountDisk(u, sysroot, "ext4", []string{"ro"}); err != nil {
		t.Fatal(err)
	}
	if want := []string{"mount /dev/dm-0 /sysroot ext4 0x1 ", "same /dev/dm-0 /sysroot"}; !slices.Equal(sys.calls, want) {
		t.Errorf("calls %q", sys.calls)
	}
	// Something else lies on the mount point afterwards.
	sys.fail["same"] = errors.New("another device")
	wantCode(t, in.mountDisk(u, sysroot, "ext4", nil), code.BootMount)
	wantCode(t, code.Wrap(code.BootMount, sameDevice(os.DevNull, "/")), code.BootMount)
}

// The counter is in the volume before anything is reported, and a volume that
// is too old, or another instance's, is not reported as opened.
func TestCounter(t *testing.T) {
	in, _, out := fakeInit(t)
	in.rel = &release{payload: &wire.Payload{Boot: 7, Committed: 0}, id: wire.Hex32{1}}
	if err := os.MkdirAll(in.path(sysroot), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, fs := range config.ReadOnlyFSTypes {
		if err := in.count(sysroot, fs); err != nil || !strings.Contains(out.String(), "counter: none") {
			t.Errorf("%s: %v", fs, err)
		}
	}
	if err := in.count(sysroot, "ext4"); err != nil || !strings.Contains(out.String(), "counter: found 0, wrote 7") {
		t.Errorf("%v, %q", err, out)
	}
	if b, err := os.ReadFile(in.path(sysroot + "/.attestbox/boot")); err != nil || string(b) != string(bootcount.Marshal(7)) {
		t.Errorf("%q, %v", b, err)
	}
	in.rel.payload = &wire.Payload{Boot: 9, Committed: 8}
	wantCode(t, in.count(sysroot, "ext4"), code.BootRollback)
	in.rel.payload = &wire.Payload{Boot: 6, Committed: 5}
	wantCode(t, in.count(sysroot, "ext4"), code.BootRollback)
	in.rel.payload = &wire.Payload{Boot: 8, Committed: 7}
	put(t, in, sysroot+"/.attestbox/instance", string(bootcount.MarshalID([32]byte{2})))
	wantCode(t, in.count(sysroot, "ext4"), code.BootInstance)
}

func TestSecrets(t *testing.T) {
	in, sys, _ := fakeInit(t)
	p := &wire.Payload{Secrets: []wire.NamedSecret{{Name: "a.key", Value: secret.Copy([]byte("AAA"))}, {Name: "b", Value: secret.Copy([]byte("BBB"))}}}
	if err := in.writeSecrets(p); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]os.FileMode{"": fs.ModeDir | 0o700, "/a.key": 0o400, "/b": 0o400} {
		if st, err := os.Lstat(in.path(secretsDir + name)); err != nil || st.Mode() != want {
			t.Errorf("%s: %v, %v", name, st.Mode(), err)
		}
	}
	if err := in.writeSecrets(p); !errors.Is(err, fs.ErrExist) {
		t.Errorf("written over: %v", err)
	}
	prog := &config.Program{Name: "db", User: "100:101", Secrets: []string{"b"}}
	if err := in.programSecrets(prog, p); err != nil {
		t.Fatal(err)
	}
	want := []string{"chown /run/attestbox/programs/db/b 100 101", "chown /run/attestbox/programs/db 100 101"}
	if !slices.Equal(sys.calls, want) {
		t.Errorf("calls %q", sys.calls)
	}
	prog = &config.Program{Name: "web", User: "root", Secrets: []string{"c"}}
	wantCode(t, in.programSecrets(prog, p), code.BootRelease)
	b, err := os.ReadFile(in.path(programsDir + "/db/b"))
	if err != nil || string(b) != "BBB" {
		t.Errorf("%q, %v", b, err)
	}
}

// A step that hangs, one that is cut short, and one that panics.
func TestBounded(t *testing.T) {
	in, _, out := fakeInit(t)
	in.cfg = &config.Config{Mode: config.SwitchRoot}
	in.deps.network = func(context.Context) (string, error) { panic("mistake") }
	err := in.bounded(t.Context(), in.bootUp)
	if err == nil || !strings.Contains(out.String(), "panic: mistake") {
		t.Errorf("%v, %q", err, out)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	in.deps.network = func(ctx context.Context) (string, error) {
		cancel(code.Wrap(code.BootTimeout, errors.New("too long")))
		<-ctx.Done()
		return "", ctx.Err()
	}
	wantCode(t, in.bounded(ctx, in.bootUp), code.BootTimeout)
	if in.stuck {
		t.Error("a step that gave up counts as stuck")
	}
}

func TestSwitchRootOrder(t *testing.T) {
	in, sys, _ := fakeInit(t)
	sys.fail["exec"] = errors.New("no such file")
	wantCode(t, in.switchRoot("/sbin/init"), code.BootSwitch)
	want := []string{
		"mount /dev /sysroot/dev  0x2000 ", "mount /proc /sysroot/proc  0x2000 ", "mount /sys /sysroot/sys  0x2000 ", "mount /run /sysroot/run  0x2000 ",
		"chdir /sysroot", "empty ", "mount .   0x2000 ", "chroot .", "chdir /",
	}
	if len(sys.calls) != len(want)+1 || !slices.Equal(sys.calls[:len(want)], want) || !strings.HasPrefix(sys.calls[len(want)], `exec /sbin/init ["/sbin/init"] ["HOME=/"`) {
		t.Errorf("calls %q", sys.calls)
	}
	// Nothing is deleted unless every mount has moved away.
	for _, m := range moved {
		in, sys, _ := fakeInit(t)
		sys.fail["mount "+m] = unix.EINVAL
		wantCode(t, in.switchRoot("/sbin/init"), code.BootSwitch)
		if slices.ContainsFunc(sys.calls, func(c string) bool { return strings.HasPrefix(c, "empty") }) {
			t.Errorf("%s did not move, yet the initramfs was emptied", m)
		}
	}
}

func TestSimpleMounts(t *testing.T) {
	in, sys, _ := fakeInit(t)
	put(t, in, "/proc/sys/kernel/sysrq", "438\n")
	if err := in.sysrqOff(); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(in.path("/proc/sys/kernel/sysrq")); string(b) != "0\n" {
		t.Errorf("sysrq %q", b)
	}
	sys.fail["mount devtmpfs"] = unix.EBUSY // mounted by whatever ran before
	if err := in.mountEarly(); err != nil {
		t.Error(err)
	}
	sys.fail["mount sysfs"] = unix.EPERM
	wantCode(t, in.mountEarly(), code.BootMount)
	if m, err := isMountPoint("/proc"); err != nil || !m {
		t.Errorf("/proc is no mount point: %v", err)
	}
	if m, err := isMountPoint(t.TempDir()); err != nil || m {
		t.Errorf("a folder is a mount point: %v", err)
	}
	if !reflect.DeepEqual(cleanEnv(), []string{"HOME=/", "TERM=linux", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}) {
		t.Error("environment of the real init changed")
	}
}

// A step that does not give up is left behind, and what it does later starts
// nothing: the failure has been announced.
func TestStuckStepStartsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, sys, _ := fakeInit(t)
		in.cfg = &config.Config{Mode: config.SwitchRoot, Servers: []string{"tcp://a:1"},
			Root: &config.Root{Device: "/dev/vda", Name: "root", FSType: "ext4", Init: "/sbin/init"}}
		for _, d := range []string{"dev", "proc", "sys", "run"} {
			if err := os.MkdirAll(in.path(sysroot+"/"+d), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		put(t, in, sysroot+"/sbin/init", "ELF")
		if err := os.Chmod(in.path(sysroot+"/sbin/init"), 0o755); err != nil {
			t.Fatal(err)
		}
		var calls []string
		in.deps.network = func(context.Context) (string, error) { return "none", nil }
		in.deps.Open = func() (platform.Platform, error) { return nopPlatform{}, nil }
		in.deps.waitDevice = func(context.Context, string) error { return nil }
		in.deps.Unlock = unlocker(1, "key", &calls)
		hold, acked := make(chan struct{}), make(chan struct{})
		in.deps.Launch = func(context.Context, *Init, platform.Platform) (*release, error) {
			return &release{
				payload: &wire.Payload{Boot: 1, DiskKey: secret.Copy([]byte("key")), Headers: []wire.HeaderRecord{header(1)}},
				report: func(context.Context, string, code.Code, []wire.Hex32) (*wire.Ack, error) {
					<-hold // as if an acknowledgement came after all
					defer close(acked)
					return &wire.Ack{}, nil
				},
				close: func() {},
			}, nil
		}
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, code.Wrap(code.BootTimeout, errors.New("too long")))
		defer cancel()
		wantCode(t, in.bounded(ctx, in.bootUp), code.BootTimeout)
		if !in.stuck {
			t.Error("the step does not count as stuck")
		}
		close(hold)
		<-acked
		synctest.Wait()
		if slices.ContainsFunc(sys.calls, func(c string) bool {
			return strings.HasPrefix(c, "mount /dev") && strings.Contains(c, "0x2000") || strings.HasPrefix(c, "exec")
		}) {
			t.Errorf("it went on: %q", sys.calls)
		}
	})
}

type nopPlatform struct{ platform.Platform }

func (nopPlatform) Close() error { return nil }

// Nobody but root reaches the secure processor, whatever the kernel's modes are.
func TestSecureProcessorIsRootsAlone(t *testing.T) {
	in, _, _ := fakeInit(t)
	if err := in.rootsAlone(); err != nil {
		t.Errorf("a VM without it: %v", err)
	}
	put(t, in, sevguest.DevicePath, "")
	put(t, in, configfsMount.target+"/tsm/report/x", "")
	if err := os.Chmod(in.path(sevguest.DevicePath), 0o666); err != nil {
		t.Fatal(err)
	}
	in.cfg = &config.Config{}
	in.deps.network = func(context.Context) (string, error) { return "none", nil }
	if err := in.prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]os.FileMode{sevguest.DevicePath: 0o600, configfsMount.target: 0o700} {
		if st, err := os.Stat(in.path(name)); err != nil || st.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", name, st.Mode(), err)
		}
	}
}
