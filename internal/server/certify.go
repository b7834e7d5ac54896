package server

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"attestbox/internal/admission"
	"attestbox/internal/claim"
	"attestbox/internal/code"
	"attestbox/internal/seal"
	"attestbox/internal/secret"
	"attestbox/internal/snp"
	"attestbox/internal/wire"
)

// certify answers certify-begin: challenge, evidence, then admission, refused
// or later. Whoever fails is told code.CertifyRefused and nothing else; a
// domain that is not served here gets a challenge too.
func (s *Server) certify(ctx context.Context, x *exchange, begin *wire.CertifyBegin) {
	d := &Decision{Exchange: x.id.String(), Protocol: x.protocol, Peer: x.peer, Domain: begin.Domain, Role: begin.Role}
	if begin.Version != wire.Version || begin.Suite != wire.SuiteHex() {
		s.refuse(x, d, code.LaunchVersion, code.LaunchVersion, fmt.Sprintf("protocol version %d and suite %.32q, want %d and %q", begin.Version, begin.Suite, wire.Version, wire.SuiteHex()))
		return
	}
	if err := wire.CheckKey(begin.Key); err != nil {
		s.broken(x, err)
		return
	}
	t := &wire.CertifyTranscript{Version: wire.Version, Domain: begin.Domain, Role: begin.Role, CSR: begin.CSR, Suite: wire.SuiteID(), Key: begin.Key, StoreEpoch: begin.StoreEpoch}
	ev, ok := s.challenge(x, t)
	if !ok {
		return
	}
	s.decideCertify(ctx, x, t, ev, d)
}

func (s *Server) decideCertify(ctx context.Context, x *exchange, t *wire.CertifyTranscript, ev *wire.Evidence, d *Decision) {
	refuse := func(c code.Code, reason string) { s.refuse(x, d, c, code.CertifyRefused, reason) }
	dom := s.domain(t.Domain)
	if dom == nil || t.Domain == "" {
		refuse(code.DomainUnknown, "the domain is not served here")
		return
	}
	now := s.Now()
	a := &asked{platform: ev.Platform, report: ev.Report, endorsements: ev.Endorsements, reportData: t.ReportData(), role: t.Role, now: now}
	actx, cancel := context.WithTimeout(ctx, s.Timeouts.Exchange/2)
	adm, shown, err := dom.admit(actx, a, t.CSR)
	cancel()
	d.fill(shown, dom)
	switch {
	case shown.missing:
		s.later(x, d, code.CollateralMissing, 30, err.Error())
		return
	case errors.Is(err, errOwn):
		s.fault(x, d, err)
		return
	case err != nil:
		refuse(codeOr(err, code.CertifyRefused), err.Error())
		return
	}
	var inst *Instance
	if shown.report != nil {
		var ok bool
		if inst, ok = s.registered(ctx, x, d, adm, shown.report); !ok {
			return
		}
	}
	// Only now: nobody can use up the limit of an instance that he has merely
	// learned of.
	if !s.ids.take("certify "+adm.identity.Platform+" "+hex.EncodeToString(adm.identity.Instance[:]), time.Now()) {
		s.later(x, d, code.VerifierBusy, 15, "this instance asks too often")
		return
	}
	if inst != nil {
		// A VM that runs behind a bundle which the floor has left behind is not
		// admitted anew.
		if err := s.checkBundle(ctx, inst, shown.report.ReportID, d); err != nil {
			s.noBundle(x, d, err, code.CertifyRefused)
			return
		}
	}
	d.Serial, d.Subject = adm.serial, hex.EncodeToString(adm.spki[:])
	answer, err := s.admission(ctx, x, dom, t, adm, d.Proof, now)
	if err != nil {
		s.fault(x, d, err)
		return
	}
	renewed := dom.renewalsBy(adm.identity.Instance, hex.EncodeToString(adm.identity.Measurement), now)
	d.Decision, d.Alert = Admitted, renewalAlert(renewed)
	if err := s.record(x, d); err != nil {
		s.fault(x, d, err) // not on record: not given
		return
	}
	if err := dom.keepRenewals(ctx, renewed); err != nil {
		s.fault(x, d, err)
		return
	}
	s.answer(x, answer)
}

