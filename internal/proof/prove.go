package proof

import (
	"fmt"
	"time"

	"attestbox/internal/claim"
	"attestbox/internal/code"
)

// builder is a proof in the making.
type builder struct {
	*standing
	e     *Evidence
	goal  claim.Clause
	steps []Step
}

// Prove derives from the policy and the evidence, at now, that the evidence's
// key is-trusted-for-authentication (in the role of attester also
// is-trusted-for-attestation, in a serving role also that its measurement
// is-trusted-for-serving it). Without a key it proves that the environment
// is-trusted. The error is a *Failure with its code.
func Prove(p *claim.VerifiedPolicy, e *Evidence, now time.Time) (*Proof, error) {
	b := &builder{standing: stand(p, now), e: e}
	b.goal = claim.Clause{Subject: e.subject, Verb: claim.IsTrustedForAuthentication}
	if e.subject.IsZero() {
		b.goal = claim.Clause{Subject: e.measurement, Verb: claim.IsTrusted}
	}
	if err := b.notRevoked(); err != nil {
		return nil, err
	}
	trusted, err := b.measurement(e.Launched())
	if err != nil {
		return nil, err
	}
	switch e.platform {
	case claim.AMDSEVSNP:
		err = b.hardware(trusted)
	case claim.SimulatedEnclave:
		err = b.enclave(trusted)
	case AttestdProgram:
		err = b.program(trusted)
	default:
		err = b.fail(code.ProofPlatform, "the platform is known", fmt.Sprintf("%.40q", e.platform), "evidence of "+claim.AMDSEVSNP+" or "+claim.SimulatedEnclave)
	}
	if err != nil {
		return nil, err
	}
	proof := &Proof{domain: p.Domain(), version: p.Version(), time: now.UTC().Truncate(time.Second), e: e, goal: b.goal, steps: b.steps}
	if err := Check(p, e, proof, now); err != nil {
		return nil, fmt.Errorf("a proof that does not check, which is a defect of this program: %w", err)
	}
	return proof, nil
}

// notRevoked: nothing that the evidence consists of is revoked.
func (b *builder) notRevoked() error {
	list := []claim.Entity{b.e.measurement, b.e.attester}
	if b.e.chip != "" {
		list = append(list, claim.Chip{ID: b.e.chip})
	}
	for _, l := range b.e.chain {
		list = append(list, l.Issuer, l.Subject)
	}
	if !b.e.subject.IsZero() {
		list = append(list, b.e.subject)
	}
	if b.e.platform == AttestdProgram {
		list = append(list, b.e.issuer, b.e.vm)
	}
	for _, x := range list {
		if c := b.revokes(x); c != nil {
			f := b.failure(x.String()+" is not revoked", fmt.Sprintf("claim %d says that it is-revoked", c.Serial), "another measurement, key or chip, or a policy without that claim")
			f.Claim = c.Serial
			return code.Wrap(code.ClaimRevoked, f)
		}
	}
	return nil
}

// policyTrusted is what every proof starts from.
func (b *builder) policyTrusted() Premise {
	return Premise{Statement: claim.Statement{Clause: claim.Clause{Subject: b.policy.PolicyKey(), Verb: claim.IsTrusted}}, Source: SourcePolicyKey}
}

func fromClaim(c *claim.Claim) Premise {
	return Premise{Statement: c.Statement, Source: SourceClaim, Claim: c.Serial}
}

func evident(speaker claim.Key, c claim.Clause) Premise {
	return Premise{Statement: claim.Statement{Speaker: speaker, Clause: c}, Source: SourceEvidence}
}

// add appends a step and gives its conclusion as a premise of later ones. err
// is the rule's verdict.
func (b *builder) add(rule int, conclusion claim.Clause, err error, premises ...Premise) (Premise, error) {
	if err != nil {
		return Premise{}, b.fail(code.ProofAttester, text(conclusion), err.Error(), "evidence and claims that the rule accepts")
	}
	b.steps = append(b.steps, Step{Premises: premises, Rule: rule, Conclusion: conclusion})
	return Premise{Statement: claim.Statement{Clause: conclusion}, Source: SourceStep, Step: len(b.steps)}, nil
}

