package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"attestbox/internal/appraise"
	"attestbox/internal/client"
	"attestbox/internal/code"
	"attestbox/internal/idblock"
	"attestbox/internal/secret"
	"attestbox/internal/snpsim"
	"attestbox/internal/wire"
)

// idOwner signs images with an ID key.
type idOwner struct {
	t   testing.TB
	psp *snpsim.PSP
	key *ecdsa.PrivateKey
}

func newIDOwner(t testing.TB, psp *snpsim.PSP) *idOwner {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &idOwner{t, psp, k}
}

func (o *idOwner) identity(image string, minSVN uint32) appraise.Identity {
	o.t.Helper()
	k, err := idblock.NewPublicKey(&o.key.PublicKey)
	if err != nil {
		o.t.Fatal(err)
	}
	id, err := idblock.ParseID(image)
	if err != nil {
		o.t.Fatal(err)
	}
	return appraise.Identity{IDKey: k.Digest(), ImageID: id, MinSVN: minSVN}
}

// launch starts a digest that the owner signs as a version of an image.
func (o *idOwner) launch(id wire.Hex32, digest byte, image string, svn uint32) *snpsim.Guest {
	o.t.Helper()
	m := [48]byte{digest, 0x1d}
	g, err := o.psp.LaunchFinish(snpsim.GuestConfig{Measurement: m, HostData: id}, o.sign(m, image, svn))
	if err != nil {
		o.t.Fatal(err)
	}
	return g
}

// sign makes the ID block of a digest.
func (o *idOwner) sign(digest [48]byte, image string, svn uint32) *snpsim.IDBlock {
	o.t.Helper()
	b := &idblock.Block{LaunchDigest: digest, ImageID: o.identity(image, 1).ImageID, GuestSVN: svn, Policy: snpsim.DefaultPolicy}
	a, err := idblock.Sign(b, o.key, nil)
	if err != nil {
		o.t.Fatal(err)
	}
	return &snpsim.IDBlock{Block: b.Marshal(), Auth: a.Marshal()}
}

// identified registers an instance by identity alone.
func (w *world) identified(id wire.Hex32, list ...appraise.Identity) {
	w.t.Helper()
	inst := &Instance{ID: id, Identities: list, Headers: []wire.HeaderRecord{record()}, OnSecond: Takeover, Created: time.Now().Unix()}
	if err := w.state.AddInstance(context.Background(), inst, &Secrets{DiskKey: secret.Random(32)}); err != nil {
		w.t.Fatal(err)
	}
}

