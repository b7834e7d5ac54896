package image

import (
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
)

// The four files are whole, readable under any umask, and alone: no temporary
// file stays behind. Other files of the folder stay.
func TestWriteDir(t *testing.T) {
	_, m := inputs(t)
	img := build(t, m)
	dir := filepath.Join(t.TempDir(), "a", "b")
	ok(t, os.MkdirAll(dir, 0o755), os.WriteFile(dir+"/disk.img", []byte("disk"), 0o600), os.WriteFile(dir+"/initrd", []byte("old"), 0o600))
	old := syscall.Umask(0o077)
	err := WriteDir(dir, img)
	syscall.Umask(old)
	ok(t, err)
	var names []string
	for _, e := range must(os.ReadDir(dir)) {
		names = append(names, e.Name())
		if st := must(e.Info()); e.Name() != "disk.img" && st.Mode() != 0o644 {
			t.Errorf("%s has mode %v", e.Name(), st.Mode())
		}
	}
	if want := []string{"cmdline", "disk.img", "image.json", "initrd", "vmlinuz"}; !slices.Equal(names, want) {
		t.Errorf("folder holds %v, want %v", names, want)
	}
	if got := string(must(os.ReadFile(dir + "/cmdline"))); got != img.Cmdline {
		t.Errorf("cmdline %q", got)
	}
	r, err := Inspect(dir, nil)
	if err != nil || len(r.Mismatches) != 0 || r.Digest != img.Record.Measurement.LaunchDigest {
		t.Errorf("%v, %v", r, err)
	}
	if err := WriteDir("/dev/null/x", img); err == nil {
		t.Error("a folder below a file is accepted")
	}
}
