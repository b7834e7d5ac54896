package unlockluks

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"attestbox/internal/applet"
	"attestbox/internal/code"
	"attestbox/internal/luks"
	"attestbox/internal/platform"
	"attestbox/internal/secret"
	"attestbox/internal/server"
	"attestbox/internal/snpsim/verifiertest"
	"attestbox/internal/testenv"
	"attestbox/internal/wire"
)

const passphrase = "an installer's passphrase"

// installed is a disk as an installer makes it.
func installed(t *testing.T) (img string) {
	t.Helper()
	img = filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(img, make([]byte, 17<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	crypt(t, true, passphrase, "luksFormat", "--batch-mode", "--type", "luks2", "--pbkdf", "argon2id", "--pbkdf-force-iterations", "4", "--pbkdf-memory", "64", img, "-")
	return img
}

// crypt runs cryptsetup with in on its stdin.
func crypt(t *testing.T, ok bool, in string, args ...string) {
	t.Helper()
	cmd := exec.Command(testenv.Tool(t, "cryptsetup", "cryptsetup-bin"), args...)
	cmd.Stdin = strings.NewReader(in)
	out, err := cmd.CombinedOutput()
	if (err == nil) != ok {
		t.Fatalf("cryptsetup %s: %v, want %v\n%s", args[0], err, ok, out)
	}
}

type shell struct{ out, talk bytes.Buffer }

type command func(context.Context, *applet.Env, []string, opener) error

func (c *shell) run(f command, in string, open opener, args ...string) error {
	c.out.Reset()
	c.talk.Reset()
	env := &applet.Env{Name: "unlock-luks", Stdin: strings.NewReader(in), Stdout: &c.out, Stderr: &c.talk}
	err := f(context.Background(), env, args, open)
	applet.Print(&c.talk, env.Name, err)
	return err
}

func shm(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "attestbox-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func noChip() (platform.Platform, error) { panic("offline") }

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestEnrollOffline(t *testing.T) {
	img, dir, ram := installed(t), t.TempDir(), shm(t)
	backup, key := filepath.Join(dir, "header"), filepath.Join(ram, "key")
	was := read(t, img)
	var c shell
	if err := c.run(enroll, "a wrong one\n", noChip, "-backup", backup, "-key-out", key, img); applet.ExitCode(err) != applet.ExitRefused || !bytes.Equal(read(t, img), was) {
		t.Fatalf("wrong passphrase: %v", err)
	}
	// The backup and the key of that call are there, and are used.
	first := read(t, key)
	if err := c.run(enroll, passphrase+"\n", noChip, "-backup", backup, "-key-out", key, img); err != nil {
		t.Fatal(&c.talk)
	}
	if !bytes.Equal(read(t, key), first) || !strings.Contains(c.talk.String(), "already, and stays") {
		t.Errorf("the second call made another key or backup: %s", &c.talk)
	}
	var rec wire.HeaderRecord
	if err := json.Unmarshal(c.out.Bytes(), &rec); err != nil {
		t.Fatal(err)
	}
	after := read(t, img)
	v, err := luks.Open(bytes.NewReader(after), &rec, secret.Copy(first))
	if err != nil {
		t.Fatal(err)
	}
	v.Close()
	if st, err := os.Stat(backup); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("backup: %v, %v", st.Mode(), err)
	}
	if got := read(t, backup); !bytes.Equal(got, was[:len(got)]) || int64(len(got)) != rec.Size {
		t.Error("the backup is not the header as it was")
	}
	if !bytes.Equal(after[rec.Size:], was[rec.Size:]) {
		t.Error("the data was changed")
	}
	crypt(t, true, string(first), "open", "--test-passphrase", "--key-file", "-", img)
	crypt(t, false, passphrase, "open", "--test-passphrase", img)
	// Once more: nothing is left to do.
	if err := c.run(enroll, passphrase, noChip, "-backup", backup, "-key-out", key, img); err != nil || !bytes.Equal(read(t, img), after) {
		t.Errorf("again: %v", err)
	}
	// With the backup the disk is what it was.
	f, err := os.OpenFile(img, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(read(t, backup)); err != nil {
		t.Fatal(err)
	}
	f.Close()
	crypt(t, true, passphrase, "open", "--test-passphrase", img)
}

// What keeps a header from being enrolled is named, with what to do.
func TestEnrollNamesRules(t *testing.T) {
	ram := shm(t)
	for _, tc := range []struct {
		name   string
		change []string
		in     string
		code   code.Code
		hint   string
	}{
		{"token", []string{"token", "add", "--key-description", "x"}, "", code.LUKSTokens, "cryptsetup token remove"},
		{"second keyslot", []string{"luksAddKey", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"}, passphrase + "\nother\n", code.LUKSObjects, "cryptsetup luksKillSlot"},
		{"priority", []string{"config", "--priority", "prefer", "--key-slot", "0"}, "", code.LUKSKeyslot, "--priority normal"},
		{"sha512", []string{"luksConvertKey", "--hash", "sha512", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"}, passphrase, code.LUKSKDF, "luksConvertKey"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			img := installed(t)
			crypt(t, true, tc.in, append(tc.change, img)...)
			was := read(t, img)
			var c shell
			backup := filepath.Join(t.TempDir(), "header")
			err := c.run(enroll, passphrase, noChip, "-backup", backup, "-key-out", ram+"/"+tc.name, img)
			if applet.ExitCode(err) != applet.ExitRefused || !strings.Contains(c.talk.String(), string(tc.code)) || !strings.Contains(c.talk.String(), tc.hint) {
				t.Errorf("said %s", &c.talk)
			}
			if _, err := os.Stat(backup); err == nil || !bytes.Equal(read(t, img), was) {
				t.Error("something was written")
			}
		})
	}
	var c shell
	img := installed(t)
	for what, args := range map[string][]string{
		"no backup":        {"-key-out", ram + "/k", img},
		"both":             {"-backup", ram + "/b", "-register", "-key-out", ram + "/k", img},
		"neither":          {"-backup", ram + "/b", img},
		"no device":        {"-backup", ram + "/b", "-register"},
		"key on stdout":    {"-backup", ram + "/b", "-register", "-key-fd", "1", img},
		"two devices":      {"-backup", ram + "/b", "-register", img, img},
		"an argument more": {"-backup", ram + "/b", "-register", img, "x"},
	} {
		if err := c.run(enroll, passphrase, noChip, args...); applet.ExitCode(err) != applet.ExitUsage {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := c.run(enroll, passphrase, noChip, "-backup", ram+"/b", "-key-out", "/usr/key", img); applet.ExitCode(err) != applet.ExitRefused {
		t.Errorf("a key on a disk: %v", err)
	}
	// A file that is there and is no backup of this disk stays.
	if err := os.WriteFile(ram+"/precious", []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.run(enroll, passphrase, noChip, "-backup", ram+"/precious", "-key-out", ram+"/k", img); err == nil || string(read(t, ram+"/precious")) != "precious" {
		t.Errorf("overwritten: %v", err)
	}
}

// The whole life over the channel: enrolled, rotated, re-registered.
func TestRekeyOverTheChannel(t *testing.T) {
	w := verifiertest.New(t)
	id := w.Add(nil, nil)
	img := installed(t)
	open := func(p *wire.Payload) ([]wire.Hex32, error) {
		if len(p.Headers) == 0 {
			return nil, nil
		}
		v, err := luks.Open(bytes.NewReader(read(t, img)), &p.Headers[0], p.DiskKey)
		if err != nil {
			return nil, err
		}
		v.Close()
		return []wire.Hex32{v.HeaderDigest}, nil
	}
	boot := func() *verifiertest.VM {
		t.Helper()
		vm := w.Launch(id, verifiertest.Digest)
		if err := vm.Boot(open); err != nil {
			t.Fatal(err)
		}
		return vm
	}
	ask := []string{"-server", w.Addr, "-pin", w.Server.Pin().String()}
	var c shell
	vm := boot()
	args := append([]string{"-backup", filepath.Join(t.TempDir(), "header"), "-register"}, ask...)
	if err := c.run(enroll, passphrase+"\n", vm.Open, append(args, img)...); applet.ExitCode(err) != applet.ExitRefused || !strings.Contains(c.talk.String(), "instance rotate") {
		t.Errorf("without the owner's word: %s", &c.talk)
	}
	w.Edit(id, func(i *server.Instance) { i.MayRotate = true })
	if err := c.run(enroll, passphrase+"\n", vm.Open, append(args, img)...); err != nil {
		t.Fatal(&c.talk)
	}
	crypt(t, false, passphrase, "open", "--test-passphrase", img)
	vm = boot()
	before := read(t, img)
	if err := c.run(rotate, "", vm.Open, append(append([]string{}, ask...), img)...); err != nil {
		t.Fatal(&c.talk)
	}
	if bytes.Equal(read(t, img), before) {
		t.Error("nothing was rotated")
	}
	vm = boot()
	if err := c.run(register, "", vm.Open, append(append([]string{}, ask...), img)...); err != nil {
		t.Fatal(&c.talk)
	}
	if h := w.Instance(id).Headers; len(h) != 1 {
		t.Errorf("records %+v", h)
	}
	if err := c.run(rotate, "", vm.Open, append(append([]string{"-abort"}, ask...), img)...); applet.ExitCode(err) != applet.ExitRefused {
		t.Errorf("took back what is over: %v", err)
	}
	// The disk of another VM: neither its key nor its record.
	other := installed(t)
	if err := c.run(rotate, "", vm.Open, append(append([]string{}, ask...), other)...); applet.ExitCode(err) != applet.ExitRefused || !strings.Contains(c.talk.String(), "luks-header-digest") {
		t.Errorf("another disk: %s", &c.talk)
	}
}

func TestRotateOffline(t *testing.T) {
	img, ram := installed(t), shm(t)
	for name, b := range map[string][]byte{"old": []byte(passphrase), "new": secret.Random(32).Bytes(), "text": bytes.Repeat([]byte("x"), 40)} {
		if err := os.WriteFile(filepath.Join(ram, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var c shell
	if err := c.run(rotate, "", noChip, "-key", ram+"/old", "-new-key", ram+"/text", img); err == nil || !strings.Contains(c.talk.String(), "text, want random") {
		t.Errorf("a new key that is a text: %s", &c.talk)
	}
	if err := c.run(rotate, "", noChip, "-key", ram+"/new", "-new-key", ram+"/new", img); applet.ExitCode(err) != applet.ExitRefused {
		t.Errorf("a wrong key: %v", err)
	}
	if err := c.run(rotate, "", noChip, "-key", ram+"/old", "-new-key", ram+"/new", img); err != nil {
		t.Fatal(&c.talk)
	}
	crypt(t, true, string(read(t, ram+"/new")), "open", "--test-passphrase", "--key-file", "-", img)
	crypt(t, false, passphrase, "open", "--test-passphrase", img)
	for what, args := range map[string][]string{"one key": {"-key", ram + "/old", img}, "abort": {"-abort", "-key", ram + "/old", "-new-key", ram + "/new", img}, "nothing": {}} {
		if err := c.run(rotate, "", noChip, args...); applet.ExitCode(err) != applet.ExitUsage {
			t.Errorf("%s: %v", what, err)
		}
	}
}