// registered holds a VM's evidence against what is on record here of the
// instance that the policy says it is: nil where nothing is. Without ok it was
// answered.
func (s *Server) registered(ctx context.Context, x *exchange, d *Decision, adm *admitted, r *snp.Report) (inst *Instance, ok bool) {
	inst, err := s.State.Instance(ctx, adm.identity.Instance)
	if errors.Is(err, ErrUnknownInstance) {
		inst, err = nil, nil
	}
	if err == nil {
		err = s.State.checkMember(ctx, inst, adm.identity.Instance, hex.EncodeToString(r.Measurement[:]), r.HostData != [32]byte{})
	}
	switch {
	case errors.Is(err, errWrongSource):
		s.refuse(x, d, code.InstanceSource, code.CertifyRefused, err.Error())
		return nil, false
	case err != nil:
		return nil, s.fault(x, d, err)
	case inst != nil && inst.Decommissioned != 0:
		s.refuse(x, d, code.InstanceDecommissioned, code.CertifyRefused, "the instance is decommissioned")
		return nil, false
	}
	return inst, true
}

// admitted is a certificate that was made and not given yet.
type admitted struct {
	chain    [][]byte
	identity admission.Identity
	serial   string
	spki     [32]byte
	floor    uint64
}

// errOwn marks the server's own trouble.
var errOwn = errors.New("the policy server could not do its part")

