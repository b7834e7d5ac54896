package e2e

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"attestbox/internal/testenv"
)

// dracutSystem is a real Debian whose initramfs dracut made with our module in
// it, as docs/systemd.md tells, and its encrypted disk.
type dracutSystem struct {
	name, kernel, initrd, cmdline string
}

// dracutCmdline is that of docs/systemd.md.
const dracutCmdline = "root=/dev/mapper/root rootfstype=ext4 ro console=ttyS0 quiet rd.shell=0 rd.emergency=poweroff " +
	"systemd.import_credentials=no systemd.gpt_auto=no efi=noruntime noresume init_on_free=1 sysctl.kernel.sysrq=0 panic=1"

// hostWasHere is a file that a credential of the host's would make.
const hostWasHere = "/var/lib/host-was-here"

// e2eUnit shows on the console what the real system found.
const e2eUnit = `[Unit]
After=systemd-tmpfiles-setup.service
Before=getty.target
[Service]
Type=oneshot
StandardOutput=tty
ExecStart=/bin/sh -c 'echo "e2e: host was here: $$(test -e ` + hostWasHere + ` && echo yes || echo no), credentials: $$(ls /run/credentials/@system 2>/dev/null | wc -l), sysrq: $$(cat /proc/sys/kernel/sysrq), left: $$(ls /run/attestbox/boot | wc -l), $$(findmnt -no SOURCE /)"'
[Install]
WantedBy=multi-user.target
`

var (
	dracutMu      sync.Mutex
	dracutSystems = map[string]*dracutSystem{} // by suite; nil: its set-up failed
)

func (w *world) dracut(t *testing.T, suite string) *dracutSystem {
	t.Helper()
	testenv.Tool(t, "mmdebstrap", "mmdebstrap")
	if os.Getuid() != 0 {
		testenv.Skip(t, "root: a Debian root is made and entered")
	}
	dracutMu.Lock()
	defer dracutMu.Unlock()
	s, tried := dracutSystems[suite]
	if !tried {
		dracutSystems[suite] = nil
		s = w.makeDracut(t, suite)
		dracutSystems[suite] = s
	}
	if s == nil {
		t.Fatal("its set-up failed in an earlier test")
	}
	return s
}

func (w *world) makeDracut(t *testing.T, suite string) *dracutSystem {
	root := w.path("dracut-" + suite)
	w.run(t, filepath.Join(testenv.Root(), "scripts", "debian-root.sh"), suite, "dracut", root, filepath.Join(w.bin, "snp-sim-device"))
	src := filepath.Join(testenv.Root(), "initramfs", "dracut")
	w.run(t, "install", "-D", "-m", "755", filepath.Join(w.bin, "attestbox-guest"), filepath.Join(root, "usr/lib/attestbox/attestbox"))
	w.run(t, "cp", "-r", filepath.Join(src, "90attestbox"), filepath.Join(root, "usr/lib/dracut/modules.d/"))
	w.run(t, "install", "-D", "-m", "644", filepath.Join(src, "50-attestbox.conf"), filepath.Join(root, "usr/lib/dracut/dracut.conf.d/50-attestbox.conf"))
	_, port, _ := strings.Cut(w.address, ":")
	config, err := json.Marshal(map[string]any{
		"mode": "switch-root", "servers": []string{"tcp://10.0.2.2:" + port}, "pins": []string{w.pin}, "network": map[string]string{"method": "dhcp"},
		"root": map[string]string{"device": "/dev/vda", "name": "root", "fstype": "ext4"},
	})
	if err != nil {
		t.Fatal(err)
	}
	os.MkdirAll(filepath.Join(root, "etc/attestbox"), 0o755)
	w.write(t, filepath.Join(root, "etc/attestbox/init.json"), config)
	w.write(t, filepath.Join(root, "etc/fstab"), []byte("/dev/mapper/root / ext4 defaults 0 1\n"))
	w.write(t, filepath.Join(root, "etc/systemd/system/e2e.service"), []byte(e2eUnit))
	w.run(t, "chroot", root, "systemctl", "-q", "enable", "e2e.service")
	kernels, _ := filepath.Glob(filepath.Join(root, "boot/vmlinuz-*"))
	if len(kernels) != 1 {
		t.Fatalf("kernels: %q", kernels)
	}
	release := strings.TrimPrefix(filepath.Base(kernels[0]), "vmlinuz-")
	w.run(t, "unshare", "-m", "sh", "-ec", `mount -t proc proc "$1/proc"; mount --bind /dev "$1/dev"; mount --bind /sys "$1/sys"
		exec chroot "$1" dracut --force --kver "$2" /boot/initrd.img`, "sh", root, release)
	s := &dracutSystem{name: "dracut-" + suite, kernel: w.path(suite + "-vmlinuz"), initrd: w.path(suite + "-initrd"), cmdline: dracutCmdline}
	w.run(t, "mv", kernels[0], s.kernel)
	w.run(t, "mv", filepath.Join(root, "boot/initrd.img"), s.initrd)
	w.mkimage(t, "disk", "-from", root, "-size", "768M", "-out", w.path(s.name+".img"), "-key-out", w.keyFile(s.name), "-record", w.path(s.name+".json"))
	w.run(t, "rm", "-rf", root)
	return s
}