// said applies rule 3 to a claim of the policy.
func (b *builder) said(c *claim.Claim) (Premise, error) {
	top, s := b.policyTrusted(), fromClaim(c)
	return b.add(3, s.Statement.Clause, R3(top.Statement.Clause, s.Statement, s.Statement.Clause), top, s)
}

// measurement finds the claim that trusts a launch: by its measurement, else by
// what its ID block says.
func (b *builder) measurement(l claim.Launched) (Premise, error) {
	m := l.Measurement
	c, stale := b.find(func(c claim.Clause) bool {
		x, ok := c.Subject.(claim.Measurement)
		return ok && c.Verb == claim.IsTrusted && x.Covers(m)
	})
	if c == nil {
		var staleImage *claim.Claim
		c, staleImage = b.find(func(c claim.Clause) bool {
			x, ok := c.Subject.(claim.Image)
			return ok && c.Verb == claim.IsTrusted && x.Covers(l)
		})
		if stale == nil {
			stale = staleImage
		}
	}
	if c == nil {
		bare := claim.Measurement{Digest: m.Digest}
		satisfy := "policy allow measurement " + bare.Digest + "; the claim: " + bare.String() + " is-trusted"
		if l.IDKey != "" && l.ImageID != "" && l.SVN > 0 {
			satisfy += "; or all that this ID key signs of this image: " + claim.Image{IDKey: l.IDKey, ImageID: l.ImageID, MinSVN: l.SVN}.String() + " is-trusted"
		}
		return Premise{}, b.missing(code.ProofMeasurement, m.String()+" is-trusted", stale, satisfy)
	}
	return b.said(c)
}

// attesterTrust applies rule 5 to the claim that trusts a key for attestation.
func (b *builder) attesterTrust(key claim.Key, what, satisfy string, fits func(claim.Clause, claim.Platform) bool) (Premise, error) {
	c, stale := b.find(func(c claim.Clause) bool {
		k, ok := c.Subject.(claim.Key)
		p, ok2 := c.Object.(claim.Platform)
		return ok && ok2 && c.Verb == claim.IsTrustedForAttestation && k.Same(key) && fits(c, p)
	})
	if c == nil {
		return Premise{}, b.missing(code.ProofAttester, key.String()+" "+string(claim.IsTrustedForAttestation)+" "+what, stale, satisfy)
	}
	top, s := b.policyTrusted(), fromClaim(c)
	return b.add(5, s.Statement.Clause, R5(top.Statement.Clause, s.Statement, s.Statement.Clause), top, s)
}

// hardware is the path of SEV-SNP: chain, environment, rules 8 to 10.
func (b *builder) hardware(trusted Premise) error {
	e := b.e
	if len(e.chain) != 2 || e.chain[0].Kind != "ask" || e.chain[1].Kind != "vek" || !e.chain[0].Subject.Same(e.chain[1].Issuer) || !e.chain[1].Subject.Same(e.attester) {
		return b.fail(code.ProofAttester, "the chain leads from ARK to ASK to VEK", "another chain", "the certificates of AMD's KDS")
	}
	product := e.props["product"]
	scope := claim.Platform{Type: claim.AMDSEVSNP, Props: []claim.Prop{{Name: "product", Op: claim.Eq, Values: []string{product}}}}
	level, err := b.attesterTrust(e.chain[0].Issuer, "on "+scope.String(), "policy trust-root ARK.pem -product "+product,
		func(c claim.Clause, p claim.Platform) bool { return p.String() == scope.String() })
	if err != nil {
		return err
	}
	required, err := b.requirement()
	if err != nil {
		return err
	}
	for _, l := range e.chain {
		issuer := level.Statement.Clause.Subject.(claim.Key)
		s := evident(issuer, claim.Clause{Subject: l.Subject, Verb: claim.IsTrustedForAttestation, Object: scope})
		if level, err = b.add(5, s.Statement.Clause, R5(level.Statement.Clause, s.Statement, s.Statement.Clause), level, s); err != nil {
			return err
		}
	}
	env := claim.Environment{Platform: e.facts(required.Statement.Clause.Subject.(claim.Platform), trusted.Statement.Clause.Subject), Measurement: e.measurement}
	if e.subject.IsZero() {
		b.goal = claim.Clause{Subject: env, Verb: claim.IsTrusted}
	}
	s := evident(e.attester, claim.Clause{Subject: env, Verb: claim.IsEnvironment})
	is, err := b.add(6, s.Statement.Clause, R6(level.Statement.Clause, s.Statement, s.Statement.Clause), level, s)
	if err != nil {
		return err
	}
	good := claim.Clause{Subject: env, Verb: claim.EnvironmentPlatformIsTrusted}
	platform, err := b.add(8, good, R8(is.Statement.Clause, required.Statement.Clause, good), is, required)
	if err != nil {
		return err
	}
	good = claim.Clause{Subject: env, Verb: claim.EnvironmentMeasurementIsTrusted}
	measured, err := b.add(9, good, R9(is.Statement.Clause, trusted.Statement.Clause, good), is, trusted)
	if err != nil {
		return err
	}
	good = claim.Clause{Subject: env, Verb: claim.IsTrusted}
	whole, err := b.add(10, good, R10(platform.Statement.Clause, measured.Statement.Clause, good), platform, measured)
	if err != nil || e.subject.IsZero() {
		return err
	}
	return b.admit(level, whole, env)
}

