package dm

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"attestbox/internal/verity"
	"attestbox/internal/wire"
)

func TestVerityTable(t *testing.T) {
	r := &verity.Record{RootHash: wire.Hex32{0xab, 31: 1}, Salt: wire.Hex32{0xcd}, DataBlocks: 300, HashOffset: 400 * 4096}
	got := verityTable("root", 254, 16, r, verityOptions[1])
	want := table{
		uuid: "CRYPT-VERITY-ab" + strings.Repeat("0", 30) + "-root",
		target: target{0, 2400, "verity", "1 254:16 254:16 4096 4096 300 401 sha256 ab" + strings.Repeat("0", 60) + "01 cd" + strings.Repeat("0", 62) +
			" 1 panic_on_corruption"},
		status: "V", readOnly: true,
	}
	if got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	for release, want := range map[string]bool{"6.12.95+deb12-cloud-amd64": true, "6.12": true, "7.0.1": true, "10.1-rc1": true,
		"6.1.0-50-cloud-amd64": false, "6.11.10": false, "5.15.0": false, "": false, "x.y": false, "6": false} {
		if hasPanicOnError(release) != want {
			t.Errorf("release %q: %v", release, !want)
		}
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "root.img"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := OpenVerity("root", f, r); err == nil || !strings.Contains(err.Error(), "no block device") {
		t.Error(err)
	}
	if _, err := OpenVerity("../x", f, r); err == nil || !strings.Contains(err.Error(), "mapping name") {
		t.Error(err)
	}
}
