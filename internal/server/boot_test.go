package server

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"attestbox/internal/code"
	"attestbox/internal/secret"
	"attestbox/internal/snpsim"
	"attestbox/internal/store"
	"attestbox/internal/store/bolt"
	"attestbox/internal/store/sealed"
	"attestbox/internal/wire"
)

// get runs one exchange up to the release.
func (w *world) get(g *snpsim.Guest) (*talk, *wire.Payload, error) {
	w.t.Helper()
	c := w.begin(g.Config.HostData)
	c.send(c.evidence(g))
	p, err := c.release()
	return c, p, err
}

func opened(g *snpsim.Guest, p *wire.Payload) *wire.Outcome {
	return sign(p.OutcomeKey, &wire.Outcome{ID: g.Config.HostData, ReportID: g.ReportID, Boot: p.Boot, Result: wire.ResultOpened})
}

func failed(g *snpsim.Guest, p *wire.Payload) *wire.Outcome {
	return sign(p.OutcomeKey, &wire.Outcome{ID: g.Config.HostData, ReportID: g.ReportID, Boot: p.Boot, Result: wire.ResultFailed, Reason: code.LUKSWrongKey})
}

// Before opened the same boot gets the same release, five times in all; after
// opened, none.
func TestSameBootAsksAgain(t *testing.T) {
	w := newWorld(t, nil)
	id := newID()
	w.add(id, Takeover)
	g := w.guest(id, nil)
	var first *wire.Payload
	for n := range MaxGives {
		_, p, err := w.get(g)
		if err != nil {
			t.Fatalf("release %d: %v", n+1, err)
		}
		defer p.Zero()
		if first == nil {
			first = p
		}
		if p.Boot != 1 || p.Committed != 0 || !p.OutcomeKey.Equal(first.OutcomeKey) || !p.DiskKey.Equal(first.DiskKey) {
			t.Errorf("release %d differs: boot %d", n+1, p.Boot)
		}
	}
	_, _, err := w.get(g)
	w.refused("a sixth time", err, code.BootTooOften)
	if _, err := w.dial().outcome(opened(g, first)); err != nil {
		t.Errorf("outcome on a later connection: %v", err)
	}
	_, _, err = w.get(g)
	w.refused("after opened", err, code.BootSpent)
}

func TestOutcomes(t *testing.T) {
	w := newWorld(t, nil)
	id := newID()
	inst, _ := w.add(id, Takeover)
	g := w.guest(id, nil)
	c, p, err := w.get(g)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Zero()
	good := opened(g, p)

	// Forgeries: every field flipped, and another key.
	for name, edit := range map[string]func(*wire.Outcome){
		"MAC":       func(o *wire.Outcome) { o.MAC[31] ^= 1 },
		"ID":        func(o *wire.Outcome) { o.ID[0] ^= 1 },
		"REPORT_ID": func(o *wire.Outcome) { o.ReportID[0] ^= 1 },
		"boot":      func(o *wire.Outcome) { o.Boot++ },
		"result":    func(o *wire.Outcome) { o.Result, o.Reason = wire.ResultFailed, code.LUKSWrongKey },
		"headers":   func(o *wire.Outcome) { o.Headers = []wire.Hex32{{1}} },
		"key":       func(o *wire.Outcome) { sign(secret.Random(32), o) },
	} {
		o := *good
		edit(&o)
		_, err := w.dial().outcome(&o)
		w.refused("outcome with another "+name, err, code.BootOutcome)
	}
	// A header that is not registered, rightly signed.
	_, err = w.dial().outcome(sign(p.OutcomeKey, &wire.Outcome{ID: id, ReportID: g.ReportID, Boot: 1, Result: wire.ResultOpened, Headers: []wire.Hex32{newID()}}))
	w.refused("unregistered header", err, code.BootOutcome)

	// failed, then opened after another try; opened is final and repeats fine.
	if _, err := w.dial().outcome(failed(g, p)); err != nil {
		t.Errorf("failed: %v", err)
	}
	if b, _ := w.state.Boots(context.Background(), id); b.Committed != 0 || b.Current[0].Reason != code.LUKSWrongKey {
		t.Errorf("after failed: %+v", b)
	}
	var h wire.Hex32
	if err := h.UnmarshalText([]byte(inst.Headers[0].Digest)); err != nil {
		t.Fatal(err)
	}
	withHeader := sign(p.OutcomeKey, &wire.Outcome{ID: id, ReportID: g.ReportID, Boot: 1, Result: wire.ResultOpened, Headers: []wire.Hex32{h}})
	if ack, err := c.outcome(withHeader); err != nil || ack.Boot != 1 || ack.Time == 0 {
		t.Errorf("opened: %+v, %v", ack, err)
	}
	for range 2 {
		if _, err := w.dial().outcome(withHeader); err != nil {
			t.Errorf("the same outcome again: %v", err)
		}
	}
	_, err = w.dial().outcome(failed(g, p))
	w.refused("failed after opened", err, code.BootOutcome)
	if b, _ := w.state.Boots(context.Background(), id); b.Committed != 1 || b.Current[0].Result != wire.ResultOpened {
		t.Errorf("at the end: %+v", b)
	}
}

