package unlockluks

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"attestbox/internal/applet"
	"attestbox/internal/luks"
	"attestbox/internal/secret"
)

const testUUID = "01234567-89ab-cdef-0123-456789abcdef"

// fixture is a disk image with its record and key.
type fixture struct {
	dir, img, record string
	header           []byte
	key              *secret.Bytes
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{dir: t.TempDir(), key: secret.Random(32)}
	t.Cleanup(f.key.Zero)
	header, v, record, err := luks.Format(f.key, luks.Params{UUID: testUUID, Integrity: luks.IntegrityNone})
	if err != nil {
		t.Fatal(err)
	}
	v.Close()
	f.header = header
	text, err := json.Marshal(record)
	if err != nil {
		t.Fatal(err)
	}
	f.img = f.write(t, "disk.img", append(bytes.Clone(header), make([]byte, 1<<20)...))
	f.record = f.write(t, "disk.json", text)
	return f
}

func (f *fixture) write(t *testing.T, name string, b []byte) string {
	t.Helper()
	p := filepath.Join(f.dir, name)
	if err := os.WriteFile(p, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

// call runs the applet and gives stdout, what it prints about its error, and the exit code.
func call(stdin io.Reader, args ...string) (stdout, stderr string, exit int) {
	var out, errs bytes.Buffer
	env := &applet.Env{Name: "unlock-luks", Stdin: stdin, Stdout: &out, Stderr: &errs, Getenv: func(string) string { return "" }}
	err := Applet.Run(context.Background(), env, args)
	applet.Print(&errs, env.Name, err)
	return out.String(), errs.String(), applet.ExitCode(err)
}

func TestRecordAndCheck(t *testing.T) {
	f := newFixture(t)
	out, errs, exit := call(nil, "record", f.img)
	want, _ := os.ReadFile(f.record)
	var a, b any
	if exit != 0 || json.Unmarshal([]byte(out), &a) != nil || json.Unmarshal(want, &b) != nil {
		t.Fatalf("exit %d, %s%s", exit, out, errs)
	}
	if x, y := mustJSON(a), mustJSON(b); x != y {
		t.Errorf("record %s, want %s", x, y)
	}
	for _, args := range [][]string{{"check", f.img}, {"check", "-record", f.record, f.img}} {
		out, errs, exit := call(nil, args...)
		if exit != 0 || strings.Contains(out, "FAIL") || strings.Contains(out, "skip") || !strings.Contains(out, "pass  luks-cipher") {
			t.Errorf("%q: exit %d\n%s%s", args, exit, out, errs)
		}
	}
	bad := bytes.Clone(f.header)
	bad[7] = 1
	p := f.write(t, "bad", bad)
	out, errs, exit = call(nil, "check", "-record", f.record, p)
	if exit != 3 || !strings.Contains(out, "FAIL  luks-header-digest") || !strings.Contains(out, "FAIL  luks-version") || !strings.Contains(out, "skip  luks-cipher") || !strings.Contains(errs, "[luks-header-digest]") {
		t.Errorf("exit %d\n%s%s", exit, out, errs)
	}
	if out, errs, exit = call(nil, "record", p); exit != 3 || out != "" || !strings.Contains(errs, "[luks-version]") {
		t.Errorf("exit %d\n%s%s", exit, out, errs)
	}
	for _, junk := range [][]byte{nil, []byte("x"), bytes.Repeat([]byte("junk"), 1<<18)} {
		if _, errs, exit := call(nil, "check", f.write(t, "junk", junk)); exit != 3 {
			t.Errorf("junk of %d bytes: exit %d\n%s", len(junk), exit, errs)
		}
	}
}

func mustJSON(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
}

func TestOpenRefusals(t *testing.T) {
	f := newFixture(t)
	other := newFixture(t)
	unknown := f.write(t, "unknown.json", []byte(`{"digest":"x","surprise":1}`))
	null := f.write(t, "null.json", bytes.Replace(must(os.ReadFile(f.record)), []byte("aes-xts-plain64"), []byte("cipher_null-ecb"), 1))
	big := f.write(t, "big.json", bytes.Repeat([]byte(" "), 70<<10))
	key := func() io.Reader { return bytes.NewReader(f.key.Bytes()) }
	for _, tc := range []struct {
		name  string
		stdin io.Reader
		args  []string
		exit  int
		want  string
	}{
		// The image passes everything but is no block device: the last step.
		{"a file", key(), []string{"-record", f.record, f.img, "root"}, 1, "no block device"},
		{"wrong key", strings.NewReader(strings.Repeat("x", 32)), []string{"-record", f.record, f.img, "root"}, 3, "[luks-wrong-key]"},
		{"key with a line end", io.MultiReader(key(), strings.NewReader("\n")), []string{"-record", f.record, f.img, "root"}, 3, "[luks-wrong-key]"},
		{"another valid disk", key(), []string{"-record", f.record, other.img, "root"}, 3, "[luks-header-digest]"},
		{"no key", strings.NewReader(""), []string{"-record", f.record, f.img, "root"}, 1, "it is empty"},
		{"endless key", strings.NewReader(strings.Repeat("x", 5000)), []string{"-record", f.record, f.img, "root"}, 1, "longer than allowed"},
		{"no record", key(), []string{f.img, "root"}, 2, "for example"},
		{"missing record", key(), []string{"-record", f.record + "x", f.img, "root"}, 1, "reading header record"},
		{"unknown field", key(), []string{"-record", unknown, f.img, "root"}, 3, "[luks-record]"},
		{"null cipher in the record", key(), []string{"-record", null, f.img, "root"}, 3, "[luks-record]"},
		{"huge record", key(), []string{"-record", big, f.img, "root"}, 3, "[luks-record]"},
		{"no device", key(), []string{"-record", f.record, f.img + "x", "root"}, 1, "no such file"},
		{"no name", key(), []string{"-record", f.record, f.img}, 2, "required"},
		{"bad name", key(), []string{"-record", f.record, f.img, "../x"}, 2, "mapping name"},
		{"stdout as key", key(), []string{"-record", f.record, "-key-fd", "1", f.img, "root"}, 2, "-key-fd 1"},
		{"check nothing", nil, []string{"check"}, 2, "required"},
		{"check a missing file", nil, []string{"check", f.img + "x"}, 1, "no such file"},
		{"record two", nil, []string{"record", "a", "b"}, 2, "required"},
	} {
		out, errs, exit := call(tc.stdin, tc.args...)
		if exit != tc.exit || !strings.Contains(errs, tc.want) || out != "" {
			t.Errorf("%s: exit %d, want %d and %q\n%s%s", tc.name, exit, tc.exit, tc.want, out, errs)
		}
		if strings.Contains(errs, string(f.key.Bytes())) {
			t.Errorf("%s: the key is printed", tc.name)
		}
	}
}

// The key may come on a descriptor of its own.
func TestKeyDescriptor(t *testing.T) {
	f := newFixture(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	w.Write(f.key.Bytes())
	w.Close()
	defer r.Close()
	fd, err := unix.Dup(int(r.Fd())) // the applet closes it
	if err != nil {
		t.Fatal(err)
	}
	_, errs, exit := call(strings.NewReader("not the key"), "-record", f.record, "-key-fd", itoa(fd), f.img, "root")
	if exit != 1 || !strings.Contains(errs, "no block device") {
		t.Errorf("exit %d\n%s", exit, errs)
	}
}

func TestHelp(t *testing.T) {
	for _, args := range [][]string{{"-h"}, {"check", "-h"}, {"record", "-h"}} {
		if out, _, exit := call(nil, args...); exit != 0 || !strings.Contains(out, "usage: unlock-luks") {
			t.Errorf("%q: exit %d\n%s", args, exit, out)
		}
	}
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

func itoa(n int) string { return mustJSON(n) }
