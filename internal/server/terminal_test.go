package server

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A member cannot write to its owner's terminal: what it chooses is on record
// without control characters, and bounded.
func TestNoTerminalControl(t *testing.T) {
	w := newDomainWorld(t, func(w *domainWorld, o *Options, _ *DomainConfig) {
		l, err := OpenDecisionLog(filepath.Join(w.dir, "decisions.jsonl"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		o.Decisions = l
	})
	k := w.keys(w.mustCertify(w.vm(imageA, 1, nil)))
	if _, err := k.List(ctxFor(t), "db/\x1b[2J\u009b2J\u202e\n*"); err != nil {
		t.Fatal(err)
	}
	var got *Decision
	if err := EachDecision(filepath.Join(w.dir, "decisions.jsonl"), func(d *Decision) { got = d }); err != nil || got == nil || got.Op != "list" {
		t.Fatalf("%+v %v", got, err)
	}
	if got.Secret != "db/?[2J?2J??*" {
		t.Errorf("on record as %q", got.Secret)
	}
	w.server.Audit.Sync(ctxFor(t))
	files, _ := filepath.Glob(filepath.Join(w.audit, "*"))
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil || strings.ContainsAny(string(b), "\x1b\u009b\u202e") || strings.Contains(string(b), `\u001b`) {
			t.Errorf("%s: %v", name, err)
		}
	}
	long := (&Decision{Secret: strings.Repeat("x", 1<<20), Outcome: "\x07"}).bounded()
	if len(long.Secret) > maxText+3 || long.Outcome != "?" {
		t.Errorf("%d bytes, %q", len(long.Secret), long.Outcome)
	}
}
