package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"attestbox/internal/measure"
	"attestbox/internal/testenv"
)

// TestReadmeCommands runs the commands of the README's "On a real SNP host",
// each as it stands there, in one shell. What differs from a real host is said
// here: the simulator's root and device are added, a port that is free and a
// private folder for secrets are put in, the QEMU that mkimage launch names is a
// script that hands kernel, initramfs, command line, firmware, disk and HOST_DATA to the
// simulator, and the firmware is the synthetic one.
func TestReadmeCommands(t *testing.T) {
	w := theWorld(t)
	commands := readmeCommands(t)
	if n := len(commands); n > 10 {
		t.Errorf("the README needs %d commands, at most 10 are allowed", n)
	}

	dir := t.TempDir()
	for _, link := range [][2]string{{w.path("rootfs-readme"), "rootfs"},
		{filepath.Join(testenv.Root(), "docs"), "docs"}, {w.path("chip"), "chip"}} {
		if err := os.Symlink(link[0], filepath.Join(dir, link[1])); err != nil {
			t.Fatal(err)
		}
	}
	w.run(t, filepath.Join(testenv.Root(), "demo", "rootfs.sh"), os.Getenv("ATTESTBOX_BUSYBOX"), w.path("rootfs-readme"))
	w.write(t, filepath.Join(dir, "OVMF.amdsev.fd"), measure.SyntheticFirmware())
	shims := t.TempDir()
	w.shim(t, filepath.Join(shims, "make"), "#!/bin/sh\ncp -r "+w.bin+" bin\n") // already built
	shim, err := os.ReadFile("testdata/qemu-shim.sh")
	if err != nil {
		t.Fatal(err)
	}
	w.shim(t, filepath.Join(shims, "qemu-shim"), string(shim))

	secrets, err := os.MkdirTemp("/dev/shm", "attestbox-readme-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(secrets)
	replace := strings.NewReplacer(
		"/boot/vmlinuz-$R", w.kernel, "/lib/modules/$R", w.modules,
		"/dev/shm/attestbox", filepath.Join(secrets, "s"),
		"8451", freePort(t),
		"verifier init", "verifier init -root chip/ark.pem",
		"mkimage build", "mkimage build -sim-device bin/snp-sim-device",
		"-size 2G", "-size 32M",
		"0.0.0.0", "127.0.0.1",
		"mkimage launch", "mkimage launch -memory 512M -qemu qemu-shim")
	script := "set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n"
	for i, c := range commands {
		script += fmt.Sprintf("echo '>>> %d' >&2\n%s\n", i+1, replace.Replace(c))
		if strings.HasPrefix(c, "sed ") { // the address that the template names
			script += "sed -i 's/:8451/:" + strings.TrimPrefix(replace.Replace(":8451"), ":") + "/' init.json\n"
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+shims+":"+os.Getenv("PATH"))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = 10 * time.Second
	err = cmd.Run()
	t.Logf("%s", out.String())
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), upLine) {
		t.Error("the real system did not come up")
	}
	if !strings.Contains(out.String(), "committed 1") {
		t.Error("the last command does not show the boot")
	}
}

func (w *world) shim(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

func readmeCommands(t *testing.T) []string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(testenv.Root(), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok1 := strings.Cut(string(b), "<!-- commands:begin -->\n```\n")
	block, _, ok2 := strings.Cut(rest, "\n```\n<!-- commands:end -->")
	if !ok1 || !ok2 {
		t.Fatal("the README's command block was not found")
	}
	return strings.Split(block, "\n")
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}