// A dropped outcome leaves the boot unfinished and shown; the next boot takes
// over with an alert, and the first can neither finish nor ask again.
func TestDroppedOutcomeAndTakeover(t *testing.T) {
	w := newWorld(t, nil)
	id := newID()
	w.add(id, Takeover)
	a, b := w.guest(id, nil), w.guest(id, nil)
	ca, pa, err := w.get(a)
	if err != nil {
		t.Fatal(err)
	}
	ca.conn.Close() // the outcome never comes
	boots, err := w.state.Boots(context.Background(), id)
	if err != nil || len(boots.Current) != 1 || !boots.Current[0].Unfinished() || boots.Committed != 0 {
		t.Errorf("dropped outcome: %+v, %v", boots, err)
	}
	_, pb, err := w.get(b)
	if err != nil || pb.Boot != 2 || pb.Committed != 0 {
		t.Fatalf("second boot: %+v, %v", pb, err)
	}
	if pa.OutcomeKey.Equal(pb.OutcomeKey) {
		t.Error("two boots share an outcome key")
	}
	_, err = w.dial().outcome(opened(a, pa))
	w.refused("outcome of a superseded boot", err, code.BootOutcome)
	_, _, err = w.get(a)
	w.refused("a superseded boot asks again", err, code.BootSpent)
	if _, err := w.dial().outcome(opened(b, pb)); err != nil {
		t.Errorf("outcome of the boot that took over: %v", err)
	}
	boots, _ = w.state.Boots(context.Background(), id)
	if boots.Committed != 2 || boots.Takeovers != 1 || len(boots.Past) != 1 || !boots.Past[0].Unfinished() || !boots.Past[0].Superseded {
		t.Errorf("at the end: %+v", boots)
	}
	var alerts int
	if err := EachDecision(w.decisions, func(d *Decision) {
		if d.Decision == Released && d.Alert != "" {
			alerts++
		}
	}); err != nil || alerts != 1 {
		t.Errorf("%d alerts, %v; want one for the takeover", alerts, err)
	}
}

