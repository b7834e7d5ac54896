package server

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"attestbox/internal/client"
	"attestbox/internal/code"
	"attestbox/internal/snpsim"
	"attestbox/internal/wire"
)

// bundled registers an instance that starts from bundles.
func (w *world) bundled(floor uint64) wire.Hex32 {
	w.t.Helper()
	id := newID()
	w.add(id, Takeover)
	w.floor(id, floor)
	return id
}

func (w *world) floor(id wire.Hex32, floor uint64) {
	w.t.Helper()
	if _, err := w.state.SetBundleFloor(context.Background(), id, floor, false, time.Now()); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) approve(g *snpsim.Guest, bundle wire.Hex32, version uint64) error {
	w.t.Helper()
	a, err := client.Approve(ctxFor(w.t), w.client(g.Platform()), bundle, version)
	if err == nil && (a.Time.IsZero() || a.Exchange == wire.ExchangeID{}) {
		w.t.Errorf("approval %+v", a)
	}
	return err
}

// notApproved checks that the guest learns bundle-refused, and the decision why.
func (w *world) notApproved(what string, err error, want code.Code) {
	w.t.Helper()
	ans, ok := errors.AsType[*wire.AnswerError](err)
	if !ok || ans.Code != code.BundleRefused || !errors.Is(err, client.ErrRefused) {
		w.t.Errorf("%s: %v, want refused with %s", what, err, code.BundleRefused)
		return
	}
	found, err := FindDecisions(w.decisions, ans.Exchange)
	if err != nil || len(found) != 1 || found[0].Code != want {
		w.t.Errorf("%s: decisions %+v, %v, want %q", what, found, err, want)
	}
}

var bundleA, bundleB = wire.Hex32{0xa}, wire.Hex32{0xb}

func TestBundleThenLaunch(t *testing.T) {
	w := newWorld(t, nil)
	id := w.bundled(3)
	g := w.guest(id, nil)
	if err := w.approve(g, bundleA, 3); err != nil {
		t.Fatal(err)
	}
	// The answer was lost: stage 1 asks again.
	if err := w.approve(g, bundleA, 3); err != nil {
		t.Error(err)
	}
	c, p, err := w.get(g)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Zero()
	if _, err := c.outcome(opened(g, p)); err != nil {
		t.Fatal(err)
	}
	found, err := FindDecisions(w.decisions, c.x)
	if err != nil || len(found) == 0 || found[0].Bundle != bundleA.String() || found[0].BundleVersion != 3 || found[0].Decision != Released {
		t.Errorf("the release's decision does not name the bundle: %+v, %v", found, err)
	}
	if !strings.Contains(w.log.String(), "bundle_version=3") {
		t.Error("the log does not name the bundle")
	}
}

// An old bundle, rightly signed: its version is below the floor, before its
// start or after it.
func TestOldBundle(t *testing.T) {
	w := newWorld(t, nil)
	id := w.bundled(3)
	g := w.guest(id, nil)
	w.notApproved("below the floor", w.approve(g, bundleA, 2), code.BundleFloor)
	_, _, err := w.get(g)
	w.refused("launch after that", err, code.BundleUnapproved)

	if err := w.approve(g, bundleB, 3); err != nil {
		t.Fatal(err)
	}
	w.floor(id, 4) // between the two exchanges
	_, _, err = w.get(g)
	w.refused("the floor rose", err, code.BundleFloor)
	w.notApproved("approved once, and the floor rose", w.approve(g, bundleB, 3), code.BundleFloor)
	again := w.guest(id, nil)
	w.notApproved("the next launch", w.approve(again, bundleB, 3), code.BundleFloor)
	if err := w.approve(again, bundleA, 4); err != nil {
		t.Error(err)
	}
}

