package claim

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Claim is a statement with its number and the time it is in force.
type Claim struct {
	Statement Statement
	// Serial numbers the claims of one speaker; 0 is a draft, which signing
	// refuses.
	Serial uint64
	// NotBefore and NotAfter are whole seconds in UTC, both inclusive; zero in
	// a draft that leaves its time to whoever numbers it.
	NotBefore, NotAfter time.Time
}

// Draft says that the claim still lacks its number, and mostly its time.
func (c *Claim) Draft() bool { return c.Serial == 0 }

// Revokes says that the claim is a revocation: those are in force whatever the
// time is.
func (c *Claim) Revokes() bool { return c.Statement.Clause.Verb == IsRevoked }

// InForce says whether now lies in the claim's time.
func (c *Claim) InForce(now time.Time) bool {
	if c.Draft() {
		return false
	}
	return c.Revokes() || !now.Before(c.NotBefore) && !now.After(c.NotAfter)
}

const stamp = "2006-01-02T15:04:05Z"

// String is the canonical text of the claim.
func (c *Claim) String() string {
	s := c.Statement.String()
	switch {
	case c.Draft() && c.NotBefore.IsZero():
		return s
	case c.Draft():
		s += "; from "
	default:
		s += "; claim " + strconv.FormatUint(c.Serial, 10) + " from "
	}
	s += c.NotBefore.Format(stamp) + " to "
	if c.Revokes() {
		return s + "never"
	}
	return s + c.NotAfter.Format(stamp)
}

// parseClaim reads a claim; a draft has no "; claim ..." part, or one without a
// number.
func parseClaim(s string, sc *scope) (c Claim, err error) {
	text, tail, numbered := strings.Cut(s, ";")
	if c.Statement, err = parseStatement(text, sc); err != nil {
		return c, err
	}
	if !numbered {
		return c, nil
	}
	f := strings.Fields(tail)
	if len(f) == 6 && f[0] == "claim" {
		if c.Serial, err = serial(f[1]); err != nil {
			return c, fmt.Errorf("claim: %w", err)
		}
		f = f[2:]
	}
	if len(f) != 4 || f[0] != "from" || f[2] != "to" {
		return c, errors.New(`want "; claim NUMBER from TIME to TIME" after the statement, or "; from TIME to TIME" in a draft`)
	}
	if c.NotBefore, err = parseTime(f[1]); err != nil {
		return c, err
	}
	if c.Revokes() {
		if f[3] != "never" {
			return c, errors.New(`a revocation does not end: want "to never"`)
		}
		return c, nil
	}
	if c.NotAfter, err = parseTime(f[3]); err != nil {
		return c, err
	}
	if !c.NotAfter.After(c.NotBefore) {
		return c, errors.New("the claim ends before it begins")
	}
	return c, nil
}

// ParseTime reads a time as claims write it.
func ParseTime(s string) (time.Time, error) { return parseTime(s) }

// parseTime reads 2026-01-31T12:00:00Z, or 2026-01-31 for its beginning.
func parseTime(s string) (time.Time, error) {
	for _, layout := range []string{stamp, time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil && t.Format(layout) == s && t.Year() >= 2000 {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("time %.40q: want such as 2026-01-31T12:00:00Z or 2026-01-31", s)
}

// CheckForPolicy refuses what the policy key of a domain must not say: what only evidence can
// show, and trust without a bound.
func (c *Claim) CheckForPolicy(policyKey Key) error {
	cl := c.Statement.Clause
	if err := cl.check(); err != nil {
		return err
	}
	k, aboutKey := cl.Subject.(Key)
	if aboutKey && k.Same(policyKey) {
		return errors.New("nothing is said of the policy key: it is trusted because programs have it built in, and replaced by building them anew")
	}
	switch cl.Verb {
	case IsTrusted:
		if cl.Subject.kind()&(kindMeasurement|kindImage) == 0 {
			return errors.New("only measurements and images are said to be trusted; say what a key is trusted for")
		}
	case IsTrustedForAttestation:
		if aboutKey {
			return checkAttestation(k, cl)
		}
	case HasTrustedPlatformProperty:
		return checkRequirement(cl.Subject.(Platform))
	case SpeaksFor, IsEnvironment, EnvironmentPlatformIsTrusted, EnvironmentMeasurementIsTrusted:
		return fmt.Errorf("%s is what evidence shows, not what a policy says", cl.Verb)
	case Renews:
		n, o := cl.Subject.(Measurement), cl.Object.(Measurement)
		if n.Digest == o.Digest || o.Instance != "" {
			return fmt.Errorf("%s is said of two measurements; of one instance alone, say it of the first: Measurement[new] with-instance[...] renews Measurement[old]", cl.Verb)
		}
	case TakesIDFromImage:
		if m := cl.Subject.(Measurement); m.Instance == "" || len(m.Digest) != 96 {
			return fmt.Errorf("%s is said of a launch digest, with-instance[...] of the ID that its image brings", cl.Verb)
		}
	case MaySucceed:
		// The versions of an image may succeed each other.
		if cl.Subject.kind() == kindMeasurement && cl.Subject.String() == cl.Object.String() {
			return errors.New("a measurement does not succeed itself")
		}
	}
	return nil
}

// checkAttestation: trust for attestation names a platform, with the product of
// an AMD root, or the measurements of a simulated enclave.
func checkAttestation(k Key, cl Clause) error {
	p, ok := cl.Object.(Platform)
	switch {
	case !ok:
		return fmt.Errorf(`trust for attestation names a platform: "%s on Platform[...]"`, cl.Verb)
	case p.Type == SimulatedEnclave && len(cl.About) == 0:
		return errors.New(`a simulated enclave's key is trusted about named measurements: "... about Measurement[...]"`)
	case p.Type == SimulatedEnclave:
		for _, m := range cl.About {
			if len(m.Digest) != 64 {
				return errors.New("a simulated enclave's key speaks for programs, whose measurement has 64 hex digits, and never for a VM")
			}
		}
		return nil
	case len(p.Props) != 1 || p.Props[0].Name != "product" || p.Props[0].Op != Eq:
		return errors.New("a root names its one product: Platform[amd-sev-snp, product = Genoa]")
	}
	if product := amdProduct(k); product != "" && product != p.Props[0].Values[0] {
		return fmt.Errorf("this is AMD's root of %s, not of %s", product, p.Props[0].Values[0])
	}
	return nil
}

// checkRequirement refuses what would accept a guest that the host can read, and
// what no product can meet.
func checkRequirement(p Platform) error {
	if p.Type != AMDSEVSNP {
		return fmt.Errorf("a %s has no properties to require", p.Type)
	}
	no := map[string]bool{"debug": false, "migrate": false}
	var products []string
	fmc := false
	for _, q := range p.Props {
		if _, ok := no[q.Name]; ok {
			if q.Op != Is || q.Values[0] != "no" {
				return fmt.Errorf("%q accepts what is always refused: write \"%s: no\"", q, q.Name)
			}
			no[q.Name] = true
		}
		if q.Name == "product" {
			products = q.Values
		}
		fmc = fmc || strings.HasSuffix(q.Name, ".fmc")
	}
	switch {
	case !no["debug"] || !no["migrate"]:
		return errors.New(`a platform requirement says "debug: no" and "migrate: no"`)
	case len(products) == 0:
		return errors.New(`a platform requirement names its product: "product = Genoa"`)
	case fmc && (len(products) != 1 || products[0] != "Turin"):
		return errors.New("only Turin has an FMC")
	}
	return nil
}
