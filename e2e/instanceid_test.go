package e2e

import (
	"encoding/hex"
	"strings"
	"testing"
)

// An image that brings its instance ID boots where HOST_DATA is zeros, and
// nowhere else.
func TestImageBringsID(t *testing.T) {
	w := theWorld(t)
	id := hex.EncodeToString(random(32))
	w.build(t, "own", "console=ttyS0 loglevel=4 no_timer_check", nil, "-instance-id", id)
	w.attestbox(t, append([]string{"verifier", "add-instance", "-id-source", "image", "-image", w.images["own"],
		"-disk-key", w.keyFile("a"), "-header", w.path("a.json")}, w.seal...)...)
	b := w.from(t, "own", strings.Repeat("0", 64), "a")
	if console := b.run(t, w); !strings.Contains(console, upLine) || !strings.Contains(console, id) {
		t.Error("the real system did not come up as the image's instance")
	}
	b = w.from(t, "own", id, "a")
	if console := b.run(t, w); strings.Contains(console, upLine) || !strings.Contains(console, "[host-data-set]") {
		t.Error("HOST_DATA was set: not refused")
	}
}
