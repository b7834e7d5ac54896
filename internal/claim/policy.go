package claim

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"attestbox/internal/code"
)

// Limits of a policy file.
const (
	MaxPolicy = 4 << 20 // bytes, signature included
	maxItems  = 20000   // lines after the header
)

const (
	policyMagic = "attestbox-policy 1"
	// PolicyKeyName is the name that the policy key has in its own policy.
	PolicyKeyName = "policyKey"
)

// Policy is a policy file: its domain, its version, and its lines in order.
type Policy struct {
	Domain string
	// Version rises with every signing; 0 was never signed.
	Version uint64
	// LastSerial is the greatest serial ever given to a claim of this domain.
	LastSerial uint64
	Items      []Item
}

// Item is one line after the header; exactly one field is set, none for an
// empty line.
type Item struct {
	Comment     string // with its #
	Key         *KeyDecl
	Measurement *MeasurementDecl
	Claim       *Claim
}

// KeyDecl gives a public key its name, as a bare key or by a certificate of it.
type KeyDecl struct {
	Key  Key
	SPKI []byte // DER
	Cert []byte // DER; nil for a bare key
}

// MeasurementDecl gives a digest a name to refer to it in the same file.
type MeasurementDecl struct{ Name, Digest string }

func (i Item) String() string {
	switch {
	case i.Comment != "":
		return i.Comment
	case i.Key != nil && i.Key.Cert != nil:
		return "certificate " + i.Key.Key.Name + " " + i.Key.Key.Alg + " " + base64.StdEncoding.EncodeToString(i.Key.Cert)
	case i.Key != nil:
		return "key " + i.Key.Key.Name + " " + i.Key.Key.Alg + " " + base64.StdEncoding.EncodeToString(i.Key.SPKI)
	case i.Measurement != nil:
		return "measurement " + i.Measurement.Name + " " + i.Measurement.Digest
	case i.Claim != nil:
		return i.Claim.String()
	}
	return ""
}

// Format is the canonical text of the policy; Parse is its inverse.
func (p *Policy) Format() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\ndomain %s\nversion %d\nlast-serial %d\n", policyMagic, p.Domain, p.Version, p.LastSerial)
	for _, i := range p.Items {
		b.WriteString(i.String())
		b.WriteByte('\n')
	}
	return b.Bytes()
}

// LineError says on which line a policy file is wrong.
type LineError struct {
	Line int
	Err  error
}

func (e *LineError) Error() string { return fmt.Sprintf("line %d: %v", e.Line, e.Err) }
func (e *LineError) Unwrap() error { return e.Err }

// Parse reads a policy as a person writes it or as Format prints it. Keys and
// measurements that were declared above may be referred to by name alone, a
// clause that names no speaker is the policy key's, and a claim without number
// and time is a draft. Wrong lines are a *LineError.
func Parse(text []byte) (*Policy, error) {
	if len(text) > MaxPolicy {
		return nil, fmt.Errorf("reading policy: %d bytes, want at most %d", len(text), MaxPolicy)
	}
	if !utf8.Valid(text) {
		return nil, errors.New("reading policy: not valid UTF-8")
	}
	p := &Policy{}
	r := &reader{p: p, scope: scope{keys: map[string]Key{}, ids: map[string]string{}, measurements: map[string]string{}}, serials: map[uint64]bool{}}
	lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	if len(lines) < 4 {
		return nil, errors.New("reading policy: the header of four lines is missing: " + policyMagic + ", domain, version, last-serial")
	}
	for n, line := range lines {
		if err := r.line(n, strings.TrimRight(line, " \t\r")); err != nil {
			return nil, fmt.Errorf("reading policy: %w", &LineError{n + 1, err})
		}
	}
	if err := r.finish(); err != nil {
		return nil, fmt.Errorf("reading policy: %w", err)
	}
	return p, nil
}

// reader is the state of Parse.
type reader struct {
	p       *Policy
	scope   scope
	serials map[uint64]bool
	amd     []Key // roots that are AMD's
	other   []Key // roots that are not
}

