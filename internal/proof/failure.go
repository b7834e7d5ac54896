package proof

import (
	"fmt"

	"attestbox/internal/claim"
	"attestbox/internal/code"
)

// Failure is why there is no proof: the first premise that fails. It comes
// wrapped with its code.
type Failure struct {
	Premise string `json:"premise"`           // what had to hold
	Found   string `json:"found"`             // what holds instead
	Satisfy string `json:"satisfy"`           // what would satisfy it
	Policy  uint64 `json:"policy_version"`    // of the policy that was asked
	Goal    string `json:"goal"`              // what was to be proved
	Claim   uint64 `json:"claim,omitempty"`   // the claim that stands in the way, if one does
	AMD     bool   `json:"amd"`               // whether the evidence's root is AMD's
	Root    string `json:"root,omitempty"`    // the evidence's root
	Proved  []Step `json:"proved,omitempty"`  // what was proved before
	Missing string `json:"missing,omitempty"` // the property that fails, where it is one
}

func (f *Failure) Error() string {
	return fmt.Sprintf("not proved: %s: %s", f.Premise, f.Found)
}

// fail makes the error of a failed premise.
func (b *builder) fail(c code.Code, premise, found, satisfy string) error {
	return code.Wrap(c, b.failure(premise, found, satisfy))
}

func (b *builder) failure(premise, found, satisfy string) *Failure {
	return &Failure{Premise: premise, Found: found, Satisfy: satisfy, Policy: b.policy.Version(), Goal: text(b.goal),
		AMD: b.e != nil && b.e.amd, Root: rootOf(b.e), Proved: b.steps}
}

func rootOf(e *Evidence) string {
	if e == nil {
		return ""
	}
	return e.root
}

// missing explains why no claim serves: a stale one that would, or none.
func (b *builder) missing(c code.Code, premise string, stale *claim.Claim, satisfy string) error {
	f := b.failure(premise, "the policy has no such claim", satisfy)
	if stale == nil {
		return code.Wrap(c, f)
	}
	f.Claim = stale.Serial
	if r := b.revokes(claim.Serial(stale.Serial)); r != nil {
		f.Found = fmt.Sprintf("claim %d says so, and claim %d revokes it", stale.Serial, r.Serial)
		return code.Wrap(code.ClaimRevoked, f)
	}
	if r := b.revokes(stale.Statement.Clause.Subject); r != nil {
		f.Found = fmt.Sprintf("claim %d says so, and claim %d revokes its subject", stale.Serial, r.Serial)
		return code.Wrap(code.ClaimRevoked, f)
	}
	const day = "2006-01-02T15:04:05Z"
	f.Found = fmt.Sprintf("claim %d says so from %s to %s, and it is %s", stale.Serial, stale.NotBefore.Format(day), stale.NotAfter.Format(day), b.now.UTC().Format(day))
	return code.Wrap(code.ClaimExpired, f)
}
