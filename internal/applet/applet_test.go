package applet

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"attestbox/internal/code"
	"attestbox/internal/secret"
)

func TestExitAndPrint(t *testing.T) {
	for _, tc := range []struct {
		err  error
		exit int
		want string
	}{
		{nil, 0, ""},
		{ErrHelp, 0, ""},
		{errors.New("boom."), 1, "x: boom\n"},
		{Usage("no %s", "flag"), 2, "x: no flag\n"},
		{WithHint(Refused(code.IDZero, errors.New("no ID")), "set HOST_DATA"), 3, "x: no ID [id-zero]\nx: hint: set HOST_DATA\n"},
		{fmt.Errorf("fetch: %w", Later(code.Unreachable, errors.New("timeout"))), 4, "x: fetch: timeout [unreachable]\n"},
		{WithHint(errors.New("image \x1b]0;x\a\u009b2J\u202e\x00\x9b: no \"Grün\"\n\tline"), "see \x1b[2J"), 1, "x: image ?]0;x??2J??\ufffd: no \"Grün\"\n\tline\nx: hint: see ?[2J\n"},
	} {
		var out bytes.Buffer
		Print(&out, "x", tc.err)
		if got := ExitCode(tc.err); got != tc.exit || out.String() != tc.want {
			t.Errorf("%v: exit %d, printed %q; want %d, %q", tc.err, got, out.String(), tc.exit, tc.want)
		}
	}
}

func TestHelpAndWrongFlag(t *testing.T) {
	var out bytes.Buffer
	env := &Env{Name: "x", Stdout: &out, Stderr: &out}
	fs := env.Flags("[flags] DEVICE", "x -n 1 /dev/vda")
	fs.Int("n", 0, "a number")
	if err := fs.Parse([]string{"-h"}); !errors.Is(err, ErrHelp) {
		t.Fatal(err)
	}
	for _, want := range []string{"usage: x [flags] DEVICE", "x -n 1 /dev/vda", "a number"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("help lacks %q:\n%s", want, out.String())
		}
	}
	if err := fs.Parse([]string{"-nope"}); ExitCode(err) != ExitUsage {
		t.Errorf("wrong flag: %v, exit %d", err, ExitCode(err))
	}
}

func TestSecretFileOnlyOnTmpfs(t *testing.T) {
	key := secret.Copy([]byte("k"))
	defer key.Zero()
	disk := filepath.Join(t.TempDir(), "key")
	if err := CheckTmpfs(filepath.Dir(disk)); err == nil {
		disk = "/usr/attestbox-test-key" // the test's own TMPDIR is a tmpfs
	}
	err := CreateSecretFile(disk, key)
	if c, _ := code.Of(err); c != code.NotTmpfs || ExitCode(err) != ExitRefused {
		t.Errorf("on disk: %v", err)
	}
	if _, err := os.Stat(disk); err == nil {
		t.Error("the refused file exists")
	}
	dir, err := os.MkdirTemp("/dev/shm", "attestbox-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "key")
	if err := CreateSecretFile(path, key); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
}

func TestSecretSink(t *testing.T) {
	key := secret.Copy([]byte("k"))
	defer key.Zero()
	var out bytes.Buffer
	env := &Env{Name: "x", Stdout: &out}
	s, err := env.SecretSink("-", -1)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Put(key); err != nil || out.String() != "k" {
		t.Errorf("%q, %v", out.String(), err)
	}
	if _, err := env.SecretSink("/usr/key", -1); ExitCode(err) != ExitRefused {
		t.Errorf("a file on disk: %v", err)
	}
	disk, err := os.CreateTemp("/var/tmp", "attestbox-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(disk.Name())
	defer disk.Close()
	if CheckTmpfs("/var/tmp") != nil {
		env.Stdout = disk
		if _, err := env.SecretSink("-", -1); ExitCode(err) != ExitRefused {
			t.Errorf("stdout is a file on disk: %v", err)
		}
		fd, err := unix.Dup(int(disk.Fd())) // the sink owns what it is given
		if err != nil {
			t.Fatal(err)
		}
		if _, err := env.SecretSink("-", fd); ExitCode(err) != ExitRefused {
			t.Errorf("the descriptor is a file on disk: %v", err)
		}
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	env.Stdout = w
	if s, err = env.SecretSink("-", -1); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(key); err != nil {
		t.Error(err)
	}
	w.Close()
	env.Stdout = w
	if _, err := env.SecretSink("-", -1); err == nil {
		t.Error("a closed stdout was taken")
	}
	fs := env.Flags("", "x")
	for fd, ok := range map[int]bool{-1: true, 0: false, 1: true, 2: false, 3: true, -2: false} {
		if err := fs.CheckSecretFD(fd, "-"); (err == nil) != ok {
			t.Errorf("-fd %d: %v", fd, err)
		}
	}
	if fs.CheckSecretFD(3, "file") == nil {
		t.Error("-fd and -out together were taken")
	}
}

func TestParseMiB(t *testing.T) {
	for in, want := range map[string]int{"512M": 512, "2G": 2048, "300": 300} {
		if got, err := ParseMiB(in); err != nil || got != want {
			t.Errorf("%q: %d, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "M", "-1M", "0", "1T", "99999999999G"} {
		if got, err := ParseMiB(in); err == nil {
			t.Errorf("%q: %d", in, got)
		}
	}
}