// admit proves that the key of a certification request may be admitted, and
// makes its certificate.
func (d *Domain) admit(ctx context.Context, a *asked, csr []byte) (*admitted, *shown, error) {
	key, err := admission.KeyFromCSR(csr)
	if err != nil {
		return nil, &shown{root: "none"}, code.Wrap(code.CertifyRequest, err)
	}
	if a.spki, err = x509.MarshalPKIXPublicKey(key); err != nil {
		return nil, &shown{root: "none"}, code.Wrap(code.CertifyRequest, err)
	}
	cur := d.current.Load()
	// The policy key delegates to the issuer by a claim, which can end.
	if issuer, err := claim.KeyOf("issuer", d.cfg.IssuerKey.Public()); err != nil {
		return nil, &shown{root: "none"}, fmt.Errorf("%w: %w", errOwn, err)
	} else if _, ok := cur.auth.Issuer(issuer, a.now); !ok {
		return nil, &shown{root: "none"}, code.Wrap(code.ClaimUndelegated, fmt.Errorf("no claim in force trusts %s for certification", issuer))
	}
	a.trust = &admission.Trust{Policy: d.cfg.PolicyCert, Domain: d.name, MinPolicyVersion: cur.floor, Revoked: cur.revoked}
	s, err := d.prover.prove(ctx, cur, a)
	if err != nil {
		return nil, s, err
	}
	id := s.identity
	if a.role != wire.RoleClient {
		id.Roles = []string{a.role}
	}
	id.SPKI = sha256.Sum256(a.spki)
	if r := cur.renewed.refuses(&id); r != nil {
		return nil, s, code.Wrap(code.MeasurementRenewed, &errRenewed{r})
	}
	if cur.revoked(&id) {
		return nil, s, code.Wrap(code.AdmissionRevoked, fmt.Errorf("%w: %s", admission.ErrRevoked, &id))
	}
	// The certificate does not outlive the claims that it rests on.
	validity := d.cfg.Validity
	if end := s.proof.NotAfter(cur.policy); !end.IsZero() {
		validity = min(validity, end.Sub(a.now))
	}
	if !s.notAfter.IsZero() {
		validity = min(validity, s.notAfter.Sub(a.now))
	}
	der, err := admission.Issue(d.cfg.Issuer, d.cfg.IssuerKey, key, &id, a.now, validity)
	if err != nil {
		return nil, s, fmt.Errorf("%w: %w", errOwn, err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, s, fmt.Errorf("%w: %w", errOwn, err)
	}
	return &admitted{chain: [][]byte{der, d.cfg.Issuer.Raw}, identity: id, serial: fmt.Sprintf("%x", leaf.SerialNumber), spki: id.SPKI, floor: cur.floor}, s, nil
}

// admission is the answer, with the instance's share of its stores.
func (s *Server) admission(ctx context.Context, x *exchange, d *Domain, t *wire.CertifyTranscript, adm *admitted, proofText string, now time.Time) (*wire.Admission, error) {
	id := &adm.identity
	share, err := d.share(id.Platform, id.Instance, id.Measurement)
	if err != nil {
		return nil, err
	}
	defer share.Zero()
	epoch, err := s.State.raiseEpoch(ctx, d.name, epochKey(id.Instance, id.Measurement), t.StoreEpoch)
	if err != nil {
		return nil, err
	}
	if err := s.State.recordLaunched(ctx, d.name, d.current.Load().auth, memberOf(id), epochKey(id.Instance, id.Measurement)); err != nil {
		return nil, err
	}
	p := &wire.Payload{DiskKey: share, Boot: epoch, OutcomeKey: secret.Random(wire.OutcomeKeySize), Time: now.Unix(), MinPolicyVersion: adm.floor}
	p.Secrets = []wire.NamedSecret{{Name: wire.EscrowKeyName, Value: secret.Copy(d.escrow.PublicKey().Bytes())}}
	defer p.OutcomeKey.Zero()
	sealedPayload, err := wire.SealCertify(t, p)
	if err != nil {
		return nil, err
	}
	return &wire.Admission{Exchange: x.id, Chain: adm.chain, Proof: cutProof(proofText), Sealed: sealedPayload, Time: now.Unix(), MinPolicyVersion: adm.floor}, nil
}

// share is an instance's share of its stores.
func (d *Domain) share(platform string, instance [32]byte, measurement []byte) (*secret.Bytes, error) {
	own, err := storeShare(d.shares, d.name, instance)
	if err != nil {
		return nil, err
	}
	defer own.Zero()
	return seal.ShareOf(own, d.name, platform, instance, measurement, "")
}

// epochKey names the store of an instance and a measurement: those are what a
// share is made of, so that nothing else can set its epoch.
func epochKey(instance [32]byte, measurement []byte) [32]byte {
	h := sha256.New()
	h.Write(instance[:])
	h.Write(measurement)
	return [32]byte(h.Sum(nil))
}

// cutProof bounds what goes over the wire; the audit log has all of it.
func cutProof(p string) string { return cutTo(p, wire.MaxProof) }

func cutTo(p string, most int) string {
	if len(p) > most {
		return strings.ToValidUTF8(p[:most-4], "") + "\n..."
	}
	return p
}

// fill takes over what evidence showed.
func (d *Decision) fill(s *shown, dom *Domain) {
	d.Policy = dom.Version()
	d.Root, d.Chip, d.Checked, d.Findings = s.root, s.chip, s.checked, s.findings
	if s.report != nil {
		d.ReportID = wire.Hex32(s.report.ReportID).String()
	}
	if s.identity.Measurement != nil {
		d.ID = hex.EncodeToString(s.identity.Instance[:])
		d.Measurement = hex.EncodeToString(s.identity.Measurement)
	}
	if s.proof != nil {
		d.Proof, d.ProofDigest = s.proof.String(), hex.EncodeToString(s.identity.ProofDigest[:])
	}
}

func codeOr(err error, c code.Code) code.Code {
	if found, ok := code.Of(err); ok {
		return found
	}
	return c
}
