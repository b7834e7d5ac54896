package initramfs

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"attestbox/internal/snpsim/qemu"
	"attestbox/internal/snpsim/qemu/guesttest"
)

const runConfig = `{"mode":"run","network":{"method":"none"},"state":{"type":"tmpfs"},"programs":[PROGRAMS]}`

func program(name, args, user, restart string, required bool, more string) string {
	b, _ := json.Marshal(append([]string{"/bin/guest"}, strings.Fields(args)...))
	req := "false"
	if required {
		req = "true"
	}
	return `{"name":"` + name + `","argv":` + string(b) + `,"user":"` + user + `","restart":"` + restart + `","required":` + req + more + `}`
}

func programsConfig(programs ...string) string {
	return strings.Replace(runConfig, "PROGRAMS", strings.Join(programs, ","), 1)
}

// What a host, or a careless owner, may put on the command line. The rest of
// the table is in package config; these two show that PID 1 obeys it.
func TestCommandLineIsObeyed(t *testing.T) {
	for name, tt := range map[string]struct{ append, line string }{
		"forbidden override": {" attestbox.server=tcp://6.6.6.6:8451", `"attestbox.server=tcp://6.6.6.6:8451" [boot-override]`},
		"required word":      {" panic=0", `"panic=0", want panic=1 [boot-override]`},
	} {
		t.Run(name, func(t *testing.T) {
			v := &vmImage{config: programsConfig(program("a", "alive", "root", "never", true, "")), append: tt.append}
			vm := v.boot(t)
			wantFailure(t, vm, tt.line)
			expect(t, vm, "attestbox: hint: ")
		})
	}
}