func (r *reader) line(n int, line string) (err error) {
	if len(line) > maxLine {
		return fmt.Errorf("longer than %d bytes", maxLine)
	}
	for _, c := range line {
		if c < ' ' && c != '\t' || c == 0x7f {
			return fmt.Errorf("control character %q", c)
		}
	}
	header := func(name string) (string, error) {
		f := strings.Fields(line)
		if len(f) != 2 || f[0] != name {
			return "", fmt.Errorf("want %q and its value", name)
		}
		return f[1], nil
	}
	var v string
	switch n {
	case 0:
		if line != policyMagic {
			return fmt.Errorf("want %q", policyMagic)
		}
	case 1:
		if v, err = header("domain"); err == nil && !ValidDomain(v) {
			err = fmt.Errorf("domain %.80q: want a DNS name in lower case", v)
		}
		r.p.Domain = v
	case 2:
		if v, err = header("version"); err == nil && v != "0" {
			r.p.Version, err = serial(v)
		}
	case 3:
		if v, err = header("last-serial"); err == nil && v != "0" {
			r.p.LastSerial, err = serial(v)
		}
	default:
		if len(r.p.Items) == maxItems {
			return fmt.Errorf("more than %d lines", maxItems)
		}
		var i Item
		if i, err = r.item(line); err == nil {
			r.p.Items = append(r.p.Items, i)
		}
	}
	return err
}

func (r *reader) item(line string) (i Item, err error) {
	trimmed := strings.TrimLeft(line, " \t")
	first, rest, _ := strings.Cut(trimmed, " ")
	switch {
	case trimmed == "":
		return i, nil
	case trimmed[0] == '#':
		i.Comment = trimmed
		return i, nil
	case first == "key" || first == "certificate":
		i.Key, err = r.keyDecl(first, strings.Fields(rest))
	case first == "measurement":
		i.Measurement, err = r.measurementDecl(strings.Fields(rest))
	default:
		i.Claim, err = r.claim(trimmed)
	}
	return i, err
}

func (r *reader) keyDecl(how string, f []string) (*KeyDecl, error) {
	if len(f) != 3 {
		return nil, fmt.Errorf("want: %s NAME ALGORITHM BASE64", how)
	}
	der, err := decodeBase64(f[2], maxCert)
	if err != nil {
		return nil, err
	}
	d := &KeyDecl{SPKI: der}
	if how == "certificate" {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		d.Cert, d.SPKI = der, cert.RawSubjectPublicKeyInfo
	}
	if d.Key, err = KeyOfSPKI(f[0], d.SPKI); err != nil {
		return nil, err
	}
	if d.Key.Alg != f[1] {
		return nil, fmt.Errorf("key %s is %s, not %.40s", f[0], d.Key.Alg, f[1])
	}
	if _, ok := r.scope.keys[f[0]]; ok {
		return nil, fmt.Errorf("the name %s is declared twice", f[0])
	}
	if name, ok := r.scope.ids[d.Key.ID]; ok {
		return nil, fmt.Errorf("this key is declared as %s already", name)
	}
	r.scope.keys[f[0]], r.scope.ids[d.Key.ID] = d.Key, f[0]
	if f[0] == PolicyKeyName {
		r.scope.speaker = d.Key
	}
	return d, nil
}

// maxCert bounds a certificate, in bytes.
const maxCert = 16 << 10

func (r *reader) measurementDecl(f []string) (*MeasurementDecl, error) {
	if len(f) != 2 {
		return nil, errors.New("want: measurement NAME HEX")
	}
	switch _, twice := r.scope.measurements[f[0]]; {
	case checkName(f[0]) != nil:
		return nil, checkName(f[0])
	case twice:
		return nil, fmt.Errorf("the name %s is declared twice", f[0])
	case !isDigest(f[1]) || zeros(f[1]):
		return nil, errors.New("a measurement has 96 or 64 lower-case hex digits, not all zero")
	}
	r.scope.measurements[f[0]] = f[1]
	return &MeasurementDecl{f[0], f[1]}, nil
}

func (r *reader) claim(line string) (*Claim, error) {
	policyKey := r.scope.speaker
	if policyKey.IsZero() {
		return nil, fmt.Errorf("no key is declared as %s before this line", PolicyKeyName)
	}
	c, err := parseClaim(line, &r.scope)
	if err != nil {
		return nil, err
	}
	if c.Statement.Speaker != policyKey {
		return nil, fmt.Errorf("%s says it, but a policy holds what %s says alone", c.Statement.Speaker.Name, PolicyKeyName)
	}
	if err := c.CheckForPolicy(policyKey); err != nil {
		return nil, err
	}
	if !c.Draft() {
		if r.serials[c.Serial] {
			return nil, fmt.Errorf("claim %d is there twice", c.Serial)
		}
		if c.Serial > r.p.LastSerial {
			return nil, fmt.Errorf("claim %d: last-serial is %d", c.Serial, r.p.LastSerial)
		}
		r.serials[c.Serial] = true
	}
	return &c, nil
}

