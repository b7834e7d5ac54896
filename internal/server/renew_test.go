package server

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"attestbox/internal/appraise"
	"attestbox/internal/client"
	"attestbox/internal/code"
	"attestbox/internal/platform"
	"attestbox/internal/secret"
	"attestbox/internal/snpsim"
	"attestbox/internal/wire"
)

// boots launches an image under an ID and reports how it ended.
func (w *world) boots(image [48]byte, id wire.Hex32, result string) error {
	w.t.Helper()
	ctx := ctxFor(w.t)
	rel, err := client.Launch(ctx, w.client(w.started(image, id).Platform()))
	if err != nil {
		return err
	}
	defer rel.Close()
	reason, opened := code.LUKSWrongKey, []wire.Hex32(nil)
	if result == wire.ResultOpened {
		reason = ""
		for _, h := range rel.Payload.Headers {
			opened = append(opened, digestOf(w.t, h))
		}
	}
	_, err = rel.Report(ctx, result, reason, opened)
	return err
}

// The owner names the next image of an instance. Until it has booted the old one
// is the way back; from then on it is refused.
func TestRenewByOwner(t *testing.T) {
	w := newWorld(t, nil)
	ctx := context.Background()
	id, other := newID(), newID()
	w.add(id, Takeover)
	w.add(other, Takeover)
	next := [48]byte{0xbb, 1}
	pending := []Measurement{{Digest: hex48(next), Source: "computed from image b"}}
	if err := w.boots(next, id, wire.ResultOpened); err == nil {
		t.Fatal("not pending yet: released")
	}
	if err := w.state.Renew(ctx, id, pending, time.Now()); err != nil {
		t.Fatal(err)
	}
	// The host starts it so that it fails: nothing is lost.
	if err := w.boots(next, id, wire.ResultFailed); err != nil {
		t.Fatal(err)
	}
	if err := w.boots(digest, id, wire.ResultOpened); err != nil {
		t.Fatalf("the old image after a failed boot of the new one: %v", err)
	}
	if i := w.instance(id); len(i.Measurements) != 2 || !i.Measurements[1].Pending() || len(i.Promotions) != 0 {
		t.Fatalf("%+v", i.Measurements)
	}
	// The running VM's own nominations do not push it out, nor does the boot of one.
	if err := w.state.UpdateInstance(ctx, id, func(i *Instance) error { i.MayNominate = true; return nil }); err != nil {
		t.Fatal(err)
	}
	for b := byte(1); b < 5; b++ {
		if _, err := w.state.Nominate(ctx, id, nomination(b), hex48(digest), true, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.boots([48]byte{4, 1}, id, wire.ResultOpened); err != nil {
		t.Fatal(err)
	}
	if err := w.boots(next, id, wire.ResultOpened); err != nil {
		t.Fatalf("the owner's next image: %v", err)
	}
	i := w.instance(id)
	if len(i.Measurements) != 1 || i.Measurements[0].Digest != hex48(next) || i.Measurements[0].Pending() {
		t.Fatalf("after the boot: %+v", i.Measurements)
	}
	if p := i.Promotions; len(p) != 2 || p[0].Digest != hex48(next) || p[0].Boot == 0 || len(p[0].Dropped) != 1 {
		t.Errorf("promotions %+v", p)
	}
	if !strings.Contains(w.log.String(), "launch digest "+hex48(next)+" has booted") {
		t.Error("the log does not say that it was promoted")
	}
	w.refused("the old image", w.claims(id, w.started(digest, id)), code.MeasurementUnknown)
	if err := w.boots(digest, other, wire.ResultOpened); err != nil {
		t.Errorf("the rest of the fleet: %v", err)
	}
	for what, err := range map[string]error{
		"one that it has":        w.state.Renew(ctx, id, pending, time.Now()),
		"of an unknown instance": w.state.Renew(ctx, newID(), pending, time.Now()),
	} {
		if err == nil {
			t.Errorf("%s: renewed", what)
		}
	}
}

// What the old image nominates after the owner's word is the old image's, and is
// gone with it.
func TestRenewEndsLaterNominations(t *testing.T) {
	w := newWorld(t, nil)
	ctx := context.Background()
	id := newID()
	w.add(id, Takeover)
	if err := w.state.UpdateInstance(ctx, id, func(i *Instance) error { i.MayNominate = true; return nil }); err != nil {
		t.Fatal(err)
	}
	w.up(w.guest(id, nil))
	next, later, evil := [48]byte{0xbb, 1}, [48]byte{0xbc, 1}, [48]byte{5, 1}
	renew := func(d [48]byte) {
		t.Helper()
		if err := w.state.Renew(ctx, id, []Measurement{{Digest: hex48(d), Source: "computed"}}, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	renew(next)
	if ok, err := w.state.Nominate(ctx, id, nomination(5), hex48(digest), true, time.Now()); !ok || err != nil {
		t.Fatalf("%v, %v", ok, err)
	}
	renew(later)
	if err := w.boots(next, id, wire.ResultOpened); err != nil {
		t.Fatal(err)
	}
	if got := w.instance(id).Measurements; len(got) != 2 || got[0].Digest != hex48(next) || got[1].Digest != hex48(later) {
		t.Errorf("after the owner's image booted: %+v", got)
	}
	w.refused("the old image's nomination", w.claims(id, w.started(evil, id)), code.MeasurementUnknown)
}

// What the owner allows is allowed for good, although it was pending before: no
// nomination pushes it out, and its boot drops nothing.
func TestAllowPending(t *testing.T) {
	w := newWorld(t, nil)
	ctx := context.Background()
	id := newID()
	w.add(id, Takeover)
	next, named := [48]byte{0xbb, 1}, [48]byte{7, 1}
	if err := w.state.Renew(ctx, id, []Measurement{{Digest: hex48(next), Source: "renewed"}}, time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.state.Nominate(ctx, id, nomination(7), hex48(digest), true, time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.state.Nominate(ctx, id, nomination(8), hex48(digest), false, time.Now()); err != nil {
		t.Fatal(err)
	}
	allow := func(digests ...string) {
		t.Helper()
		if err := w.state.UpdateInstance(ctx, id, func(i *Instance) error {
			for _, d := range digests {
				i.Allow(Measurement{Digest: d, Source: "allowed"})
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	allow(hex48(next), hex48(named), nomination(8).Digest, hex48(digest))
	i := w.instance(id)
	if len(i.Measurements) != 4 || len(i.Nominations) != 0 {
		t.Fatalf("%+v, waiting %+v", i.Measurements, i.Nominations)
	}
	for n, m := range i.Measurements {
		if m.Pending() || m.ByOwner || n > 0 && m.Source != "allowed" {
			t.Errorf("%+v", m)
		}
	}
	for b := byte(1); b < 4; b++ {
		if _, err := w.state.Nominate(ctx, id, nomination(b), hex48(digest), false, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range [][48]byte{next, named, {8, 1}, digest} {
		if err := w.boots(d, id, wire.ResultOpened); err != nil {
			t.Errorf("%x: %v", d[:2], err)
		}
	}
	// Renewed by its owner, it waits for no other word.
	if err := w.state.Renew(ctx, id, []Measurement{{Digest: nomination(3).Digest, Source: "renewed"}}, time.Now()); err != nil {
		t.Fatal(err)
	}
	if got := w.instance(id).Nominations; len(got) != 1 || got[0].Digest != nomination(2).Digest {
		t.Errorf("waiting %+v", got)
	}
}

// A boot that narrows does so on record: without the audit log nothing is
// dropped, raised or acknowledged, and a crash between the boot's record and what
// follows from it loses neither.
func TestOutcomeNarrowsOnRecord(t *testing.T) {
	next := [48]byte{0xbb, 1}
	setup := func(t *testing.T) (*world, *snpsim.Guest, *talk, *wire.Payload) {
		w := newWorld(t, func(o *Options) {
			a, err := OpenAudit(context.Background(), o.State, filepath.Join(t.TempDir(), "audit"), false, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			o.Audit = a
			t.Cleanup(func() { a.Close() })
		})
		ctx, id := context.Background(), w.bundled(3)
		if err := w.state.UpdateInstance(ctx, id, func(i *Instance) error { i.BundleRatchet = true; return nil }); err != nil {
			t.Fatal(err)
		}
		if err := w.state.Renew(ctx, id, []Measurement{{Digest: hex48(next), Source: "computed"}}, time.Now()); err != nil {
			t.Fatal(err)
		}
		g := w.started(next, id)
		if err := w.approve(g, bundleA, 5); err != nil {
			t.Fatal(err)
		}
		c, p, err := w.get(g)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Zero)
		return w, g, c, p
	}
	t.Run("no audit log", func(t *testing.T) {
		w, g, c, p := setup(t)
		if err := w.server.Audit.Close(); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if _, err := c.outcome(opened(g, p)); err == nil {
				t.Error("acknowledged")
			} else if ans, ok := errors.AsType[*wire.AnswerError](err); !ok || ans.Code != code.VerifierBusy {
				t.Errorf("%v, want later", err)
			}
			c = w.dial()
		}
		if i := w.instance(g.Config.HostData); len(i.Measurements) != 2 || len(i.Promotions) != 0 || i.BundleFloor != 3 {
			t.Errorf("narrowed off the record: %+v, floor %d", i.Measurements, i.BundleFloor)
		}
	})
	t.Run("crash", func(t *testing.T) {
		w, g, _, p := setup(t)
		if err := w.state.RecordOutcome(context.Background(), w.instance(g.Config.HostData), opened(g, p), time.Now()); err != nil {
			t.Fatal(err)
		}
		if _, err := w.dial().outcome(opened(g, p)); err != nil {
			t.Fatal(err)
		}
		if i := w.instance(g.Config.HostData); len(i.Measurements) != 1 || len(i.Promotions) != 1 || i.Promotions[0].Boot != p.Boot || i.BundleFloor != 5 {
			t.Errorf("%+v, floor %d", i, i.BundleFloor)
		}
		for _, want := range []string{"launch digest " + hex48(next) + " has booted", "the bundle floor rose to 5"} {
			if !strings.Contains(fileText(t, w.decisions), want) {
				t.Errorf("not on record: %s", want)
			}
		}
	})
}

// One renewal names an image in several variants, as for two numbers of vCPUs.
// They stand together: which of them the host starts first drops none of the rest.
func TestRenewVariants(t *testing.T) {
	w := newWorld(t, nil)
	ctx := context.Background()
	id := newID()
	w.add(id, Takeover)
	variant := func(b, n byte) [48]byte { return [48]byte{b, n} }
	renew := func(list ...[48]byte) {
		t.Helper()
		var m []Measurement
		for _, d := range list {
			m = append(m, Measurement{Digest: hex48(d), Source: "computed"})
		}
		if err := w.state.Renew(ctx, id, m, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	boots := func(d [48]byte) {
		t.Helper()
		if err := w.boots(d, id, wire.ResultOpened); err != nil {
			t.Fatalf("%x: %v", d[:2], err)
		}
	}
	renew(variant(0xb0, 1)) // bad, and renewed before it booted
	renew(variant(0xbb, 1), variant(0xbb, 2), variant(0xbb, 3))
	boots(variant(0xbb, 3))
	for _, d := range [][48]byte{digest, variant(0xb0, 1)} {
		w.refused("what was before", w.claims(id, w.started(d, id)), code.MeasurementUnknown)
	}
	boots(variant(0xbb, 1))
	boots(variant(0xbb, 2))
	boots(variant(0xbb, 3))
	renew(variant(0xcc, 1), variant(0xcc, 2))
	boots(variant(0xbb, 1)) // the way back
	boots(variant(0xcc, 2))
	if got := w.instance(id).Measurements; len(got) != 2 || got[0].Digest != hex48(variant(0xcc, 2)) || got[1].Digest != hex48(variant(0xcc, 1)) {
		t.Errorf("after the next renewal: %+v", got)
	}
	w.refused("the renewal before", w.claims(id, w.started(variant(0xbb, 2), id)), code.MeasurementUnknown)
	boots(variant(0xcc, 1))
}

// In a domain the policy says which image renews which, and each instance that
// was seen as the newer one stays there.
func TestPolicyRenews(t *testing.T) {
	w := newDomainWorld(t, nil)
	m := func(d [48]byte) string { return "Measurement[" + hex48(d) + "]" }
	imageD := [48]byte{0xD4}
	lines := append(w.policyLines(), m(imageD)+" is-trusted", m(imageB)+" renews "+m(imageA), m(imageD)+" renews "+m(imageB))
	w.sign(2, lines...)
	w.reload()
	vm := func(image [48]byte, id wire.Hex32) platform.Platform { return w.started(image, id).Platform() }
	id1, id2, id3 := newID(), newID(), newID()
	refused := func(what string, image [48]byte, id wire.Hex32) {
		t.Helper()
		if _, _, err := w.certify(vm(image, id), ""); err == nil {
			t.Errorf("%s: admitted", what)
		} else if got := w.lastDecision(); !strings.Contains(got, "code="+string(code.MeasurementRenewed)) {
			t.Errorf("%s: %s", what, got)
		}
	}
	admitted := func(what string, image [48]byte, id wire.Hex32) {
		t.Helper()
		if _, _, err := w.certify(vm(image, id), ""); err != nil {
			t.Errorf("%s: %v (%s)", what, err, w.lastDecision())
		}
	}
	old := w.mustCertify(vm(imageA, id1))
	admitted("the old image on another instance", imageA, id2)
	admitted("the new image", imageB, id1)
	if got := w.lastDecision(); !strings.Contains(got, "may not go back to "+hex48(imageA)) {
		t.Errorf("the decision has no alert: %s", got)
	}
	refused("the old image, after the new one", imageA, id1)
	admitted("the new image again", imageB, id1)
	admitted("the rest of the fleet", imageA, id2)
	// A certificate from before serves no more either.
	if k, err := client.DialKeys(ctxFor(t), w.keysConfig(old)); err == nil {
		if _, err = k.Get(ctxFor(t), "db/x", 0); err == nil {
			t.Error("the old image's certificate was served")
		}
	}
	// By way of an image that was left out.
	admitted("two versions at once", imageD, id3)
	refused("the first version", imageA, id3)
	refused("the second version", imageB, id3)
	// Time does not widen it: claims end, what was narrowed stays.
	w.advance(80 * 24 * time.Hour)
	refused("the old image, late", imageA, id1)

	// Another server process, from the same state.
	d, err := OpenDomain(context.Background(), w.state, w.domain.cfg, ProverConfig{}, w.now())
	if err != nil {
		t.Fatal(err)
	}
	if n := d.current.Load().renewed.count(); n != 3 {
		t.Errorf("%d renewals after a restart, want 3", n)
	}
	// A new version that still says so changes nothing.
	w.sign(3, append(lines, m(imageC)+" is-revoked")...)
	w.reload()
	refused("the old image, under a new version", imageA, id1)
	// The owner's word in a new version: image B was bad.
	w.sign(4, append(lines, m(imageC)+" is-revoked", m(imageB)+" is-revoked")...)
	w.reload()
	admitted("the old image, after its owner revoked the new one", imageA, id1)
	if n := w.domain.current.Load().renewed.count(); n != 1 {
		t.Errorf("%d renewals, want that of id3's newest alone", n)
	}
}

// A new policy that takes a renewal back is the last word, although a member was
// being seen as the newer image while it came.
func TestPolicyRenewsMeanwhile(t *testing.T) {
	w := newDomainWorld(t, nil)
	m := func(d [48]byte) string { return "Measurement[" + hex48(d) + "]" }
	w.sign(2, append(w.policyLines(), m(imageB)+" renews "+m(imageA))...)
	w.reload()
	id := newID()
	list := w.domain.renewalsBy(id, hex48(imageB), w.now())
	if len(list) != 1 {
		t.Fatalf("%+v", list)
	}
	w.sign(3, append(w.policyLines(), m(imageC)+" is-revoked")...)
	w.reload()
	if err := w.domain.keepRenewals(context.Background(), list); err != nil {
		t.Fatal(err)
	}
	if n := w.domain.current.Load().renewed.count(); n != 0 {
		t.Errorf("%d renewals that no policy states", n)
	}
	if _, _, err := w.certify(w.started(imageA, id).Platform(), ""); err != nil {
		t.Errorf("the old image, which may go back: %v (%s)", err, w.lastDecision())
	}
	rs, err := w.state.loadRenewals(context.Background(), w.name)
	if err != nil || rs.count() != 0 {
		t.Errorf("stored: %d, %v", rs.count(), err)
	}
}

// A launch narrows when it reported that it opened its disk, not before.
func TestPolicyRenewsLaunch(t *testing.T) {
	w := newDomainWorld(t, nil)
	m := func(d [48]byte) string { return "Measurement[" + appraise.Hex48(d).String() + "]" }
	w.sign(2, append(w.policyLines(), m(imageB)+" renews "+m(imageA))...)
	w.reload()
	id := newID()
	inst := imageInstance(id, w.name)
	inst.IDSource, inst.Measurements = "", []Measurement{}
	if err := w.state.AddInstance(context.Background(), inst, &Secrets{DiskKey: secret.Random(32)}); err != nil {
		t.Fatal(err)
	}
	if err := w.boots(imageA, id, wire.ResultOpened); err != nil {
		t.Fatal(err)
	}
	if err := w.boots(imageB, id, wire.ResultFailed); err != nil {
		t.Fatal(err)
	}
	if err := w.boots(imageA, id, wire.ResultOpened); err != nil {
		t.Fatalf("the old image after a failed boot of the new one: %v", err)
	}
	if err := w.boots(imageB, id, wire.ResultOpened); err != nil {
		t.Fatal(err)
	}
	if err := w.boots(imageA, id, wire.ResultOpened); err == nil {
		t.Error("the old image after the new one: released")
	}
	w.mustHaveCode(code.MeasurementRenewed)
	if err := w.boots(imageB, id, wire.ResultOpened); err != nil {
		t.Errorf("the new image again: %v", err)
	}
}