// register makes an instance of this kernel, initramfs and command line.
func (s *dracutSystem) register(t *testing.T, w *world, cmdline string) string {
	t.Helper()
	out := strings.Fields(w.attestbox(t, append([]string{"verifier", "add-instance", "-id", "new", "-kernel", s.kernel, "-initrd", s.initrd, "-append", cmdline,
		"-disk-key", w.keyFile(s.name), "-header", w.path(s.name + ".json")}, w.seal...)...))
	return out[len(out)-1]
}

// host is what the host does beside starting the VM.
type dracutHost struct {
	cmdline string   // instead of the right one
	id      string   // instead of a registered one
	disks   []string // before and, with "", in place of the right one
	qemu    []string // further arguments
	until   string   // ends the machine when the console shows it; empty: it must power itself off
}

// boot runs the machine and returns its console.
func (s *dracutSystem) boot(t *testing.T, w *world, h dracutHost) (console, id string) {
	t.Helper()
	cmdline := s.cmdline
	if h.cmdline != "" {
		cmdline = h.cmdline
	}
	if id = h.id; id == "" {
		id = s.register(t, w, cmdline)
	}
	dir := t.TempDir()
	disk := filepath.Join(dir, "disk.img")
	w.run(t, "cp", "--sparse=always", w.path(s.name+".img"), disk)
	qemu := filepath.Join(dir, "qemu")
	program := "#!/bin/sh\nexec qemu-system-x86_64 \"$@\""
	for _, a := range h.qemu {
		program += " '" + a + "'"
	}
	if err := os.WriteFile(qemu, []byte(program+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	args := []string{"snp-sim", "run", "-chip", w.path("chip"), "-kernel", s.kernel, "-initrd", s.initrd, "-append", cmdline, "-host-data", id,
		"-vcpu-type", "EPYC-Milan", "-memory", "1G", "-net", "user", "-timeout", "14m", "-qemu", qemu}
	disks := h.disks
	if len(disks) == 0 || disks[0] != "" {
		disks = append([]string{disk}, disks...)
	}
	for _, d := range disks {
		if d != "" {
			args = append(args, "-disk", d)
		}
	}
	return runUntil(t, exec.CommandContext(t.Context(), filepath.Join(w.bin, "attestbox"), args...), h.until), id
}

// refused asserts that nothing was given: the reason is on the console, the
// machine powered itself off, and nothing was asked of whoever sits there.
func refused(t *testing.T, console, code string) {
	t.Helper()
	if !strings.Contains(console, "["+code+"]") {
		t.Errorf("the console does not show %s", code)
	}
	for _, s := range []string{"login:", "Enter passphrase", "Please enter passphrase", "emergency mode", "Press Enter", "dracut:/#", "sh-5", "Give root password", "e2e:"} {
		if strings.Contains(console, s) {
			t.Errorf("the console shows %q", s)
		}
	}
}

// injected are credentials that systemd would import from the host: a file that
// systemd-tmpfiles makes in the real system, by SMBIOS and by fw_cfg.
func injected() []string {
	line := "f " + hostWasHere + " 0644 root root - host"
	return []string{
		"-smbios", "type=11,value=io.systemd.credential.binary:tmpfiles.extra=" + base64.StdEncoding.EncodeToString([]byte(line)),
		"-fw_cfg", "name=opt/io.systemd.credentials/sysctl.extra,string=kernel.sysrq=1",
	}
}

// A real Debian starts, up to its login prompt, from its own initramfs, with
// systemd-cryptsetup opening the disk, though the host passes credentials and
// adds a disk with the root's UUID and label. The verifier has the outcome.
func TestDracutBoots(t *testing.T) { dracutBoots(t, "bookworm") }

func dracutBoots(t *testing.T, suite string) {
	w := theWorld(t)
	s := w.dracut(t, suite)
	console, id := s.boot(t, w, dracutHost{qemu: injected(), disks: []string{w.decoy(t, s)}, until: "attestbox-test login:"})
	for _, want := range []string{
		"is the one that was registered, mounted on /sysroot",
		"counter: the disk was at boot 0, now at 1",
		"outcome: acknowledged, boot 1",
		"e2e: host was here: no, credentials: 0, sysrq: 0, left: 0, /dev/mapper/root",
		"attestbox-test login:",
	} {
		if !strings.Contains(console, want) {
			t.Errorf("the console lacks %q", want)
		}
	}
	show := w.attestbox(t, append(append([]string{"verifier", "instance", "show"}, w.seal...), id)...)
	if !strings.Contains(show, "state        up") {
		t.Errorf("the verifier does not have it up:\n%s", show)
	}
}

// decoy is a disk with a file system of the LUKS header's UUID and the root's label.
func (w *world) decoy(t *testing.T, s *dracutSystem) string {
	t.Helper()
	b, err := os.ReadFile(w.path(s.name + ".json"))
	if err != nil {
		t.Fatal(err)
	}
	var record struct {
		UUID string `json:"uuid"`
	}
	if err := json.Unmarshal(b, &record); err != nil {
		t.Fatal(err)
	}
	img := filepath.Join(t.TempDir(), "decoy.img")
	w.run(t, testenv.Tool(t, "mke2fs", "e2fsprogs"), "-q", "-t", "ext4", "-U", record.UUID, "-L", "root", "-d", w.path("rootfs"), img, "32M")
	return img
}

// A word that would give a shell is refused though it is measured and
// registered, before the network is touched.
func TestDracutForbiddenWord(t *testing.T) {
	w := theWorld(t)
	s := w.dracut(t, "bookworm")
	console, _ := s.boot(t, w, dracutHost{cmdline: dracutCmdline + " rd.break=pre-udev-settle systemd.debug_shell"})
	refused(t, console, "boot-override")
	if strings.Contains(console, "attestbox: network:") {
		t.Error("the network was brought up first")
	}
}

// TestDracutAttacks is the long part: each attack is a boot of its own.
func TestDracutAttacks(t *testing.T) {
	if !testenv.Long() {
		t.Log("nothing: this is for scripts/test.sh long")
		return
	}
	w := theWorld(t)
	s := w.dracut(t, "bookworm")
	t.Run("nobody registered it", func(t *testing.T) {
		console, _ := s.boot(t, w, dracutHost{id: strings.Repeat("ab", 32)})
		refused(t, console, "launch-refused")
	})
	t.Run("another disk in its place", func(t *testing.T) {
		console, id := s.boot(t, w, dracutHost{disks: []string{"", w.decoy(t, s)}})
		refused(t, console, "luks-header-digest")
		show := w.attestbox(t, append(append([]string{"verifier", "instance", "show"}, w.seal...), id)...)
		if !strings.Contains(show, "luks-header-digest") {
			t.Errorf("the verifier did not learn why:\n%s", show)
		}
	})
	t.Run("a break before anything of ours", func(t *testing.T) {
		console, _ := s.boot(t, w, dracutHost{cmdline: dracutCmdline + " rd.break=cmdline rd.shell"})
		refused(t, console+"[none]", "none")
	})
	t.Run("credentials are not forbidden", func(t *testing.T) {
		console, _ := s.boot(t, w, dracutHost{qemu: injected(), cmdline: strings.ReplaceAll(dracutCmdline, "systemd.import_credentials=no ", "")})
		refused(t, console, "boot-parameter")
	})
	t.Run("no file system under the right header", func(t *testing.T) {
		// udev waits for one for ever, and the root's target for ten minutes.
		spoiled := filepath.Join(t.TempDir(), "spoiled.img")
		w.run(t, "cp", w.path(s.name+".img"), spoiled)
		f, err := os.OpenFile(spoiled, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(make([]byte, 7<<20), 1<<20); err != nil {
			t.Fatal(err)
		}
		f.Close()
		console, _ := s.boot(t, w, dracutHost{disks: []string{"", spoiled}})
		refused(t, console+"[none]", "none")
	})
}

// TestDracutOnTrixie is the same on Debian 13: systemd 257, where
// systemd-cryptsetup is a package of its own.
func TestDracutOnTrixie(t *testing.T) {
	if !testenv.Long() {
		t.Log("nothing: this is for scripts/test.sh long")
		return
	}
	dracutBoots(t, "trixie")
}
