package proof

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"attestbox/internal/appraise"
	"attestbox/internal/claim"
)

// Where a premise comes from.
const (
	SourcePolicyKey = "policy-key" // the key that programs have built in
	SourceClaim     = "claim"      // a claim of the policy
	SourceSigned    = "signed"     // a claim that travelled alone
	SourceEvidence  = "evidence"
	SourceStep      = "step"
)

// Premise is a statement that a step rests on.
type Premise struct {
	Statement claim.Statement
	Source    string
	Claim     uint64 // serial, of SourceClaim and SourceSigned
	Step      int    // from 1, of SourceStep
}

// Step is one application of a rule.
type Step struct {
	Premises   []Premise
	Rule       int
	Conclusion claim.Clause
}

// Proof is a finished proof. Only Prove and ProveClaim make one. It does not
// change.
type Proof struct {
	domain  string
	version uint64
	time    time.Time
	e       *Evidence // nil for a claim that travelled alone
	goal    claim.Clause
	steps   []Step
}

// Goal is what was proved.
func (p *Proof) Goal() claim.Clause { return p.goal }

// Domain is the security domain whose policy it was proved from.
func (p *Proof) Domain() string { return p.domain }

// PolicyVersion is the version of that policy.
func (p *Proof) PolicyVersion() uint64 { return p.version }

// Steps is a copy of the steps.
func (p *Proof) Steps() []Step { return append([]Step(nil), p.steps...) }

// Role is the role that the proof grants; RoleClient where it grants none.
func (p *Proof) Role() string {
	if p.e == nil {
		return RoleClient
	}
	return p.e.role
}

// Claims lists the serials of the claims that the proof rests on, in order.
func (p *Proof) Claims() []uint64 {
	var list []uint64
	for _, s := range p.steps {
		for _, q := range s.Premises {
			if q.Source == SourceClaim {
				list = append(list, q.Claim)
			}
		}
	}
	return list
}

// NotAfter is when the first of the policy's claims that the proof rests on
// ends: an admission should not outlive it. policy is the one it was proved from.
func (p *Proof) NotAfter(policy *claim.VerifiedPolicy) time.Time {
	used := map[uint64]bool{}
	for _, n := range p.Claims() {
		used[n] = true
	}
	var first time.Time
	for _, c := range policy.Claims() {
		if used[c.Serial] && (first.IsZero() || c.NotAfter.Before(first)) {
			first = c.NotAfter
		}
	}
	return first
}

// String is the proof for people: numbered, one step per line. Long names are
// whole where they first occur and shortened after that; MarshalJSON has them
// whole everywhere.
func (p *Proof) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Domain %s, policy version %d, at %s\n", p.domain, p.version, p.time.Format(time.RFC3339))
	if p.e != nil && p.e.platform == AttestdProgram {
		fmt.Fprintf(&b, "A program, on the word of %s\n", p.e.root)
	} else if p.e != nil && !p.e.amd {
		fmt.Fprintf(&b, "%s: %s\n", appraise.NotAMD, strings.TrimSuffix(p.e.root, " "+appraise.NotAMD))
	}
	s := &shortener{seen: map[string]bool{}}
	for i, step := range p.steps {
		fmt.Fprintf(&b, "%d. ", i+1)
		for j, q := range step.Premises {
			if j > 0 {
				b.WriteString(" and ")
			}
			b.WriteString(s.statement(q.Statement))
		}
		fmt.Fprintf(&b, ", imply via rule %d, %s\n", step.Rule, s.clause(step.Conclusion))
	}
	fmt.Fprintf(&b, "\nProved: %s\n", s.clause(p.goal))
	if r := p.Role(); r != RoleClient {
		fmt.Fprintf(&b, "Role: %s\n", r)
	}
	fmt.Fprintf(&b, "\n%d steps\n", len(p.steps))
	return b.String()
}

// shortener prints entities, whole the first time.
type shortener struct{ seen map[string]bool }