// Whatever runs behind a stage 1 cannot pass for another bundle than the one
// that was approved, nor use what was approved for another launch.
func TestBundleOfThisLaunchAlone(t *testing.T) {
	w := newWorld(t, nil)
	id := w.bundled(1)
	g, other := w.guest(id, nil), w.guest(id, nil)
	if err := w.approve(g, bundleA, 1); err != nil {
		t.Fatal(err)
	}
	w.notApproved("another bundle", w.approve(g, bundleB, 9), code.BundleSecond)
	w.notApproved("another version", w.approve(g, bundleA, 9), code.BundleSecond)
	_, _, err := w.get(other)
	w.refused("a launch of its own", err, code.BundleUnapproved)
	w.floor(id, 9)
	_, _, err = w.get(g)
	w.refused("version 1 of a floor of 9", err, code.BundleFloor)
}

// Neither an ID that is not registered nor a changed image learns more than the
// refusal; an instance without a floor starts no bundle, and is none's launch.
func TestBundleRefusals(t *testing.T) {
	w := newWorld(t, nil)
	id := w.bundled(1)
	w.notApproved("unknown ID", w.approve(w.guest(newID(), nil), bundleA, 1), code.InstanceUnknown)
	w.notApproved("changed stage 1", w.approve(w.guest(id, func(c *snpsim.GuestConfig) { c.Measurement[0] ^= 1 }), bundleA, 1), code.MeasurementUnknown)
	plain := newID()
	w.add(plain, Takeover)
	g := w.guest(plain, nil)
	w.notApproved("no floor", w.approve(g, bundleA, 1), code.BundleUnexpected)
	if _, p, err := w.get(g); err != nil {
		t.Error(err)
	} else {
		p.Zero()
	}
	if err := w.state.Decommission(context.Background(), id, time.Now(), false); err != nil {
		t.Fatal(err)
	}
	w.notApproved("decommissioned", w.approve(w.guest(id, nil), bundleA, 1), code.InstanceDecommissioned)
}

// ask sends bundle-begin by hand and gives the transcript.
func (w *world) ask(id, bundle wire.Hex32, version uint64) (*talk, *wire.BundleTranscript) {
	w.t.Helper()
	c := w.dialALPN(wire.ALPNBundle)
	tr := &wire.BundleTranscript{Version: wire.Version, ID: id, Bundle: bundle, BundleVersion: version}
	cs := c.conn.ConnectionState()
	if err := tr.FillChannel(&cs, w.server.Pin()); err != nil {
		w.t.Fatal(err)
	}
	c.send(&wire.BundleBegin{Version: wire.Version, ID: id, Bundle: bundle, BundleVersion: version})
	ch, err := wire.Expect[*wire.Challenge](c.conn)
	if err != nil {
		w.t.Fatal(err)
	}
	tr.Nonce = ch.Nonce
	return c, tr
}

