package e2e

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"attestbox/internal/snpsim/qemu"
	"attestbox/internal/testenv"
)

// bundles makes, once, a stage 1 and two bundles of the image "tcp": version 1
// by the owner, and version 2 by somebody else.
func (w *world) bundles(t *testing.T) {
	t.Helper()
	if w.images["stage1"] != "" {
		return
	}
	keys := map[string]string{}
	for version, who := range map[string]string{"1": "owner", "2": "stranger"} {
		keys[who] = filepath.Join(w.secrets, who+".key")
		w.mkimage(t, "bundle", "sign", "-new-key", keys[who], "-name", "web", "-version", version, "-image", w.images["tcp"], "-out", w.path(who+".bundle"))
	}
	text, err := os.ReadFile(keys["owner"])
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	owner, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	public := hex.EncodeToString(owner.(ed25519.PrivateKey).Public().(ed25519.PublicKey))
	w.mkimage(t, "bundle", "verify", "-key", public, w.path("owner.bundle"))
	_, port, _ := strings.Cut(w.address, ":")
	config, err := json.Marshal(map[string]any{
		"mode": "bundle", "servers": []string{"tcp://10.0.2.2:" + port}, "pins": []string{w.pin},
		"network": map[string]string{"method": "dhcp"}, "timeout": "2m",
		"bundle": map[string]any{"device": "/dev/vdb", "name": "web", "min_version": 1, "key": public},
	})
	if err != nil {
		t.Fatal(err)
	}
	w.write(t, w.path("stage1.json"), config)
	w.mkimage(t, "build", "-kernel", w.kernel, "-modules-dir", w.modules, "-guest", filepath.Join(w.bin, "attestbox-guest"),
		"-sim-device", filepath.Join(w.bin, "snp-sim-device"), "-config", w.path("stage1.json"),
		"-compress", "none", "-product", "Milan", "-append", "console=ttyS0 loglevel=4 no_timer_check", "-out", w.path("image-stage1"))
	w.images["stage1"] = w.path("image-stage1")
}

// withBundle registers an instance of the stage 1 and a boot of it.
func (w *world) withBundle(t *testing.T, floor, file string) (*boot, string) {
	t.Helper()
	w.bundles(t)
	id := hex.EncodeToString(random(32))
	w.attestbox(t, append([]string{"verifier", "add-instance", "-id", id, "-image", w.images["stage1"], "-bundle-min", floor,
		"-disk-key", w.keyFile("a"), "-header", w.path("a.json")}, w.seal...)...)
	b := w.from(t, "stage1", id, "a")
	b.extra = append(b.extra, "-disk", w.path(file))
	return b, id
}

// The whole way: stage 1 verifies the bundle, the verifier approves it, its
// kernel is started, its init launches under the same REPORT_ID, and the real
// system comes up from the encrypted disk. Then the floor rises: the host goes
// on with the old bundle, and gets no further than stage 1.
func TestBundleBoots(t *testing.T) {
	w := theWorld(t)
	b, id := w.withBundle(t, "1", "owner.bundle")
	console := b.run(t, w)
	for _, line := range []string{"] bundle: web version 1, ", "] attest: approved by ", "] kexec: starting web version 1", "] attest: released by ", upLine} {
		if !strings.Contains(console, line) {
			t.Errorf("no line with %q", line)
		}
	}
	instance := func(args ...string) string {
		t.Helper()
		return w.attestbox(t, append(append([]string{"verifier", "instance", args[0]}, w.seal...), args[1:]...)...)
	}
	if show := instance("show", id); !strings.Contains(show, "bundle version 1, ") || !strings.Contains(show, "committed 1") {
		t.Errorf("the boot's record does not name its bundle:\n%s", show)
	}
	instance("bundle-floor", id, "2")
	console = b.run(t, w)
	if strings.Contains(console, upLine) || strings.Contains(console, "kexec:") || !strings.Contains(console, "[bundle-refused]") {
		t.Error("an old bundle was not refused")
	}
	if why := w.explain(t, console); !strings.Contains(why, "below the instance's floor") {
		t.Errorf("the verifier's reason:\n%s", why)
	}
}

// What a host may put in a bundle's place, and a verifier that does not answer:
// each ends in stage 1, with the machine off and the disk shut.
func TestBundleAttacks(t *testing.T) {
	testenv.OnlyLong(t)
	w := theWorld(t)
	w.bundles(t)
	good, err := os.ReadFile(w.path("owner.bundle"))
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(good, []byte("attestbox e2e image"))
	if at < 0 {
		t.Fatal("the byte to change was not found")
	}
	good[at] ^= 0x20
	w.write(t, w.path("changed.bundle"), good)
	w.write(t, w.path("none.bundle"), make([]byte, 1<<20))
	for file, reason := range map[string]string{
		"changed.bundle":  "[bundle-signature]",
		"stranger.bundle": "[bundle-signature]",
		"none.bundle":     "[bundle-malformed]",
		"silent":          "[boot-timeout]",
	} {
		name := file
		if file == "silent" {
			name = "owner.bundle"
		}
		b, _ := w.withBundle(t, "1", name)
		if file == "silent" {
			w.verifier.Process.Signal(syscall.SIGSTOP)
		}
		console := b.run(t, w)
		w.verifier.Process.Signal(syscall.SIGCONT)
		if strings.Contains(console, upLine) || strings.Contains(console, "kexec:") || !strings.Contains(console, "boot failed: ") {
			t.Errorf("%s: stage 1 went on", file)
		}
		if !strings.Contains(console, reason) && !(file == "silent" && strings.Contains(console, "[unreachable]")) {
			t.Errorf("%s: not refused with %s", file, reason)
		}
	}
}

// A stock Debian as a bundle: its own kernel, of another release than stage 1's,
// its own initramfs, and its login prompt at the end.
func TestBundleDebian(t *testing.T) {
	testenv.OnlyLong(t)
	w := theWorld(t)
	w.bundles(t)
	s := w.debian(t, "bookworm")
	w.write(t, w.path("debian.cmdline"), []byte(s.cmdline))
	w.mkimage(t, "bundle", "sign", "-key", filepath.Join(w.secrets, "owner.key"), "-name", "web", "-version", "3",
		"-kernel", s.kernel, "-initrd", s.initrd, "-cmdline", w.path("debian.cmdline"), "-out", w.path("debian.bundle"))
	id := hex.EncodeToString(random(32))
	w.attestbox(t, append([]string{"verifier", "add-instance", "-id", id, "-image", w.images["stage1"], "-bundle-min", "3",
		"-disk-key", w.keyFile(s.disk), "-header", w.path(s.disk + ".json")}, w.seal...)...)
	b := w.from(t, "stage1", id, s.disk)
	stage1 := *s
	stage1.kernel = b.kernel
	console, err := stage1.boot(t, w, stockRun{initrd: b.initrd, cmdline: b.cmdline, id: id, disks: []string{w.copyOf(t, s.disk), w.path("debian.bundle")},
		seen: func(line string, typed io.Writer, _ *qemu.QMP) bool {
			if strings.Contains(line, loginIssue) {
				io.WriteString(typed, "\n") // the prompt becomes a whole line
			}
			return strings.Contains(line, "attestbox-test login: ")
		}})
	if err != nil {
		t.Error(err)
	}
	noShell(t, console)
	for _, want := range []string{"kexec: starting web version 3", "boot 1 acknowledged", "attestbox-test login: "} {
		if !strings.Contains(console, want) {
			t.Errorf("the console lacks %q", want)
		}
	}
}
