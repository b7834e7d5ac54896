package e2e

import (
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// signed registers an ID by the key that signs an image, and no launch digest.
// launch is what the host adds.
func (w *world) signed(t *testing.T, image, disk string) (id string, launch []string) {
	t.Helper()
	keys, err := os.MkdirTemp("/dev/shm", "attestbox-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(keys) })
	dir := t.TempDir()
	out := w.mkimage(t, "id-block", "-simulator", "-image", w.images[image], "-new-id-key", filepath.Join(keys, "id.key"), "-new-author-key", filepath.Join(keys, "author.key"),
		"-image-id", "e2e", "-svn", "3", "-out", dir)
	_, rest, ok := strings.Cut(out, "id-key-digest ")
	if !ok || len(rest) < 96 {
		t.Fatalf("mkimage id-block names no key: %q", out)
	}
	id = hex.EncodeToString(random(32))
	w.attestbox(t, append([]string{"verifier", "add-instance", "-id", id, "-id-key", rest[:96], "-image-id", "e2e", "-min-svn", "3",
		"-disk-key", w.keyFile(disk), "-header", w.path(disk + ".json")}, w.seal...)...)
	return id, []string{"-id-block", filepath.Join(dir, "id-block"), "-id-auth", filepath.Join(dir, "id-auth"), "-author-key-enabled"}
}
