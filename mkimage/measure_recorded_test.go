package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"attestbox/internal/applet"
	"attestbox/internal/measure/measuretest"
)

// What the public tool sev-snp-measure printed for random launches, recorded by
// scripts/differential.sh. It prints digests where `mkimage measure` refuses
// ("refused here"): see docs/measure.md.
func TestMeasureRecorded(t *testing.T) {
	raw, err := os.ReadFile("testdata/reference.json")
	if err != nil {
		t.Fatal(err)
	}
	var rec struct {
		Tool    string
		Seed    uint64
		Digests []string
	}
	if err := json.Unmarshal(raw, &rec); err != nil || len(rec.Digests) < 300 {
		t.Fatalf("%d launches, %v", len(rec.Digests), err)
	}
	same := 0
	for i, want := range rec.Digests {
		c := measuretest.New(rec.Seed, uint64(i))
		dir := t.TempDir()
		t.Chdir(dir) // for -dump-vmsa
		for name, data := range c.Files {
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		out, _, err := measureRun(t, c.Args...)
		switch {
		case strings.HasPrefix(want, "refused"):
			if e := applet.ExitCode(err); e != 2 && e != 3 || out != "" {
				t.Errorf("launch %d: printed %q, %v; want a refusal: %q", i, out, err, c.Args)
			}
		case err != nil || strings.TrimSpace(out) != want:
			t.Errorf("launch %d: %q, %v; %s prints %s: %q", i, out, err, rec.Tool, want, c.Args)
		default:
			same++
		}
	}
	if same < 200 {
		t.Errorf("%d digests were compared", same)
	}
}
