package server

import (
	"fmt"
	"strings"
	"testing"

	"attestbox/internal/appraise"
	"attestbox/internal/audit"
)

// A policy that lists its chips makes long proofs: they are admitted and on
// record all the same.
func TestLongProof(t *testing.T) {
	w := newDomainWorld(t, nil)
	chips := []string{appraise.ChipID(w.psp.ChipID()).String()}
	for i := range 255 {
		chips = append(chips, fmt.Sprintf("%0128x", i+1))
	}
	lines := w.policyLines()
	for i, l := range lines {
		if strings.HasPrefix(l, "Platform[amd-sev-snp") {
			lines[i] = strings.Replace(l, "product = Milan]", "product = Milan, chip in {"+strings.Join(chips, ", ")+"}]", 1)
		}
	}
	w.sign(2, lines...)
	w.reload()
	_, a, err := w.certify(w.vm(imageA, 1, nil), "")
	if err != nil {
		t.Fatal(err, w.lastDecision())
	}
	if !strings.HasSuffix(a.Proof, "\n...") {
		t.Errorf("a proof of %d bytes, not cut", len(a.Proof))
	}
	if err := w.server.Audit.Sync(ctxFor(t)); err != nil {
		t.Fatal(err)
	}
	head := w.server.Audit.Head()
	found := false
	if _, err := audit.Verify(w.audit, &head, func(e *audit.Event) error {
		found = found || strings.Contains(string(e.Data), `"decision":"admitted"`) && strings.Contains(string(e.Data), a.Identity.Serial.Text(16)) && strings.Contains(string(e.Data), chips[255])
		return nil
	}); err != nil || !found {
		t.Errorf("on record %v, %v", found, err)
	}
}

// Whatever is in it, a proof does not make its line too long to be written.
func TestProofFitsLine(t *testing.T) {
	w := newDomainWorld(t, nil)
	d := &Decision{Decision: Admitted, Proof: strings.Repeat("1. Ж says \"a\" >= 22\n", 1<<16)}
	if err := w.server.Audit.Record(d, w.now()); err != nil {
		t.Error(err)
	}
	if p := cutProof(d.Proof); len(p) > 24<<10 || strings.ToValidUTF8(p, "") != p {
		t.Errorf("%d bytes", len(p))
	}
}