// An instance that is registered by ID key, image ID and least SVN boots every
// image that the key's owner signed, and nothing else. No digest is listed.
func TestIdentityAdmits(t *testing.T) {
	w := newWorld(t, nil)
	owner, stranger := newIDOwner(t, w.psp), newIDOwner(t, w.psp)
	id := newID()
	w.identified(id, owner.identity("web", 3))
	for n, svn := range []uint32{3, 4} { // the next image needs nobody's word
		g := owner.launch(id, byte(n+1), "web", svn)
		w.up(g)
		b, err := w.state.Boots(context.Background(), id)
		if err != nil || b.Current[0].Measurement != wire.DigestText(g.Config.Measurement) {
			t.Fatalf("the boot's record names %q, %v", b.Current[0].Measurement, err)
		}
	}
	if got := w.instance(id).Measurements; len(got) != 0 {
		t.Errorf("digests are listed now: %+v", got)
	}
	if log := fileText(t, w.decisions); !strings.Contains(log, "admitted by ID key") {
		t.Errorf("the decision does not say by whose word:\n%s", log)
	}
	attacks := map[string]*snpsim.Guest{
		"an older version":                        owner.launch(id, 1, "web", 2),
		"another image of the owner's":            owner.launch(id, 1, "db", 9),
		"a block signed by another key":           stranger.launch(id, 1, "web", 9),
		"the same digest without an ID block":     w.guest(id, func(c *snpsim.GuestConfig) { c.Measurement = [48]byte{1, 0x1d} }),
		"the ID block's fields without a key":     w.guest(id, func(c *snpsim.GuestConfig) { c.ImageID, c.SVN = owner.identity("web", 3).ImageID, 9 }),
		"a digest that is listed for nobody else": w.guest(id, nil),
	}
	for name, g := range attacks {
		c := w.begin(id)
		c.send(c.evidence(g))
		_, err := c.release()
		w.refused(name, err, code.MeasurementUnknown)
	}
	c := w.begin(id)
	c.send(c.evidence(owner.launch(newID(), 1, "web", 3)))
	_, err := c.release()
	w.refused("another instance's signed launch", err, code.HostDataMismatch)

	// The owner raises the floor: what was good enough is over.
	if err := w.state.UpdateInstance(context.Background(), id, func(i *Instance) error { i.Admit([]appraise.Identity{owner.identity("web", 4)}); return nil }); err != nil {
		t.Fatal(err)
	}
	if got := w.instance(id).Identities; len(got) != 1 || got[0].MinSVN != 4 {
		t.Errorf("identities %+v", got)
	}
	c = w.begin(id)
	c.send(c.evidence(owner.launch(id, 1, "web", 3)))
	_, err = c.release()
	w.refused("a version below the raised floor", err, code.MeasurementUnknown)
	w.up(owner.launch(id, 2, "web", 4))
}

// Identities stand beside launch digests; each alone is enough.
func TestIdentityBesideDigests(t *testing.T) {
	w := newWorld(t, nil)
	owner := newIDOwner(t, w.psp)
	id := newID()
	w.add(id, Takeover)
	w.up(w.guest(id, nil))
	if _, err := client.Launch(ctxFor(t), w.client(owner.launch(id, 1, "web", 3).Platform())); !errors.Is(err, client.ErrRefused) {
		t.Errorf("signed by a key that is not registered: %v", err)
	}
	if err := w.state.UpdateInstance(context.Background(), id, func(i *Instance) error { i.Admit([]appraise.Identity{owner.identity("web", 3)}); return nil }); err != nil {
		t.Fatal(err)
	}
	w.up(owner.launch(id, 1, "web", 3))
	w.up(w.guest(id, nil))
}

// A nomination by a VM that its identity admitted adds its successor alone: the
// running digest stays the identity's matter, so that a raised floor ends it.
func TestIdentityNominates(t *testing.T) {
	w := newWorld(t, nil)
	owner := newIDOwner(t, w.psp)
	id := newID()
	w.identified(id, owner.identity("web", 3))
	g := owner.launch(id, 1, "web", 3)
	w.up(g)
	if ok, err := w.mustMaintain(g, wire.PurposeNominate).Nominate(ctxFor(t), nomination(5)); ok || err != nil {
		t.Fatalf("allowed %v, %v", ok, err)
	}
	if _, err := w.state.DecideNomination(context.Background(), id, nomination(5).Digest, true, time.Now()); err != nil {
		t.Fatal(err)
	}
	if got := w.instance(id).Measurements; len(got) != 1 || got[0].Digest != nomination(5).Digest {
		t.Fatalf("digests %+v", got)
	}
	w.up(w.guest(id, func(c *snpsim.GuestConfig) { c.Measurement = [48]byte{5, 1} }))
	w.up(owner.launch(id, 2, "web", 3)) // the identity stands
	if err := w.state.UpdateInstance(context.Background(), id, func(i *Instance) error { i.Admit([]appraise.Identity{owner.identity("web", 4)}); return nil }); err != nil {
		t.Fatal(err)
	}
	c := w.begin(id)
	c.send(c.evidence(owner.launch(id, 1, "web", 3)))
	_, err := c.release()
	w.refused("the digest that nominated, below the floor", err, code.MeasurementUnknown)
}

