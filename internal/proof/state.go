package proof

import (
	"time"

	"attestbox/internal/claim"
)

// standing is what a policy says at one moment: its claims in force, and what
// it revokes.
type standing struct {
	policy  *claim.VerifiedPolicy
	now     time.Time
	claims  []claim.Claim
	revoked []claim.Claim
}

func stand(p *claim.VerifiedPolicy, now time.Time) *standing {
	s := &standing{policy: p, now: now, claims: p.Claims()}
	for _, c := range s.claims {
		if c.Revokes() {
			s.revoked = append(s.revoked, c)
		}
	}
	return s
}

// revokes gives the claim that revokes an entity, or nil. A measurement is
// revoked with all its instances, or for the named one.
func (s *standing) revokes(x claim.Entity) *claim.Claim {
	for i, c := range s.revoked {
		hit := false
		switch r := c.Statement.Clause.Subject.(type) {
		case claim.Key:
			k, ok := x.(claim.Key)
			hit = ok && r.ID == k.ID
		case claim.Measurement:
			m, ok := x.(claim.Measurement)
			hit = ok && r.Covers(m)
		default:
			hit = r.String() == x.String()
		}
		if hit {
			return &s.revoked[i]
		}
	}
	return nil
}

// find gives the first claim in force that is wanted; where there is none, it
// gives one that is wanted but expired or revoked, if any.
func (s *standing) find(want func(claim.Clause) bool) (good, stale *claim.Claim) {
	for i := range s.claims {
		c := &s.claims[i]
		if c.Revokes() || !want(c.Statement.Clause) {
			continue
		}
		if s.counts(c) {
			return c, nil
		}
		if stale == nil {
			stale = c
		}
	}
	return nil, stale
}

// unrevoked says whether neither a claim nor its subject is revoked.
func (s *standing) unrevoked(c *claim.Claim) bool {
	return s.revokes(claim.Serial(c.Serial)) == nil && s.revokes(c.Statement.Clause.Subject) == nil
}

// counts says whether a claim is in force and neither it nor its subject is
// revoked.
func (s *standing) counts(c *claim.Claim) bool {
	return c.InForce(s.now) && s.unrevoked(c)
}
