package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"attestbox/internal/snpsim/qemu"
	"attestbox/internal/testenv"
)

// stock is a stock Debian with attestbox's package in it, as an operator makes
// it (docs/debian.md), and what the host boots of it.
type stock struct {
	root           string // folder
	kernel, initrd string
	disk, cmdline  string
}

// stockCmdline is that of docs/debian.md.
const stockCmdline = "console=ttyS0 root=/dev/mapper/root rootfstype=ext4 ro init_on_free=1 sysctl.kernel.sysrq=0 panic=1 noresume " +
	"rng_core.default_quality=0 efi=noruntime systemd.import_credentials=no systemd.gpt_auto=no"

var (
	stockMu sync.Mutex
	stocks  = map[string]*stock{}
)

// debian makes a root of the suite with the package installed and configured,
// its initramfs by Debian's own tools, and its encrypted disk. Once per suite.
func (w *world) debian(t *testing.T, suite string) *stock {
	t.Helper()
	testenv.Tool(t, "mmdebstrap", "mmdebstrap")
	testenv.Tool(t, "dpkg-deb", "dpkg")
	if os.Getuid() != 0 {
		testenv.Skip(t, "root, for chroot")
	}
	stockMu.Lock()
	defer stockMu.Unlock()
	if s := stocks[suite]; s != nil {
		return s
	}
	s := &stock{root: w.path("debian-" + suite), disk: "debian-" + suite, cmdline: stockCmdline}
	script := func(name string) string { return filepath.Join(testenv.Root(), "scripts", name) }
	w.run(t, script("debian-root.sh"), suite, "initramfs-tools", s.root, filepath.Join(w.bin, "snp-sim-device"))
	deb := strings.TrimSpace(w.run(t, script("deb.sh"), w.dir, w.bin))
	w.run(t, "cp", deb, filepath.Join(s.root, "tmp", "attestbox.deb"))
	s.chroot(t, w, "apt-get", "install", "-y", "/tmp/attestbox.deb")
	s.put(t, "etc/initramfs-tools/update-initramfs.conf", "update_initramfs=yes\n")
	s.put(t, "etc/fstab", "/dev/mapper/root / ext4 defaults 0 1\n")
	s.put(t, "etc/crypttab", "root /dev/vda none luks,header=/run/attestbox/root.hdr,tries=1,keyscript=/usr/lib/attestbox/keyscript\n")
	_, port, _ := strings.Cut(w.address, ":")
	config, err := json.Marshal(map[string]any{"servers": []string{"tcp://10.0.2.2:" + port}, "pins": []string{w.pin},
		"network": map[string]string{"method": "dhcp"}, "timeout": "4m"})
	if err != nil {
		t.Fatal(err)
	}
	s.put(t, "etc/attestbox/boot.json", string(config))
	s.kernel, s.initrd = s.build(t, w)
	w.mkimage(t, "disk", "-from", s.root, "-size", "768M", "-out", w.path(s.disk+".img"), "-key-out", w.keyFile(s.disk), "-record", w.path(s.disk+".json"))
	stocks[suite] = s
	return s
}