// enclave is the short path, of a simulated enclave alone.
func (b *builder) enclave(trusted Premise) error {
	m := b.e.measurement
	level, err := b.attesterTrust(b.e.attester, "on Platform["+claim.SimulatedEnclave+"] about "+m.String(),
		"policy trust-root KEY.pem -enclave "+m.Digest, func(c claim.Clause, p claim.Platform) bool {
			return p.Type == claim.SimulatedEnclave && covers(c.About, m)
		})
	if err != nil {
		return err
	}
	return b.admit(level, trusted, m)
}

// admit: the attester says that the subject speaks for what is trusted.
func (b *builder) admit(level, trusted Premise, x claim.Entity) error {
	attester := level.Statement.Clause.Subject.(claim.Key)
	s := evident(attester, claim.Clause{Subject: b.e.subject, Verb: claim.SpeaksFor, Object: x})
	speaks, err := b.add(6, s.Statement.Clause, R6(level.Statement.Clause, s.Statement, s.Statement.Clause), level, s)
	if err != nil {
		return err
	}
	if err := b.role(trusted, speaks); err != nil {
		return err
	}
	good := claim.Clause{Subject: b.e.subject, Verb: claim.IsTrustedForAuthentication}
	_, err = b.add(1, good, R1(trusted.Statement.Clause, speaks.Statement.Clause, good), trusted, speaks)
	return err
}

// role: what the subject asks to be, policy grants to its measurement.
func (b *builder) role(trusted, speaks Premise) error {
	m, role := b.e.measurement, b.e.role
	if role == RoleClient {
		return nil
	}
	fits := func(c claim.Clause) bool {
		return claim.Covers(c.Subject, b.e.Launched()) && c.Verb == claim.IsTrustedForServing && c.Object.String() == claim.Role{Name: role}.String()
	}
	premise := m.String() + " " + string(claim.IsTrustedForServing) + " " + claim.Role{Name: role}.String()
	if role == RoleAttester {
		fits = func(c claim.Clause) bool {
			x, ok := c.Subject.(claim.Measurement)
			return ok && x.Covers(m) && c.Verb == claim.IsTrustedForAttestation
		}
		premise = m.String() + " " + string(claim.IsTrustedForAttestation)
	}
	c, stale := b.find(fits)
	if c == nil {
		return b.missing(code.ProofRole, premise, stale, "policy grant "+m.Digest+" serve "+role)
	}
	granted, err := b.said(c)
	if err != nil || role != RoleAttester {
		return err
	}
	good := claim.Clause{Subject: b.e.subject, Verb: claim.IsTrustedForAttestation}
	_, err = b.add(7, good, R7(trusted.Statement.Clause, speaks.Statement.Clause, granted.Statement.Clause, good), trusted, speaks, granted)
	return err
}