// finish checks what concerns the file as a whole.
func (r *reader) finish() error {
	if r.scope.speaker.IsZero() {
		return fmt.Errorf("no key is declared as %s", PolicyKeyName)
	}
	if alg := r.scope.speaker.Alg; alg == P256 {
		return fmt.Errorf("a policy key is ed25519, p384 or rsa, not %s", alg)
	}
	revokedSerial, brings := map[Serial]bool{}, map[string]string{}
	for _, c := range r.p.Claims() {
		if s, ok := c.Statement.Clause.Subject.(Serial); ok {
			revokedSerial[s] = true
		}
		if m, ok := c.Statement.Clause.Subject.(Measurement); ok && c.Statement.Clause.Verb == TakesIDFromImage {
			if id := brings[m.Digest]; id != "" && id != m.Instance {
				return fmt.Errorf("an image brings one ID: Measurement[%s...] cannot bring both %s and %s", m.Digest[:16], id, m.Instance)
			}
			brings[m.Digest] = m.Instance
		}
	}
	if err := r.checkRenewals(); err != nil {
		return err
	}
	for _, c := range r.p.Claims() {
		if c.Revokes() && revokedSerial[Serial(c.Serial)] {
			return fmt.Errorf("claim %d is a revocation, which is not revoked but removed", c.Serial)
		}
		if k, p, ok := c.root(); ok && p.Type == AMDSEVSNP {
			if amdProduct(k) != "" {
				r.amd = append(r.amd, k)
			} else {
				r.other = append(r.other, k)
			}
		}
	}
	if len(r.amd) > 0 && len(r.other) > 0 {
		return code.Wrap(code.PolicyMixedRoots, fmt.Errorf("%w: %s beside %s", ErrMixedRoots, r.other[0].Name, r.amd[0].Name))
	}
	return nil
}

// checkRenewals refuses measurements that renew each other: whichever booted, the
// instance could never be updated again.
func (r *reader) checkRenewals() error {
	renewed := map[string][]string{}
	for _, c := range r.p.Claims() {
		if cl := c.Statement.Clause; cl.Verb == Renews {
			n, o := cl.Subject.(Measurement).Digest, cl.Object.(Measurement).Digest
			renewed[n] = append(renewed[n], o)
		}
	}
	const begun, done = 1, 2
	state := map[string]int{}
	var walk func(string) error
	walk = func(n string) error {
		switch state[n] {
		case begun:
			return fmt.Errorf("the renewals of Measurement[%s...] lead back to it", n[:16])
		case done:
			return nil
		}
		state[n] = begun
		for _, o := range renewed[n] {
			if err := walk(o); err != nil {
				return err
			}
		}
		state[n] = done
		return nil
	}
	for n := range renewed {
		if err := walk(n); err != nil {
			return err
		}
	}
	return nil
}

// ErrMixedRoots is a policy that trusts an AMD root and another hardware root.
var ErrMixedRoots = errors.New("a domain that trusts a root of AMD's trusts no other hardware root")

// root says that the claim trusts a key for attestation on a platform.
func (c *Claim) root() (Key, Platform, bool) {
	k, ok := c.Statement.Clause.Subject.(Key)
	p, ok2 := c.Statement.Clause.Object.(Platform)
	return k, p, ok && ok2 && c.Statement.Clause.Verb == IsTrustedForAttestation
}

// Claims lists the claims in the order of the file.
func (p *Policy) Claims() []*Claim {
	var list []*Claim
	for _, i := range p.Items {
		if i.Claim != nil {
			list = append(list, i.Claim)
		}
	}
	return list
}

// PolicyKey is the key that the policy declares as its own.
func (p *Policy) PolicyKey() (Key, bool) {
	for _, i := range p.Items {
		if i.Key != nil && i.Key.Key.Name == PolicyKeyName {
			return i.Key.Key, true
		}
	}
	return Key{}, false
}

// Complete gives every draft the next serial, and a time where it has none: from
// now, whole seconds, for the given duration.
func (p *Policy) Complete(now time.Time, valid time.Duration) {
	from := now.UTC().Truncate(time.Second)
	for _, c := range p.Claims() {
		if c.Draft() {
			p.LastSerial++
			c.Serial = p.LastSerial
			if !c.NotBefore.IsZero() {
				continue
			}
			c.NotBefore = from
			if !c.Revokes() {
				c.NotAfter = from.Add(valid.Truncate(time.Second))
			}
		}
	}
}

// publicKey is the key of a declaration.
func (d *KeyDecl) publicKey() (crypto.PublicKey, error) { return x509.ParsePKIXPublicKey(d.SPKI) }

func (p *Policy) String() string {
	return "policy of " + p.Domain + ", version " + strconv.FormatUint(p.Version, 10)
}
