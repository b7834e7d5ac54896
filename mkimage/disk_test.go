package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"attestbox/internal/applet"
	"attestbox/internal/luks"
	"attestbox/internal/secret"
	"attestbox/internal/testenv"
	"attestbox/internal/verity"
	"attestbox/internal/wire"
)

func callDisk(stdin io.Reader, environ map[string]string, args ...string) (stdout, stderr string, exit int) {
	var out, errs bytes.Buffer
	env := &applet.Env{Name: "mkimage disk", Stdin: stdin, Stdout: &out, Stderr: &errs, Getenv: func(k string) string { return environ[k] }}
	err := runDisk(context.Background(), env, args)
	applet.Print(&errs, env.Name, err)
	return out.String(), errs.String(), applet.ExitCode(err)
}

func diskSource(t *testing.T) (dir, src string) {
	t.Helper()
	testenv.Tool(t, "mke2fs", "e2fsprogs")
	testenv.Tool(t, "debugfs", "e2fsprogs")
	dir = t.TempDir()
	src = filepath.Join(dir, "src")
	if err := os.Mkdir(src, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(src, "hello"), []byte("hello\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir, src
}

func TestDisk(t *testing.T) {
	dir, src := diskSource(t)
	shm, err := os.MkdirTemp("/dev/shm", "attestbox-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(shm)
	img, keyFile := filepath.Join(dir, "disk.img"), filepath.Join(shm, "key")
	record, header := filepath.Join(dir, "record"), filepath.Join(dir, "header")
	out, errs, exit := callDisk(nil, map[string]string{"SOURCE_DATE_EPOCH": "1600000000"},
		"-from", src, "-size", "16M", "-out", img, "-key-out", keyFile, "-record", record, "-header", header, "-label", "root",
		"-uuid", "01234567-89AB-cdef-0123-456789abcdef", "-header-size", "2M", "-sector-size", "512")
	if exit != 0 || out != "" || !strings.Contains(errs, "header digest") {
		t.Fatalf("exit %d\n%s%s", exit, out, errs)
	}
	var rec wire.HeaderRecord
	text, err := os.ReadFile(record)
	if err != nil || json.Unmarshal(text, &rec) != nil {
		t.Fatalf("%s %v", text, err)
	}
	if rec.SegmentOffset != 2<<20 || rec.SectorSize != 512 || rec.UUID != "01234567-89ab-cdef-0123-456789abcdef" || rec.Integrity != "hmac-sha256" || rec.KeyBytes != 96 || !strings.Contains(errs, "integrity hmac-sha256") {
		t.Errorf("record %+v", rec)
	}
	kb, err := os.ReadFile(keyFile)
	if err != nil || len(kb) != 32 {
		t.Fatalf("key of %d bytes, %v", len(kb), err)
	}
	key := secret.Take(kb)
	defer key.Zero()
	for _, name := range []string{img, header} { // a detached copy opens as well
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		v, err := luks.Open(f, &rec, key)
		f.Close()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		v.Close()
	}
	// Neither key nor disk is overwritten.
	if _, errs, exit := callDisk(nil, nil, "-from", src, "-size", "16M", "-out", img+"2", "-key-out", keyFile); exit != 1 || !strings.Contains(errs, "never overwritten") {
		t.Errorf("existing key: exit %d\n%s", exit, errs)
	}
	if _, errs, exit := callDisk(bytes.NewReader(key.Bytes()), nil, "-from", src, "-size", "16M", "-out", img, "-key", "-"); exit != 1 || !strings.Contains(errs, "-force") {
		t.Errorf("existing disk: exit %d\n%s", exit, errs)
	}
	out, errs, exit = callDisk(bytes.NewReader(key.Bytes()), nil, "-from", src, "-size", "16M", "-out", img, "-key", "-", "-force", "-record", "-")
	if exit != 0 || json.Unmarshal([]byte(out), &rec) != nil {
		t.Errorf("-force: exit %d\n%s%s", exit, out, errs)
	}
	out, errs, exit = callDisk(bytes.NewReader(key.Bytes()), nil, "-empty", "-no-integrity", "-size", "16M", "-out", img, "-key", "-", "-force", "-record", "-")
	if exit != 0 || json.Unmarshal([]byte(out), &rec) != nil || rec.Integrity != "none" || rec.KeyBytes != 64 || !strings.Contains(errs, "integrity none") {
		t.Errorf("-no-integrity: exit %d, record %+v\n%s", exit, rec, errs)
	}
	// A failure after the key was made leaves no key behind.
	if _, errs, exit := callDisk(nil, nil, "-from", src+"x", "-size", "16M", "-out", img+"3", "-key-out", keyFile+"3"); exit != 1 {
		t.Errorf("missing source: exit %d\n%s", exit, errs)
	}
	// A record that cannot be written leaves disk and key, which belong together.
	if _, errs, exit := callDisk(nil, nil, "-from", src, "-size", "16M", "-out", img+"4", "-key-out", filepath.Join(shm, "4"), "-record", dir); exit != 1 || !strings.Contains(errs, "unlock-luks record") {
		t.Errorf("record is a folder: exit %d\n%s", exit, errs)
	}
	if _, err := os.Stat(filepath.Join(shm, "4")); err != nil {
		t.Error("the key of a written disk is gone")
	}
	if left, _ := filepath.Glob(keyFile + "*"); len(left) != 1 {
		t.Errorf("keys left: %q", left)
	}
}

func TestDiskRefuses(t *testing.T) {
	dir, src := diskSource(t)
	img := filepath.Join(dir, "disk.img")
	persistent := "/usr/attestbox-test-key"
	ok := []string{"-from", src, "-size", "16M", "-out", img}
	for _, tc := range []struct {
		name  string
		stdin string
		args  []string
		exit  int
		want  string
	}{
		{"nothing", "", nil, 2, "for example"},
		{"no key", "", ok, 2, "-key"},
		{"two keys", "", append(ok, "-key", "-", "-key-out", "/dev/shm/x"), 2, "one of"},
		{"short key", "short", append(ok, "-key", "-"), 1, "exactly 32"},
		{"key with a line end", strings.Repeat("k", 32) + "\n", append(ok, "-key", "-"), 1, "exactly 32"},
		{"key on persistent storage", "", append(ok, "-key-out", persistent), 3, "[not-tmpfs]"},
		{"size", "", append(ok, "-key", "-", "-size", "12Q"), 2, "no size"},
		{"size overflow", "", append(ok, "-key", "-", "-size", "9999999999T"), 2, "no size"},
		{"sector size", strings.Repeat("k", 32), append(ok, "-key", "-", "-sector-size", "1000"), 1, "want 512 or 4096"},
		{"integrity and none", "", append(ok, "-key", "-", "-integrity", "hmac-sha256", "-no-integrity"), 2, "exclude each other"},
		{"integrity none", "", append(ok, "-key", "-", "-integrity", "none"), 2, "-no-integrity"},
		{"integrity with nonces", "", append(ok, "-key", "-", "-integrity", "aead-gcm"), 2, "is not written"},
		{"integrity empty", "", append(ok, "-key", "-", "-integrity", ""), 2, "is not written"},
		{"UUID", "", append(ok, "-key", "-", "-uuid", "../x"), 2, "malformed"},
		{"argument", "", append(ok, "-key", "-", "more"), 2, "unexpected"},
		{"no room", strings.Repeat("k", 32), append(ok, "-key", "-", "-size", "2M"), 1, "at least"},
		{"out is a folder", strings.Repeat("k", 32), append(ok, "-key", "-", "-force", "-out", dir), 1, "exists"},
	} {
		_, errs, exit := callDisk(strings.NewReader(tc.stdin), nil, tc.args...)
		if exit != tc.exit || !strings.Contains(errs, tc.want) {
			t.Errorf("%s: exit %d, want %d and %q\n%s", tc.name, exit, tc.exit, tc.want, errs)
		}
	}
	if _, _, exit := callDisk(nil, map[string]string{"SOURCE_DATE_EPOCH": "yesterday"}, append(ok, "-key", "-")...); exit != 2 {
		t.Errorf("SOURCE_DATE_EPOCH: exit %d", exit)
	}
	if _, err := os.Stat(img); err == nil {
		t.Error("a refused call left an image")
	}
}

func TestParseSize(t *testing.T) {
	for in, want := range map[string]int64{
		"1": 1, "4096": 4096, "4K": 4096, "64M": 64 << 20, "2G": 2 << 30, "1T": 1 << 40,
		"": 0, "0": 0, "-1": 0, "M": 0, "1.5M": 0, "1MB": 0, "1m": 0, "0x10": 0, " 1": 0, "9223372036854775807K": 0,
	} {
		got, err := parseSize(in)
		if got != want || (err == nil) != (want != 0) {
			t.Errorf("%q: %d, %v", in, got, err)
		}
	}
}

// A verity root needs no key, and its record tells all that init has to know.
func TestVerityDisk(t *testing.T) {
	dir, src := diskSource(t)
	img, record := filepath.Join(dir, "root.img"), filepath.Join(dir, "root.json")
	out, errs, exit := callDisk(nil, map[string]string{"SOURCE_DATE_EPOCH": "1600000000"},
		"-verity", "-from", src, "-size", "8M", "-out", img, "-record", record, "-salt", strings.Repeat("ab", 32))
	if exit != 0 || out != "" || !strings.Contains(errs, "root hash") {
		t.Fatalf("exit %d\n%s%s", exit, out, errs)
	}
	text, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	rec, err := verity.Parse(text)
	if err != nil || rec.Salt.String() != strings.Repeat("ab", 32) {
		t.Fatalf("%+v, %v", rec, err)
	}
	f, err := os.Open(img)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := rec.CheckDevice(f, 8<<20); err != nil {
		t.Error(err)
	}
	if out, _, exit := callDisk(nil, nil, "-verity", "-from", src, "-size", "8M", "-out", img, "-record", "-", "-force"); exit != 0 || !strings.Contains(out, "root_hash") {
		t.Errorf("exit %d, %q", exit, out)
	}
	for name, args := range map[string][]string{
		"no record":             {"-verity", "-from", src, "-size", "8M", "-out", img + "2"},
		"a key":                 {"-verity", "-from", src, "-size", "8M", "-out", img + "2", "-record", "-", "-key-out", "/dev/shm/none"},
		"an instance":           {"-verity", "-from", src, "-size", "8M", "-out", img + "2", "-record", "-", "-instance", strings.Repeat("ab", 32)},
		"short salt":            {"-verity", "-from", src, "-size", "8M", "-out", img + "2", "-record", "-", "-salt", "abab"},
		"salt without -verity":  {"-from", src, "-size", "16M", "-out", img + "2", "-key", "-", "-salt", strings.Repeat("ab", 32)},
		"integrity with verity": {"-verity", "-from", src, "-size", "8M", "-out", img + "2", "-record", "-", "-integrity", "hmac-sha256"},
	} {
		if _, errs, exit := callDisk(nil, nil, args...); exit != 2 {
			t.Errorf("%s: exit %d, %s", name, exit, errs)
		}
	}
}
