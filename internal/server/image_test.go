package server

import (
	"errors"
	"path/filepath"
	"testing"

	"attestbox/internal/appraise"
	"attestbox/internal/claim"
	"attestbox/internal/client"
	"attestbox/internal/code"
	"attestbox/internal/cryptstore"
	"attestbox/internal/platform"
	"attestbox/internal/recipient"
	"attestbox/internal/seal"
	"attestbox/internal/snpsim"
	"attestbox/internal/store/bolt"
	"attestbox/internal/wire"
)

// entity is the owner's image in the words of the policy.
func (o *idOwner) entity(image string, minSVN uint32) string {
	d := o.identity(image, minSVN)
	return claim.Image{IDKey: d.IDKey.String(), ImageID: d.ImageID.String(), MinSVN: d.MinSVN}.String()
}

// A policy that trusts an image admits every digest that its key signed, and
// gives it its secrets: by the certificate, at every request.
func TestImageByPolicy(t *testing.T) {
	w := newDomainWorld(t, nil)
	ctx := ctxFor(t)
	owner, stranger := newIDOwner(t, w.psp), newIDOwner(t, w.psp)
	web := owner.entity("web", 3)
	lines := append(w.policyLines(), web+" is-trusted", web+` may-read Secret["db/*"]`, owner.entity("web", 5)+` may-write Secret["db/*"]`)
	w.sign(2, lines...)
	w.reload()
	vm := func(o *idOwner, digest byte, image string, svn uint32) platform.Platform {
		return o.launch(wire.Hex32{7}, digest, image, svn).Platform()
	}
	deploy := w.keys(w.mustCertify(w.enclave))
	if _, err := deploy.Put(ctx, "db/password", 0, "", sec("sesame")); err != nil {
		t.Fatal(err)
	}
	cert := w.mustCertify(vm(owner, 1, "web", 3))
	id := must(w.trust().Verify(cert.Certificate, w.now()))
	if id.GuestSVN != 3 || id.IDKeyDigest != owner.identity("web", 3).IDKey || id.ImageID != owner.identity("web", 3).ImageID {
		t.Errorf("the certificate says %+v", id)
	}
	first, next := w.keys(cert), w.keys(w.mustCertify(vm(owner, 2, "web", 5)))
	for name, k := range map[string]*client.KeyClient{"the first": first, "the next": next} {
		got, err := k.Get(ctx, "db/password", 0)
		if err != nil || string(got.Value.Bytes()) != "sesame" {
			t.Errorf("%s image: %v (%s)", name, err, w.lastDecision())
		}
	}
	_, err := first.Put(ctx, "db/password", 0, "", sec("mine"))
	wantCode(t, "a version that may not write", err, code.SecretRefused)
	if _, err := next.Put(ctx, "db/password", 0, "", sec("sesame 2")); err != nil {
		t.Error(err)
	}
	for name, p := range map[string]platform.Platform{
		"an older version":                        vm(owner, 1, "web", 2),
		"another image":                           vm(owner, 1, "db", 9),
		"a block signed by another key":           vm(stranger, 1, "web", 9),
		"the same digest without an ID block":     w.vm([48]byte{1, 0x1d}, 7, nil),
		"the fields of an ID block without a key": w.vm([48]byte{1, 0x1d}, 7, func(c *snpsim.GuestConfig) { c.ImageID, c.SVN = owner.identity("web", 3).ImageID, 9 }),
	} {
		if _, _, err := w.certify(p, ""); err == nil {
			t.Errorf("%s: admitted", name)
		}
		w.mustHaveCode(code.MeasurementUnknown)
	}
	// The floor rises: certificates that were given before read nothing more, and
	// the older version gets no other.
	raised := owner.entity("web", 5)
	w.sign(3, append(w.policyLines(), raised+" is-trusted", raised+` may-read Secret["db/*"]`)...)
	w.reload()
	_, err = first.Get(ctx, "db/password", 0)
	wantCode(t, "below the raised floor", err, code.AdmissionPolicyVersion)
	if _, _, err := w.certify(vm(owner, 1, "web", 3), ""); err == nil {
		t.Error("below the raised floor: admitted again")
	}
	if err := w.server.Certify(ctx, w.domain); err != nil {
		t.Fatal(err)
	}
	next = w.keys(w.mustCertify(vm(owner, 2, "web", 5)))
	if _, err := next.Get(ctx, "db/password", 0); err != nil {
		t.Errorf("at the raised floor: %v", err)
	}
	// One bad image is taken back by its digest, although it is signed.
	w.sign(4, append(w.policyLines(), raised+" is-trusted", raised+` may-read Secret["db/*"]`, "Measurement["+wire.DigestText([48]byte{2, 0x1d})+"] is-revoked")...)
	w.reload()
	if _, err := next.Get(ctx, "db/password", 0); err == nil {
		t.Error("a revoked digest reads")
	}
	if _, _, err := w.certify(vm(owner, 2, "web", 5), ""); err == nil {
		t.Error("a revoked digest is admitted")
	}
}

