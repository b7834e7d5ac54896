package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"attestbox/internal/testenv"
)

// world is one owner with a chip, a verifier, images and disks, set up once
// with the commands of the README.
type world struct {
	dir, bin, secrets string
	kernel, modules   string
	pin, address      string
	verifier          *exec.Cmd
	verifierLog       *lockedBuffer
	seal              []string
	images            map[string]string
}

var (
	once   sync.Once
	shared *world
	failed string
)

func TestMain(m *testing.M) {
	code := m.Run()
	if shared != nil {
		if shared.verifier != nil {
			shared.verifier.Process.Signal(syscall.SIGTERM)
			shared.verifier.Wait()
		}
		os.RemoveAll(shared.dir)
		os.RemoveAll(shared.secrets)
	}
	os.Exit(code)
}

// theWorld sets everything up, once for all tests.
func theWorld(t *testing.T) *world {
	t.Helper()
	testenv.Tool(t, "qemu-system-x86_64", "qemu-system-x86")
	testenv.Tool(t, "mke2fs", "e2fsprogs")
	for _, v := range []string{"ATTESTBOX_KERNEL", "ATTESTBOX_MODULES", "ATTESTBOX_BUSYBOX"} {
		if os.Getenv(v) == "" {
			testenv.Skip(t, v+": run `eval \"export $(scripts/kernel.sh)\"`")
		}
	}
	once.Do(func() {
		failed = "its set-up failed in an earlier test"
		shared = &world{images: map[string]string{}}
		shared.setUp(t)
		failed = ""
	})
	if failed != "" {
		t.Fatal(failed)
	}
	return shared
}

func (w *world) setUp(t *testing.T) {
	var err error
	if w.dir, err = os.MkdirTemp("", "attestbox-e2e-"); err != nil {
		t.Fatal(err)
	}
	if w.secrets, err = os.MkdirTemp("/dev/shm", "attestbox-e2e-"); err != nil {
		t.Fatal(err)
	}
	w.kernel, w.modules = os.Getenv("ATTESTBOX_KERNEL"), os.Getenv("ATTESTBOX_MODULES")
	w.bin = filepath.Join(w.dir, "bin")
	for out, args := range map[string][]string{
		"attestbox": {"."}, "attestbox-guest": {"-tags", "guest", "."}, "snp-sim-device": {"-tags", "simdevice", "."}, "mkimage": {"./mkimage"},
	} {
		cmd := exec.Command("go", append([]string{"build", "-trimpath", "-ldflags=-s -w -buildid=", "-o", filepath.Join(w.bin, out)}, args...)...)
		cmd.Dir, cmd.Env = testenv.Root(), append(os.Environ(), "CGO_ENABLED=0")
		if b, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("building %s: %v\n%s", out, err, b)
		}
	}
	sealKey := filepath.Join(w.secrets, "seal.key")
	w.seal = []string{"-state", filepath.Join(w.dir, "verifier"), "-seal-key", sealKey}
	w.write(t, sealKey, random(32))
	w.attestbox(t, "snp-sim", "init", "-chip", w.path("chip"), "-product", "Milan")
	out := w.attestbox(t, append([]string{"verifier", "init", "-root", w.path("chip", "ark.pem"), "-product", "Milan"}, w.seal...)...)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	w.pin = lines[len(lines)-1]
	w.serve(t)

	rootfs := w.path("rootfs")
	w.run(t, filepath.Join(testenv.Root(), "demo", "rootfs.sh"), os.Getenv("ATTESTBOX_BUSYBOX"), rootfs)
	w.disk(t, "a", rootfs)
	w.disk(t, "b", rootfs)
	w.write(t, filepath.Join(rootfs, "etc", "demo-hold"), nil)
	w.disk(t, "hold", rootfs)
	w.image(t, "tcp", "console=ttyS0 loglevel=4 no_timer_check")
}

func (w *world) path(elem ...string) string {
	return filepath.Join(append([]string{w.dir}, elem...)...)
}
func (w *world) keyFile(disk string) string { return filepath.Join(w.secrets, disk+".key") }

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

func (w *world) write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// beginning is the first n bytes of a file: a disk's image is too large to read.
func beginning(t *testing.T, path string, n int) []byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, n)
	if _, err := io.ReadFull(f, b); err != nil {
		t.Fatal(err)
	}
	return b
}

// run runs a command that must succeed and returns its stdout.
func (w *world) run(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s%s", filepath.Base(name), strings.Join(args, " "), err, stdout.String(), stderr.String())
	}
	return stdout.String()
}

func (w *world) attestbox(t *testing.T, args ...string) string {
	t.Helper()
	return w.run(t, filepath.Join(w.bin, "attestbox"), args...)
}

func (w *world) mkimage(t *testing.T, args ...string) string {
	t.Helper()
	return w.run(t, filepath.Join(w.bin, "mkimage"), args...)
}

// serve starts the verifier and waits for its ready line.
func (w *world) serve(t *testing.T) {
	t.Helper()
	w.verifier = exec.Command(filepath.Join(w.bin, "attestbox"), append([]string{"verifier", "serve", "-listen", "tcp://127.0.0.1:0"}, w.seal...)...)
	pipe, err := w.verifier.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := w.verifier.Start(); err != nil {
		t.Fatal(err)
	}
	w.verifierLog = &lockedBuffer{}
	ready := make(chan string, 1)
	go func() {
		for sc := bufio.NewScanner(pipe); sc.Scan(); {
			fmt.Fprintln(w.verifierLog, sc.Text())
			if _, rest, ok := strings.Cut(sc.Text(), "listening on tcp://"); ok {
				select {
				case ready <- strings.FieldsFunc(rest, func(r rune) bool { return r == ' ' || r == '"' })[0]:
				default:
				}
			}
		}
		close(ready)
	}()
	select {
	case w.address = <-ready:
	case <-time.After(time.Minute):
	}
	if w.address == "" {
		t.Fatalf("the verifier did not become ready:\n%s", w.verifierLog)
	}
}