func TestIdentityRegistration(t *testing.T) {
	w := newWorld(t, nil)
	owner := newIDOwner(t, w.psp)
	good := owner.identity("web", 3)
	many := make([]appraise.Identity, MaxIdentities+1)
	for n := range many {
		many[n] = good
		many[n].ImageID[15] = byte(n)
	}
	for name, list := range map[string][]appraise.Identity{
		"none": nil, "no key": {{ImageID: good.ImageID, MinSVN: 3}}, "no image": {{IDKey: good.IDKey, MinSVN: 3}}, "no floor": {{IDKey: good.IDKey, ImageID: good.ImageID}},
		"one image twice": {good, owner.identity("web", 4)}, "too many": many,
	} {
		inst := &Instance{ID: newID(), Identities: list, OnSecond: Takeover}
		if err := w.state.AddInstance(context.Background(), inst, &Secrets{}); err == nil {
			t.Errorf("%s: registered", name)
		}
	}
	id := newID()
	w.identified(id, good)
	if got := w.instance(id); len(got.Identities) != 1 || got.Identities[0] != good || len(got.Measurements) != 0 {
		t.Errorf("record %+v", got)
	}
}

// A floor is raised although the identity before it named no family, or more
// than one did: none of them is left to admit what is below.
func TestIdentityFloorAcrossFamilies(t *testing.T) {
	w := newWorld(t, nil)
	owner := newIDOwner(t, w.psp)
	family := func(b byte, minSVN uint32) appraise.Identity {
		i := owner.identity("web", minSVN)
		i.FamilyID = appraise.Hex16{b}
		return i
	}
	any := owner.identity("web", 1)
	id := newID()
	w.identified(id, any)
	admit := func(list ...appraise.Identity) {
		t.Helper()
		if err := w.state.UpdateInstance(context.Background(), id, func(i *Instance) error { i.Admit(list); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	has := func(what string, want ...appraise.Identity) {
		t.Helper()
		if got := w.instance(id).Identities; !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	admit(family(1, 5))
	has("a family in the place of any", family(1, 5))
	c := w.begin(id)
	c.send(c.evidence(owner.launch(id, 1, "web", 1)))
	_, err := c.release()
	w.refused("a version below the raised floor", err, code.MeasurementUnknown)
	admit(family(2, 6))
	has("another family beside it", family(1, 5), family(2, 6))
	admit(owner.identity("web", 7))
	has("any family in the place of two", owner.identity("web", 7))
	for name, list := range map[string][]appraise.Identity{"any, then one": {any, family(1, 5)}, "one, then any": {family(1, 5), any}} {
		inst := &Instance{ID: newID(), Identities: list, OnSecond: Takeover}
		if err := w.state.AddInstance(context.Background(), inst, &Secrets{}); err == nil {
			t.Errorf("%s: registered", name)
		}
	}
}

func fileText(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// An identity that is taken away while evidence is appraised admits nothing.
func TestIdentityTakenAwayMeanwhile(t *testing.T) {
	m := &meanwhile{f: func() {}}
	w := newWorld(t, func(o *Options) { m.Appraiser, o.Appraiser = o.Appraiser, m })
	owner := newIDOwner(t, w.psp)
	id := newID()
	w.identified(id, owner.identity("web", 3))
	m.f = func() {
		m.f = func() {}
		if err := w.state.UpdateInstance(context.Background(), id, func(i *Instance) error { i.Admit([]appraise.Identity{owner.identity("web", 4)}); return nil }); err != nil {
			t.Error(err)
		}
	}
	c := w.begin(id)
	c.send(c.evidence(owner.launch(id, 1, "web", 3)))
	if _, err := c.release(); err == nil {
		t.Error("released by an identity that was taken away")
	} else if ans, ok := err.(*wire.AnswerError); !ok || ans.Seconds == 0 {
		t.Errorf("%v, want later", err)
	}
}
