package proof

import (
	"encoding/hex"
	"slices"
	"time"

	"attestbox/internal/claim"
)

// Authorizer answers, request by request, what a policy lets a measurement or
// key do. It is to be asked about peers whose certificate was checked already:
// it knows what policy says of them now, not who they are. It does not change,
// and may be shared.
type Authorizer struct{ p *claim.VerifiedPolicy }

// NewAuthorizer asks this policy.
func NewAuthorizer(p *claim.VerifiedPolicy) *Authorizer { return &Authorizer{p} }

// Policy is the policy that is asked.
func (a *Authorizer) Policy() *claim.VerifiedPolicy { return a.p }

// Trusted says whether a launch is-trusted now, by its measurement or as an
// image, and by which claim.
func (a *Authorizer) Trusted(m claim.Launched, now time.Time) (serial uint64, ok bool) {
	return a.subject(m, now, func(c claim.Clause) bool { return c.Verb == claim.IsTrusted })
}

// subject looks for a claim about a launch whose measurement is not revoked.
func (a *Authorizer) subject(m claim.Launched, now time.Time, fits func(claim.Clause) bool) (uint64, bool) {
	s := stand(a.p, now)
	if s.revokes(m.Measurement) != nil {
		return 0, false
	}
	c, _ := s.find(func(c claim.Clause) bool { return claim.Covers(c.Subject, m) && fits(c) })
	if c == nil {
		return 0, false
	}
	return c.Serial, true
}

// grant is a claim about a launch that is trusted itself.
func (a *Authorizer) grant(m claim.Launched, now time.Time, fits func(claim.Clause) bool) (uint64, bool) {
	if _, ok := a.Trusted(m, now); !ok {
		return 0, false
	}
	return a.subject(m, now, fits)
}

// MayRead says whether a launch may read the secret of this name (a name,
// not a pattern), and by which claim. Nothing is allowed by default.
func (a *Authorizer) MayRead(m claim.Launched, secret string, now time.Time) (serial uint64, ok bool) {
	return a.secret(claim.MayRead, m, secret, now)
}

// MayWrite is MayRead for writing, rotating and deleting.
func (a *Authorizer) MayWrite(m claim.Launched, secret string, now time.Time) (serial uint64, ok bool) {
	return a.secret(claim.MayWrite, m, secret, now)
}

func (a *Authorizer) secret(verb claim.Verb, m claim.Launched, name string, now time.Time) (uint64, bool) {
	return a.grant(m, now, func(c claim.Clause) bool {
		s, ok := c.Object.(claim.Secret)
		return ok && c.Verb == verb && s.Matches(name)
	})
}

// MaySucceed says whether the stores of old may be opened by next, which must be
// trusted itself; old may be revoked by now.
func (a *Authorizer) MaySucceed(next, old claim.Launched, now time.Time) (serial uint64, ok bool) {
	return a.grant(next, now, func(c claim.Clause) bool {
		return c.Verb == claim.MaySucceed && claim.Covers(c.Object, old)
	})
}

// NamesImage says whether a launch is a version of an image that the policy trusts
// or lets another succeed, in force or not: whether its ID block may matter.
func (a *Authorizer) NamesImage(l claim.Launched) bool {
	return slices.ContainsFunc(a.p.Claims(), func(c claim.Claim) bool {
		cl, named := c.Statement.Clause, claim.Entity(nil)
		switch cl.Verb {
		case claim.IsTrusted:
			named = cl.Subject
		case claim.MaySucceed:
			named = cl.Object
		}
		i, ok := named.(claim.Image)
		return ok && i.Covers(l)
	})
}

// MayNominate says whether a running VM of this measurement, trusted itself, may
// name a successor of its launch digest without the owner's word.
func (a *Authorizer) MayNominate(m claim.Launched, now time.Time) (serial uint64, ok bool) {
	return a.grant(m, now, func(c claim.Clause) bool { return c.Verb == claim.MayNominate })
}

// ServingMeasurement says whether a measurement, trusted itself, may serve in a
// role.
func (a *Authorizer) ServingMeasurement(m claim.Launched, role string, now time.Time) (serial uint64, ok bool) {
	return a.grant(m, now, func(c claim.Clause) bool { return serves(c, role) })
}

// ServingKey says whether a key is trusted by name to serve in a role: that of a
// server that no measurement vouches for.
func (a *Authorizer) ServingKey(k claim.Key, role string, now time.Time) (serial uint64, ok bool) {
	return a.key(k, now, func(c claim.Clause) bool { return serves(c, role) })
}

// Issuer says whether a key is trusted for certification: whether it may sign
// admission certificates.
func (a *Authorizer) Issuer(k claim.Key, now time.Time) (serial uint64, ok bool) {
	return a.key(k, now, func(c claim.Clause) bool { return c.Verb == claim.IsTrustedForCertification })
}

// IssuerOf is Issuer for the SHA-256 of a SubjectPublicKeyInfo, which names its
// algorithm too: of the issuer of a certificate that was checked already.
func (a *Authorizer) IssuerOf(spki [32]byte, now time.Time) (serial uint64, ok bool) {
	id := hex.EncodeToString(spki[:])
	c, _ := stand(a.p, now).find(func(c claim.Clause) bool {
		k, ok := c.Subject.(claim.Key)
		return ok && k.ID == id && c.Verb == claim.IsTrustedForCertification
	})
	if c == nil {
		return 0, false
	}
	return c.Serial, true
}

func (a *Authorizer) key(k claim.Key, now time.Time, fits func(claim.Clause) bool) (uint64, bool) {
	c, _ := stand(a.p, now).find(func(c claim.Clause) bool {
		x, ok := c.Subject.(claim.Key)
		return ok && x.Same(k) && fits(c)
	})
	if c == nil {
		return 0, false
	}
	return c.Serial, true
}

func serves(c claim.Clause, role string) bool {
	r, ok := c.Object.(claim.Role)
	return ok && c.Verb == claim.IsTrustedForServing && r.Name == role && role != RoleAttester && role != RoleClient
}

// Revoked says whether the policy revokes a key, measurement, chip, claim or
// certificate, and by which claim. Revocations have no end.
func (a *Authorizer) Revoked(x claim.Entity) (serial uint64, ok bool) {
	if c := stand(a.p, time.Time{}).revokes(x); c != nil {
		return c.Serial, true
	}
	return 0, false
}
