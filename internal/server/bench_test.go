package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha512"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"attestbox/internal/appraise"
	"attestbox/internal/secret"
	"attestbox/internal/snp"
	"attestbox/internal/snpsim"
	"attestbox/internal/snpsim/snpsimtest"
	"attestbox/internal/store/bolt"
	"attestbox/internal/store/sealed"
	"attestbox/internal/wire"
)

// benchWorld is a state with n instances over bbolt, whose syncs are real.
func benchWorld(b *testing.B, n int) (*State, *SNPAppraiser, *snpsim.PSP, []*Instance) {
	b.Helper()
	ctx := context.Background()
	raw, err := bolt.Open(filepath.Join(b.TempDir(), "state.db"))
	if err != nil {
		b.Fatal(err)
	}
	psp := snpsimtest.PSP(b, snp.Milan)
	st, err := CreateState(ctx, raw, sealed.Key{File: secret.Random(32)}, simConfig(b, psp), time.Now())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { st.Close() })
	a, err := NewSNPAppraiser(ctx, st, noAMD, nil)
	if err != nil {
		b.Fatal(err)
	}
	var insts []*Instance
	for range n {
		inst := &Instance{ID: newID(), Measurements: []Measurement{{Digest: appraise.Hex48(digest).String()}}, Headers: []wire.HeaderRecord{record()}, OnSecond: Takeover}
		if err := st.AddInstance(ctx, inst, &Secrets{DiskKey: secret.Random(32)}); err != nil {
			b.Fatal(err)
		}
		insts = append(insts, inst)
	}
	return st, a, psp, insts
}

// BenchmarkRelease is everything between evidence and release but the TLS
// handshake: appraisal, the durable boot counter, HPKE. The reports are made
// outside of the clock.
func BenchmarkRelease(b *testing.B) {
	for _, parallel := range []int{1, 8} {
		b.Run(fmt.Sprintf("guests=%d", parallel), func(b *testing.B) {
			st, a, psp, insts := benchWorld(b, parallel)
			ctx := context.Background()
			key, err := wire.NewKey()
			if err != nil {
				b.Fatal(err)
			}
			type work struct {
				ev   *Evidence
				t    *wire.Transcript
				inst *Instance
			}
			todo := make(chan work, b.N)
			for i := range b.N {
				inst := insts[i%parallel]
				t := &wire.Transcript{Version: wire.Version, Nonce: newID(), ID: inst.ID, Suite: wire.SuiteID(), Key: key.PublicKey().Bytes()}
				e, err := psp.Launch(snpsim.GuestConfig{Measurement: digest, HostData: inst.ID}).Platform().Report(ctx, t.ReportData())
				if err != nil {
					b.Fatal(err)
				}
				todo <- work{&Evidence{Report: e.Report, Endorsements: e.Endorsements, ReportData: t.ReportData(), HostData: inst.ID, Measurements: [][48]byte{digest}, Now: time.Now()}, t, inst}
			}
			close(todo)
			b.ResetTimer()
			done := make(chan error, parallel)
			for range parallel {
				go func() {
					var failed error
					for w := range todo {
						if err := one(ctx, st, a, w.ev, w.t, w.inst); err != nil {
							failed = err
						}
					}
					done <- failed
				}()
			}
			for range parallel {
				if err := <-done; err != nil {
					b.Error(err)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "releases/s")
		})
	}
}

func one(ctx context.Context, st *State, a *SNPAppraiser, ev *Evidence, t *wire.Transcript, inst *Instance) error {
	v := a.Appraise(ctx, ev)
	if !v.Accepted {
		return fmt.Errorf("refused: %v", v.Findings)
	}
	g, err := st.Grant(ctx, inst, v.ReportID, "", "", time.Now())
	if err != nil {
		return err
	}
	defer g.OutcomeKey.Zero()
	sec, err := st.secrets(ctx, inst.ID)
	if err != nil {
		return err
	}
	defer sec.Zero()
	p := sec.payload(inst)
	p.Boot, p.OutcomeKey = g.Number, g.OutcomeKey
	_, err = wire.Seal(t, p)
	return err
}

// BenchmarkAppraise is the appraisal alone, its chain in the cache.
func BenchmarkAppraise(b *testing.B) {
	_, a, psp, insts := benchWorld(b, 1)
	var data [64]byte
	e, err := psp.Launch(snpsim.GuestConfig{Measurement: digest, HostData: insts[0].ID}).Platform().Report(context.Background(), data)
	if err != nil {
		b.Fatal(err)
	}
	ev := &Evidence{Report: e.Report, Endorsements: e.Endorsements, HostData: insts[0].ID, Measurements: [][48]byte{digest}, Now: time.Now()}
	for b.Loop() {
		if v := a.Appraise(context.Background(), ev); !v.Accepted {
			b.Fatal(v.Findings)
		}
	}
}

// BenchmarkP384 is one verification, to compare with.
func BenchmarkP384(b *testing.B) {
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	sum := sha512.Sum384([]byte("report"))
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if !ecdsa.Verify(&key.PublicKey, sum[:], r, s) {
			b.Fatal("refused")
		}
	}
}

// BenchmarkGrant is the durable boot counter alone: two values written and
// synced for each launch.
func BenchmarkGrant(b *testing.B) {
	st, _, _, insts := benchWorld(b, 1)
	ctx := context.Background()
	for b.Loop() {
		g, err := st.Grant(ctx, insts[0], newID(), "", "", time.Now())
		if err != nil {
			b.Fatal(err)
		}
		g.OutcomeKey.Zero()
	}
}