func (s *shortener) statement(st claim.Statement) string {
	if st.Speaker.IsZero() {
		return s.clause(st.Clause)
	}
	return s.entity(st.Speaker) + " says " + s.clause(st.Clause)
}

func (s *shortener) clause(c claim.Clause) string {
	full := c.String()
	subject := s.entity(c.Subject)
	rest := strings.TrimPrefix(full, c.Subject.String())
	if c.Object != nil {
		before, after, _ := strings.Cut(rest, c.Object.String())
		rest = before + s.entity(c.Object) + after
	}
	return subject + rest
}

func (s *shortener) entity(e claim.Entity) string {
	full := e.String()
	if !s.seen[full] {
		s.seen[full] = true
		return full
	}
	const keep = 12
	switch x := e.(type) {
	case claim.Key:
		return "Key[" + x.Alg + ", " + x.Name + ", " + x.ID[:keep] + "...]"
	case claim.Measurement:
		short := "Measurement[" + x.Digest[:keep] + "...]"
		if x.Instance != "" {
			short += " with-instance[" + x.Instance[:keep] + "...]"
		}
		return short
	case claim.Image:
		short := "Image[id-key: " + x.IDKey[:keep] + "..., image-id: " + x.ImageID + ", svn >= " + strconv.FormatUint(uint64(x.MinSVN), 10) + "]"
		if x.Instance != "" {
			short += " with-instance[" + x.Instance[:keep] + "...]"
		}
		return short
	case claim.Environment:
		return "Environment[...]"
	case claim.Platform:
		if len(x.Props) > 1 {
			return "Platform[" + x.Type + ", ...]"
		}
	}
	return full
}

type jsonPremise struct {
	Statement string `json:"statement"`
	Source    string `json:"source"`
	Claim     uint64 `json:"claim,omitempty"`
	Step      int    `json:"step,omitempty"`
}

type jsonStep struct {
	Premises   []jsonPremise `json:"premises"`
	Rule       int           `json:"rule"`
	Conclusion string        `json:"conclusion"`
}

type jsonProof struct {
	Domain   string     `json:"domain"`
	Version  uint64     `json:"policy_version"`
	Time     string     `json:"time"`
	Platform string     `json:"platform,omitempty"`
	Root     string     `json:"root,omitempty"`
	AMD      bool       `json:"amd"`
	Chip     string     `json:"chip,omitempty"`
	ReportID string     `json:"report_id,omitempty"`
	Steps    []jsonStep `json:"steps"`
	Proved   string     `json:"proved"`
	Role     string     `json:"role"`
}

// MarshalJSON prints a step with its statements as text.
func (s Step) MarshalJSON() ([]byte, error) { return json.Marshal(s.json()) }

func (s Step) json() jsonStep {
	j := jsonStep{Rule: s.Rule, Conclusion: s.Conclusion.String()}
	for _, q := range s.Premises {
		j.Premises = append(j.Premises, jsonPremise{q.Statement.String(), q.Source, q.Claim, q.Step})
	}
	return j
}

// MarshalJSON prints the proof with every name whole.
func (p *Proof) MarshalJSON() ([]byte, error) {
	j := jsonProof{Domain: p.domain, Version: p.version, Time: p.time.Format(time.RFC3339), Proved: p.goal.String(), Role: p.Role()}
	if p.e != nil {
		j.Platform, j.Root, j.AMD, j.Chip, j.ReportID = p.e.platform, p.e.root, p.e.amd, p.e.chip, p.e.reportID
	}
	for _, s := range p.steps {
		j.Steps = append(j.Steps, s.json())
	}
	return json.Marshal(j)
}

// Digest is the SHA-256 of the proof's JSON: it stands in the admission
// certificate.
func (p *Proof) Digest() [32]byte {
	b, _ := p.MarshalJSON() // strings and numbers alone: it cannot fail
	return sha256.Sum256(b)
}
