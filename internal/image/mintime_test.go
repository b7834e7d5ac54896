package image

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"attestbox/initramfs/config"
)

// The clock's floor starts at the image's build time where one is known, and
// builds with the same time are the same.
func TestMinTime(t *testing.T) {
	dir, m := inputs(t)
	asWritten, err := os.ReadFile(m.Config)
	ok(t, err)
	const epoch = config.DefaultMinTime + 86400
	floor := func(opt Options) (*Image, []byte, int64) {
		t.Helper()
		img, err := Build(m, opt)
		ok(t, err)
		data := fileIn(t, img, config.Path)
		c, err := config.Parse(data)
		ok(t, err)
		return img, data, c.MinTime
	}
	noted := func(img *Image) bool { return strings.Contains(strings.Join(img.Record.Notes, "\n"), "min_time") }

	if img, data, at := floor(Options{}); !bytes.Equal(data, asWritten) || at != config.DefaultMinTime || noted(img) {
		t.Errorf("without SOURCE_DATE_EPOCH: min_time %d, %q", at, data)
	}
	img, data, at := floor(Options{SourceDateEpoch: epoch})
	if at != epoch || !noted(img) {
		t.Errorf("with it: min_time %d, notes %q, %q", at, img.Record.Notes, data)
	}
	if again, _, _ := floor(Options{SourceDateEpoch: epoch}); !bytes.Equal(again.Initrd, img.Initrd) {
		t.Error("two builds differ")
	}
	// A year before there was an init to boot is no floor.
	if img, data, at := floor(Options{SourceDateEpoch: 1700000000}); !bytes.Equal(data, asWritten) || at != config.DefaultMinTime || noted(img) {
		t.Errorf("an old SOURCE_DATE_EPOCH: min_time %d, %q", at, data)
	}
	// What the owner wrote stands.
	for _, own := range []string{"1800000001", "0"} {
		m.Config = dir + "/own.json"
		text := strings.Replace(string(asWritten), "{", `{"min_time": `+own+`,`, 1)
		ok(t, os.WriteFile(m.Config, []byte(text), 0o644))
		if img, data, _ := floor(Options{SourceDateEpoch: epoch}); string(data) != text || noted(img) {
			t.Errorf("min_time %s: %q", own, data)
		}
	}
}

func fileIn(t *testing.T, img *Image, path string) []byte {
	t.Helper()
	list, err := contents(t, img).Entries()
	ok(t, err)
	for _, e := range list {
		if "/"+e.Path == path {
			return e.Data
		}
	}
	t.Fatalf("the image has no %s", path)
	return nil
}
