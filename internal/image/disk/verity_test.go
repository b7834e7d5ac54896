package disk

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"attestbox/internal/testenv"
)

// A verity root: the same bytes for the same source, a file system without a
// journal that e2fsck finds clean, and a tree that veritysetup accepts.
func TestBuildVerity(t *testing.T) {
	needTools(t)
	src := testDir(t)
	build := func(o Options) ([]byte, string) {
		t.Helper()
		o.From, o.Size = src, 8<<20
		if o.Out == "" {
			o.Out = filepath.Join(t.TempDir(), "root.img")
		}
		rec, err := BuildVerity(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(o.Out)
		if err != nil || len(b) != 8<<20 || rec.Size() > 8<<20 || rec.HashOffset != rec.DataBlocks*4096 {
			t.Fatalf("%d bytes, %+v, %v", len(b), rec, err)
		}
		return b, rec.RootHash.String()
	}
	img := filepath.Join(t.TempDir(), "root.img")
	a, hash := build(Options{Out: img})
	rec, err := BuildVerity(t.Context(), Options{From: src, Size: 8 << 20, Out: img})
	if err != nil {
		t.Fatal(err)
	}
	if b, again := build(Options{}); again != hash || rec.RootHash.String() != hash || !bytes.Equal(a, b) {
		t.Error("two builds of one source differ")
	}
	for name, o := range map[string]Options{"salt": {Salt: &[32]byte{7}}, "UUID": {UUID: testUUID}, "epoch": {Epoch: time.Unix(1500000000, 0)}} {
		if _, other := build(o); other == hash {
			t.Errorf("another %s, the same root hash", name)
		}
	}
	off := "--hash-offset=" + strconv.FormatUint(rec.HashOffset, 10)
	if out, err := exec.Command(testenv.Tool(t, "veritysetup", "cryptsetup-bin"), "verify", img, img, hash, off).CombinedOutput(); err != nil {
		t.Errorf("veritysetup: %v\n%s", err, out)
	}
	fs := filepath.Join(t.TempDir(), "fs")
	if err := os.WriteFile(fs, a[:rec.HashOffset], 0o600); err != nil {
		t.Fatal(err)
	}
	output(t, "e2fsck", "-fn", fs)
	if out := output(t, "debugfs", "-R", "stats", fs); strings.Contains(out, "has_journal") {
		t.Errorf("it has a journal:\n%s", out)
	}
	if out := output(t, "debugfs", "-R", "cat /etc/motd", fs); !strings.Contains(out, canary) {
		t.Errorf("its files: %s", out)
	}
	for name, o := range map[string]Options{
		"too small": {From: src, Size: 1 << 20}, "odd": {From: src, Size: 8<<20 + 1}, "negative": {From: src, Size: -4096},
		"malformed UUID": {From: src, Size: 8 << 20, UUID: "x"}, "no source": {From: filepath.Join(src, "none"), Size: 8 << 20},
	} {
		o.Out = filepath.Join(t.TempDir(), "x")
		if _, err := BuildVerity(t.Context(), o); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if _, err := os.Stat(o.Out); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: an image was left", name)
		}
	}
}
