package image

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"attestbox/internal/image/imagetest"
	"attestbox/internal/testenv"
)

// tree writes module files: path to .modinfo strings.
func tree(t testing.TB, files map[string][]string, builtin string) *Modules {
	t.Helper()
	dir := t.TempDir()
	for name, info := range files {
		p := filepath.Join(dir, "kernel", name)
		ok(t, os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, pack(t, name, imagetest.Module(info...)), 0o644))
	}
	if builtin != "" {
		ok(t, os.WriteFile(filepath.Join(dir, "modules.builtin"), []byte(builtin), 0o644))
	}
	m, err := OpenModules(dir)
	ok(t, err)
	return m
}

func pack(t testing.TB, name string, data []byte) []byte {
	var out bytes.Buffer
	switch {
	case strings.HasSuffix(name, ".xz"):
		w, err := xz.NewWriter(&out)
		ok(t, err)
		_, err = w.Write(data)
		ok(t, err, w.Close())
	case strings.HasSuffix(name, ".zst"):
		w, err := zstd.NewWriter(&out)
		ok(t, err)
		_, err = w.Write(data)
		ok(t, err, w.Close())
	case strings.HasSuffix(name, ".gz"):
		w := gzip.NewWriter(&out)
		_, err := w.Write(data)
		ok(t, err, w.Close())
	default:
		return data
	}
	return out.Bytes()
}

func names(mods []Module) string {
	var out []string
	for _, m := range mods {
		out = append(out, m.Name)
	}
	return strings.Join(out, " ")
}

func TestClosure(t *testing.T) {
	m := tree(t, map[string][]string{
		"a/dm-mod.ko":         {"depends="},
		"a/dm-crypt.ko.xz":    {"depends=dm-mod,builtin-one"},
		"b/xts.ko.zst":        {"depends=", "softdep=pre: ecb crc32c nosuch post: later"},
		"b/ecb.ko.gz":         {"depends="},
		"b/crc32c_generic.ko": {"depends="},
		"b/later.ko":          {"depends="},
		"c/lost.ko":           {"depends=xts,gone"},
		"d/one.ko":            {"depends=two"},
		"d/two.ko":            {"depends=three"},
		"d/three.ko":          {"depends=one"},
		"e/soft1.ko":          {"softdep=pre: soft2"},
		"e/soft2.ko":          {"softdep=pre: soft1"},
		"f/twice.ko":          {"depends="},
		"g/twice.ko":          {"depends="},
		"h/no-module.ko":      {},
	}, "kernel/x/builtin_one.ko\nkernel/y/ext4.ko\n")
	for _, tc := range []struct{ ask, want, err string }{
		{"dm_crypt", "dm_mod dm_crypt", ""},
		{"dm-crypt dm-mod", "dm_mod dm_crypt", ""},
		{"dm-mod dm-mod", "dm_mod", ""},
		{"xts", "ecb crc32c_generic xts", ""},
		{"ext4", "", ""},
		{"builtin-one", "", ""},
		{"soft1", "soft2 soft1", ""},
		{"", "", ""},
		{"lost", "", `needed by lost: module "gone": no such module`},
		{"nothing", "", `module "nothing": no such module`},
		{"one", "", "in a circle: one -> two -> three -> one"},
		{"twice", "", "there 2 times"},
	} {
		got, err := m.Closure(strings.Fields(tc.ask))
		if tc.err != "" {
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%q: %v, want %q", tc.ask, err, tc.err)
			}
			if missing := strings.Contains(tc.err, "no such"); missing != errors.Is(err, ErrNoModule) {
				t.Errorf("%q: %v", tc.ask, err)
			}
			continue
		}
		if err != nil || names(got) != tc.want {
			t.Errorf("%q: %q, %v; want %q", tc.ask, names(got), err, tc.want)
		}
	}
}

