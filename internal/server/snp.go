package server

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

	"attestbox/internal/appraise"
	"attestbox/internal/code"
	"attestbox/internal/snp"
	"attestbox/internal/strictjson"
	"attestbox/internal/wire"
)

// EndorsementSource finds the certificates for a report that came without
// them. ErrNoEndorsement means that there are none; a network must be asked
// only for chips that are allow-listed or known.
type EndorsementSource interface {
	Endorsements(ctx context.Context, product snp.Product, chip [64]byte, reportedTCB uint64) (appraise.Endorsements, error)
	// CRL is the latest revocation list of a product; nil without one.
	CRL(ctx context.Context, product snp.Product) ([]byte, error)
}

// ErrNoEndorsement is a report for whose key no certificate is at hand.
var ErrNoEndorsement = errors.New("no certificate at hand for the key that signed the report")

// chainCacheSize is the number of chains remembered: the chips of a large
// fleet, at about 10 KiB each.
const chainCacheSize = 4096

// SNPAppraiser judges evidence by the roots and the policy in the state. A
// change of either counts from the next evidence on.
type SNPAppraiser struct {
	state  *State
	amd    func() (*appraise.Roots, error) // AMD's own roots
	source EndorsementSource               // may be nil

	mu      sync.Mutex
	raw     []byte // the configuration that rules came from
	rules   *rules
	nothing [48]byte // a launch digest that no report has
}

type rules struct {
	roots  *appraise.Roots
	policy *appraise.Policy
	cache  *appraise.ChainCache
}

var _ Appraiser = (*SNPAppraiser)(nil)

// NewSNPAppraiser makes the appraiser and checks the configuration it reads.
func NewSNPAppraiser(ctx context.Context, st *State, amd func() (*appraise.Roots, error), source EndorsementSource) (*SNPAppraiser, error) {
	a := &SNPAppraiser{state: st, amd: amd, source: source}
	rand.Read(a.nothing[:])
	_, err := a.current(ctx)
	return a, err
}

// Rules builds roots and policy from a configuration and refuses one that
// could not be used.
func Rules(c *Config, amd func() (*appraise.Roots, error)) (*appraise.Roots, *appraise.Policy, error) {
	policy, err := ParsePolicy(c.Policy)
	if err != nil {
		return nil, nil, err
	}
	var roots *appraise.Roots
	if len(c.Roots) == 0 {
		roots, err = amd()
	} else {
		var list []*appraise.Root
		for _, r := range c.Roots {
			root, err := appraise.NewRoot(snp.Product(r.Product), r.ARK, r.Intermediates...)
			if err != nil {
				return nil, nil, err
			}
			list = append(list, root)
		}
		roots, err = appraise.NewRoots(list...)
	}
	if err != nil {
		return nil, nil, err
	}
	have := map[snp.Product]bool{}
	for _, p := range roots.Products() {
		have[p] = true
	}
	for p := range policy.Products {
		if !have[p] {
			return nil, nil, fmt.Errorf("the policy lists product %s, for which no root is trusted", p)
		}
	}
	return roots, policy, nil
}

// ParsePolicy reads the policy of a verifier: one without measurements, which
// each instance brings.
func ParsePolicy(b []byte) (*appraise.Policy, error) {
	p := &appraise.Policy{}
	if err := strictjson.Unmarshal(b, p); err != nil {
		return nil, fmt.Errorf("reading appraisal policy: %w", err)
	}
	if len(p.Measurements)+len(p.Identities) != 0 {
		return nil, errors.New(`appraisal policy: "measurements" and "identities" do not belong here: each instance has its own`)
	}
	with := *p
	with.Measurements = []appraise.Hex48{{1}}
	if err := with.Check(); err != nil {
		return nil, fmt.Errorf("appraisal policy: %w", err)
	}
	return p, nil
}

// MarshalPolicy writes a policy as ParsePolicy reads it.
func MarshalPolicy(p *appraise.Policy) ([]byte, error) {
	without := *p
	without.Measurements = []appraise.Hex48{}
	return json.Marshal(&without)
}

func (a *SNPAppraiser) current(ctx context.Context) (*rules, error) {
	raw, _, err := a.state.s.Get(ctx, keyConfig)
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.rules != nil && bytes.Equal(raw, a.raw) {
		return a.rules, nil
	}
	c, err := a.state.Config(ctx)
	if err != nil {
		return nil, err
	}
	roots, policy, err := Rules(c, a.amd)
	if err != nil {
		return nil, err
	}
	a.raw, a.rules = raw, &rules{roots, policy, appraise.NewChainCache(chainCacheSize)}
	return a.rules, nil
}