func (s *stock) put(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(s.root, name), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (s *stock) chroot(t *testing.T, w *world, args ...string) string {
	t.Helper()
	return w.run(t, "chroot", append([]string{s.root, "env", "DEBIAN_FRONTEND=noninteractive", "SOURCE_DATE_EPOCH=1767225600", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, args...)...)
}

// build has Debian make its initramfs, and takes it and the kernel out of the
// root, which a direct boot does not read them from.
func (s *stock) build(t *testing.T, w *world) (kernel, initrd string) {
	t.Helper()
	found, _ := filepath.Glob(filepath.Join(s.root, "boot", "vmlinuz-*"))
	if len(found) != 1 {
		t.Fatalf("kernels in the root: %q", found)
	}
	release := strings.TrimPrefix(filepath.Base(found[0]), "vmlinuz-")
	s.chroot(t, w, "update-initramfs", "-c", "-k", release)
	dir, err := os.MkdirTemp(w.dir, "initrd-")
	if err != nil {
		t.Fatal(err)
	}
	initrd = filepath.Join(dir, "initrd")
	w.run(t, "mv", filepath.Join(s.root, "boot", "initrd.img-"+release), initrd)
	return found[0], initrd
}

// register makes an instance of this kernel, initramfs and command line.
func (s *stock) register(t *testing.T, w *world, initrd, cmdline string, flags ...string) string {
	t.Helper()
	args := []string{"verifier", "add-instance", "-id", "new", "-kernel", s.kernel, "-initrd", initrd, "-append", cmdline,
		"-disk-key", w.keyFile(s.disk), "-header", w.path(s.disk + ".json")}
	out := w.attestbox(t, append(append(args, w.seal...), flags...)...)
	lines := strings.Fields(out)
	return lines[len(lines)-1]
}

// stockRun is one boot; every line of the console is shown to seen, with a way
// to type and to send BREAK. It ends when seen says so, or the guest does.
type stockRun struct {
	initrd, cmdline, id string
	disks               []string
	limit               time.Duration // default 7 minutes
	seen                func(line string, typed io.Writer, q *qemu.QMP) (done bool)
}

func (s *stock) boot(t *testing.T, w *world, r stockRun) (console string, ended error) {
	t.Helper()
	limit := max(r.limit, 7*time.Minute)
	ctx, cancel := context.WithTimeout(t.Context(), limit+time.Minute)
	defer cancel()
	qmp := filepath.Join(t.TempDir(), "qmp")
	args := []string{"snp-sim", "run", "-chip", w.path("chip"), "-kernel", s.kernel, "-initrd", r.initrd, "-append", r.cmdline, "-host-data", r.id,
		"-vcpu-type", "EPYC-Milan", "-memory", "768M", "-net", "user", "-timeout", limit.String(), "-qmp", qmp, "-stdin"}
	for _, d := range r.disks {
		args = append(args, "-disk", d)
	}
	cmd := exec.CommandContext(ctx, filepath.Join(w.bin, "attestbox"), args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	typed, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	var q *qemu.QMP
	stopped := false
	for sc := bufio.NewScanner(stdout); sc.Scan(); {
		line := strings.TrimRight(sc.Text(), "\r")
		text.WriteString(line + "\n")
		if q == nil {
			if q, err = qemu.DialQMP(ctx, qmp); err != nil {
				t.Error(err)
			}
		}
		if !stopped && r.seen != nil && q != nil && r.seen(line, typed, q) {
			stopped = true
			cancel()
		}
	}
	if q != nil {
		q.Close()
	}
	err = cmd.Wait()
	t.Logf("snp-sim: %v\n%s\nconsole:\n%s", err, stderr.String(), text.String())
	if stopped {
		return text.String(), nil
	}
	return text.String(), err
}

// shells are what a console shows that gives one, or asks for something.
var shells = []string{"(initramfs)", "BusyBox", "sh-5", "Please unlock disk", "Enter passphrase", "Give root password", "Press Enter for maintenance"}

func noShell(t *testing.T, console string) {
	t.Helper()
	for _, s := range shells {
		if strings.Contains(console, s) {
			t.Errorf("the console shows %q", s)
		}
	}
}

// bootsUp is the whole story for one suite: the login prompt is reached and the
// verifier says so, with decoys beside the disk and noise on the console.
func bootsUp(t *testing.T, suite string) {
	w := theWorld(t)
	s := w.debian(t, suite)
	id := s.register(t, w, s.initrd, s.cmdline)
	disk := w.copyOf(t, s.disk)
	key := 0
	console, err := s.boot(t, w, stockRun{initrd: s.initrd, cmdline: s.cmdline, id: id, disks: append([]string{disk}, s.decoys(t, w)...),
		seen: func(line string, typed io.Writer, q *qemu.QMP) bool {
			// What a person in front of the machine would try, all the way to the prompt.
			io.WriteString(typed, []string{"\n", "\x03", "\x1a", "\x04", "\x1b", "\x1c"}[key%6])
			if strings.Contains(line, loginIssue) {
				io.WriteString(typed, "\n") // the prompt becomes a whole line
			}
			if key++; key%8 == 0 {
				if err := q.SendBreak(t.Context()); err != nil {
					t.Error(err)
				}
				io.WriteString(typed, "b")
			}
			return strings.Contains(line, "attestbox-test login: ")
		}})
	if err != nil {
		t.Error(err)
	}
	noShell(t, console)
	if !strings.Contains(console, "attestbox-test login: ") {
		t.Error("the login prompt of the right system was not reached")
	}
	for _, want := range []string{"root: /root is /dev/mapper/root on /dev/vda", "boot 1 acknowledged"} {
		if !strings.Contains(console, want) {
			t.Errorf("the console lacks %q", want)
		}
	}
	if show := w.attestbox(t, append(append([]string{"verifier", "instance", "show"}, w.seal...), id)...); !strings.Contains(show, "state        up") {
		t.Errorf("the verifier does not have it up:\n%s", show)
	}
}

// loginIssue is the line above the login prompt on the serial console.
const loginIssue = "attestbox-test ttyS0"

func TestDebianBoots(t *testing.T) { bootsUp(t, "bookworm") }

// decoys are disks that the host puts beside the right one: a system whose file
// system has the UUID of the LUKS volume, a copy of the volume's header with
// other data, and a disk with a hibernation image.
func (s *stock) decoys(t *testing.T, w *world) []string {
	t.Helper()
	dir := t.TempDir()
	var record struct {
		UUID string `json:"uuid"`
	}
	b, err := os.ReadFile(w.path(s.disk + ".json"))
	if err == nil {
		err = json.Unmarshal(b, &record)
	}
	if err != nil {
		t.Fatal(err)
	}
	system := filepath.Join(dir, "system.img")
	w.run(t, testenv.Tool(t, "mke2fs", "e2fsprogs"), "-q", "-t", "ext4", "-U", record.UUID, "-L", "root", "-d", w.path("rootfs"), system, "64M")
	twin := filepath.Join(dir, "twin.img")
	w.write(t, twin, append(beginning(t, w.path(s.disk+".img"), 1<<20), random(32<<20)...))
	asleep := make([]byte, 32<<20)
	copy(asleep[4096-10:], "S1SUSPEND\x00")
	copy(asleep[1024+12:], record.UUID[:16])
	hibernated := filepath.Join(dir, "hibernated.img")
	w.write(t, hibernated, asleep)
	return []string{system, twin, hibernated}
}

// refused is a boot that must end with that code, powered off by the guest, and
// nothing of a system or a shell on the way.
func (s *stock) refused(t *testing.T, w *world, r stockRun, want string) string {
	t.Helper()
	console, err := s.boot(t, w, r)
	if err != nil {
		t.Errorf("the guest did not power itself off: %v", err)
	}
	noShell(t, console)
	if strings.Contains(console, "login:") || strings.Contains(console, "set up successfully") {
		t.Error("a disk was opened")
	}
	if !strings.Contains(console, "boot failed: ") || !strings.Contains(console, "["+want+"]") {
		t.Errorf("the console does not say %s", want)
	}
	return console
}

func TestDebianRefuses(t *testing.T) {
	w := theWorld(t)
	s := w.debian(t, "bookworm")
	// One byte in the keyslot area: cryptsetup would not notice until the key fails.
	head := beginning(t, w.path(s.disk+".img"), 8<<20)
	head[40000] ^= 1
	disk := filepath.Join(t.TempDir(), "disk.img")
	w.write(t, disk, head)
	id := s.register(t, w, s.initrd, s.cmdline)
	s.refused(t, w, stockRun{initrd: s.initrd, cmdline: s.cmdline, id: id, disks: []string{disk}}, "luks-header-digest")
	if show := w.attestbox(t, append(append([]string{"verifier", "instance", "show"}, w.seal...), id)...); !strings.Contains(show, "luks-header-digest") {
		t.Errorf("the verifier did not learn the outcome:\n%s", show)
	}
	// The guest's own refusal comes before the verifier's, and before a shell.
	for _, word := range []string{"break=premount"} {
		console := s.refused(t, w, stockRun{initrd: s.initrd, cmdline: s.cmdline + " " + word, id: id, disks: []string{disk}}, "boot-override")
		if strings.Contains(console, "attest:") {
			t.Errorf("with %q the verifier was asked", word)
		}
	}
}
