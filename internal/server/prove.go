package server

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"attestbox/internal/admission"
	"attestbox/internal/appraise"
	"attestbox/internal/claim"
	"attestbox/internal/code"
	"attestbox/internal/platform"
	"attestbox/internal/platform/simenclave"
	"attestbox/internal/proof"
	"attestbox/internal/snp"
	"attestbox/internal/wire"
)

// ProverConfig says where a prover finds what a policy does not hold.
type ProverConfig struct {
	// AMD are AMD's own roots, for policies that name one by its key alone.
	AMD func() (*appraise.Roots, error)
	// Source finds certificates that the host did not send; it may be nil.
	Source EndorsementSource
}

// prover turns evidence into proofs. It is shared by launch and certify.
type prover struct {
	ProverConfig
	cache *appraise.ChainCache
}

func newProver(c ProverConfig) *prover {
	return &prover{c, appraise.NewChainCache(chainCacheSize)}
}

// rulesOf is what follows from one policy.
type rulesOf struct {
	roots     *appraise.Roots  // nil: no SNP root is trusted
	appraisal *appraise.Policy // nil with roots
	auth      *proof.Authorizer
}

// rules refuses a policy that could not be used. One without claims about
// SEV-SNP accepts simulated enclaves alone.
func (p *prover) rules(v *claim.VerifiedPolicy) (*rulesOf, error) {
	r := &rulesOf{auth: proof.NewAuthorizer(v)}
	var amd *appraise.Roots
	if p.AMD != nil {
		var err error
		if amd, err = p.AMD(); err != nil {
			return nil, err
		}
	}
	roots, err := proof.Roots(v, amd)
	if err == nil {
		r.appraisal, err = proof.AppraisePolicy(v)
	}
	switch {
	case errors.Is(err, proof.ErrNoHardware):
		return r, nil
	case err != nil:
		return nil, err
	}
	r.roots = roots
	return r, nil
}

// asked is evidence, and what is asked with it.
type asked struct {
	platform     string
	report       []byte
	endorsements []wire.Endorsement
	reportData   [64]byte
	hostData     *[32]byte // launch: the ID that begin named
	imageID      *[32]byte // launch, in its place: the ID that the instance's image brings
	spki         []byte    // certify: the key to be certified
	role         string
	now          time.Time
	trust        *admission.Trust // certify: what makes an attester's certificate count
}

// shown is what evidence showed, whether or not it was enough.
type shown struct {
	root     string
	chip     string
	checked  int
	findings []Finding
	missing  bool // no certificate is at hand for the key that signed
	report   *snp.Report
	identity admission.Identity // from the evidence
	measured claim.Measurement
	proof    *proof.Proof
	notAfter time.Time // of an attester's word; zero: no such end
}

// prove appraises evidence by the policy and proves what is asked. Of an error
// the code says why; shown is never nil.
func (p *prover) prove(ctx context.Context, cur *inForce, a *asked) (*shown, error) {
	s := &shown{root: "none"}
	var e *proof.Evidence
	var err error
	switch a.platform {
	case platform.AMDSEVSNP:
		e, err = p.fromSNP(ctx, cur, a, s)
	case platform.SimulatedEnclave:
		e, err = p.fromEnclave(a, s)
	case platform.AttestdProgram:
		e, err = fromProgram(a, s)
	default:
		err = code.Wrap(code.PlatformRefused, fmt.Errorf("platform %.64q", a.platform))
	}
	if err != nil {
		return s, err
	}
	s.identity.Domain, s.identity.Platform, s.identity.PolicyVersion = cur.policy.Domain(), a.platform, cur.policy.Version()
	s.measured = e.Measurement()
	if s.proof, err = proof.Prove(cur.policy, e, a.now); err != nil {
		return s, err
	}
	// Prove had proof.Check go over it.
	s.identity.ProofDigest = s.proof.Digest()
	return s, nil
}

func (a *asked) subjectKey() (claim.Key, error) {
	if a.spki == nil {
		return claim.Key{}, nil
	}
	return claim.KeyOfSPKI("member", a.spki)
}

