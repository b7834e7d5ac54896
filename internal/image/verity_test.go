package image

import (
	"os"
	"slices"
	"strings"
	"testing"

	"attestbox/initramfs/config"
	"attestbox/internal/verity"
	"attestbox/internal/wire"
)

// The record of the root goes into the measured configuration, and dm-verity
// with what it needs into the list of modules.
func TestVerityRoot(t *testing.T) {
	dir, m := inputs(t)
	without := build(t, m)
	rec := &verity.Record{RootHash: wire.Hex32{0xab}, Salt: wire.Hex32{0xcd}, DataBlocks: 1000, HashOffset: 4096000}
	write := func(r *verity.Record) {
		t.Helper()
		text, err := r.Marshal()
		ok(t, err)
		m.Verity = dir + "/root.json"
		ok(t, os.WriteFile(m.Verity, text, 0o644))
	}
	write(rec)
	img := build(t, m)
	c, err := config.Parse(fileIn(t, img, config.Path))
	ok(t, err)
	if c.Root.Verity == nil || *c.Root.Verity != *rec {
		t.Errorf("the configuration has %+v", c.Root)
	}
	names := func(img *Image) string { return strings.Join(img.Record.Modules, "\n") }
	verityAt, reedAt := strings.Index(names(img), "dm-verity"), strings.Index(names(img), "reed_solomon")
	if reedAt < 0 || verityAt < reedAt || strings.Contains(names(without), "dm-verity") {
		t.Errorf("modules:\n%s", names(img))
	}
	if !slices.ContainsFunc(img.Record.Inputs, func(i Input) bool { return i.Role == "verity" }) {
		t.Error("the image's record does not name the input")
	}
	if img.Record.Measurement.LaunchDigest == without.Record.Measurement.LaunchDigest {
		t.Error("the launch digest does not cover the root hash")
	}
	rec.RootHash[31] = 1
	write(rec)
	if build(t, m).Record.Measurement.LaunchDigest == img.Record.Measurement.LaunchDigest {
		t.Error("another root hash, the same launch digest")
	}
	// Once only, a root to put it into, and a record that is one.
	ok(t, os.WriteFile(dir+"/with.json", fileIn(t, img, config.Path), 0o644))
	m.Config = dir + "/with.json"
	if _, err := Build(m, Options{}); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("%v", err)
	}
	if _, err := withVerity([]byte(`{"mode":"run"}`), rec); err == nil {
		t.Error("a configuration without a root was accepted")
	}
	ok(t, os.WriteFile(m.Verity, []byte("{}"), 0o644))
	if _, err := Build(m, Options{}); err == nil || !strings.Contains(err.Error(), "root_hash") {
		t.Errorf("%v", err)
	}
}
