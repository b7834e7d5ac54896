package unlock

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"attestbox/internal/code"
	"attestbox/internal/image/disk"
	"attestbox/internal/luks"
	"attestbox/internal/secret"
	"attestbox/internal/testenv"
)

// What is handed on is what was judged; what must not be opened is not handed on.
func TestHeader(t *testing.T) {
	testenv.Tool(t, "mke2fs", "e2fsprogs")
	dir := t.TempDir()
	key := secret.Random(32)
	defer key.Zero()
	img := filepath.Join(dir, "img")
	res, err := disk.Build(context.Background(), key, disk.Options{Empty: true, Out: img, Size: 12 << 20, Integrity: luks.IntegrityHMAC})
	if err != nil {
		t.Fatal(err)
	}
	got, err := Header(t.Context(), img, res.Record, key)
	if err != nil || !bytes.Equal(got, res.Header) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	wrong := secret.Random(32)
	defer wrong.Zero()
	if _, err := Header(t.Context(), img, res.Record, wrong); !IsRefusal(err) {
		t.Errorf("wrong key: %v", err)
	}
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	b[len(res.Header)-1] ^= 1
	if err := os.WriteFile(img, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := Header(t.Context(), img, res.Record, key); got != nil {
		t.Error("a changed header is handed on")
	} else if c, _ := code.Of(err); c != code.LUKSHeaderDigest {
		t.Errorf("changed header: %v", err)
	}
}
