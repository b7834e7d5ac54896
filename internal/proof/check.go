package proof

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"attestbox/internal/claim"
)

// Check goes over a finished proof with code of its own: it shares neither the
// search nor the rules with Prove. It accepts exactly what follows, at now, from
// the policy's claims in force, from the evidence and from nothing else.
func Check(p *claim.VerifiedPolicy, e *Evidence, proof *Proof, now time.Time) error {
	if proof == nil || p == nil || e == nil {
		return errors.New("checking a proof: something is missing")
	}
	if proof.domain != p.Domain() || proof.version != p.Version() || len(proof.steps) == 0 {
		return errors.New("checking a proof: it is of another policy, or empty")
	}
	c := &checker{p: p, e: e, now: now, proof: proof, depth: map[int]int{}}
	for i := range proof.steps {
		if err := c.step(i); err != nil {
			return fmt.Errorf("checking a proof: step %d: %w", i+1, err)
		}
	}
	return c.end()
}

type checker struct {
	p     *claim.VerifiedPolicy
	e     *Evidence
	now   time.Time
	proof *Proof
	depth map[int]int // by step: links between the policy's claim and this key
}

// step checks where the premises come from and that the conclusion follows.
func (c *checker) step(i int) error {
	s := c.proof.steps[i]
	for _, q := range s.Premises {
		if err := c.source(q, i); err != nil {
			return fmt.Errorf("premise %q: %w", q.Statement, err)
		}
	}
	want := map[int]int{1: 2, 3: 2, 5: 2, 6: 2, 7: 3, 8: 2, 9: 2, 10: 2}[s.Rule]
	if want == 0 || len(s.Premises) != want {
		return fmt.Errorf("rule %d with %d premises", s.Rule, len(s.Premises))
	}
	a, b := s.Premises[0], s.Premises[1]
	if s.Rule != 3 && s.Rule != 5 && s.Rule != 6 { // these rest on what was proved, never on what somebody says
		for _, q := range s.Premises {
			if q.Source != SourceStep || !q.Statement.Speaker.IsZero() {
				return fmt.Errorf("rule %d rests on %q, which was not proved", s.Rule, q.Statement)
			}
		}
	}
	a1, b1, out := a.Statement.Clause.String(), b.Statement.Clause.String(), s.Conclusion.String()
	ok := false
	switch s.Rule {
	case 1, 7:
		key, x, _ := strings.Cut(b1, " speaks-for ")
		trusted := subject(a1, "is-trusted")
		ok = same(trusted, x) || same(trusted, withoutInstance(x))
		if s.Rule == 1 {
			ok = ok && out == key+" is-trusted-for-authentication"
		} else {
			grant := subject(s.Premises[2].Statement.Clause.String(), "is-trusted-for-attestation")
			ok = ok && strings.HasPrefix(grant, "Measurement[") && c.granted(grant, x) && out == key+" is-trusted-for-attestation"
		}
	case 3:
		ok = a.Source == SourcePolicyKey && b.Source == SourceClaim && out == b1
	case 5:
		ok = out == b1 && c.handedOn(i, a, b)
	case 6:
		ok = out == b1 && b.Source == SourceEvidence && a.Source == SourceStep && c.mayAttest(a, b)
	case 8:
		ok = same(subject(a1, "is-environment"), subject(out, "environment-platform-is-trusted")) && c.meets(b1)
	case 9:
		ok = same(subject(a1, "is-environment"), subject(out, "environment-measurement-is-trusted")) && (c.names(subject(b1, "is-trusted")) || c.signed(subject(b1, "is-trusted"), subject(a1, "is-environment")))
	case 10:
		x := subject(out, "is-trusted")
		ok = same(x, subject(a1, "environment-platform-is-trusted")) && same(x, subject(b1, "environment-measurement-is-trusted"))
	}
	if !ok {
		return fmt.Errorf("%q does not follow by rule %d", out, s.Rule)
	}
	return nil
}

// subject is the text before a verb that ends a clause; empty where it does not.
func subject(clause, verb string) string {
	x, ok := strings.CutSuffix(clause, " "+verb)
	if !ok {
		return ""
	}
	return x
}

// same compares two texts of which neither is missing.
func same(a, b string) bool { return a != "" && a == b }

