package proof

import (
	"time"

	"attestbox/internal/claim"
)

// Renewed lists the measurements that an instance may not go back to once it was
// seen as m, by claims in force: those that m renews, those that they renew, and
// so on.
func (a *Authorizer) Renewed(m claim.Measurement, now time.Time) []string {
	s := stand(a.p, now)
	return s.renewed(m, s.counts)
}

// StillRenews says whether the policy states that m renews old, in force or not:
// what was narrowed is not widened because time passes, only because its owner
// removes or revokes the claim, or revokes the measurement that renews.
func (a *Authorizer) StillRenews(m claim.Measurement, old string) bool {
	s := stand(a.p, time.Time{})
	for _, d := range s.renewed(m, s.unrevoked) {
		if d == old {
			return true
		}
	}
	return false
}

func (s *standing) renewed(m claim.Measurement, counts func(*claim.Claim) bool) (list []string) {
	seen := map[string]bool{m.Digest: true}
	for next := []claim.Measurement{m}; len(next) > 0; next = next[1:] {
		for i := range s.claims {
			c := &s.claims[i]
			cl := c.Statement.Clause
			if cl.Verb != claim.Renews || !cl.Subject.(claim.Measurement).Covers(next[0]) || !counts(c) {
				continue
			}
			if old := cl.Object.(claim.Measurement).Digest; !seen[old] {
				seen[old] = true
				list = append(list, old)
				next = append(next, claim.Measurement{Digest: old, Instance: m.Instance})
			}
		}
	}
	return list
}
