package server

import (
	"bytes"
	"context"

	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"attestbox/internal/admission"
	"attestbox/internal/audit"
	"attestbox/internal/client"
	"attestbox/internal/code"
	"attestbox/internal/platform"
	"attestbox/internal/snp"
	"attestbox/internal/snpsim"
	"attestbox/internal/snpsim/snpsimtest"
	"attestbox/internal/wire"
)

func TestCertify(t *testing.T) {
	w := newDomainWorld(t, nil)
	vm := w.vm(imageA, 1, nil)
	_, a, err := w.certify(vm, "")
	if err != nil {
		t.Fatal(err, w.lastDecision())
	}
	id := a.Identity
	if !bytes.Equal(id.Measurement, imageA[:]) || id.Instance != [32]byte{1} || id.Platform != platform.AMDSEVSNP || len(id.Roles) != 0 ||
		id.ChipID == [64]byte{} || id.ReportID == [32]byte{} || id.ReportedTCB == 0 || id.PolicyVersion != 1 {
		t.Errorf("identity %+v", id)
	}
	if a.StoreSecret.Len() != 32 || len(a.EscrowKey) == 0 || a.StoreEpoch != 0 {
		t.Errorf("share of %d bytes, escrow key of %d, epoch %d", a.StoreSecret.Len(), len(a.EscrowKey), a.StoreEpoch)
	}
	if !strings.Contains(a.Proof, "imply via rule 10") || !strings.Contains(a.Proof, "NOT AMD HARDWARE") || !strings.Contains(a.Proof, "is-trusted-for-authentication") {
		t.Errorf("proof:\n%s", a.Proof)
	}
	life := id.NotAfter.Sub(id.NotBefore)
	if life > admission.DefaultValidity+2*time.Minute || life < admission.DefaultValidity-time.Minute {
		t.Errorf("life %v", life)
	}
	// The same instance and image: the same share; another one has another.
	_, again, err := w.certify(w.vm(imageA, 1, nil), "")
	if err != nil || !again.StoreSecret.Equal(a.StoreSecret) {
		t.Errorf("the share changed (%v)", err)
	}
	for _, other := range []platform.Platform{w.vm(imageA, 2, nil), w.vm(imageB, 1, nil)} {
		if _, o, err := w.certify(other, ""); err != nil || o.StoreSecret.Equal(a.StoreSecret) {
			t.Errorf("another instance or image has the same share (%v)", err)
		}
	}
	// The deployment machine, as itself and as key server.
	_, own, err := w.certify(w.enclave, wire.RoleKeyServer)
	if err != nil {
		t.Fatal(err, w.lastDecision())
	}
	if !own.Identity.HasRole(wire.RoleKeyServer) || own.Identity.Platform != platform.SimulatedEnclave || own.Identity.Instance == [32]byte{} {
		t.Errorf("identity %+v", own.Identity)
	}
	// Every admission is in the audit log with its proof, and the chain holds.
	if err := w.server.Audit.Sync(context.Background()); err != nil {
		t.Fatal(err)
	}
	head, err := w.state.AuditHead(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	proofs := 0
	if _, err := audit.Verify(w.audit, &head, func(e *audit.Event) error {
		if strings.Contains(string(e.Data), "is-trusted-for-authentication") && strings.Contains(string(e.Data), `"decision":"admitted"`) {
			proofs++
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if proofs != 6 { // the server's own too
		t.Errorf("%d proofs in the audit log", proofs)
	}
	var m bytes.Buffer
	if err := w.server.Metrics.Write(&m, w.server); err != nil || !strings.Contains(m.String(), `attestbox_decisions_total{protocol="certify",decision="admitted",code=""} 6`) {
		t.Errorf("metrics: %v\n%s", err, m.String())
	}
}

func TestStoreEpoch(t *testing.T) {
	w := newDomainWorld(t, nil)
	for _, c := range []struct{ said, want uint64 }{{0, 0}, {3, 3}, {2, 3}, {0, 3}, {9, 9}} {
		cfg := w.certifyConfig(w.vm(imageA, 1, nil))
		cfg.StoreEpoch = c.said
		a, err := client.Certify(ctxFor(t), cfg)
		if err != nil || a.StoreEpoch != c.want {
			t.Fatalf("said %d: got %d (%v), want %d", c.said, a.StoreEpoch, err, c.want)
		}
		a.Close()
	}
}

// spoiled changes the evidence of a platform.
type spoiled struct {
	platform.Platform
	f func(*platform.Evidence)
}

func (s spoiled) Report(ctx context.Context, rd [64]byte) (*platform.Evidence, error) {
	e, err := s.Platform.Report(ctx, rd)
	if err == nil {
		s.f(e)
	}
	return e, err
}

func TestCertifyAttacks(t *testing.T) {
	w := newDomainWorld(t, nil)
	stranger := snpsimtest.Stranger(t, snp.Milan)
	otherMachine := newEnclave(t)
	good, err := w.vm(imageA, 7, nil).Report(context.Background(), [64]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	edited := func(f func(*platform.Evidence)) platform.Platform { return spoiled{w.vm(imageA, 1, nil), f} }
	for name, c := range map[string]struct {
		p    platform.Platform
		role string
		want code.Code // in the server's log
	}{
		"forged ASK and VCEK under a genuine ARK's name": {p: stranger.Launch(snpsim.GuestConfig{Measurement: imageA, HostData: [32]byte{1}}).Platform(), want: code.VEKRoot},
		"debug guest":                         {p: w.vm(imageA, 1, func(c *snpsim.GuestConfig) { c.Policy = uint64(snp.PolicyReserved1 | snp.PolicyDebug) }), want: code.GuestDebug},
		"migratable guest":                    {p: w.vm(imageA, 1, func(c *snpsim.GuestConfig) { c.Policy = uint64(snp.PolicyReserved1 | snp.PolicyMigrateMA) }), want: code.GuestMigratable},
		"untrusted image":                     {p: w.vm(imageC, 1, nil), want: code.MeasurementUnknown},
		"no instance":                         {p: w.vm(imageA, 0, nil), want: code.IDZero},
		"another purpose":                     {p: w.vm(imageA, 1, nil), role: wire.RoleKeyServer, want: code.ProofRole},
		"as policy server":                    {p: w.enclave, role: wire.RolePolicyServer, want: code.ProofRole},
		"replayed report":                     {p: edited(func(e *platform.Evidence) { e.Report = good.Report }), want: code.ReportDataMismatch},
		"changed report":                      {p: edited(func(e *platform.Evidence) { e.Report[0x90] ^= 1 }), want: code.ReportSignature},
		"no endorsement":                      {p: edited(func(e *platform.Evidence) { e.Endorsements = nil }), want: code.CollateralMissing},
		"unknown platform":                    {p: edited(func(e *platform.Evidence) { e.Platform = "trust-me" }), want: code.PlatformRefused},
		"SNP as an enclave":                   {p: edited(func(e *platform.Evidence) { e.Platform = platform.SimulatedEnclave }), want: code.EnclaveEvidence},
		"unknown deployment machine":          {p: otherMachine, want: code.ProofAttester},
		"enclave's report changed":            {p: spoiled{w.enclave, func(e *platform.Evidence) { e.Report[10] ^= 1 }}, want: code.EnclaveEvidence},
		"deployment machine vouches for a VM": {p: spoiled{w.enclave, func(e *platform.Evidence) { e.Platform = platform.AMDSEVSNP }}, want: code.ReportMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			before := len(w.log.String())
			cfg := w.certifyConfig(c.p)
			cfg.Role = c.role
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
			defer cancel()
			if c.want == code.CollateralMissing {
				ctx, cancel = context.WithTimeout(context.Background(), 200*time.Millisecond) // it would come back
				defer cancel()
			}
			a, err := client.Certify(ctx, cfg)
			if err == nil {
				t.Fatalf("admitted as %v", a.Identity)
			}
			if got, _ := code.Of(err); c.want != code.CollateralMissing && got != code.CertifyRefused {
				t.Errorf("the client learns %q: %v", got, err)
			}
			if l := w.log.String()[before:]; !strings.Contains(l, "code="+string(c.want)) {
				t.Errorf("want %s in the log:\n%s", c.want, l)
			}
		})
	}
}

func (w *domainWorld) certifyTalk() *talk {
	w.t.Helper()
	return w.dialALPN(wire.ALPNCertify)
}

func TestCertifyWithoutEvidence(t *testing.T) {
	w := newDomainWorld(t, func(_ *domainWorld, o *Options, _ *DomainConfig) {
		o.Timeouts.Exchange, o.Timeouts.Handshake = 300*time.Millisecond, 300*time.Millisecond
	})
	csr := must(admission.NewCSR(ed25519Key()))
	begin := func(domain string) *wire.CertifyBegin {
		key := must(wire.NewKey())
		return &wire.CertifyBegin{Version: wire.Version, Domain: domain, Role: wire.RoleClient, CSR: csr, Suite: wire.SuiteHex(), Key: key.PublicKey().Bytes()}
	}
	// An admission that nobody asked for, evidence first, launch's begin, twice the same.
	for name, m := range map[string]wire.Message{
		"evidence first": &wire.Evidence{Platform: platform.AMDSEVSNP, Report: make([]byte, 1184)},
		"a launch":       &wire.Begin{Version: wire.Version, ID: newID(), Suite: wire.SuiteHex(), Key: []byte{1}},
	} {
		c := w.certifyTalk()
		c.send(m)
		if _, err := wire.Expect[*wire.Challenge](c.conn); err == nil {
			t.Errorf("%s: challenged", name)
		}
	}
	c := w.certifyTalk()
	c.send(begin(w.name))
	if _, err := wire.Expect[*wire.Challenge](c.conn); err != nil {
		t.Fatal(err)
	}
	c.send(begin(w.name))
	if _, err := wire.Expect[*wire.Admission](c.conn); err == nil {
		t.Error("admitted without evidence")
	}
	// A domain that is not served gets a challenge, and then the same refusal.
	c = w.certifyTalk()
	c.send(begin("other.example"))
	if _, err := wire.Expect[*wire.Challenge](c.conn); err != nil {
		t.Fatal(err)
	}
	c.send(&wire.Evidence{Platform: platform.AMDSEVSNP, Report: make([]byte, 1184)})
	_, err := wire.Expect[*wire.Admission](c.conn)
	if a, ok := errors.AsType[*wire.AnswerError](err); !ok || a.Code != code.CertifyRefused {
		t.Errorf("other domain: %v", err)
	}
	// A silent client is cut; 9 MB are not read.
	c = w.certifyTalk()
	if _, err := c.conn.Read(make([]byte, 1)); err == nil {
		t.Error("the silent client was not cut")
	}
	c = w.certifyTalk()
	big := make([]byte, 9<<20)
	c.conn.Write(big)
	c.conn.Read(make([]byte, 4096))
	if _, _, err := w.certify(w.vm(imageA, 1, nil), ""); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestPolicyReload(t *testing.T) {
	w := newDomainWorld(t, nil)
	ctx := context.Background()
	lines := w.policyLines()
	if _, _, err := w.certify(w.vm(imageC, 1, nil), ""); err == nil {
		t.Fatal("image C is trusted")
	}
	// A third image is admitted by policy alone; what was admitted stays so.
	w.sign(2, append(lines, "Measurement["+hexOf(imageC)+"] is-trusted")...)
	w.reload()
	if _, a, err := w.certify(w.vm(imageC, 1, nil), ""); err != nil || a.Identity.PolicyVersion != 2 || a.MinPolicyVersion != 0 {
		t.Fatalf("%v (%s)", err, w.lastDecision())
	}
	// Never to a lower version, nor to another text of the same one.
	w.sign(1, lines...)
	if err := w.server.Reload(ctx, w.domain); !isCode(err, code.PolicyRollback) || w.domain.Version() != 2 {
		t.Errorf("rolled back: %v", err)
	}
	w.sign(2, lines...)
	if err := w.server.Reload(ctx, w.domain); !isCode(err, code.PolicyRollback) || w.domain.Version() != 2 {
		t.Errorf("another version 2: %v", err)
	}
	for name, bad := range map[string][]byte{"nothing": {}, "garbage": []byte("attestbox-policy 1\n"), "9 MB": make([]byte, 9<<20)} {
		w.signed = bad
		if err := w.server.Reload(ctx, w.domain); err == nil {
			t.Errorf("%s: taken over", name)
		}
	}
	if _, _, err := w.certify(w.vm(imageC, 1, nil), ""); err != nil {
		t.Errorf("after bad policies: %v", err)
	}
	// Another owner's policy for the same domain.
	own := w.policyKey
	w.policyKey = ed25519Key()
	w.sign(3, lines...)
	w.policyKey = own
	if err := w.server.Reload(ctx, w.domain); !isCode(err, code.PolicySignature) {
		t.Errorf("another policy key: %v", err)
	}
	// A revocation raises the floor.
	w.sign(3, append(lines, "Measurement["+hexOf(imageC)+"] is-trusted", "Measurement["+hexOf(imageA)+"] is-revoked")...)
	w.reload()
	if _, _, err := w.certify(w.vm(imageA, 1, nil), ""); err == nil {
		t.Error("a revoked image was admitted")
	}
	_, a, err := w.certify(w.vm(imageC, 1, nil), "")
	if err != nil || a.MinPolicyVersion != 3 {
		t.Fatalf("floor %v (%v)", a, err)
	}
	// All of that is remembered by the state, also without the file.
	w.sign(2, lines...)
	cfg := w.domain.cfg
	if _, err := OpenDomain(ctx, w.state, cfg, ProverConfig{}, w.now()); !isCode(err, code.PolicyRollback) {
		t.Errorf("after a restart: %v", err)
	}
}

func TestIssuerEnds(t *testing.T) {
	w := newDomainWorld(t, nil)
	lines := w.policyLines()
	w.sign(2, append(lines, "Key[issuer] is-revoked")...)
	w.reload()
	if _, _, err := w.certify(w.vm(imageA, 1, nil), ""); err == nil || !strings.Contains(w.lastDecision(), string(code.ClaimUndelegated)) {
		t.Errorf("%v: %s", err, w.lastDecision())
	}
	// A certificate does not outlive the claims it rests on.
	w2 := newDomainWorld(t, func(w *domainWorld, _ *Options, c *DomainConfig) { w.clock = 90*24*time.Hour - 90*time.Minute })
	_, a, err := w2.certify(w2.vm(imageA, 1, nil), "")
	if err != nil {
		t.Fatal(err, w2.lastDecision())
	}
	if end := w2.began().Add(90 * 24 * time.Hour); a.Identity.NotAfter.After(end) {
		t.Errorf("it ends %v, the claims %v", a.Identity.NotAfter, end)
	}
	w2.advance(time.Hour)
	if _, _, err := w2.certify(w2.vm(imageA, 1, nil), ""); err == nil {
		t.Error("admitted by claims that have ended")
	}
}

func TestOpenDomainRefuses(t *testing.T) {
	w := newDomainWorld(t, nil)
	other := newDomainWorld(t, nil)
	for name, edit := range map[string]func(*DomainConfig){
		"no policy certificate":   func(c *DomainConfig) { c.PolicyCert = nil },
		"issuer as policy":        func(c *DomainConfig) { c.PolicyCert = w.issuerCert },
		"another issuer's key":    func(c *DomainConfig) { c.IssuerKey = ed25519Key() },
		"another domain's issuer": func(c *DomainConfig) { c.Issuer, c.IssuerKey = other.issuerCert, other.issuer },
		"no issuer certificate":   func(c *DomainConfig) { c.Issuer = nil },
		"validity":                func(c *DomainConfig) { c.Validity = 48 * time.Hour },
		"claims":                  func(c *DomainConfig) { c.ServingClaims = [][]byte{[]byte("trust me")} },
	} {
		cfg := w.domain.cfg
		edit(&cfg)
		if _, err := OpenDomain(context.Background(), w.state, cfg, ProverConfig{}, w.now()); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
	if _, err := New(context.Background(), Options{State: w.state, Roles: []string{RoleCertify}}); err == nil {
		t.Error("certify without a domain")
	}
	if _, err := New(context.Background(), Options{State: w.state, Roles: []string{"root"}}); err == nil {
		t.Error("an unknown role")
	}
}

func hexOf(m [48]byte) string { return fmt.Sprintf("%x", m[:]) }

func isCode(err error, c code.Code) bool {
	got, ok := code.Of(err)
	return ok && got == c
}
