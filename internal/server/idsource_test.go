package server

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"slices"
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

// Images that bring the IDs of two instances.
var (
	imageOf1 = [48]byte{0x11, 0x1a}
	imageOf2 = [48]byte{0x22, 0x2a}
)

func hex48(d [48]byte) string { return hex.EncodeToString(d[:]) }

func imageInstance(id wire.Hex32, domain string, digests ...[48]byte) *Instance {
	i := &Instance{ID: id, IDSource: IDFromImage, Domain: domain, Headers: []wire.HeaderRecord{record()}, OnSecond: Takeover, Created: time.Now().Unix()}
	for _, d := range digests {
		i.Measurements = append(i.Measurements, Measurement{Digest: appraise.Hex48(d).String(), Source: "test"})
	}
	return i
}

func (w *world) addImageInstance(id wire.Hex32, digests ...[48]byte) error {
	return w.state.AddInstance(context.Background(), imageInstance(id, "", digests...), &Secrets{DiskKey: secret.Random(32)})
}

// started is a VM of an image, with the HOST_DATA that the host chose.
func (w *world) started(image [48]byte, hostData wire.Hex32) *snpsim.Guest {
	return w.psp.Launch(snpsim.GuestConfig{Measurement: image, HostData: hostData})
}

// claims sends a VM's evidence under an ID that its software chose.
func (w *world) claims(id wire.Hex32, g *snpsim.Guest) error {
	w.t.Helper()
	c := w.begin(id)
	c.send(c.evidence(g))
	_, err := c.release()
	return err
}