// Genuine evidence, carried to another question: another bundle or version than
// the one that the guest read, another connection, another protocol.
func TestBundleRelay(t *testing.T) {
	w := newWorld(t, nil)
	id := w.bundled(1)
	g := w.guest(id, nil)
	answer := func(c *talk, data [64]byte) error {
		t.Helper()
		e, err := g.Platform().Report(ctxFor(t), data)
		if err != nil {
			t.Fatal(err)
		}
		c.send(&wire.Evidence{Platform: e.Platform, Report: e.Report, Endorsements: e.Endorsements})
		_, err = wire.Expect[*wire.BundleApproved](c.conn)
		return err
	}
	for what, change := range map[string]func(*wire.BundleTranscript) [64]byte{
		"another bundle":  func(t *wire.BundleTranscript) [64]byte { t.Bundle = bundleB; return t.ReportData() },
		"another version": func(t *wire.BundleTranscript) [64]byte { t.BundleVersion = 1; return t.ReportData() },
		"another nonce":   func(t *wire.BundleTranscript) [64]byte { t.Nonce[0] ^= 1; return t.ReportData() },
		"another channel": func(t *wire.BundleTranscript) [64]byte { t.Exporter[0] ^= 1; return t.ReportData() },
		"another server":  func(t *wire.BundleTranscript) [64]byte { t.SPKI[0] ^= 1; return t.ReportData() },
		"a launch's": func(t *wire.BundleTranscript) [64]byte {
			return (&wire.Transcript{Version: 1, SPKI: t.SPKI, Exporter: t.Exporter, Nonce: t.Nonce, ID: t.ID}).ReportData()
		},
	} {
		c, tr := w.ask(id, bundleA, 2)
		if err := answer(c, change(tr)); err == nil || !strings.Contains(err.Error(), string(code.BundleRefused)) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if a, err := w.state.Approval(context.Background(), id, g.ReportID); err != nil || a != nil {
		t.Errorf("on record: %+v, %v", a, err)
	}
	c, tr := w.ask(id, bundleA, 2)
	if err := answer(c, tr.ReportData()); err != nil {
		t.Error(err)
	}
	// One protocol's messages on another's channel.
	for alpn, m := range map[string]wire.Message{
		wire.ALPNLaunch: &wire.BundleBegin{Version: 1, ID: id, Bundle: bundleA, BundleVersion: 1},
		wire.ALPNBundle: &wire.Outcome{ID: id, Result: wire.ResultOpened},
	} {
		c := w.dialALPN(alpn)
		c.send(m)
		if _, err := wire.Expect[*wire.Challenge](c.conn); err == nil || !strings.Contains(err.Error(), string(code.LaunchMalformed)) {
			t.Errorf("%T on %s: %v", m, alpn, err)
		}
	}
}

// The floor rises; it falls by the owner's own word alone, and then every
// bundle that it lets in raises an alert.
func TestBundleFloor(t *testing.T) {
	w := newWorld(t, nil)
	id := w.bundled(5)
	ctx := context.Background()
	if _, err := w.state.SetBundleFloor(ctx, id, 4, false, time.Now()); err == nil {
		t.Fatal("the floor fell")
	}
	if was, err := w.state.SetBundleFloor(ctx, id, 4, true, time.Now()); err != nil || was != 5 {
		t.Fatalf("%d, %v", was, err)
	}
	if err := w.approve(w.guest(id, nil), bundleA, 4); err != nil {
		t.Fatal(err)
	}
	if log := w.log.String(); !strings.Contains(log, "lowered the floor from 5 to 4") {
		t.Errorf("no alert: %s", log)
	}
	if i := w.instance(id); i.BundleFloor != 4 || len(i.BundleLowered) != 1 {
		t.Errorf("%+v", i)
	}
	if _, err := w.state.SetBundleFloor(ctx, id, wire.MaxBundleVersion+1, false, time.Now()); err == nil {
		t.Error("a floor that no version reaches")
	}
}

// With the ratchet the floor follows what has booted, and nothing less: not what
// was approved, released or reported as failed.
func TestBundleRatchet(t *testing.T) {
	w := newWorld(t, nil)
	id := w.bundled(3)
	if err := w.state.UpdateInstance(context.Background(), id, func(i *Instance) error { i.BundleRatchet = true; return nil }); err != nil {
		t.Fatal(err)
	}
	floor := func(want uint64) {
		t.Helper()
		if got := w.instance(id).BundleFloor; got != want {
			t.Errorf("floor %d, want %d", got, want)
		}
	}
	g := w.guest(id, nil)
	if err := w.approve(g, bundleA, 5); err != nil {
		t.Fatal(err)
	}
	floor(3)
	c, p, err := w.get(g)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Zero()
	floor(3)
	if _, err := c.outcome(failed(g, p)); err != nil {
		t.Fatal(err)
	}
	floor(3)
	if _, err := w.dial().outcome(opened(g, p)); err != nil {
		t.Fatal(err)
	}
	floor(5)
	if _, err := w.dial().outcome(opened(g, p)); err != nil {
		t.Errorf("the same outcome again: %v", err)
	}
	w.notApproved("the bundle before", w.approve(w.guest(id, nil), bundleB, 4), code.BundleFloor)
	if !strings.Contains(w.log.String(), "the bundle floor rose to 5") {
		t.Error("not in the log")
	}
}
