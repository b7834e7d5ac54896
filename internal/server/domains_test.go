package server

import (
	"context"
	"testing"
	"time"

	"attestbox/internal/admission"
	"attestbox/internal/client"
	"attestbox/internal/code"
	"attestbox/internal/recipient"
	"attestbox/internal/secret"
	"attestbox/internal/store/sealed"
)

// A backup has the domain's secrets, its policy record and its share of stores.
func TestDomainBackup(t *testing.T) {
	w := newDomainWorld(t, nil)
	ctx := ctxFor(t)
	if _, err := w.keys(w.mustCertify(w.enclave)).Put(ctx, "db/password", 0, "", sec("sesame")); err != nil {
		t.Fatal(err)
	}
	_, before, err := w.certify(w.vm(imageA, 1, nil), "")
	if err != nil {
		t.Fatal(err)
	}
	w.sign(2, append(w.policyLines(), "Measurement["+hexOf(imageC)+"] is-trusted")...)
	w.reload()
	key := must(recipient.NewKey())
	backup, err := w.state.Backup(ctx, key.PublicKey(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	st, _, err := Restore(ctx, newRaw(t), sealed.Key{File: secret.Random(32)}, backup, key)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	d, err := OpenDomain(ctx, st, w.domain.cfg, ProverConfig{}, w.now())
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.EnableKeys(ctx); err != nil {
		t.Fatal(err)
	}
	v, _, err := d.secrets.get(ctx, "db/password", 0)
	if err != nil || string(v.Bytes()) != "sesame" {
		t.Errorf("the secret: %v", err)
	}
	share, err := d.share("amd-sev-snp", [32]byte{1}, imageA[:])
	if err != nil || !share.Equal(before.StoreSecret) {
		t.Errorf("the share: %v", err)
	}
	w.sign(1, w.policyLines()...)
	if _, err := d.Reload(ctx, w.now()); !isCode(err, code.PolicyRollback) {
		t.Errorf("a policy from before the backup: %v", err)
	}
}

// A stop does not wait for members who wait.
func TestStopLetsMembersGo(t *testing.T) {
	w := newDomainWorld(t, nil)
	ctx := ctxFor(t)
	if _, err := w.keys(w.mustCertify(w.enclave)).Put(ctx, "db/password", 0, "", sec("1")); err != nil {
		t.Fatal(err)
	}
	cert := w.mustCertify(w.vm(imageA, 1, nil))
	idle := w.keys(cert)
	if _, err := idle.Get(ctx, "db/password", 0); err != nil {
		t.Fatal(err)
	}
	got := make(chan bool, 1)
	wctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go client.Watch(wctx, w.keysConfig(cert), "db/password", func(*client.Secret) error { got <- true; return nil })
	<-got
	start := time.Now()
	w.stop()
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("stopping took %v", took)
	}
}

// Two domains on one server know nothing of each other.
func TestSeveralDomains(t *testing.T) {
	var second *Domain
	var other *domainWorld
	w := newDomainWorld(t, func(w *domainWorld, o *Options, _ *DomainConfig) {
		other = &domainWorld{world: w.world, serials: map[string]uint64{}, name: "club.example", policyKey: ed25519Key(), issuer: ed25519Key(), enclave: w.enclave}
		other.policyCert = parse(must(admission.NewPolicyCertificate(other.policyKey, other.name, w.began(), admission.PolicyValidity)))
		other.issuerCert = parse(must(admission.NewIssuer(other.policyCert, other.policyKey, other.issuer.Public(), w.began(), admission.IssuerValidity)))
		other.sign(1, other.policyLines()...)
		var err error
		second, err = OpenDomain(context.Background(), w.state, DomainConfig{PolicyCert: other.policyCert, Issuer: other.issuerCert, IssuerKey: other.issuer, Own: w.enclave,
			Policy: func() ([]byte, error) { return other.signed, nil }}, ProverConfig{}, w.now())
		if err != nil {
			t.Fatal(err)
		}
		if err := second.EnableKeys(context.Background()); err != nil {
			t.Fatal(err)
		}
		o.Domains = append(o.Domains, second)
	})
	ctx := ctxFor(t)
	if err := w.server.Certify(ctx, second); err != nil {
		t.Fatal(err)
	}
	other.world, other.domain = w.world, second
	for _, d := range []*domainWorld{w, other} {
		if _, err := d.keys(d.mustCertify(d.enclave)).Put(ctx, "db/password", 0, "", sec("of "+d.name)); err != nil {
			t.Fatal(d.name, err, w.lastDecision())
		}
	}
	for _, d := range []*domainWorld{w, other} {
		s, err := d.keys(d.mustCertify(d.vm(imageA, 1, nil))).Get(ctx, "db/password", 0)
		if err != nil || string(s.Value.Bytes()) != "of "+d.name {
			t.Errorf("%s: %v", d.name, err)
		}
	}
	_, a, err1 := w.certify(w.vm(imageA, 1, nil), "")
	_, b, err2 := other.certify(w.vm(imageA, 1, nil), "")
	if err1 != nil || err2 != nil || a.StoreSecret.Equal(b.StoreSecret) {
		t.Errorf("one instance has the same share in both domains (%v, %v)", err1, err2)
	}
	// A member of one, at the other's door.
	short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	cfg := other.keysConfig(w.mustCertify(w.vm(imageA, 1, nil)))
	if _, err := client.Fetch(short, cfg, "db/password", 0); err == nil {
		t.Error("a member of bank.example reads club.example's secret")
	}
}
