package server

import (
	"context"
	"path/filepath"
	"testing"

	"attestbox/internal/code"
	"attestbox/internal/kds"
	"attestbox/internal/wire"
)

// A report without certificates is served by those that the verifier keeps,
// and by no other chip's.
func TestKeptEndorsements(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kds")
	cache, err := kds.Open(kds.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, func(o *Options) {
		a, err := NewSNPAppraiser(context.Background(), o.State, noAMD, cache)
		if err != nil {
			t.Fatal(err)
		}
		o.Appraiser = a
	})
	id := newID()
	w.add(id, Takeover)
	g := w.guest(id, nil)
	ask := []wire.Endorsement{{Kind: "ask", DER: w.psp.ASK()}}
	bare := func(es []wire.Endorsement) (*wire.Payload, error) {
		c := w.begin(id)
		ev := c.evidence(g)
		ev.Endorsements = es
		c.send(ev)
		return c.release()
	}
	_, err = bare(nil)
	if ans, ok := err.(*wire.AnswerError); !ok || ans.Code != code.CollateralMissing {
		t.Errorf("nothing kept: %v", err)
	}
	other, err := w.psp.AnotherChip()
	if err != nil {
		t.Fatal(err)
	}
	if err := cache.Put(other.VCEK()); err != nil {
		t.Fatal(err)
	}
	_, err = bare(ask)
	if ans, ok := err.(*wire.AnswerError); !ok || ans.Code != code.CollateralMissing {
		t.Errorf("another chip's is kept: %v", err)
	}
	if err := cache.Put(w.psp.VCEK()); err != nil {
		t.Fatal(err)
	}
	p, err := bare(ask)
	if err != nil {
		t.Fatalf("kept VCEK and the host's ASK: %v", err)
	}
	p.Zero()
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// A list that the policy requires is the verifier's own: the host would send an
// old one that lacks its key.
func TestRequiredCRLIsNotTheHosts(t *testing.T) {
	hosts := []wire.Endorsement{{Kind: "vek", DER: []byte("vek")}, {Kind: "crl", DER: []byte("old")}}
	for _, source := range []EndorsementSource{nil, must(kds.Open(kds.Config{Dir: filepath.Join(t.TempDir(), "kds")}))} {
		for _, require := range []bool{false, true} {
			w := newWorld(t, nil)
			report := must(w.guest(newID(), nil).Report([64]byte{}, 0))
			a := must(NewSNPAppraiser(t.Context(), w.state, noAMD, source))
			r := *must(a.current(t.Context()))
			policy := *r.policy
			policy.RequireCRL = require
			r.policy = &policy
			e, missing, err := findEndorsements(t.Context(), a.source, &Evidence{Report: report, Endorsements: hosts}, r.policy)
			if err != nil || missing || string(e.VEK) != "vek" {
				t.Fatalf("%v, %v, %q", err, missing, e.VEK)
			}
			if (len(e.CRL) == 0) != require {
				t.Errorf("required %v, source %v: the list is %q", require, source != nil, e.CRL)
			}
		}
	}
}
