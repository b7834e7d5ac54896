package proof

import (
	"attestbox/internal/claim"
	"attestbox/internal/code"
)

// program is the path of a program in a VM: the issuer, which policy trusts
// for certification, says by the VM's admission certificate which measurement
// its key speaks for; rule 7 trusts that key to attest to programs; rule 6 takes
// its word for this one. A program attests to nobody: depth one.
func (b *builder) program(trusted Premise) error {
	e := b.e
	if e.role == RoleAttester {
		return b.fail(code.ProofRole, "an attester is no program", "a program asks to attest", "another role, or none")
	}
	// A certificate's measurement alone: an attester is trusted by that.
	vm, err := b.measurement(claim.Launched{Measurement: e.vm})
	if err != nil {
		return err
	}
	c, stale := b.find(func(c claim.Clause) bool {
		k, ok := c.Subject.(claim.Key)
		return ok && k.Same(e.issuer) && c.Verb == claim.IsTrustedForCertification
	})
	if c == nil {
		return b.missing(code.ProofAttester, e.issuer.String()+" "+string(claim.IsTrustedForCertification), stale, "a certificate of the attester by an issuer that policy trusts")
	}
	issuer, err := b.said(c)
	if err != nil {
		return err
	}
	s := evident(issuer.Statement.Clause.Subject.(claim.Key), claim.Clause{Subject: e.attester, Verb: claim.SpeaksFor, Object: e.vm})
	speaks, err := b.add(6, s.Statement.Clause, R6(issuer.Statement.Clause, s.Statement, s.Statement.Clause), issuer, s)
	if err != nil {
		return err
	}
	c, stale = b.find(func(c claim.Clause) bool {
		m, ok := c.Subject.(claim.Measurement)
		return ok && m.Covers(e.vm) && c.Verb == claim.IsTrustedForAttestation
	})
	if c == nil {
		return b.missing(code.ProofAttester, e.vm.String()+" "+string(claim.IsTrustedForAttestation), stale, "the claim: "+claim.Measurement{Digest: e.vm.Digest}.String()+" "+string(claim.IsTrustedForAttestation))
	}
	granted, err := b.said(c)
	if err != nil {
		return err
	}
	good := claim.Clause{Subject: e.attester, Verb: claim.IsTrustedForAttestation}
	level, err := b.add(7, good, R7(vm.Statement.Clause, speaks.Statement.Clause, granted.Statement.Clause, good), vm, speaks, granted)
	if err != nil {
		return err
	}
	return b.admit(level, trusted, e.measurement)
}
