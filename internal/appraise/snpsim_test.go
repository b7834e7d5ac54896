package appraise_test

import (
	"context"
	"testing"
	"time"

	"attestbox/internal/appraise"
	"attestbox/internal/appraise/appraisetest"
	"attestbox/internal/snp"
	"attestbox/internal/snpsim"
	"attestbox/internal/snpsim/snpsimtest"
)

// The simulator's chips are appraised by the same code, under their own root.
func TestSimulatedChips(t *testing.T) {
	at := time.Now()
	for _, p := range []snp.Product{snp.Milan, snp.Genoa, snp.Turin} {
		psp := snpsimtest.PSP(t, p)
		root, err := appraise.NewRoot(p, psp.ARK(), psp.ASK())
		if err != nil {
			t.Fatal(err)
		}
		roots, err := appraise.NewRoots(root)
		if err != nil {
			t.Fatal(err)
		}
		var digest [48]byte
		digest[0] = 0xA1
		id := [32]byte{7}
		g := psp.Launch(snpsim.GuestConfig{Measurement: digest, HostData: id})
		plat := g.Platform()
		rd := [64]byte{9}
		ev, err := plat.Report(context.Background(), rd)
		if err != nil {
			t.Fatal(err)
		}
		e, err := appraise.FromWire(ev.Endorsements)
		if err != nil {
			t.Fatal(err)
		}
		if len(e.VEK) == 0 {
			e.VEK = psp.VCEK()
		}
		v, err := appraise.Verify(ev.Report, e, roots, at, appraise.Options{})
		if err != nil {
			t.Errorf("%s: %v", p, err)
			continue
		}
		policy := &appraise.Policy{Products: map[snp.Product]appraise.ProductPolicy{p: {}}, Measurements: []appraise.Hex48{digest}, Chips: []appraise.ChipID{psp.ChipID()}}
		if err := appraise.Appraise(v, policy, appraise.Expect{ReportData: &rd, HostData: &id}, at).Err(); err != nil {
			t.Errorf("%s: %v", p, err)
		}
		c := appraisetest.Mint(appraisetest.Config{Product: p})
		if _, err := appraise.NewRoots(root, mustAMD(t, p)); err == nil {
			t.Errorf("%s: a simulator's root and AMD's stand in one set", p)
		}
		if _, err := appraise.Verify(ev.Report, e, rootsOf(t, c), at, appraise.Options{}); err == nil {
			t.Errorf("%s: verifies under another root", p)
		}
	}
}
