package server

import (
	"context"
	"strings"
	"testing"
	"time"

	"attestbox/internal/appraise"
	"attestbox/internal/claim"
	"attestbox/internal/client"
	"attestbox/internal/code"
	"attestbox/internal/platform"
	"attestbox/internal/secret"
	"attestbox/internal/snp"
	"attestbox/internal/snpsim"
	"attestbox/internal/snpsim/snpsimtest"
	"attestbox/internal/wire"
)

// addTo registers an instance that the domain's policy appraises.
func (w *domainWorld) addTo(id wire.Hex32, narrower ...[48]byte) *secret.Bytes {
	w.t.Helper()
	inst := &Instance{ID: id, Domain: w.name, Measurements: []Measurement{}, Headers: []wire.HeaderRecord{record()}, OnSecond: Takeover, Created: time.Now().Unix()}
	for _, m := range narrower {
		inst.Measurements = append(inst.Measurements, Measurement{Digest: appraise.Hex48(m).String(), Source: "test"})
	}
	key := secret.Random(32)
	if err := w.state.AddInstance(context.Background(), inst, &Secrets{DiskKey: key}); err != nil {
		w.t.Fatal(err)
	}
	return key
}

func TestLaunchByPolicy(t *testing.T) {
	// The server shows a claim, so that the image pins nothing but the policy.
	w := newDomainWorld(t, func(w *domainWorld, o *Options, c *DomainConfig) {
		cert, _, err := w.state.Certificate(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		key := must(claim.KeyOf("server", cert.Leaf.PublicKey))
		sc := must(claim.SignClaim(w.name, claim.PolicyKeyName, w.policyKey, claim.Claim{Serial: 1000, NotBefore: w.began().UTC().Truncate(time.Second), NotAfter: w.began().AddDate(0, 0, 90).UTC().Truncate(time.Second),
			Statement: claim.Statement{Clause: claim.Clause{Subject: key, Verb: claim.IsTrustedForServing, Object: claim.Role{Name: wire.RoleVerifier}}}}))
		c.ServingClaims = [][]byte{sc.Marshal()}
	})
	id, narrow := newID(), newID()
	disk := w.addTo(id)
	w.addTo(narrow, imageB)
	launch := func(p platform.Platform, pinned bool) (*client.Release, error) {
		cfg := w.client(p)
		if !pinned {
			cfg.Pins, cfg.Policy = nil, w.policyCert
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		return client.Launch(ctx, cfg)
	}
	on := func(image [48]byte, id wire.Hex32) platform.Platform {
		return w.psp.Launch(snpsim.GuestConfig{Measurement: image, HostData: id}).Platform()
	}
	for _, pinned := range []bool{true, false} {
		l, err := launch(on(imageA, id), pinned)
		if err != nil {
			t.Fatalf("pinned %v: %v (%s)", pinned, err, w.lastDecision())
		}
		if !l.Payload.DiskKey.Equal(disk) {
			t.Error("another disk key")
		}
	}
	if _, err := launch(on(imageB, narrow), true); err != nil {
		t.Errorf("the narrower image: %v", err)
	}
	stranger := snpsimtest.Stranger(t, snp.Milan)
	for name, c := range map[string]struct {
		p    platform.Platform
		want code.Code
	}{
		"an image that the policy does not trust": {on(imageC, id), code.MeasurementUnknown},
		"an image that the instance is not":       {on(imageA, narrow), code.MeasurementUnknown},
		"an unknown ID":                           {on(imageA, newID()), code.InstanceUnknown},
		"a stranger's chip":                       {stranger.Launch(snpsim.GuestConfig{Measurement: imageA, HostData: id}).Platform(), code.VEKRoot},
		"a debug guest":                           {w.psp.Launch(snpsim.GuestConfig{Measurement: imageA, HostData: id, Policy: uint64(snp.PolicyReserved1 | snp.PolicyDebug)}).Platform(), code.GuestDebug},
	} {
		before := len(w.log.String())
		if _, err := launch(c.p, true); err == nil {
			t.Errorf("%s: released", name)
		} else if got, _ := code.Of(err); got != code.LaunchRefused {
			t.Errorf("%s: the guest learns %q", name, got)
		}
		if l := w.log.String()[before:]; !strings.Contains(l, "code="+string(c.want)) {
			t.Errorf("%s: want %s:\n%s", name, c.want, l)
		}
	}
	// Policy takes the image back: no release any more, for a registered ID.
	w.sign(2, append(w.policyLines(), "Measurement["+hexOf(imageA)+"] is-revoked")...)
	w.reload()
	if _, err := launch(on(imageA, id), true); err == nil {
		t.Error("a revoked image got its release")
	}
}

// In a domain the policy says who may nominate, and trusts what boots.
func TestNominateByPolicy(t *testing.T) {
	w := newDomainWorld(t, nil)
	id := newID()
	w.addTo(id)
	ctx := ctxFor(t)
	on := func(image [48]byte) *snpsim.Guest {
		return w.psp.Launch(snpsim.GuestConfig{Measurement: image, HostData: id})
	}
	up := func(g *snpsim.Guest) error {
		rel, err := client.Launch(ctx, w.client(g.Platform()))
		if err != nil {
			return err
		}
		defer rel.Close()
		_, err = rel.Report(ctx, wire.ResultOpened, "", nil)
		return err
	}
	nominate := func(g *snpsim.Guest, image [48]byte) (bool, error) {
		m, err := client.Maintain(ctx, w.client(g.Platform()), wire.PurposeNominate)
		if err != nil {
			return false, err
		}
		defer m.Close()
		n := nomination(1)
		n.Digest = wire.DigestText(image)
		return m.Nominate(ctx, n)
	}
	g := on(imageA)
	if err := up(g); err != nil {
		t.Fatal(err)
	}
	if ok, err := nominate(g, imageC); ok || err != nil {
		t.Fatalf("without a claim: %v, %v", ok, err)
	}
	w.sign(2, append(w.policyLines(), "Measurement["+hexOf(imageA)+"] may-nominate")...)
	w.reload()
	if ok, err := nominate(g, imageC); !ok || err != nil {
		t.Fatalf("with a claim: %v, %v", ok, err)
	}
	if err := up(on(imageC)); err == nil {
		t.Error("a nominated digest booted that the policy does not trust")
	}
	w.sign(3, append(w.policyLines(), "Measurement["+hexOf(imageC)+"] is-trusted")...)
	w.reload()
	if err := up(on(imageC)); err != nil {
		t.Error(err)
	}
	if err := up(on(imageA)); err == nil {
		t.Error("the launch digest before the successor booted again")
	}
}

// In a domain too a VM is released and admitted behind an approved bundle alone;
// when the floor rises above it, its certificate is its last.
func TestBundleInDomain(t *testing.T) {
	w := newDomainWorld(t, nil)
	id := wire.Hex32{1}
	w.addTo(id)
	w.floor(id, 2)
	g := w.psp.Launch(snpsim.GuestConfig{Measurement: imageA, HostData: id})
	if _, _, err := w.certify(g.Platform(), ""); err == nil {
		t.Error("admitted without a bundle")
	}
	w.mustHaveCode(code.BundleUnapproved)
	if err := w.approve(g, bundleA, 2); err != nil {
		t.Fatal(err)
	}
	w.mustCertify(g.Platform())
	rel, err := client.Launch(ctxFor(t), w.client(g.Platform()))
	if err != nil {
		t.Fatal(err)
	}
	rel.Close()
	w.floor(id, 3)
	if _, _, err := w.certify(g.Platform(), ""); err == nil {
		t.Error("admitted behind an old bundle")
	}
	w.mustHaveCode(code.BundleFloor)
	if _, err := client.Launch(ctxFor(t), w.client(g.Platform())); err == nil {
		t.Error("released behind an old bundle")
	}
}
