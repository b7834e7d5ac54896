package proof

import (
	"fmt"
	"slices"

	"attestbox/internal/claim"
	"attestbox/internal/code"
)

// requirement finds a platform requirement that the evidence meets. Where there
// is none, the failure is that of the one which comes closest: the one with the
// fewest properties that fail.
func (b *builder) requirement() (Premise, error) {
	closest, missing := -1, []claim.Prop(nil)
	var serial uint64
	c, stale := b.find(func(c claim.Clause) bool {
		p, ok := c.Subject.(claim.Platform)
		return ok && c.Verb == claim.HasTrustedPlatformProperty && p.Type == claim.AMDSEVSNP && len(b.e.lacks(p)) == 0
	})
	if c != nil {
		return b.said(c)
	}
	premise := "Platform[" + claim.AMDSEVSNP + ", ...] " + string(claim.HasTrustedPlatformProperty)
	if stale == nil {
		for i := range b.claims {
			c := &b.claims[i]
			p, ok := c.Statement.Clause.Subject.(claim.Platform)
			if !ok || c.Statement.Clause.Verb != claim.HasTrustedPlatformProperty || !b.counts(c) {
				continue
			}
			if lacks := b.e.lacks(p); closest < 0 || len(lacks) < closest {
				closest, missing, serial = len(lacks), lacks, c.Serial
			}
		}
	}
	if len(missing) == 0 {
		return Premise{}, b.missing(code.ProofPlatform, premise, stale, "policy require "+claim.AMDSEVSNP+" 'product = "+b.e.props["product"]+"' ...")
	}
	want := missing[0]
	found, ok := b.e.props[want.Name]
	if !ok {
		found = "absent"
	}
	f := b.failure(fmt.Sprintf("the platform has %s, as claim %d requires", want, serial), fmt.Sprintf("%s is %s", want.Name, found),
		"a platform that has it, or a claim that requires less of it")
	if len(missing) > 1 {
		f.Found += fmt.Sprintf(" (and %d more properties fail: %s)", len(missing)-1, names(missing[1:]))
	}
	f.Claim, f.Missing = serial, want.Name
	return Premise{}, code.Wrap(code.ProofPlatform, f)
}

func names(props []claim.Prop) string {
	s := ""
	for i, p := range props {
		if i > 0 {
			s += "; "
		}
		s += p.String()
	}
	return s
}

// lacks lists what a requirement asks for and the evidence does not have.
func (e *Evidence) lacks(p claim.Platform) (list []claim.Prop) {
	for _, q := range Effective(p) {
		if have, ok := e.props[q.Name]; !ok || !q.Satisfied(have) {
			list = append(list, q)
		}
	}
	return list
}

// facts is the evidence's platform, of all properties those that a requirement
// asks for, and those by which an image is known where one is trusted.
func (e *Evidence) facts(required claim.Platform, trusted claim.Entity) claim.Platform {
	var names []string
	for _, q := range Effective(required) {
		names = append(names, q.Name)
	}
	if i, ok := trusted.(claim.Image); ok {
		for _, q := range i.Props() {
			names = append(names, q.Name)
		}
	}
	names = append(names, "product")
	slices.Sort(names)
	f := claim.Platform{Type: e.platform}
	for _, n := range slices.Compact(names) {
		if v, ok := e.props[n]; ok {
			op := claim.Eq
			if v == "yes" || v == "no" {
				op = claim.Is
			}
			f.Props = append(f.Props, claim.Prop{Name: n, Op: op, Values: []string{v}})
		}
	}
	return f
}
