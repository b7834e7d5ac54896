package e2e

import (
	"path/filepath"
	"strings"
	"testing"
)

// The host keeps the disk as it was after the first boot and puts it back after
// the second: header and key are right, every sector is genuine, and the guest
// refuses it. The owner's word lets it boot once.
func TestRestoredDiskIsRefused(t *testing.T) {
	w := theWorld(t)
	// Which image may boot is its owner's ID key's word: no digest is registered.
	id, signed := w.signed(t, "tcp", "a")
	b := w.from(t, "tcp", id, "a")
	b.extra = append(b.extra, signed...)
	dir := t.TempDir()
	b.inPlace = filepath.Join(dir, "disk.img")
	old := filepath.Join(dir, "old.img")
	w.run(t, "cp", w.path("a.img"), b.inPlace)
	up := func(line string) {
		t.Helper()
		if console := b.run(t, w); !strings.Contains(console, upLine) || !strings.Contains(console, line) {
			t.Fatalf("the real system did not come up, or without %q", line)
		}
	}
	verifier := func(args ...string) string {
		t.Helper()
		return w.attestbox(t, append(append([]string{"verifier", "instance", args[0]}, w.seal...), args[1:]...)...)
	}
	up("counter: found 0, wrote 1")
	w.run(t, "cp", b.inPlace, old)
	up("counter: found 1, wrote 2")
	if show := verifier("show", id); strings.Contains(show, "launch       ") || !strings.Contains(show, "signed by    ") || !strings.Contains(show, "launch digest ") {
		t.Errorf("registered by ID key, and recorded by digest:\n%s", show)
	}
	if log := w.verifierLog.String(); !strings.Contains(log, "admitted by ID key") {
		t.Errorf("the decision does not say by whose word:\n%s", log)
	}

	w.run(t, "cp", old, b.inPlace)
	console := b.run(t, w)
	if strings.Contains(console, upLine) || !strings.Contains(console, "[boot-rollback]") || !strings.Contains(console, "as old as boot 1") {
		t.Fatal("an older disk was not refused as that")
	}
	if show := verifier("show", id); !strings.Contains(show, "failed: boot-rollback") || !strings.Contains(show, "committed 2") {
		t.Errorf("the verifier did not learn it:\n%s", show)
	}

	verifier("accept-rollback", "-to", "1", id)
	up("counter: found 1, wrote 4")
	if show := verifier("show", id); !strings.Contains(show, "committed 4") || !strings.Contains(show, "accepted: from boot 2 to 1, used by boot 4") {
		t.Errorf("after the owner's word:\n%s", show)
	}
	if log := w.verifierLog.String(); !strings.Contains(log, "rollback accepted") {
		t.Errorf("no alert in the verifier's log:\n%s", log)
	}
}
