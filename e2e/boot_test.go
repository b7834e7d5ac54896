package e2e

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// mustRefuse asserts that nothing was released: the guest powered off, the
// real system never ran, and the verifier's log names the reason.
func mustRefuse(t *testing.T, w *world, console, reason string) {
	t.Helper()
	if strings.Contains(console, upLine) {
		t.Fatal("the real system came up")
	}
	if !strings.Contains(console, "[launch-refused]") {
		t.Error("the guest was not refused")
	}
	if why := w.explain(t, console); !strings.Contains(strings.ToLower(why), reason) {
		t.Errorf("the verifier's reason lacks %q:\n%s", reason, why)
	}
}

// changed copies a file with one byte changed where text begins.
func changed(t *testing.T, file, text string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(b, []byte(text))
	if at < 0 {
		t.Fatalf("%s does not contain %q", file, text)
	}
	b[at] ^= 0x20
	out := filepath.Join(t.TempDir(), filepath.Base(file))
	if err := os.WriteFile(out, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestChangedKernelIsRefused(t *testing.T) {
	w := theWorld(t)
	b := w.from(t, "tcp", w.instance(t, "tcp", "a"), "a")
	// The version text in the kernel's header: it boots just the same.
	b.kernel = changed(t, b.kernel, "debian-kernel@")
	mustRefuse(t, w, b.run(t, w), "measurement")
}

func TestChangedInitramfsIsRefused(t *testing.T) {
	w := theWorld(t)
	b := w.from(t, "tcp", w.instance(t, "tcp", "a"), "a")
	b.initrd = changed(t, b.initrd, "attestbox e2e image")
	mustRefuse(t, w, b.run(t, w), "measurement")
}

func TestChangedCommandLineIsRefused(t *testing.T) {
	w := theWorld(t)
	b := w.from(t, "tcp", w.instance(t, "tcp", "a"), "a")
	b.cmdline += " quiet"
	mustRefuse(t, w, b.run(t, w), "measurement")
}

// The host starts the right image with an ID that nobody registered.
func TestUnknownInstanceIsRefused(t *testing.T) {
	w := theWorld(t)
	b := w.from(t, "tcp", strings.Repeat("ab", 32), "a")
	mustRefuse(t, w, b.run(t, w), "instance")
}

// The host starts the right image with the ID of another instance: the key is
// released, and does not belong to this disk. The guest compares the header
// before it parses anything, wipes the key and stops.
func TestDiskOfAnotherInstance(t *testing.T) {
	w := theWorld(t)
	id := w.instance(t, "tcp", "b")
	b := w.from(t, "tcp", id, "a")
	console := b.run(t, w)
	if strings.Contains(console, upLine) {
		t.Fatal("the real system came up")
	}
	if !strings.Contains(console, "[luks-header-digest]") {
		t.Error("the guest does not name the header's digest as the reason")
	}
	show := w.attestbox(t, append(append([]string{"verifier", "instance", "show"}, w.seal...), id)...)
	if !strings.Contains(show, "luks-header-digest") {
		t.Errorf("the verifier did not learn the outcome:\n%s", show)
	}
}