func TestModInfoRefuses(t *testing.T) {
	good := imagetest.Module("depends=a,b-c", "vermagic=1.2 SMP")
	info, err := ParseModInfo("x.ko", good)
	if err != nil || fmt.Sprint(*info) != "{[a b_c] [] [] 1.2 SMP}" {
		t.Fatalf("%v, %v", info, err)
	}
	for name, in := range map[string]struct {
		file string
		data []byte
	}{
		"empty":           {"x.ko", nil},
		"text":            {"x.ko", []byte("hello")},
		"a program":       {"x.ko", imagetest.Program(false)},
		"cut":             {"x.ko", good[:len(good)-70]},
		"not compressed":  {"x.ko.xz", good},
		"not zstd":        {"x.ko.zst", good},
		"not gzip":        {"x.ko.gz", good},
		"unknown ending":  {"x.ko.lz4", good},
		"cut compression": {"x.ko.gz", pack(t, "x.gz", good)[:40]},
	} {
		if _, err := ParseModInfo(in.file, in.data); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestOpenModulesRefuses(t *testing.T) {
	if _, err := OpenModules(t.TempDir()); err == nil {
		t.Error("an empty folder is accepted")
	}
	if _, err := OpenModules("/does/not/exist"); err == nil {
		t.Error("no folder is accepted")
	}
}

// realModules is lib/modules/RELEASE of a real kernel.
func realModules(t testing.TB) string {
	dir := os.Getenv("ATTESTBOX_MODULES")
	if dir == "" {
		testenv.Skip(t, "kernel modules: set ATTESTBOX_MODULES to lib/modules/RELEASE (Debian package linux-image-cloud-amd64, unpacked)")
	}
	return dir
}

// The order of a real kernel's default set is one in which modprobe would load
// it: each module's own dependencies, as modinfo reads them, come before it.
func TestRealModules(t *testing.T) {
	dir := realModules(t)
	modinfo := testenv.Tool(t, "modinfo", "kmod")
	m, err := OpenModules(dir)
	ok(t, err)
	mods, err := m.Closure(append(m.DefaultModules(), simModules...))
	ok(t, err)
	ok(t, m.checkRelease(mods, filepath.Base(dir)))
	done := map[string]bool{}
	for _, mod := range mods {
		out, err := exec.Command(modinfo, "-F", "depends", filepath.Join(dir, mod.Path)).Output()
		ok(t, err)
		for _, d := range strings.FieldsFunc(strings.TrimSpace(string(out)), func(r rune) bool { return r == ',' }) {
			if !done[normal(d)] && !m.builtin[normal(d)] {
				t.Errorf("%s comes before %s, which it needs", mod.Name, d)
			}
		}
		done[mod.Name] = true
	}
	for _, want := range append(slices.Clone(defaultRequired), "cuse", "fuse") {
		if !done[normal(want)] && !m.builtin[normal(want)] {
			t.Errorf("%s is missing", want)
		}
	}
	if err := checkForbidden(mods, true); err != nil {
		t.Error(err)
	}
	if err := checkForbidden(mods, false); err == nil {
		t.Error("fuse and cuse pass as production modules")
	}
	if err := m.checkRelease(mods, "6.1.0-another"); err == nil {
		t.Error("modules of another kernel are accepted")
	}
}

// A compressed archive holds modules unpacked, and its record still names the
// file that they came from; without compression they stay as they are.
func TestModulesUnpacked(t *testing.T) {
	dir, m := inputs(t)
	at := filepath.Join(dir, "lib/modules", imagetest.Release, "kernel/drivers/md/dm-mod.ko")
	raw, err := os.ReadFile(at)
	ok(t, err)
	small := pack(t, ".xz", raw)
	ok(t, os.WriteFile(at+".xz", small, 0o644), os.Remove(at))
	for compression, want := range map[string]struct {
		suffix string
		data   []byte
	}{"": {".ko", raw}, Zstd: {".ko", raw}, Gzip: {".ko", raw}, None: {".ko.xz", small}} {
		m.Compress = compression
		img := build(t, m)
		p := "kernel/drivers/md/dm-mod" + want.suffix
		e, have := contents(t, img).Get("lib/modules/" + imagetest.Release + "/" + p)
		if !have || !bytes.Equal(e.Data, want.data) || !slices.Contains(img.Record.Modules, p) {
			t.Errorf("%q: %v, modules %q", compression, have, img.Record.Modules)
		}
		i := slices.IndexFunc(img.Record.Inputs, func(in Input) bool { return in.Name == "dm-mod.ko.xz" })
		if i < 0 || img.Record.Inputs[i].SHA256 != outputOf(small).SHA256 ||
			img.Record.Inputs[i].inFolder(imagetest.Release) != "kernel/drivers/md/dm-mod.ko.xz" {
			t.Errorf("%q: inputs %+v", compression, img.Record.Inputs)
		}
	}
}
