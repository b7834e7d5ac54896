package cuse_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"attestbox/internal/snp"
	"attestbox/internal/snpsim"
	"attestbox/internal/snpsim/qemu"
	"attestbox/internal/snpsim/qemu/guesttest"
	"attestbox/internal/snpsim/snpsimtest"
	"attestbox/internal/testenv"
)

// deviceModules are what the simulator image needs on Debian's 6.1 kernel.
var deviceModules = append(append([]string{}, guesttest.Virtio...), "drivers/char/virtio_console", "fs/fuse/fuse", "fs/fuse/cuse")

// simInitramfs is a simulator image: the device's binary as /init, and program
// as /bin/attestbox.
func simInitramfs(t *testing.T, program []byte, modules []string) []byte {
	t.Helper()
	release := filepath.Base(os.Getenv("ATTESTBOX_MODULES"))
	var files []guesttest.File
	var list strings.Builder
	for _, m := range guesttest.Modules(t, modules...) {
		name := filepath.Base(m.Name)
		list.WriteString(name + "\n")
		m.Name = "lib/modules/" + release + "/" + name
		files = append(files, m)
	}
	device := filepath.Join(t.TempDir(), "device")
	cmd := exec.Command("go", "build", "-tags", "simdevice", "-trimpath", "-ldflags=-s -w", "-o", device, ".")
	cmd.Dir = testenv.Root()
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building the device: %v\n%s", err, out)
	}
	b, err := os.ReadFile(device)
	if err != nil {
		t.Fatal(err)
	}
	return guesttest.Initramfs(append(files,
		guesttest.File{Name: "etc/snp-sim/modules", Mode: 0o644, Data: []byte(list.String())},
		guesttest.File{Name: "init", Mode: 0o755, Data: b},
		guesttest.File{Name: "bin/attestbox", Mode: 0o755, Data: program})...)
}

// A real kernel: go-sev-guest's client, unmodified, gets reports, certificates
// and keys from the simulated chip, before and after switch_root.
func TestGuestInQEMU(t *testing.T) {
	kernel := guesttest.Kernel(t)
	initrd := simInitramfs(t, guesttest.Build(t, "testdata/client"), deviceModules)
	p := snpsimtest.PSP(t, snp.Milan)
	g := p.Launch(snpsim.GuestConfig{Measurement: [48]byte{1}, HostData: [32]byte{2}})

	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	vm, err := (&qemu.Machine{
		Kernel: kernel, Initrd: initrd, Append: guesttest.CommandLine + " -- extra",
		Ports: []qemu.Port{{Name: "attestbox.snp-sim", Serve: func(ctx context.Context, c net.Conn) {
			if err := g.Serve(ctx, c); err != nil && ctx.Err() == nil {
				t.Errorf("serving: %v", err)
			}
		}}},
	}).Start(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Stop()
	if err := vm.Wait(); err != nil {
		t.Errorf("the guest ended with %v", err)
	}
	console := strings.ReplaceAll(vm.Console.String(), "\r", "")
	if strings.Contains(console, "FAIL") || !strings.Contains(console, "\ndone\n") {
		t.Fatalf("console:\n%s", console)
	}
	if !strings.Contains(console, `init called as "init" with ["extra"], process 1`) {
		t.Error("init was not called as the kernel calls it")
	}

	rounds := strings.Split(console, "after switch_root")
	if len(rounds) != 2 {
		t.Fatalf("%d rounds", len(rounds))
	}
	var data [64]byte
	copy(data[:], "report data of the test")
	key, err := g.DerivedKey(snpsim.KeyRequest{GuestFieldSelect: snpsim.SelectMeasurement | snpsim.SelectPolicy})
	if err != nil {
		t.Fatal(err)
	}
	driverKey, err := g.DerivedKey(snpsim.KeyRequest{RootKeySelect: 2, VMPL: 1, GuestFieldSelect: snpsim.SelectMeasurement | snpsim.SelectTCB})
	if err != nil {
		t.Fatal(err)
	}
	for i, round := range rounds {
		got := func(name string) []byte {
			for line := range strings.Lines(round) {
				if rest, ok := strings.CutPrefix(line, name+" "); ok {
					b, err := hex.DecodeString(strings.TrimSpace(rest))
					if err != nil {
						t.Errorf("round %d: %s: %v", i, name, err)
					}
					return b
				}
			}
			t.Errorf("round %d: no %q", i, name)
			return nil
		}
		checkReport(t, p, g, got("report"), data, 1)
		checkReport(t, p, g, got("extended"), data, 0)
		if b := got("quote"); len(b) > snp.ReportSize {
			checkReport(t, p, g, b[:snp.ReportSize], data, 0)
		}
		if table := p.CertTable(); !bytes.HasPrefix(got("certs"), table) {
			t.Errorf("round %d: the certificates differ", i)
		}
		if !bytes.Equal(got("key"), key[:]) {
			t.Errorf("round %d: another derived key", i)
		}
		if !bytes.Equal(got("driver-key"), driverKey[:]) {
			t.Errorf("round %d: our own driver got another derived key", i)
		}
		for _, want := range []string{
			"msg_key_req error: invalid parameters",
			"unknown ioctl: ENOTTY,", "no room: EIO, exit info 0x100000000, certs_len [0 32 0 0]",
			"version 0: EINVAL,", "no response: EINVAL,", "bad address: EFAULT", "read: true",
		} {
			if !strings.Contains(round, want) {
				t.Errorf("round %d lacks %q", i, want)
			}
		}
	}
	if t.Failed() {
		t.Logf("console:\n%s", console)
	}
}

// Without the module the image ends with one line and no shell.
func TestGuestWithoutCUSE(t *testing.T) {
	kernel := guesttest.Kernel(t)
	initrd := simInitramfs(t, nil, deviceModules[:len(deviceModules)-2])
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	vm, err := (&qemu.Machine{
		Kernel: kernel, Initrd: initrd, Append: guesttest.CommandLine,
		Ports: []qemu.Port{{Name: "attestbox.snp-sim", Serve: func(ctx context.Context, c net.Conn) { <-ctx.Done() }}},
	}).Start(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Stop()
	if err := vm.Wait(); err != nil {
		t.Errorf("the guest did not power off: %v", err)
	}
	if c := vm.Console.String(); !strings.Contains(c, "is the module cuse in the image?") || !strings.Contains(c, "powering off") {
		t.Errorf("console:\n%s", c)
	}
}