// The owner restores a disk from a backup: C falls by his word alone, once, with
// an alert, and the boot before it is over.
func TestAcceptRollback(t *testing.T) {
	w := newWorld(t, nil)
	id := newID()
	w.add(id, Quarantine)
	ctx := context.Background()
	boot := func(number, committed uint64) (*snpsim.Guest, *wire.Payload) {
		t.Helper()
		g := w.guest(id, nil)
		_, p, err := w.get(g)
		if err != nil || p.Boot != number || p.Committed != committed {
			t.Fatalf("boot %d: %+v, %v", number, p, err)
		}
		return g, p
	}
	now := time.Now()
	if _, err := w.state.AcceptRollback(ctx, id, 0, now); err == nil {
		t.Error("accepted before any boot")
	}
	var g *snpsim.Guest
	var p *wire.Payload
	for n := uint64(1); n <= 3; n++ {
		g, p = boot(n, n-1)
		if _, err := w.dial().outcome(opened(g, p)); err != nil {
			t.Fatal(err)
		}
		if n < 3 {
			if err := w.state.ClearBoot(ctx, id); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, to := range []uint64{3, 4} {
		if _, err := w.state.AcceptRollback(ctx, id, to, now); err == nil {
			t.Errorf("C raised from 3 to %d", to)
		}
	}
	// Boot 3 is alive; what it says from here on counts no more.
	if from, err := w.state.AcceptRollback(ctx, id, 1, now); err != nil || from != 3 {
		t.Fatalf("%d, %v", from, err)
	}
	_, err := w.dial().outcome(opened(g, p))
	w.refused("the boot before it reports again", err, code.BootOutcome)
	_, _, err = w.get(g)
	w.refused("the boot before it asks again", err, code.BootSpent)
	g, p = boot(4, 1)
	if _, err := w.dial().outcome(opened(g, p)); err != nil {
		t.Fatal(err)
	}
	b, err := w.state.Boots(ctx, id)
	want := Rollback{Time: now.Unix(), From: 3, To: 1, Boot: 4}
	if err != nil || b.Committed != 4 || len(b.Rollbacks) != 1 || b.Rollbacks[0] != want {
		t.Errorf("%+v, %v", b, err)
	}
	if err := w.state.ClearBoot(ctx, id); err != nil {
		t.Fatal(err)
	}
	boot(5, 4)
	alerts := 0
	if err := EachDecision(w.decisions, func(d *Decision) {
		if strings.Contains(d.Alert, "rollback accepted") && d.Boot == 4 {
			alerts++
		}
	}); err != nil || alerts != 1 {
		t.Errorf("%d alerts, %v; want one, at boot 4", alerts, err)
	}
}

func TestQuarantine(t *testing.T) {
	w := newWorld(t, nil)
	id := newID()
	w.add(id, Quarantine)
	ctx := context.Background()
	a, b := w.guest(id, nil), w.guest(id, nil)
	_, pa, err := w.get(a)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = w.get(b)
	w.refused("second boot while one is pending", err, code.BootQuarantined)
	if _, err := w.dial().outcome(opened(a, pa)); err != nil {
		t.Errorf("the first boot finishes: %v", err)
	}
	_, _, err = w.get(b)
	w.refused("second boot while one is alive", err, code.BootQuarantined)
	if err := w.state.ClearBoot(ctx, id); err != nil {
		t.Fatal(err)
	}
	_, _, err = w.get(a)
	w.refused("the cleared boot asks again", err, code.BootSpent)
	_, pb, err := w.get(b)
	if err != nil || pb.Boot != 2 || pb.Committed != 1 {
		t.Fatalf("after clearing: %+v, %v", pb, err)
	}
	// A boot that said that it failed is over, and the next needs no clearing.
	if _, err := w.dial().outcome(failed(b, pb)); err != nil {
		t.Fatal(err)
	}
	_, pc, err := w.get(w.guest(id, nil))
	if err != nil || pc.Boot != 3 {
		t.Errorf("after a failed boot: %+v, %v", pc, err)
	}
}

// Guests that race for one ID get different numbers, and one of them stays.
func TestRace(t *testing.T) {
	w := newWorld(t, nil)
	id := newID()
	w.add(id, Takeover)
	const guests = 6
	numbers := make([]uint64, guests)
	acked := make([]bool, guests)
	conns, gs := make([]*talk, guests), make([]*snpsim.Guest, guests)
	evs := make([]*wire.Evidence, guests)
	for i := range guests {
		gs[i] = w.guest(id, nil)
		conns[i] = w.begin(id)
		evs[i] = conns[i].evidence(gs[i])
	}
	var wg sync.WaitGroup
	for i := range guests {
		wg.Go(func() {
			if err := wire.Write(conns[i].conn, evs[i]); err != nil {
				t.Error(err)
				return
			}
			p, err := conns[i].release()
			if err != nil {
				t.Errorf("guest %d: %v", i, err)
				return
			}
			defer p.Zero()
			numbers[i] = p.Boot
			if err := wire.Write(conns[i].conn, opened(gs[i], p)); err != nil {
				t.Error(err)
				return
			}
			_, err = wire.Expect[*wire.Ack](conns[i].conn)
			acked[i] = err == nil
		})
	}
	wg.Wait()
	seen := map[uint64]bool{}
	for _, n := range numbers {
		if n < 1 || n > guests || seen[n] {
			t.Errorf("numbers %v: want each of 1 to %d once", numbers, guests)
			break
		}
		seen[n] = true
	}
	b, err := w.state.Boots(context.Background(), id)
	if err != nil || b.Issued != guests || len(b.Current) != 1 || b.Current[0].Number != guests {
		t.Errorf("counter %+v, %v", b, err)
	}
	for i, n := range numbers {
		if n == guests && !acked[i] {
			t.Error("the last boot got no ack")
		}
	}
}

// A crash between the durable record and the sealed answer: the boot is
// pending, and the same guest gets the same number from the restarted server.
func TestCrashBeforeSealing(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "state.db")
	key := sealed.Key{File: secret.Random(32)}
	open := func(f func(context.Context, store.Store) (*State, error)) *State {
		t.Helper()
		raw, err := bolt.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		st, err := f(ctx, raw)
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	st := open(func(ctx context.Context, raw store.Store) (*State, error) {
		return CreateState(ctx, raw, key, Config{}, time.Now())
	})
	id, reportID := newID(), newID()
	inst := &Instance{ID: id, Measurements: []Measurement{{Digest: fmt.Sprintf("%096x", 1)}}, OnSecond: Takeover}
	if err := st.AddInstance(ctx, inst, &Secrets{}); err != nil {
		t.Fatal(err)
	}
	g, err := st.Grant(ctx, inst, reportID, "m", "x", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	st.Close() // nothing was ever sent
	st = open(func(ctx context.Context, raw store.Store) (*State, error) { return OpenState(ctx, raw, key) })
	defer st.Close()
	b, err := st.Boots(ctx, id)
	if err != nil || b.Issued != 1 || b.Committed != 0 || !b.Current[0].Unfinished() || b.Current[0].Gives != 1 {
		t.Fatalf("after the crash: %+v, %v", b, err)
	}
	again, err := st.Grant(ctx, inst, reportID, "m", "y", time.Now())
	if err != nil || again.Number != g.Number || !again.OutcomeKey.Equal(g.OutcomeKey) || !again.Again {
		t.Errorf("again: %+v, %v", again, err)
	}
	next, err := st.Grant(ctx, inst, newID(), "m", "z", time.Now())
	if err != nil || next.Number != 2 || next.Alert == "" {
		t.Errorf("another launch: %+v, %v", next, err)
	}
}

func TestDecommissionedForGood(t *testing.T) {
	w := newWorld(t, nil)
	id := newID()
	inst, _ := w.add(id, Takeover)
	ctx := context.Background()
	g := w.guest(id, nil)
	_, p, err := w.get(g)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.state.Decommission(ctx, id, time.Now(), true); err != nil {
		t.Fatal(err)
	}
	_, _, err = w.get(g)
	w.refused("decommissioned", err, code.InstanceDecommissioned)
	_, err = w.dial().outcome(opened(g, p))
	w.refused("outcome of a decommissioned instance", err, code.InstanceDecommissioned)
	inst.Decommissioned = 0
	if err := w.state.AddInstance(ctx, inst, &Secrets{DiskKey: secret.Random(32)}); !errors.Is(err, ErrDecommissioned) {
		t.Errorf("added again: %v", err)
	}
	if err := w.state.UpdateInstance(ctx, id, func(i *Instance) error { i.Decommissioned = 0; return nil }); !errors.Is(err, ErrDecommissioned) {
		t.Errorf("put back into service: %v", err)
	}
	if _, err := w.state.secrets(ctx, id); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("secrets after erasing: %v", err)
	}
}

// meanwhile is an appraiser that takes its time: something happens before it
// answers.
type meanwhile struct {
	Appraiser
	f func()
}

func (m *meanwhile) Appraise(ctx context.Context, e *Evidence) *Verdict {
	v := m.Appraiser.Appraise(ctx, e)
	m.f()
	return v
}

// What the owner decides during an appraisal counts for its release.
func TestDecidedDuringAppraisal(t *testing.T) {
	m := &meanwhile{f: func() {}}
	w := newWorld(t, func(o *Options) { m.Appraiser, o.Appraiser = o.Appraiser, m })
	id := newID()
	w.add(id, Takeover)
	m.f = func() {
		m.f = func() {}
		if err := w.state.UpdateInstance(t.Context(), id, func(i *Instance) error {
			i.Measurements = []Measurement{{Digest: strings.Repeat("ab", 48)}}
			return nil
		}); err != nil {
			t.Error(err)
		}
	}
	ask := func() error {
		c := w.begin(id)
		c.send(c.evidence(w.guest(id, nil)))
		_, err := c.release()
		return err
	}
	if ans, ok := ask().(*wire.AnswerError); !ok || ans.Code != code.VerifierBusy {
		t.Errorf("digests changed during the appraisal: %v", ans)
	}
	id = newID()
	w.add(id, Takeover)
	m.f = func() {
		m.f = func() {}
		if err := w.state.Decommission(t.Context(), id, time.Now(), false); err != nil {
			t.Error(err)
		}
	}
	w.refused("decommissioned during the appraisal", ask(), code.InstanceDecommissioned)
	if b, err := w.state.Boots(t.Context(), id); err != nil || b.Issued != 0 {
		t.Errorf("boots %+v, %v", b, err)
	}
}