// Appraise judges one report.
func (a *SNPAppraiser) Appraise(ctx context.Context, e *Evidence) *Verdict {
	v := &Verdict{}
	refused := func(field, found, want string, c code.Code) *Verdict {
		v.Findings = append(v.Findings, Finding{Field: field, Found: found, Want: want, Code: c})
		return v
	}
	r, err := a.current(ctx)
	if err != nil {
		return refused("CONFIGURATION", err.Error(), "a configuration that can be used", code.AppraisalPolicy)
	}
	v.Root = "none"
	endorsements, missing, err := findEndorsements(ctx, a.source, e, r.policy)
	if err != nil {
		return refused("ENDORSEMENTS", err.Error(), "certificates for the key that signed the report", code.VEKChain)
	}
	if missing {
		v.Missing = true
		return v
	}
	verified, err := appraise.Verify(e.Report, endorsements, r.roots, e.Now, r.policy.VerifyOptions(r.cache))
	if err != nil {
		refusal, ok := errors.AsType[*appraise.Refusal](err)
		if !ok {
			return refused("REPORT", err.Error(), "a report that verifies", code.ReportMalformed)
		}
		v.take(refusal.Findings)
		return v
	}
	policy := *r.policy
	policy.Measurements = []appraise.Hex48{}
	for _, m := range e.Measurements {
		policy.Measurements = append(policy.Measurements, m)
	}
	policy.Identities = e.Identities
	if len(policy.Measurements)+len(policy.Identities) == 0 {
		policy.Measurements = []appraise.Hex48{a.nothing} // same work, always refused
	}
	want := appraise.Expect{ReportData: &e.ReportData, HostData: &e.HostData}
	if e.FromImage {
		want.HostData, want.NoHostData = nil, true
	}
	res := appraise.Appraise(verified, &policy, want, e.Now)
	report := verified.Report()
	v.Accepted = res.Accepted && len(e.Measurements)+len(e.Identities) > 0
	if res.By != nil {
		v.By = res.By.String()
	}
	v.Root, v.Chip = res.Root, appraise.ChipID(report.ChipID).String()
	v.ReportID, v.Measurement, v.Launched = wire.Hex32(report.ReportID), report.Measurement, launchedAs(report)
	v.take(res.Findings)
	return v
}

// ListsChip says whether policy's allow-list names a chip.
func (a *SNPAppraiser) ListsChip(ctx context.Context, chip [64]byte) bool {
	r, err := a.current(ctx)
	return err == nil && slices.Contains(r.policy.Chips, appraise.ChipID(chip))
}

// take keeps the findings that refuse.
func (v *Verdict) take(all []appraise.Finding) {
	v.Checked = len(all)
	for _, f := range all {
		if !f.OK {
			v.Findings = append(v.Findings, Finding{Field: f.Field, Found: f.Found, Want: f.Want, Code: f.Code, Note: f.Note})
		}
	}
}

// findEndorsements takes what the host sent, and what is at hand for the rest. A
// revocation list of our own always goes before one that the host chose.
func findEndorsements(ctx context.Context, source EndorsementSource, e *Evidence, policy *appraise.Policy) (out appraise.Endorsements, missing bool, err error) {
	if out, err = appraise.FromWire(e.Endorsements); err != nil {
		return out, false, err
	}
	report, perr := snp.Parse(e.Report)
	if perr != nil {
		return out, false, nil // Verify names what is wrong
	}
	product := policy.Version2As
	if report.Version > 2 {
		if product, perr = report.Product(); perr != nil {
			return out, false, nil
		}
	}
	if policy.RequireCRL {
		out.CRL = nil // a list that the policy needs is our own, not the host's old one
	}
	if source == nil || product == "" {
		return out, out.VEK == nil, nil
	}
	if out.VEK == nil {
		got, err := source.Endorsements(ctx, product, report.ChipID, report.ReportedTCB)
		if err != nil {
			return out, true, nil
		}
		if got.ASK == nil {
			got.ASK = out.ASK // verified against the root like any other
		}
		got.CRL, out = out.CRL, got
	}
	own, err := source.CRL(ctx, product)
	if err != nil {
		return out, false, fmt.Errorf("reading the revocation list of %s: %w", product, err)
	}
	if own != nil {
		out.CRL = own
	}
	return out, false, nil
}
