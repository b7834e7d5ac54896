package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"attestbox/internal/testenv"
)

// A read-only root whose hash is in the measured image, with an encrypted state
// disk beside it, as docs/verity.md has it.
func TestVerityRootWithState(t *testing.T) {
	w := theWorld(t)
	rootfs := w.path("verity-rootfs")
	w.run(t, filepath.Join(testenv.Root(), "demo", "rootfs.sh"), os.Getenv("ATTESTBOX_BUSYBOX"), rootfs)
	if err := os.Mkdir(filepath.Join(rootfs, "var"), 0o755); err != nil {
		t.Fatal(err)
	}
	root, record := w.path("verity.img"), w.path("verity.json")
	w.mkimage(t, "disk", "-verity", "-from", rootfs, "-size", "8M", "-out", root, "-record", record)
	w.mkimage(t, "disk", "-empty", "-size", "32M", "-out", w.path("var.img"), "-key-out", w.keyFile("var"), "-record", w.path("var.json"))
	w.build(t, "verity", "console=ttyS0 loglevel=4 no_timer_check",
		map[string]any{"type": "disk", "device": "/dev/vdb", "name": "var", "fstype": "ext4", "path": "/var", "options": []string{"nosuid", "nodev"}}, "-verity", record)
	b := w.from(t, "verity", w.instance(t, "verity", "var"), "var")
	b.inPlace = root
	b.extra = append(b.extra, "-disk", w.path("var.img"))
	console := b.run(t, w)
	for _, want := range []string{"verity: /dev/vda is /dev/mapper/root", "unlock: /dev/vdb is /dev/mapper/var", "counter: found 0, wrote 1", upLine, "root is /dev/mapper/root"} {
		if !strings.Contains(console, want) {
			t.Errorf("the console lacks %q", want)
		}
	}
}