// source checks that a premise is what it says it is.
func (c *checker) source(q Premise, i int) error {
	t := q.Statement.String()
	switch q.Source {
	case SourcePolicyKey:
		if t == c.p.PolicyKey().String()+" is-trusted" {
			return nil
		}
	case SourceClaim:
		for _, x := range c.p.Claims() {
			if x.Serial == q.Claim && x.Statement.String() == t {
				if c.now.Before(x.NotBefore) || c.now.After(x.NotAfter) {
					return errors.New("the claim is not in force")
				}
				return c.unrevoked(claim.Serial(x.Serial).String(), t)
			}
		}
	case SourceEvidence:
		if c.evident(q.Statement) {
			return nil
		}
	case SourceStep:
		if q.Step >= 1 && q.Step <= i && c.proof.steps[q.Step-1].Conclusion.String() == t {
			return nil
		}
	}
	return errors.New("it is not there")
}

// unrevoked: no revocation names the claim, or any key, measurement or chip in
// its text.
func (c *checker) unrevoked(serial, text string) error {
	for _, r := range c.p.Claims() {
		if r.Statement.Clause.Verb != claim.IsRevoked {
			continue
		}
		x := r.Statement.Clause.Subject
		name := x.String()
		if k, ok := x.(claim.Key); ok {
			name = ", " + k.ID + "]" // a key is its hash, whatever it is called
		}
		if name == serial || strings.Contains(text+" ", name+" ") && x.String() != c.p.PolicyKey().String() {
			return fmt.Errorf("%s is revoked", x)
		}
	}
	return nil
}

// evident says whether the evidence states it.
func (c *checker) evident(s claim.Statement) bool {
	e, t := c.e, s.String()
	if e.platform == AttestdProgram {
		return c.evidentProgram(s)
	}
	for _, l := range e.chain {
		scope := " is-trusted-for-attestation on Platform[amd-sev-snp, product = " + e.props["product"] + "]"
		if s.Speaker.ID == l.Issuer.ID && s.Clause.String() == l.Subject.String()+scope {
			return true
		}
	}
	if s.Speaker.ID != e.attester.ID || s.Speaker.Alg != e.attester.Alg {
		return false
	}
	if x, ok := s.Clause.Subject.(claim.Environment); ok {
		return s.Clause.Verb == claim.IsEnvironment && c.shows(x)
	}
	if e.subject.IsZero() || s.Clause.Subject.String() != e.subject.String() || s.Clause.Verb != claim.SpeaksFor {
		return false
	}
	if x, ok := s.Clause.Object.(claim.Environment); ok {
		return c.shows(x)
	}
	return e.platform == claim.SimulatedEnclave && strings.HasSuffix(t, " speaks-for "+e.measurement.String())
}

// shows says whether the evidence shows an environment: each property and the
// measurement are those of the evidence.
func (c *checker) shows(x claim.Environment) bool {
	if c.e.platform != claim.AMDSEVSNP || x.Platform.Type != c.e.platform || x.Measurement != c.e.measurement {
		return false
	}
	for _, q := range x.Platform.Props {
		if v, ok := c.e.props[q.Name]; !ok || len(q.Values) != 1 || q.Values[0] != v || (q.Op != claim.Is && q.Op != claim.Eq) {
			return false
		}
	}
	return true
}

// names says whether a measurement's text is that of the evidence, narrowed or
// not.
func (c *checker) names(t string) bool {
	m := c.e.measurement
	return t == m.String() || t == claim.Measurement{Digest: m.Digest}.String()
}

func withoutInstance(t string) string {
	before, _, ok := strings.Cut(t, " with-instance[")
	if !ok || !strings.HasPrefix(t, "Measurement[") {
		return t
	}
	return before
}

// handedOn checks rule 5 and keeps count: the policy trusts a root, the root an
// ASK, the ASK a VEK.
func (c *checker) handedOn(i int, a, b Premise) bool {
	_, about, _ := strings.Cut(b.Statement.Clause.String(), "] is-trusted-for-attestation on ")
	if about == "" || a.Statement.Clause.Subject.String() != b.Statement.Speaker.String() {
		return false
	}
	if a.Source == SourcePolicyKey {
		c.depth[i+1] = 0
		return b.Source == SourceClaim
	}
	_, before, _ := strings.Cut(a.Statement.Clause.String(), "] is-trusted-for-attestation on ")
	d, known := c.depth[a.Step]
	c.depth[i+1] = d + 1
	return a.Source == SourceStep && b.Source == SourceEvidence && known && d < 2 && about == before && strings.HasPrefix(about, "Platform[amd-sev-snp, ")
}

