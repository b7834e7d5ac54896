package instanceid

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"attestbox/internal/wire"
)

func TestRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "instance")
	if id, err := Read(path); err != nil || !id.IsZero() {
		t.Errorf("no file: %v, %v", id, err)
	}
	want := wire.Hex32{1, 2, 31: 3}
	if err := Write(path, want); err != nil {
		t.Fatal(err)
	}
	if id, err := Read(path); err != nil || id != want {
		t.Errorf("%v, %v", id, err)
	}
}

func TestMalformed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "instance")
	for _, text := range []string{"", "\n", "11", strings.Repeat("0", 64), strings.Repeat("1", 63), strings.Repeat("1", 65),
		strings.Repeat("1", 64) + "\n\n", strings.Repeat("A", 64), " " + strings.Repeat("1", 64), strings.Repeat("1", 4096)} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if id, err := Read(path); err == nil {
			t.Errorf("%.70q gave %v", text, id)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(strings.Repeat("1f", 32) + "\n"))
	f.Add([]byte("zz"))
	path := filepath.Join(f.TempDir(), "instance")
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		id, err := Read(path)
		if err == nil && strings.TrimSuffix(string(b), "\n") != id.String() {
			t.Fatalf("%q read as %v", b, id)
		}
	})
}
