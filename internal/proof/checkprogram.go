package proof

import "attestbox/internal/claim"

// What Check does for evidence about a program in a VM.

// namesVM says whether a text is the attester's measurement with its instance.
func (c *checker) namesVM(t string) bool {
	return c.e.platform == AttestdProgram && c.e.vm.Instance != "" && t == c.e.vm.String()
}

// granted checks rule 7: grant is the measurement that may attest, x what the
// key speaks for.
func (c *checker) granted(grant, x string) bool {
	if c.e.platform != AttestdProgram {
		return c.names(grant)
	}
	return c.namesVM(x) && (grant == x || grant == withoutInstance(x))
}

// evidentProgram: the issuer says by a certificate which VM the attester speaks
// for, the attester that the subject speaks for the program in that VM.
func (c *checker) evidentProgram(s claim.Statement) bool {
	e, t := c.e, s.Clause.String()
	if e.subject.IsZero() || e.vm.Instance == "" || e.measurement.Instance != e.vm.Instance || len(e.measurement.Digest) != 64 {
		return false
	}
	by := func(k claim.Key) bool { return !k.IsZero() && s.Speaker.ID == k.ID && s.Speaker.Alg == k.Alg }
	return by(e.issuer) && t == e.attester.String()+" speaks-for "+e.vm.String() ||
		by(e.attester) && t == e.subject.String()+" speaks-for "+e.measurement.String()
}

// programAttested checks rule 6: the first such statement rests on trust for
// certification that policy expresses, the second on rule 7.
func (c *checker) programAttested(a, b Premise) bool {
	speaker, trusted, said := b.Statement.Speaker, a.Statement.Clause.String(), b.Statement.Clause.String()
	switch rule := c.proof.steps[a.Step-1].Rule; {
	case rule == 3:
		return trusted == speaker.String()+" is-trusted-for-certification" && said == c.e.attester.String()+" speaks-for "+c.e.vm.String()
	case rule == 7:
		return trusted == speaker.String()+" is-trusted-for-attestation" && said == c.e.subject.String()+" speaks-for "+c.e.measurement.String()
	}
	return false
}