// mayAttest checks rule 6: a VEK at depth two about environments, a simulated
// enclave's key about the measurements named beside it.
func (c *checker) mayAttest(a, b Premise) bool {
	if c.e.platform == AttestdProgram {
		return c.programAttested(a, b)
	}
	d, known := c.depth[a.Step]
	_, scope, _ := strings.Cut(a.Statement.Clause.String(), "] is-trusted-for-attestation on ")
	if !known || a.Statement.Clause.Subject.String() != b.Statement.Speaker.String() {
		return false
	}
	said := b.Statement.Clause
	switch c.e.platform {
	case claim.AMDSEVSNP:
		_, speaks := said.Object.(claim.Environment)
		return d == 2 && scope == "Platform[amd-sev-snp, product = "+c.e.props["product"]+"]" && (said.Verb == claim.IsEnvironment || said.Verb == claim.SpeaksFor && speaks)
	case claim.SimulatedEnclave:
		list, ok := strings.CutPrefix(scope, "Platform[simulated-enclave] about ")
		for _, m := range strings.Split(list, ", ") {
			if ok && d == 0 && said.Verb == claim.SpeaksFor && c.names(m) {
				return true
			}
		}
	}
	return false
}

// meets checks rule 8: the evidence has every property that a requirement names
// and the strict value of those it does not name.
func (c *checker) meets(requirement string) bool {
	st, err := claim.ParseStatement(requirement)
	if err != nil || st.Clause.Verb != claim.HasTrustedPlatformProperty {
		return false
	}
	want, ok := st.Clause.Subject.(claim.Platform)
	if !ok || want.Type != c.e.platform || c.e.props["debug"] != "no" || c.e.props["migrate"] != "no" {
		return false
	}
	strict := map[string]string{"vmpl": "0", "alias-check": "yes", "signing-key": "vcek"}
	for _, q := range want.Props {
		v, ok := c.e.props[q.Name]
		if !ok || !q.Satisfied(v) {
			return false
		}
		delete(strict, q.Name)
	}
	for name, v := range strict {
		if c.e.props[name] != v {
			return false
		}
	}
	return true
}

// end checks that the goal was reached, the role granted, and that nothing in
// the evidence is revoked.
func (c *checker) end() error {
	last := c.proof.steps[len(c.proof.steps)-1]
	goal := c.proof.goal.String()
	want := ""
	if env, ok := c.proof.goal.Subject.(claim.Environment); ok && c.e.subject.IsZero() {
		want = env.String() + " is-trusted"
	} else if !c.e.subject.IsZero() {
		want = c.e.subject.String() + " is-trusted-for-authentication"
	}
	if !same(goal, want) || last.Conclusion.String() != goal {
		return fmt.Errorf("checking a proof: it does not end with its goal %q", goal)
	}
	if r := c.e.role; r != RoleClient && !c.e.subject.IsZero() {
		granted := false
		for _, s := range c.proof.steps {
			t := s.Conclusion.String()
			x, isServing := strings.CutSuffix(t, ` is-trusted-for-serving Role["`+r+`"]`)
			granted = granted || isServing && (c.names(x) || c.imaged(x)) || r == RoleAttester && c.e.platform != AttestdProgram && t == c.e.subject.String()+" is-trusted-for-attestation"
		}
		if !granted {
			return fmt.Errorf("checking a proof: the role %s is not granted", r)
		}
	}
	all := c.e.measurement.String() + " " + claim.Measurement{Digest: c.e.measurement.Digest}.String() + " " + c.e.attester.String() + " " + c.e.subject.String() + " " + claim.Chip{ID: c.e.chip}.String()
	if c.e.platform == AttestdProgram {
		all += " " + c.e.issuer.String() + " " + c.e.vm.String() + " " + claim.Measurement{Digest: c.e.vm.Digest}.String()
	}
	for _, l := range c.e.chain {
		all += " " + l.Issuer.String() + " " + l.Subject.String()
	}
	if err := c.unrevoked("", all); err != nil {
		return fmt.Errorf("checking a proof: %w", err)
	}
	return nil
}
