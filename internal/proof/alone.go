package proof

import (
	"fmt"
	"time"

	"attestbox/internal/claim"
	"attestbox/internal/code"
)

// ProveClaim derives what a claim that travelled alone says, at now. Its
// speaker is the policy key (rule 3), or an issuer that the policy trusts for
// certification, which may say one thing: that a key
// is-trusted-for-authentication (rule 5). An issuer makes no issuers.
func ProveClaim(p *claim.VerifiedPolicy, sc *claim.SignedClaim, now time.Time) (*Proof, error) {
	b := &builder{standing: stand(p, now), goal: sc.Claim.Statement.Clause}
	by := sc.Speaker.Key
	if sc.Domain != p.Domain() {
		return nil, b.fail(code.ClaimScope, "the claim is made in domain "+p.Domain(), "it is made in "+sc.Domain, "a claim of this domain")
	}
	var issuer *claim.Claim
	if !by.Same(p.PolicyKey()) {
		var stale *claim.Claim
		issuer, stale = b.find(func(c claim.Clause) bool {
			k, ok := c.Subject.(claim.Key)
			return ok && k.Same(by) && c.Verb == claim.IsTrustedForCertification
		})
		if issuer == nil {
			return nil, b.missing(code.ClaimUndelegated, by.String()+" "+string(claim.IsTrustedForCertification), stale, "policy delegate KEYFILE -issuer, or a claim that the policy key signs")
		}
		if v := sc.Claim.Statement.Clause.Verb; !Dominates(claim.IsTrustedForCertification, v) {
			return nil, b.fail(code.ClaimUndelegated, "an issuer may say it", "it says "+string(v), "a claim that the policy key signs")
		}
	}
	pub, ok := p.Lookup(by)
	if !ok {
		return nil, b.fail(code.ClaimUndelegated, by.String()+" is declared", "the policy has its hash alone", "a line \"key\" in the policy")
	}
	vc, err := sc.Verify(pub)
	if err != nil {
		return nil, err
	}
	said := vc.Claim()
	if err := b.alone(&said, issuer == nil); err != nil {
		return nil, err
	}
	top := b.policyTrusted()
	s := Premise{Statement: said.Statement, Source: SourceSigned, Claim: said.Serial}
	if issuer == nil {
		s.Statement.Speaker = p.PolicyKey()
		_, err = b.add(3, s.Statement.Clause, R3(top.Statement.Clause, s.Statement, s.Statement.Clause), top, s)
	} else {
		var level Premise
		if level, err = b.said(issuer); err == nil {
			s.Statement.Speaker = level.Statement.Clause.Subject.(claim.Key)
			_, err = b.add(5, s.Statement.Clause, R5(level.Statement.Clause, s.Statement, s.Statement.Clause), level, s)
		}
	}
	if err != nil {
		return nil, err
	}
	return &Proof{domain: p.Domain(), version: p.Version(), time: now.UTC().Truncate(time.Second), goal: b.goal, steps: b.steps}, nil
}

// alone checks the claim's form, time and that nothing of it is revoked.
func (b *builder) alone(c *claim.Claim, byPolicy bool) error {
	if err := c.CheckForPolicy(b.policy.PolicyKey()); err != nil {
		return b.fail(code.ClaimUndelegated, "the claim is one that can be made", err.Error(), "another claim")
	}
	if !c.InForce(b.now) {
		const day = "2006-01-02T15:04:05Z"
		return b.fail(code.ClaimExpired, "the claim is in force", fmt.Sprintf("it is from %s to %s", c.NotBefore.Format(day), c.NotAfter.Format(day)), "a claim made anew")
	}
	list := []claim.Entity{c.Statement.Clause.Subject}
	if byPolicy { // serials number the claims of one speaker
		list = append(list, claim.Serial(c.Serial))
	}
	for _, x := range list {
		if r := b.revokes(x); r != nil {
			return b.fail(code.ClaimRevoked, x.String()+" is not revoked", fmt.Sprintf("claim %d says that it is-revoked", r.Serial), "another claim")
		}
	}
	return nil
}