// Launch by a domain's policy: the image is trusted, and the instance may narrow
// it further.
func TestImageLaunchByPolicy(t *testing.T) {
	w := newDomainWorld(t, nil)
	owner := newIDOwner(t, w.psp)
	w.sign(2, append(w.policyLines(), owner.entity("web", 3)+" is-trusted", owner.entity("db", 3)+" is-trusted", owner.entity("web", 4)+" may-nominate")...)
	w.reload()
	free, narrow := newID(), newID()
	w.addTo(free)
	inst := &Instance{ID: narrow, Domain: w.name, Identities: []appraise.Identity{owner.identity("web", 4)}, OnSecond: Takeover}
	if err := w.state.AddInstance(ctxFor(t), inst, &Secrets{}); err != nil {
		t.Fatal(err)
	}
	launch := func(g *snpsim.Guest) error {
		rel, err := client.Launch(ctxFor(t), w.client(g.Platform()))
		if err == nil {
			_, err = rel.Report(ctxFor(t), wire.ResultOpened, "", nil)
			rel.Close()
		}
		return err
	}
	for name, c := range map[string]struct {
		g  *snpsim.Guest
		ok bool
	}{
		"signed":                          {owner.launch(free, 1, "web", 3), true},
		"signed, another image":           {owner.launch(free, 1, "db", 3), true},
		"signed, too old":                 {owner.launch(free, 1, "web", 2), false},
		"narrowed":                        {owner.launch(narrow, 1, "web", 4), true},
		"narrowed, older":                 {owner.launch(narrow, 1, "web", 3), false},
		"narrowed, another trusted image": {owner.launch(narrow, 1, "db", 9), false},
		"narrowed, a trusted measurement": {w.psp.Launch(snpsim.GuestConfig{Measurement: imageA, HostData: narrow}), false},
	} {
		if err := launch(c.g); (err == nil) != c.ok {
			t.Errorf("%s: %v (%s)", name, err, w.lastDecision())
		}
	}
	// Who may nominate is said of the image's versions.
	nominate := func(g *snpsim.Guest, next byte) (bool, error) {
		m, err := client.Maintain(ctxFor(t), w.client(g.Platform()), wire.PurposeNominate)
		if err != nil {
			return false, err
		}
		defer m.Close()
		return m.Nominate(ctxFor(t), nomination(next))
	}
	for svn, want := range []bool{3: false, 4: true} { // in this order: what is pending is not refused
		if svn < 3 {
			continue
		}
		g := owner.launch(free, 1, "web", uint32(svn))
		if err := launch(g); err != nil {
			t.Fatal(err)
		}
		if ok, err := nominate(g, byte(svn)); ok != want || err != nil {
			t.Errorf("version %d nominates: %v, %v", svn, ok, err)
		}
	}
}