// TestBreak sends SysRq over the serial line, as a host can.
func TestBreak(t *testing.T) {
	v := &vmImage{config: programsConfig(program("alive", "alive", "root", "never", true, ""))}
	vm := v.boot(t)
	expect(t, vm, "program: alive 0")
	for _, key := range []string{"c", "b", "o", "t"} { // crash, reboot, power off, show tasks
		if err := vm.QMP.SendBreak(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := vm.Console.Write([]byte(key)); err != nil {
			t.Fatal(err)
		}
		seen := len(vm.Console.Lines())
		// Two more signs of life after each key.
		for range 2 {
			if _, err := vm.Console.WaitForFunc(t.Context(), newer(vm, &seen)); err != nil {
				t.Fatalf("no sign of life after SysRq %s: %v", key, err)
			}
		}
	}
	if s := vm.Console.String(); strings.Contains(s, "task:") || strings.Contains(s, "Kernel panic") || strings.Contains(s, "sysrq: Show") {
		t.Error("SysRq did something")
	}
	// The same keys work once somebody inside turns SysRq on: the BREAK does
	// arrive.
	if _, err := vm.Console.Write([]byte("enable\n")); err != nil {
		t.Fatal(err)
	}
	expect(t, vm, "program: SysRq on: <nil>")
	if err := vm.QMP.SendBreak(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := vm.Console.Write([]byte("b")); err != nil {
		t.Fatal(err)
	}
	if err := vm.Wait(); !errors.Is(err, qemu.ErrReset) {
		t.Errorf("with SysRq on, BREAK b: %v", err)
	}
}

// newer matches an "alive" line beyond the first *seen lines.
func newer(vm *qemu.VM, seen *int) func(string) bool {
	return func(string) bool {
		lines := vm.Console.Lines()
		for i := *seen; i < len(lines); i++ {
			if strings.Contains(lines[i], "program: alive") {
				*seen = i + 1
				return true
			}
		}
		return false
	}
}

// TestRun is a whole life of an image that lives in its initramfs.
func TestRun(t *testing.T) {
	verifier, err := json.Marshal(fakeVerifier{Secrets: map[string]string{"token": "hello"}, Time: time.Now().Unix()})
	if err != nil {
		t.Fatal(err)
	}
	cfg := strings.Replace(programsConfig(
		program("first", "ids", "1000:1001", "never", true, `,"wait":true,"secrets":["token"]`),
		program("orphan", "orphan", "root", "never", true, `,"wait":true`),
		program("optional", "fail", "root", "never", false, `,"wait":true`),
		program("missing", "x", "root", "never", false, ""),
		program("service", "serve", "1000:1001", "always", true, ""),
		program("stop", "stop-init", "root", "never", true, ""),
	), `"mode":"run"`, `"mode":"run","servers":["vsock://2:8451"],"pins":["`+testPin+`"]`, 1)
	cfg = strings.Replace(cfg, `"type":"tmpfs"`, `"type":"tmpfs","owner":"1000:1001"`, 1)
	cfg = strings.Replace(cfg, `["/bin/guest","x"]`, `["/bin/nothing"]`, 1)
	v := &vmImage{config: cfg, files: []guesttest.File{{Name: "verifier.json", Mode: 0o600, Data: verifier}}}
	vm := v.boot(t)
	expectOff(t, vm)
	expect(t, vm,
		`outcome "opened" "", 0 headers`, "outcome: boot 3 acknowledged", "mount: tmpfs of 16M on /state",
		"program: uid 1000 gid 1001 groups []", "program: read root's secrets: open /run/attestbox/secrets/token: permission denied",
		"program: own secret: 5 bytes, <nil>", "program: state: <nil>", "behind: <nil>", "program: the orphan was reaped", "program: grandchild of process 1 ends",
		"optional program optional: ended with status 7", "optional program missing: starting /bin/nothing: no such file",
		"programs: stopping service", "program: asked to stop", "attestbox: stopped, powering off")
	// uid 1000 may not write anywhere in the initramfs in any case; root is
	// asked in TestRequiredProgram.
	if strings.Contains(vm.Console.String(), "boot failed") {
		t.Error("a clean stop is not a failure")
	}
}

// TestRequiredProgram: the VM goes down with it. The program before it shows,
// as root, that the initramfs is read-only.
func TestRequiredProgram(t *testing.T) {
	v := &vmImage{config: programsConfig(
		program("ids", "ids", "root", "never", true, `,"wait":true`),
		program("alive", "alive", "root", "never", true, ""),
		program("bad", "fail", "root", "never", true, ""))}
	vm := v.boot(t)
	expectOff(t, vm)
	expect(t, vm, "program: write to the initramfs: true", "program: state: <nil>",
		"attestbox: boot failed: required program bad: ended with status 7 [boot-program]")
}

// TestStateDiskAndDebug keeps state on an encrypted disk and, in a debug image,
// reaches the shell after a failure. Production images, in every other test,
// never do.
func TestStateDiskAndDebug(t *testing.T) {
	img, verifier := rootDisk(t, fakeVerifier{}, nil)
	cfg := strings.Replace(programsConfig(
		program("ids", "ids", "5:6", "never", true, `,"wait":true`),
		program("bad", "fail", "5:6", "never", true, "")),
		`"state":{"type":"tmpfs"}`, `"servers":["vsock://2:8451"],"pins":["`+testPin+`"],"state":{"type":"disk","device":"/dev/vda","name":"state","fstype":"ext4","owner":"5:6"}`, 1)
	guest, err := testGuest()
	v := &vmImage{config: cfg, modules: diskModules, machine: qemu.Machine{Disks: []qemu.Disk{{Path: img}}}, files: []guesttest.File{
		verifier, {Name: debugFile[1:], Mode: 0o644}, {Name: "bin/sh", Mode: 0o755, Data: must(t, guest, err)}}}
	vm := v.boot(t)
	expectOff(t, vm)
	expect(t, vm, "WARNING: THIS IS A DEBUG IMAGE", `outcome "opened" "", 1 headers`, "mount: /dev/mapper/state (ext4) on /state",
		"program: state: <nil>", "boot failed: required program bad", "DEBUG IMAGE: starting /bin/sh", "guest: shell: here", "attestbox: /bin/sh ended with status 0")
	if s := vm.Console.String(); strings.Contains(s, "read-only: ") {
		t.Error("the state disk could not be made read-only")
	}
}

// TestDecoyAndRefusal are boots that must not reach a system.
func TestDecoyAndRefusal(t *testing.T) {
	t.Run("refused", func(t *testing.T) {
		b, err := json.Marshal(fakeVerifier{Refuse: true})
		v := &vmImage{config: strings.Replace(rootConfig, "dhcp", "static\",\"address\":\"10.0.2.15/24", 1), modules: slices.Concat(diskModules, netModules),
			files: []guesttest.File{{Name: "verifier.json", Mode: 0o600, Data: must(t, b, err)}}, machine: qemu.Machine{Net: qemu.NetUser}}
		vm := v.boot(t)
		wantFailure(t, vm, "[launch-refused] (exchange ab000000000000000000000000000000)")
		expect(t, vm, "attestbox: hint: run 'verifier explain'")
	})
	// Another instance's disk, valid in itself, under this instance's key.
	t.Run("another header", func(t *testing.T) {
		decoy, _ := rootDisk(t, fakeVerifier{}, nil)
		_, verifier := rootDisk(t, fakeVerifier{}, nil)
		v := &vmImage{config: vsockRoot, modules: diskModules, files: []guesttest.File{verifier}, machine: qemu.Machine{Disks: []qemu.Disk{{Path: decoy}}}}
		vm := v.boot(t)
		expectOff(t, vm)
		expect(t, vm, `fake verifier: outcome "failed" "luks-header-digest", 0 headers`, "[luks-header-digest] (exchange feed)")
	})
	t.Run("no acknowledgement", func(t *testing.T) {
		img, verifier := rootDisk(t, fakeVerifier{NoAck: true}, nil)
		v := &vmImage{config: vsockRoot, modules: diskModules, files: []guesttest.File{verifier}, machine: qemu.Machine{Disks: []qemu.Disk{{Path: img}}}}
		vm := v.boot(t)
		wantFailure(t, vm, "[outcome-unsent]")
	})
	t.Run("root without init", func(t *testing.T) {
		img, verifier := rootDisk(t, fakeVerifier{}, func(src string) {
			if err := os.Remove(filepath.Join(src, "usr/bin/system")); err != nil {
				t.Fatal(err)
			}
		})
		v := &vmImage{config: vsockRoot, modules: diskModules, files: []guesttest.File{verifier}, machine: qemu.Machine{Disks: []qemu.Disk{{Path: img}}}}
		vm := v.boot(t)
		wantFailure(t, vm, "[boot-switch]")
		expect(t, vm, `fake verifier: outcome "failed" "boot-switch", 1 headers`)
	})
}

var vsockRoot = strings.NewReplacer("tcp://10.0.2.2", "vsock://2", "dhcp", "none").Replace(rootConfig)
