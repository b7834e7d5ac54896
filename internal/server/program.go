package server

import (
	"crypto/x509"
	"errors"
	"fmt"

	"attestbox/internal/admission"
	"attestbox/internal/attestd"
	"attestbox/internal/claim"
	"attestbox/internal/code"
	"attestbox/internal/platform"
	"attestbox/internal/proof"
	"attestbox/internal/wire"
)

// fromProgram is evidence about a program in a VM that was admitted as
// attester: its attestd's statement, and the program's answer to this exchange.
func fromProgram(a *asked, s *shown) (*proof.Evidence, error) {
	if a.spki == nil || a.trust == nil {
		return nil, code.Wrap(code.PlatformRefused, errors.New("a program is not launched"))
	}
	bad := func(err error) (*proof.Evidence, error) { return nil, code.Wrap(code.ProgramEvidence, err) }
	e, err := attestd.ParseEvidence(a.report)
	if err != nil {
		return bad(err)
	}
	id, err := a.trust.Verify(e.Chain, a.now)
	if err != nil {
		return nil, fmt.Errorf("the attester's certificate: %w", err)
	}
	if err := admission.RequireRole(id, wire.RoleAttester); err != nil {
		return nil, fmt.Errorf("the attester: %w", err)
	}
	if id.Platform == platform.AttestdProgram {
		return bad(errors.New("the attester is a program itself"))
	}
	leaf, err := x509.ParseCertificate(e.Chain[0])
	if err != nil {
		return bad(err)
	}
	above, err := x509.ParseCertificate(e.Chain[1])
	if err != nil {
		return bad(err)
	}
	s.root, s.checked = "attestd of "+id.Platform, 2
	if err := e.Verify(leaf.PublicKey, a.reportData, a.now); err != nil {
		return bad(err)
	}
	if string(e.SPKI) != string(a.spki) {
		return bad(errors.New("the statement is about another key than the certification request"))
	}
	m := wire.AttestdMeasurement([]byte(e.Program))
	s.identity.Measurement, s.identity.Instance = m[:], id.Instance
	s.identity.ChipID, s.identity.ReportID, s.identity.ReportedTCB = id.ChipID, id.ReportID, id.ReportedTCB
	s.notAfter = leaf.NotAfter
	attester, err := claim.KeyOfSPKI("attester", leaf.RawSubjectPublicKeyInfo)
	if err != nil {
		return bad(err)
	}
	issuer, err := claim.KeyOfSPKI("issuer", above.RawSubjectPublicKeyInfo)
	if err != nil {
		return bad(err)
	}
	subject, err := a.subjectKey()
	if err != nil {
		return bad(err)
	}
	chip := ""
	for _, x := range entities(id) {
		if c, ok := x.(claim.Chip); ok {
			chip = c.ID
		}
	}
	s.chip = chip
	return proof.FromProgram(issuer, attester, memberOf(id).Measurement, chip, m, subject, a.role)
}