// The versions of an image open each other's stores where policy says so, and an
// image that is none of them does not.
func TestImageSucceeds(t *testing.T) {
	w := newDomainWorld(t, nil)
	ctx := ctxFor(t)
	owner := newIDOwner(t, w.psp)
	web, db := owner.entity("web", 3), owner.entity("db", 3)
	lines := append(w.policyLines(), web+" is-trusted", db+" is-trusted")
	w.sign(2, lines...)
	w.reload()
	instance := wire.Hex32{1}
	var raw *bolt.Store
	create := func(p platform.Platform) {
		raw = must(bolt.Open(filepath.Join(t.TempDir(), "vm.db")))
		t.Cleanup(func() { raw.Close() })
		by, _ := w.sealer(p)
		s, err := cryptstore.Create(ctx, keep{raw}, "vm", by, cryptstore.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Put(ctx, cryptstore.Item{Tag: "note", Type: cryptstore.Blob, Value: sec("remember")}); err != nil {
			t.Fatal(err)
		}
		s.Close()
	}
	create(owner.launch(instance, 1, "web", 3).Platform())
	open := func(p platform.Platform) error {
		by, keys := w.sealer(p)
		h := must(cryptstore.Inspect(ctx, raw, "vm", cryptstore.Options{}))
		key := must(recipient.NewKey())
		box, epoch, err := keys.Rewrap(ctx, h.Name, h.Escrow, key.PublicKey().Bytes())
		if err != nil {
			return err
		}
		s, err := seal.OpenWithRecovery(ctx, keep{raw}, "vm", seal.Recovery{Box: box, Key: key, MinEpoch: epoch}, by, cryptstore.Options{})
		if err != nil {
			return err
		}
		defer s.Close()
		v, _, err := s.Get(ctx, "note", cryptstore.Blob, 0)
		if err == nil && string(v.Bytes()) != "remember" {
			err = errors.New("another note")
		}
		v.Zero()
		return err
	}
	next := owner.launch(instance, 2, "web", 4).Platform()
	wantCode(t, "without a claim", open(next), code.SecretRefused)
	w.sign(3, append(lines, web+" may-succeed "+web)...)
	w.reload()
	wantCode(t, "another image of the owner's", open(owner.launch(instance, 3, "db", 9).Platform()), code.SecretRefused)
	wantCode(t, "a trusted measurement", open(w.vm(imageA, 1, nil)), code.SecretRefused)
	wantCode(t, "another instance", open(owner.launch(wire.Hex32{2}, 2, "web", 4).Platform()), code.SecretRefused)
	if err := open(next); err != nil {
		t.Errorf("the next version: %v (%s)", err, w.lastDecision())
	}
	// The same image, launched with an ID block for the first time.
	create(w.vm(imageA, 1, nil))
	block := owner.sign(imageA, "web", 4)
	signedA := must(w.psp.LaunchFinish(snpsim.GuestConfig{Measurement: imageA, HostData: instance}, block)).Platform()
	by, _ := w.sealer(signedA)
	if _, err := cryptstore.Open(ctx, keep{raw}, "vm", by, cryptstore.Options{}); !errors.Is(err, cryptstore.ErrSealed) {
		t.Errorf("with its first ID block, without recovery: %v", err)
	}
	if err := open(signedA); err != nil {
		t.Errorf("with its first ID block: %v (%s)", err, w.lastDecision())
	}
	// What was launched without an ID block is no version of the image, although
	// its digest is trusted otherwise.
	if l, err := w.state.launchedBefore(ctx, w.name, instance, imageB[:]); err != nil || l.IDKey != "" {
		t.Errorf("%+v, %v", l, err)
	}
}

// Where an image is trusted by its digest, anybody with a machine can launch it
// with an ID block that he signed himself. That is not what the store's owner was.
func TestForeignIDBlockDeniesNoStore(t *testing.T) {
	w := newDomainWorld(t, nil)
	owner, stranger := newIDOwner(t, w.psp), newIDOwner(t, w.psp)
	web, instance := owner.entity("web", 3), wire.Hex32{1}
	lines := append(w.policyLines(), web+" is-trusted", web+" may-succeed "+web)
	w.sign(2, lines...)
	w.reload()
	certify := func(o *idOwner, svn uint32) {
		t.Helper()
		g := must(w.psp.LaunchFinish(snpsim.GuestConfig{Measurement: imageA, HostData: instance}, o.sign(imageA, "web", svn)))
		w.mustCertify(g.Platform())
	}
	record := func() claim.Launched {
		return must(w.state.launchedBefore(ctxFor(t), w.name, instance, imageA[:]))
	}
	certify(stranger, 9)
	if l := record(); l.IDKey != "" {
		t.Errorf("recorded a stranger's: %+v", l)
	}
	certify(owner, 2) // trusted by its digest alone: older than the image that is named
	if l := record(); l.IDKey != "" {
		t.Errorf("recorded below the image's floor: %+v", l)
	}
	certify(owner, 3)
	want := owner.identity("web", 3).IDKey.String()
	if l := record(); l.IDKey != want || l.SVN != 3 {
		t.Fatalf("%+v", l)
	}
	certify(stranger, 9)
	certify(owner, 2)
	if l := record(); l.IDKey != want || l.SVN != 3 {
		t.Errorf("overwritten: %+v", l)
	}
	// Nor does it when policy trusts the digest no more, but lets it be succeeded.
	w.sign(3, append(w.policyLines(), owner.entity("web", 4)+" is-trusted", owner.entity("web", 4)+" may-succeed "+web)...)
	w.reload()
	certify(owner, 3)
	certify(stranger, 9)
	if l := record(); l.IDKey != want || l.SVN != 3 {
		t.Errorf("by what may be succeeded: %+v", l)
	}
}