func TestImageBringsID(t *testing.T) {
	w := newWorld(t, nil)
	id1, id2, other := newID(), newID(), newID()
	for id, image := range map[wire.Hex32][48]byte{id1: imageOf1, id2: imageOf2} {
		if err := w.addImageInstance(id, image); err != nil {
			t.Fatal(err)
		}
	}
	w.add(other, Takeover) // its ID is HOST_DATA

	// The real client, with the ID of its image, launches and maintains.
	g := w.started(imageOf1, wire.Hex32{})
	cfg := w.client(g.Platform())
	cfg.Instance = id1
	rel, err := client.Launch(ctxFor(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer rel.Close()
	if rel.ID != id1 {
		t.Errorf("released as %s", rel.ID)
	}
	if _, err := rel.Report(ctxFor(t), wire.ResultOpened, "", []wire.Hex32{digestOf(t, rel.Payload.Headers[0])}); err != nil {
		t.Fatal(err)
	}
	m, err := client.Maintain(ctxFor(t), cfg, wire.PurposeHeaders)
	if err != nil {
		t.Fatal(err)
	}
	m.Close()

	// What a host can start, and what software in the VM can then say.
	for _, c := range []struct {
		what string
		id   wire.Hex32
		g    *snpsim.Guest
		want code.Code
	}{
		{"the host sets HOST_DATA to the image's own ID", id1, w.started(imageOf1, id1), code.HostDataMismatch},
		{"the host sets HOST_DATA to another", id1, w.started(imageOf1, other), code.HostDataMismatch},
		{"the image of one ID claims another", id2, w.started(imageOf1, wire.Hex32{}), code.MeasurementUnknown},
		{"the same, with HOST_DATA set to it", id2, w.started(imageOf1, id2), code.MeasurementUnknown},
		{"it claims an ID that is HOST_DATA", other, w.started(imageOf1, wire.Hex32{}), code.MeasurementUnknown},
		{"the same, with HOST_DATA set to it", other, w.started(imageOf1, other), code.MeasurementUnknown},
		{"an image without an ID, no HOST_DATA, claims its ID", other, w.started(digest, wire.Hex32{}), code.HostDataMismatch},
		{"it claims an ID that another image brings", id1, w.started(digest, wire.Hex32{}), code.MeasurementUnknown},
		{"the same, with HOST_DATA set to it", id1, w.started(digest, id1), code.MeasurementUnknown},
		{"an unknown image with no HOST_DATA", id1, w.started([48]byte{9}, wire.Hex32{}), code.MeasurementUnknown},
		{"an ID that nobody registered, no HOST_DATA", newID(), w.started(imageOf1, wire.Hex32{}), code.InstanceUnknown},
	} {
		w.refused(c.what, w.claims(c.id, c.g), c.want)
	}
	zeros := w.dial()
	key, _ := wire.NewKey()
	zeros.send(&wire.Begin{Version: wire.Version, Suite: wire.SuiteHex(), Key: key.PublicKey().Bytes()})
	if _, err := wire.Expect[*wire.Challenge](zeros.conn); err == nil {
		t.Error("zeros as an ID were answered")
	}
}

// One launch digest never stands for two IDs, whoever registers it and how.
func TestImageIDIsOneInstances(t *testing.T) {
	w := newWorld(t, nil)
	ctx := context.Background()
	id1, id2, other := newID(), newID(), newID()
	if err := w.addImageInstance(id1, imageOf1); err != nil {
		t.Fatal(err)
	}
	w.add(other, Takeover)
	allow := func(id wire.Hex32, d [48]byte) error {
		return w.state.UpdateInstance(ctx, id, func(i *Instance) error {
			i.Measurements = append(i.Measurements, Measurement{Digest: hex48(d), Source: "test"})
			return nil
		})
	}
	hostData := func(d [48]byte) error {
		i := imageInstance(newID(), "", d)
		i.IDSource = ""
		return w.state.AddInstance(ctx, i, &Secrets{DiskKey: secret.Random(32)})
	}
	for what, err := range map[string]error{
		"the image of another ID":                    w.addImageInstance(id2, imageOf1),
		"an image of HOST_DATA's instances":          w.addImageInstance(id2, digest),
		"an image with an ID, for HOST_DATA":         hostData(imageOf1),
		"the same, allowed later":                    allow(other, imageOf1),
		"an image of HOST_DATA's instances, allowed": allow(id1, digest),
		"no launch digest at all":                    w.addImageInstance(newID()),
		"one of a domain's policy, without a digest": w.state.AddInstance(ctx, imageInstance(newID(), "bank.example"), &Secrets{DiskKey: secret.Random(32)}),
		"whatever an ID key signed": w.state.UpdateInstance(ctx, id1, func(i *Instance) error {
			i.Admit([]appraise.Identity{{IDKey: appraise.Hex48{1}, ImageID: appraise.Hex16{1}, MinSVN: 1}})
			return nil
		}),
		"a successor on the running VM's word": w.state.UpdateInstance(ctx, id1, func(i *Instance) error { i.MayNominate = true; return nil }),
	} {
		if err == nil {
			t.Errorf("%s: registered", what)
		}
	}
	if _, err := w.state.Instance(ctx, id2); !errors.Is(err, ErrUnknownInstance) {
		t.Errorf("a refused instance is there: %v", err)
	}
	if err := allow(id1, imageOf2); err != nil { // another image of the same instance
		t.Fatal(err)
	}
	if err := w.addImageInstance(id2, imageOf2); err == nil {
		t.Error("a digest that was allowed is free for another ID")
	}
	// A VM of HOST_DATA's nominates an image of the other kind.
	g := w.guest(other, nil)
	w.up(g)
	if err := w.state.UpdateInstance(ctx, other, func(i *Instance) error { i.MayNominate = true; return nil }); err != nil {
		t.Fatal(err)
	}
	n := nomination(1)
	n.Digest = hex48(imageOf1)
	_, err := w.mustMaintain(g, wire.PurposeNominate).Nominate(ctxFor(t), n)
	told(t, "a nominated image that brings another's ID", err, code.MaintainNominate)

	// Two registrations at the same moment could both pass: the appraisal asks
	// again. So as if both had.
	i := w.instance(other)
	i.Measurements = append(i.Measurements, Measurement{Digest: hex48(imageOf1), Source: "at the same moment"})
	b, _ := json.Marshal(i)
	if err := w.state.put(ctx, prefixInstance+other.String(), b); err != nil {
		t.Fatal(err)
	}
	w.refused("an image that brings another's ID", w.claims(other, w.started(imageOf1, other)), code.InstanceSource)
	i = imageInstance(id2, "", imageOf1)
	i.HasDiskKey, i.SecretNames = true, []string{}
	b, _ = json.Marshal(i)
	if err := w.state.put(ctx, prefixInstance+id2.String(), b); err != nil {
		t.Fatal(err)
	}
	w.refused("an image of the other ID", w.claims(id2, w.started(imageOf1, wire.Hex32{})), code.InstanceSource)
}

// A registration that is refused reserves nothing: a reservation is for good.
func TestRefusedReservesNothing(t *testing.T) {
	w := newWorld(t, nil)
	ctx := context.Background()
	id1, id2, other := newID(), newID(), newID()
	w.add(other, Takeover)
	free := func(what string, d [48]byte) {
		t.Helper()
		if id, taken, err := w.state.imageID(ctx, hex48(d)); taken || err != nil {
			t.Errorf("%s: reserved for %s, %v", what, id, err)
		}
	}
	sec := &Secrets{DiskKey: secret.Random(32), Named: []wire.NamedSecret{{Name: "large", Value: secret.Random(wire.MaxPayload)}}}
	if err := w.state.AddInstance(ctx, imageInstance(id1, "", imageOf1), sec); err == nil {
		t.Fatal("secrets that fit into no release: registered")
	}
	free("secrets that fit into no release", imageOf1)
	if err := w.addImageInstance(id1, imageOf1, digest); err == nil {
		t.Fatal("an image of HOST_DATA's instances: registered")
	}
	free("beside one that is refused", imageOf1)
	if err := w.addImageInstance(id2, imageOf1); err != nil {
		t.Errorf("for another ID: %v", err)
	}
}

// Which ID an image brings is read from the image: the owner's word for what the
// running VM nominated does not do.
func TestApproveImageInstance(t *testing.T) {
	w := newWorld(t, nil)
	ctx := context.Background()
	id := newID()
	if err := w.addImageInstance(id, imageOf1); err != nil {
		t.Fatal(err)
	}
	if ok, err := w.state.Nominate(ctx, id, nomination(1), hex48(imageOf1), false, time.Now()); ok || err != nil {
		t.Fatalf("%v, %v", ok, err)
	}
	if _, err := w.state.DecideNomination(ctx, id, nomination(1).Digest, true, time.Now()); !errors.Is(err, ErrImageSays) {
		t.Errorf("approved: %v", err)
	}
	if _, taken, err := w.state.imageID(ctx, nomination(1).Digest); taken || err != nil {
		t.Errorf("reserved: %v, %v", taken, err)
	}
	if _, err := w.state.DecideNomination(ctx, id, nomination(1).Digest, false, time.Now()); err != nil {
		t.Errorf("rejected: %v", err)
	}
}

// A nomination that pushes an older one out is looked up like any other: the
// change to the list must not hide which of its digests is new.
func TestNominatedImageIsOneInstances(t *testing.T) {
	w := newWorld(t, nil)
	ctx := context.Background()
	id1, other := newID(), newID()
	if err := w.addImageInstance(id1, imageOf1); err != nil {
		t.Fatal(err)
	}
	w.add(other, Takeover)
	n := nomination(3)
	n.Digest = hex48(imageOf1)
	for _, next := range []*wire.Nominate{nomination(1), nomination(2), n} {
		allowed, err := w.state.Nominate(ctx, other, next, hex48(digest), true, time.Now())
		if next != n && err != nil {
			t.Fatal(err)
		}
		if c, _ := code.Of(err); next == n && (allowed && err == nil || c != code.MaintainNominate) {
			t.Errorf("another's image: allowed %v, %v", allowed, err)
		}
	}
	if got := w.instance(other).Measurements; len(got) != 3 || got[2].Digest != nomination(2).Digest {
		t.Errorf("%+v", got)
	}
}

// In a domain the policy says it.
func TestPolicyTakesIDFromImage(t *testing.T) {
	w := newDomainWorld(t, nil)
	id1 := newID()
	brings := "Measurement[" + hex48(imageOf1) + "] with-instance[" + id1.String() + "] takes-id-from-image"
	trusted := "Measurement[" + hex48(imageOf1) + "] is-trusted"
	w.sign(2, append(w.policyLines(), trusted, brings)...)
	w.reload()
	vm := func(image [48]byte, hostData wire.Hex32) platform.Platform {
		return w.started(image, hostData).Platform()
	}
	_, a, err := w.certify(vm(imageOf1, wire.Hex32{}), "")
	if err != nil {
		t.Fatalf("%v (%s)", err, w.lastDecision())
	}
	if wire.Hex32(a.Identity.Instance) != id1 || !slices.Equal(a.Identity.Measurement, imageOf1[:]) {
		t.Errorf("admitted as %x", a.Identity.Instance)
	}
	for what, c := range map[string]struct {
		p    platform.Platform
		want code.Code
	}{
		"HOST_DATA is set to its own ID":                 {vm(imageOf1, id1), code.InstanceSource},
		"HOST_DATA is set to another":                    {vm(imageOf1, newID()), code.InstanceSource},
		"another image, HOST_DATA is that ID":            {vm(imageA, id1), code.InstanceSource},
		"another image, and no HOST_DATA":                {vm(imageA, wire.Hex32{}), code.IDZero},
		"an image that is not trusted, and no HOST_DATA": {vm(imageC, wire.Hex32{}), code.MeasurementUnknown},
	} {
		if _, _, err := w.certify(c.p, ""); err == nil {
			t.Errorf("%s: admitted", what)
		} else if got := w.lastDecision(); !strings.Contains(got, "code="+string(c.want)+" ") {
			t.Errorf("%s: %s", what, got)
		}
	}

	// Launch by the policy: the record and the policy must agree.
	if err := w.state.AddInstance(context.Background(), imageInstance(id1, w.name, imageOf1), &Secrets{DiskKey: secret.Random(32)}); err != nil {
		t.Fatal(err)
	}
	if err := w.claims(id1, w.started(imageOf1, wire.Hex32{})); err != nil {
		t.Errorf("%v (%s)", err, w.lastDecision())
	}
	if err := w.claims(id1, w.started(imageOf1, id1)); err == nil {
		t.Error("HOST_DATA set: released")
	}
	w.mustHaveCode(code.HostDataMismatch)

	// Withdrawn, it is no instance any more; and a revoked one neither.
	revoked := "Measurement[" + hex48(imageOf1) + "] with-instance[" + id1.String() + "] is-revoked"
	for version, lines := range [][]string{3: {trusted, brings, revoked}, 4: {trusted}} {
		if lines == nil {
			continue
		}
		w.sign(uint64(version), append(w.policyLines(), lines...)...)
		w.reload()
		if _, _, err := w.certify(vm(imageOf1, wire.Hex32{}), ""); err == nil {
			t.Errorf("version %d: admitted", version)
		}
	}
}

// What is registered here holds for certify as it does for launch, whatever the
// policy leaves out.
func TestCertifyKeepsIDSource(t *testing.T) {
	w := newDomainWorld(t, nil)
	id1, id2, plain, disputed, unknown := newID(), newID(), newID(), newID(), newID()
	trusted := func(d [48]byte) string { return "Measurement[" + hex48(d) + "] is-trusted" }
	brings := func(d [48]byte, id wire.Hex32) string {
		return "Measurement[" + hex48(d) + "] with-instance[" + id.String() + "] takes-id-from-image"
	}
	imageOf3 := [48]byte{0x33, 0x3a}
	w.sign(2, append(w.policyLines(), trusted(imageOf1), trusted(imageOf2), brings(imageOf2, id2), trusted(imageOf3), brings(imageOf3, disputed))...)
	w.reload()
	for id, image := range map[wire.Hex32][48]byte{id1: imageOf1, id2: imageOf2} {
		if err := w.state.AddInstance(context.Background(), imageInstance(id, w.name, image), &Secrets{DiskKey: secret.Random(32)}); err != nil {
			t.Fatal(err)
		}
	}
	w.addTo(plain)
	w.addTo(disputed)
	certify := func(image [48]byte, hostData wire.Hex32) error {
		_, _, err := w.certify(w.started(image, hostData).Platform(), "")
		return err
	}
	for what, err := range map[string]error{
		"its ID is the image's":        certify(imageOf2, wire.Hex32{}),
		"its ID is HOST_DATA":          certify(imageA, plain),
		"an ID that nobody registered": certify(imageA, unknown),
	} {
		if err != nil {
			t.Errorf("%s: %v (%s)", what, err, w.lastDecision())
		}
	}
	for what, c := range map[string]struct {
		image    [48]byte
		hostData wire.Hex32
	}{
		"HOST_DATA is an ID that an image brings":                     {imageA, id1},
		"HOST_DATA is set for an image that brings its ID":            {imageOf1, id1},
		"such an image as another instance":                           {imageOf1, plain},
		"such an image as one that nobody registered":                 {imageOf1, unknown},
		"the policy's image brings an ID that is HOST_DATA by record": {imageOf3, wire.Hex32{}},
	} {
		if err := certify(c.image, c.hostData); err == nil {
			t.Errorf("%s: admitted", what)
		} else if got := w.lastDecision(); !strings.Contains(got, "code="+string(code.InstanceSource)+" ") {
			t.Errorf("%s: %s", what, got)
		}
	}
	if err := w.state.UpdateInstance(context.Background(), plain, func(i *Instance) error { i.Decommissioned = 1; return nil }); err != nil {
		t.Fatal(err)
	}
	if err := certify(imageA, plain); err == nil {
		t.Error("a decommissioned instance was admitted")
	}
	w.mustHaveCode(code.InstanceDecommissioned)
}
