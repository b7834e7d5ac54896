package nominate

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"attestbox/internal/applet"
	"attestbox/internal/server"
	"attestbox/internal/snpsim/verifiertest"
	"attestbox/internal/wire"
)

func nothing(*wire.Payload) ([]wire.Hex32, error) { return nil, nil }

// An update's way: nominated, approved, booted, and the old digest is over.
func TestNominate(t *testing.T) {
	w := verifiertest.New(t)
	id := w.Add(nil, nil)
	vm := w.Launch(id, verifiertest.Digest)
	if err := vm.Boot(nothing); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, text := range map[string]string{"vmlinuz": "kernel", "initrd": "initramfs", "cmdline": "root=/dev/mapper/root\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	next := [48]byte{7}
	var out, talk bytes.Buffer
	call := func(vm *verifiertest.VM, args ...string) (string, error) {
		t.Helper()
		out.Reset()
		talk.Reset()
		env := &applet.Env{Name: "nominate", Stdin: strings.NewReader(""), Stdout: &out, Stderr: &talk}
		all := append([]string{"-server", w.Addr, "-pin", w.Server.Pin().String()}, args...)
		err := run(context.Background(), env, all, vm.Open)
		return strings.TrimSpace(out.String()), err
	}
	full := []string{"-digest", strings.ToUpper(wire.DigestText(next)), "-kernel", dir + "/vmlinuz", "-initrd", dir + "/initrd", "-cmdline", dir + "/cmdline", "-source", "linux-image 6.12.48-1"}
	got, err := call(vm, full...)
	if err != nil || got != "pending" || !strings.Contains(talk.String(), "instance approve "+id.String()) {
		t.Fatalf("%q, %v, %s", got, err, &talk)
	}
	n := w.Instance(id).Nominations
	if len(n) != 1 || n[0].Digest != wire.DigestText(next) || n[0].Kernel != sha256.Sum256([]byte("kernel")) ||
		n[0].Cmdline != sha256.Sum256([]byte("root=/dev/mapper/root")) || n[0].Source != "linux-image 6.12.48-1" {
		t.Errorf("kept %+v", n)
	}
	w.Edit(id, func(i *server.Instance) { i.MayNominate = true })
	if got, err := call(vm, full...); err != nil || got != "allowed" {
		t.Errorf("%q, %v", got, err)
	}
	up := w.Launch(id, next)
	if err := up.Boot(nothing); err != nil {
		t.Fatal(err)
	}
	if err := w.Launch(id, verifiertest.Digest).Boot(nothing); err == nil {
		t.Error("the old digest booted after the new one")
	}
	// The VM of the old digest is not the current one any more.
	if _, err := call(vm, full...); applet.ExitCode(err) != applet.ExitRefused {
		t.Errorf("by the old VM: %v", err)
	}
	for what, args := range map[string][]string{
		"nothing":      {},
		"short digest": append([]string{"-digest", "ab"}, full[2:]...),
		"no kernel":    append(append([]string{}, full[:2]...), full[4:]...),
		"no source":    full[:8],
		"escape":       append(append([]string{}, full[:8]...), "-source", "\x1b[2J"),
		"an operand":   append(append([]string{}, full...), "x"),
	} {
		if _, err := call(up, args...); applet.ExitCode(err) != applet.ExitUsage {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := call(up, append(append([]string{}, full...), "-kernel", dir+"/none")...); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a kernel that is not there: %v", err)
	}
}