func (w *world) disk(t *testing.T, name, rootfs string) {
	t.Helper()
	w.mkimage(t, "disk", "-from", rootfs, "-size", "32M", "-out", w.path(name+".img"), "-key-out", w.keyFile(name), "-record", w.path(name+".json"))
}

func (w *world) image(t *testing.T, name, cmdline string) {
	t.Helper()
	w.build(t, name, cmdline, nil)
}

// build makes an image; state is the configuration's, and extra are further
// flags of mkimage build.
func (w *world) build(t *testing.T, name, cmdline string, state map[string]any, extra ...string) {
	t.Helper()
	_, port, _ := strings.Cut(w.address, ":")
	settings := map[string]any{
		"mode": "switch-root", "servers": []string{"tcp://10.0.2.2:" + port, "vsock://2:8451"}, "pins": []string{w.pin},
		"network": map[string]string{"method": "dhcp"},
		"root":    map[string]string{"device": "/dev/vda", "name": "root", "fstype": "ext4"},
		"timeout": "3m",
	}
	if state != nil {
		settings["state"] = state
	}
	config, err := json.Marshal(settings)
	if err != nil {
		t.Fatal(err)
	}
	w.write(t, w.path("init.json"), config)
	w.write(t, w.path("motd"), []byte("attestbox e2e image\n"))
	w.mkimage(t, append([]string{"build", "-kernel", w.kernel, "-modules-dir", w.modules, "-guest", filepath.Join(w.bin, "attestbox-guest"),
		"-sim-device", filepath.Join(w.bin, "snp-sim-device"), "-config", w.path("init.json"), "-file", "/etc/motd=" + w.path("motd"),
		"-compress", "none", "-product", "Milan", "-append", cmdline, "-out", w.path("image-" + name)}, extra...)...)
	w.images[name] = w.path("image-" + name)
}

// instance registers an ID for an image and a disk.
func (w *world) instance(t *testing.T, image, disk string) (id string) {
	t.Helper()
	id = hex.EncodeToString(random(32))
	w.attestbox(t, append([]string{"verifier", "add-instance", "-id", id, "-image", w.images[image],
		"-disk-key", w.keyFile(disk), "-header", w.path(disk + ".json")}, w.seal...)...)
	return id
}

// boot describes one run of the simulator.
type boot struct {
	kernel, initrd, cmdline string // files, and the line itself
	id, disk                string
	inPlace                 string // disk image that keeps what the guest writes; empty: a copy of disk
	extra                   []string
	whileUp                 func(qmp string) // called when the real system is up; nil: it powers itself off
}

const upLine = "attestbox-demo: the real system is up"

// from is a boot of an image as it was built.
func (w *world) from(t *testing.T, image, id, disk string) *boot {
	t.Helper()
	dir := w.images[image]
	cmdline, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil {
		t.Fatal(err)
	}
	return &boot{kernel: filepath.Join(dir, "vmlinuz"), initrd: filepath.Join(dir, "initrd"), cmdline: string(cmdline), id: id, disk: disk,
		extra: []string{"-net", "user"}}
}

// run boots and returns what the console said.
func (b *boot) run(t *testing.T, w *world) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	dir := t.TempDir()
	disk := b.inPlace
	if disk == "" {
		disk = filepath.Join(dir, "disk.img")
		w.run(t, "cp", w.path(b.disk+".img"), disk)
	}
	qmp := filepath.Join(dir, "qmp")
	args := append([]string{"snp-sim", "run", "-chip", w.path("chip"), "-kernel", b.kernel, "-initrd", b.initrd, "-append", b.cmdline,
		"-host-data", b.id, "-disk", disk, "-vcpu-type", "EPYC-Milan", "-timeout", "4m", "-qmp", qmp, "-console", "-"}, b.extra...)
	cmd := exec.CommandContext(ctx, filepath.Join(w.bin, "attestbox"), args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var console strings.Builder
	for sc := bufio.NewScanner(stdout); sc.Scan(); {
		line := strings.TrimRight(sc.Text(), "\r")
		console.WriteString(line + "\n")
		if b.whileUp != nil && strings.HasPrefix(line, upLine) {
			b.whileUp(qmp)
			cancel()
		}
	}
	err = cmd.Wait()
	if b.whileUp == nil && err != nil {
		t.Errorf("snp-sim run: %v\n%s\n%s", err, stderr.String(), console.String())
	}
	t.Logf("console:\n%s", console.String())
	return console.String()
}

// explain is the verifier's reason for the exchange that the console names.
func (w *world) explain(t *testing.T, console string) string {
	t.Helper()
	_, rest, ok := strings.Cut(console, "exchange ")
	if !ok || len(rest) < 32 {
		t.Fatal("the console names no exchange")
	}
	return w.attestbox(t, append(append([]string{"verifier", "explain"}, w.seal...), rest[:32])...)
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

var _ io.Writer = (*lockedBuffer)(nil)
