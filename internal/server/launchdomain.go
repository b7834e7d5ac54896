package server

import (
	"context"
	"fmt"
	"slices"

	"attestbox/internal/appraise"
	"attestbox/internal/code"
	"attestbox/internal/platform"
	"attestbox/internal/wire"
)

// appraiserOf is who judges an instance's evidence: its domain's policy, or
// the verifier's own appraiser. An ID that is not registered is appraised as
// those are that most instances belong to, against nothing.
func (s *Server) appraiserOf(inst *Instance, d *Decision) Appraiser {
	switch {
	case inst != nil && inst.Domain != "":
		dom := s.domain(inst.Domain)
		if dom == nil {
			return noDomain(inst.Domain)
		}
		d.Domain = dom.name
		return &domainAppraiser{dom, inst, d}
	case s.Appraiser != nil:
		return s.Appraiser
	case inst == nil && len(s.Domains) > 0:
		return &domainAppraiser{s.Domains[0], nil, d}
	}
	return noDomain("")
}

// policyFloor is the minimum policy version that a guest is told.
func (s *Server) policyFloor(inst *Instance, cfg *Config) uint64 {
	if inst.Domain != "" {
		if dom := s.domain(inst.Domain); dom != nil {
			return dom.current.Load().floor
		}
	}
	return cfg.MinPolicyVersion
}

// noDomain refuses instances of a domain that is not served here.
type noDomain string

func (n noDomain) Appraise(context.Context, *Evidence) *Verdict {
	return &Verdict{Root: "none", Findings: []Finding{{Field: "DOMAIN", Found: string(n), Want: "a domain that is served here", Code: code.DomainUnknown}}}
}

// domainAppraiser judges launches by a domain's policy: the environment is
// proved, and no key asks to be admitted.
type domainAppraiser struct {
	dom  *Domain
	inst *Instance // nil: not registered
	d    *Decision
}

func (a *domainAppraiser) Appraise(ctx context.Context, e *Evidence) *Verdict {
	id := [32]byte(e.HostData)
	cur := a.dom.current.Load()
	q := &asked{platform: platform.AMDSEVSNP, report: e.Report, endorsements: e.Endorsements,
		reportData: e.ReportData, hostData: &id, role: wire.RoleClient, now: e.Now}
	if e.FromImage {
		q.hostData, q.imageID = nil, &id
	}
	s, err := a.dom.prover.prove(ctx, cur, q)
	a.d.fill(s, a.dom)
	a.d.ID = wire.Hex32(e.HostData).String() // as begin named it
	v := &Verdict{Missing: s.missing, Findings: s.findings, Checked: s.checked, Root: s.root, Chip: s.chip}
	if s.report != nil {
		v.ReportID, v.Measurement, v.Launched = wire.Hex32(s.report.ReportID), s.report.Measurement, launchedAs(s.report)
	}
	refuse := func(field, found, want string, c code.Code) *Verdict {
		v.Findings = append(v.Findings, Finding{Field: field, Found: found, Want: want, Code: c})
		return v
	}
	renewed := cur.renewed.refuses(&s.identity) // once: a new policy may forget it meanwhile
	switch {
	case v.Missing:
		return v
	case err != nil && len(v.Findings) == 0:
		return refuse("PROOF", err.Error(), fmt.Sprintf("a proof by policy version %d", cur.policy.Version()), codeOr(err, code.LaunchRefused))
	case err != nil:
		return v
	case renewed != nil:
		return refuse("MEASUREMENT", (&errRenewed{renewed}).Error(), "one that the instance did not leave behind", code.MeasurementRenewed)
	case cur.revoked(&s.identity):
		return refuse("POLICY", "revoked", "an instance, chip and measurement that the policy does not revoke", code.ClaimRevoked)
	case a.inst == nil:
		return v // launch says why
	case len(a.inst.Measurements)+len(a.inst.Identities) > 0 && !slices.Contains(e.Measurements, v.Measurement):
		by, ok := appraise.Admitting(e.Identities, s.report)
		if !ok {
			return refuse("MEASUREMENT", appraise.Hex48(v.Measurement).String(), "one of those that the instance is narrowed to", code.MeasurementUnknown)
		}
		v.By = by.String()
	}
	v.Accepted = true
	return v
}