func (p *prover) fromSNP(ctx context.Context, cur *inForce, a *asked, s *shown) (*proof.Evidence, error) {
	if cur.roots == nil {
		return nil, code.Wrap(code.PlatformRefused, errors.New("the policy trusts no root of AMD SEV-SNP"))
	}
	e := &Evidence{Report: a.report, Endorsements: a.endorsements, Now: a.now}
	endorsements, missing, err := findEndorsements(ctx, p.Source, e, cur.appraisal)
	if err != nil {
		return nil, code.Wrap(code.VEKChain, err)
	}
	if missing {
		s.missing = true
		return nil, code.Wrap(code.CollateralMissing, ErrNoEndorsement)
	}
	verified, err := appraise.Verify(a.report, endorsements, cur.roots, a.now, cur.appraisal.VerifyOptions(p.cache))
	if err != nil {
		if refusal, ok := errors.AsType[*appraise.Refusal](err); ok {
			s.take(refusal.Findings)
		}
		return nil, err
	}
	r := verified.Report()
	s.report, s.root, s.chip = r, verified.Root().Name(), appraise.ChipID(r.ChipID).String()
	res := appraise.Appraise(verified, cur.appraisal, appraise.Expect{ReportData: &a.reportData, HostData: a.hostData, NoHostData: a.imageID != nil}, a.now)
	s.root = res.Root
	s.take(res.Findings)
	if !res.Accepted {
		return nil, code.Wrap(s.findings[0].Code, &appraise.Refusal{Findings: res.Findings})
	}
	s.identity.Measurement, s.identity.Instance = r.Measurement[:], r.HostData
	s.identity.ChipID, s.identity.ReportID, s.identity.ReportedTCB = r.ChipID, r.ReportID, r.ReportedTCB
	s.identity.IDKeyDigest, s.identity.ImageID, s.identity.FamilyID, s.identity.GuestSVN = r.IDKeyDigest, r.ImageID, r.FamilyID, r.GuestSVN
	subject, err := a.subjectKey()
	if err != nil {
		return nil, err
	}
	named, err := cur.auth.FromSNP(verified, subject, a.role, a.imageID, a.now)
	if err != nil {
		return nil, err
	}
	s.identity.Instance, s.notAfter = named.Instance, named.NotAfter
	return named.Evidence, nil
}

func (p *prover) fromEnclave(a *asked, s *shown) (*proof.Evidence, error) {
	e, err := simenclave.Parse(a.report)
	if err == nil {
		err = e.Verify()
	}
	if err != nil {
		return nil, code.Wrap(code.EnclaveEvidence, err)
	}
	if a.spki == nil {
		return nil, code.Wrap(code.PlatformRefused, errors.New("a simulated enclave is not launched"))
	}
	s.root = "simulated enclave " + appraise.NotAMD
	s.checked = 2
	if e.ReportData != a.reportData {
		s.findings = append(s.findings, Finding{Field: "REPORT_DATA", Found: hex.EncodeToString(e.ReportData[:]), Want: hex.EncodeToString(a.reportData[:]), Code: code.ReportDataMismatch})
		return nil, code.Wrap(code.ReportDataMismatch, errors.New("the evidence is about another exchange"))
	}
	spki, err := x509.MarshalPKIXPublicKey(e.Key)
	if err != nil {
		return nil, err
	}
	// The machine is its platform key; there is no HOST_DATA.
	instance := sha256.Sum256(spki)
	s.identity.Measurement, s.identity.Instance = e.Measurement[:], instance
	key, err := claim.KeyOfSPKI("platformKey", spki)
	if err != nil {
		return nil, err
	}
	subject, err := a.subjectKey()
	if err != nil {
		return nil, err
	}
	return proof.FromEnclave(key, e.Measurement, instance, subject, a.role)
}

// take keeps the findings that refuse.
func (s *shown) take(all []appraise.Finding) {
	v := &Verdict{}
	v.take(all)
	s.checked, s.findings = v.Checked, v.Findings
}

// revoked says whether the policy in force takes an admission back, or the
// instance was seen as an image that renews this one.
func (c *inForce) revoked(id *admission.Identity) bool {
	if c.renewed.refuses(id) != nil {
		return true
	}
	for _, e := range entities(id) {
		if _, yes := c.auth.Revoked(e); yes {
			return true
		}
	}
	return false
}

// entities are what a policy can revoke of a member.
func entities(id *admission.Identity) []claim.Entity {
	list := []claim.Entity{memberOf(id).Measurement, claim.Key{ID: hex.EncodeToString(id.SPKI[:])},
		claim.Certificate{SHA256: hex.EncodeToString(id.Certificate[:])}, claim.Key{ID: hex.EncodeToString(id.Issuer[:])}}
	switch {
	case id.ChipID == [64]byte{}: // nothing vouches for one
	case [56]byte(id.ChipID[8:]) == [56]byte{}: // Turin's
		list = append(list, claim.Chip{ID: hex.EncodeToString(id.ChipID[:8])})
	default:
		list = append(list, claim.Chip{ID: hex.EncodeToString(id.ChipID[:])})
	}
	return list
}

// memberOf is a member in the words of the policy.
func memberOf(id *admission.Identity) claim.Launched {
	return launched(id.Measurement, id.Instance, id.IDKeyDigest, id.ImageID, id.FamilyID, id.GuestSVN)
}

// launchedAs is a verified report in the words of the policy.
func launchedAs(r *snp.Report) claim.Launched {
	return launched(r.Measurement[:], r.HostData, r.IDKeyDigest, r.ImageID, r.FamilyID, r.GuestSVN)
}

func launched(measurement []byte, instance [32]byte, idKey [48]byte, image, family [16]byte, svn uint32) claim.Launched {
	return claim.Launched{Measurement: claim.Measurement{Digest: hex.EncodeToString(measurement), Instance: hex.EncodeToString(instance[:])},
		IDKey: hexOrNone(idKey[:]), ImageID: hexOrNone(image[:]), FamilyID: hexOrNone(family[:]), SVN: svn}
}

// hexOrNone is empty where all bytes are zero.
func hexOrNone(b []byte) string {
	for _, c := range b {
		if c != 0 {
			return hex.EncodeToString(b)
		}
	}
	return ""
}
