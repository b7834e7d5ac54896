package claim

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Limits of one statement.
const (
	maxLine  = 64 << 10
	maxProps = 64
	maxSet   = 256
	maxAbout = 256
)

// scope is what short forms refer to: keys and measurements by their declared
// names, and the key that says a clause that names no speaker.
type scope struct {
	keys         map[string]Key    // by name
	ids          map[string]string // name by key ID
	measurements map[string]string // digest by name
	speaker      Key
}

// ParseStatement reads one statement in its full form.
func ParseStatement(s string) (Statement, error) { return parseStatement(s, &scope{}) }

func parseStatement(s string, sc *scope) (st Statement, err error) {
	p := &parser{s: s, scope: sc}
	if st, err = p.statement(); err == nil {
		p.space()
		if p.s != "" {
			err = fmt.Errorf("unexpected %.40q", p.s)
		}
	}
	return st, err
}

// parser takes a line apart from the left.
type parser struct {
	s     string
	scope *scope
}

func (p *parser) space() { p.s = strings.TrimLeft(p.s, " \t") }

// eat takes a literal; words end where no letter, digit, dot or hyphen follows.
func (p *parser) eat(lit string) bool {
	p.space()
	rest, ok := strings.CutPrefix(p.s, lit)
	if !ok || isWord(lit) && rest != "" && isWord(rest[:1]) {
		return false
	}
	p.s = rest
	return true
}

func (p *parser) want(lit string) error {
	if !p.eat(lit) {
		return fmt.Errorf("want %q at %.40q", lit, p.s)
	}
	return nil
}

// word takes letters, digits, dots, hyphens and underscores.
func (p *parser) word() (string, error) {
	p.space()
	n := len(p.s) - len(strings.TrimLeft(p.s, wordChars))
	if n == 0 {
		return "", fmt.Errorf("want a word at %.40q", p.s)
	}
	w := p.s[:n]
	p.s = p.s[n:]
	return w, nil
}

// bracketed takes [word].
func (p *parser) bracketed() (string, error) {
	if err := p.want("["); err != nil {
		return "", err
	}
	w, err := p.word()
	if err != nil {
		return "", err
	}
	return w, p.want("]")
}

// quoted takes ["text"].
func (p *parser) quoted() (string, error) {
	if err := p.want(`["`); err != nil {
		return "", err
	}
	text, rest, ok := strings.Cut(p.s, `"`)
	if !ok {
		return "", errors.New(`want a closing "`)
	}
	p.s = rest
	return text, p.want("]")
}

func (p *parser) statement() (st Statement, err error) {
	subject, err := p.entity()
	if err != nil {
		return st, err
	}
	st.Speaker = p.scope.speaker
	if k, ok := subject.(Key); ok && p.eat("says") {
		st.Speaker = k
		if subject, err = p.entity(); err != nil {
			return st, err
		}
	}
	verb, err := p.word()
	if err != nil {
		return st, err
	}
	st.Clause = Clause{Subject: subject, Verb: Verb(verb)}
	v, known := verbs[Verb(verb)]
	if !known {
		return st, fmt.Errorf("unknown verb %.60q", verb)
	}
	if v.object != 0 && (st.Clause.Verb != IsTrustedForAttestation || p.eat("on")) {
		if st.Clause.Object, err = p.entity(); err != nil {
			return st, err
		}
	}
	if p.eat("about") {
		for more := true; more; more = p.eat(",") {
			e, err := p.entity()
			if err != nil {
				return st, err
			}
			m, ok := e.(Measurement)
			if !ok || len(st.Clause.About) == maxAbout {
				return st, fmt.Errorf("about: want at most %d measurements", maxAbout)
			}
			st.Clause.About = append(st.Clause.About, m)
		}
	}
	return st, st.Clause.check()
}

// entity takes one entity of any kind.
func (p *parser) entity() (Entity, error) {
	what, err := p.word()
	if err != nil {
		return nil, err
	}
	var e Entity
	switch what {
	case "Key":
		e, err = p.key()
	case "Measurement":
		e, err = p.measurement()
	case "Image":
		e, err = p.image()
	case "Platform":
		e, err = p.platform()
	case "Environment":
		e, err = p.environment()
	case "Secret":
		var s string
		if s, err = p.quoted(); err == nil && !validSecret(s, true) {
			err = fmt.Errorf("%.40q is not a pattern of secrets' names", s)
		}
		e = Secret{s}
	case "Role":
		var s string
		if s, err = p.quoted(); err == nil && !ValidRole(s) {
			err = fmt.Errorf("%.40q is not a role: want lower-case letters, digits and hyphens", s)
		}
		e = Role{s}
	case "Chip":
		var s string
		if s, err = p.bracketed(); err == nil && (!isHex(s, 128) && !isHex(s, 16) || zeros(s)) {
			err = errors.New("Chip: want 128 or 16 hex digits, not all zero")
		}
		e = Chip{chipID(s)}
	case "Claim":
		var s string
		var n uint64
		if s, err = p.bracketed(); err == nil {
			n, err = serial(s)
		}
		e = Serial(n)
	case "Certificate":
		var s string
		if s, err = p.bracketed(); err == nil && !isHex(s, 64) {
			err = errors.New("Certificate: want a SHA-256 in 64 hex digits")
		}
		e = Certificate{s}
	default:
		return nil, fmt.Errorf("unknown kind of entity %.40q", what)
	}
	if err != nil {
		return nil, err
	}
	return e, nil
}

// key takes [name] of a declared key, or [alg, name, hash].
func (p *parser) key() (k Key, err error) {
	if err = p.want("["); err != nil {
		return k, err
	}
	if k.Alg, err = p.word(); err != nil {
		return k, err
	}
	if p.eat("]") {
		known, ok := p.scope.keys[k.Alg]
		if !ok {
			return k, fmt.Errorf("no key is declared as %.64q before this line", k.Alg)
		}
		return known, nil
	}
	if err = p.want(","); err != nil {
		return k, err
	}
	if k.Name, err = p.word(); err != nil {
		return k, err
	}
	if err = p.want(","); err != nil {
		return k, err
	}
	if k.ID, err = p.word(); err != nil {
		return k, err
	}
	switch {
	case k.Alg != Ed25519 && k.Alg != P256 && k.Alg != P384 && k.Alg != RSA:
		return k, fmt.Errorf("unknown algorithm %.40q, want ed25519, p256, p384 or rsa", k.Alg)
	case checkName(k.Name) != nil:
		return k, checkName(k.Name)
	case !isHex(k.ID, 64):
		return k, fmt.Errorf("key %s: want the SHA-256 of its SubjectPublicKeyInfo, 64 lower-case hex digits", k.Name)
	}
	if known, ok := p.scope.keys[k.Name]; ok && known != k {
		return k, fmt.Errorf("key %s is declared above with another hash or algorithm", k.Name)
	}
	if name, ok := p.scope.ids[k.ID]; ok && name != k.Name {
		return k, fmt.Errorf("this key is declared above as %s, not %s", name, k.Name)
	}
	return k, p.want("]")
}

// measurement takes [hex] or [name] of a declared one, narrowed or not.
func (p *parser) measurement() (m Measurement, err error) {
	if m.Digest, err = p.bracketed(); err != nil {
		return m, err
	}
	if !isDigest(m.Digest) {
		digest, ok := p.scope.measurements[m.Digest]
		if !ok {
			return m, fmt.Errorf("measurement %.100q: neither 96 or 64 lower-case hex digits nor a name declared before this line", m.Digest)
		}
		m.Digest = digest
	}
	if zeros(m.Digest) {
		return m, errors.New("a measurement of zeros names nothing")
	}
	if p.eat("with-instance") {
		if m.Instance, err = p.bracketed(); err == nil && (!isHex(m.Instance, 64) || zeros(m.Instance)) {
			err = errors.New("with-instance: want 64 lower-case hex digits, not all zero")
		}
	}
	return m, err
}

func (p *parser) environment() (e Environment, err error) {
	if err = p.want("["); err != nil {
		return e, err
	}
	first, err := p.entity()
	if err != nil {
		return e, err
	}
	if err = p.want(","); err != nil {
		return e, err
	}
	second, err := p.entity()
	if err != nil {
		return e, err
	}
	var ok, ok2 bool
	e.Platform, ok = first.(Platform)
	e.Measurement, ok2 = second.(Measurement)
	if !ok || !ok2 {
		return e, errors.New("Environment: want a platform and a measurement")
	}
	return e, p.want("]")
}

func (p *parser) platform() (q Platform, err error) {
	if err = p.want("["); err != nil {
		return q, err
	}
	if q.Type, err = p.word(); err != nil {
		return q, err
	}
	for p.eat(",") {
		prop, err := p.prop()
		if err != nil {
			return q, err
		}
		if len(q.Props) == maxProps {
			return q, fmt.Errorf("more than %d properties", maxProps)
		}
		q.Props = append(q.Props, prop)
	}
	if err = p.want("]"); err != nil {
		return q, err
	}
	return q, q.check()
}

// ParseProp reads one property, such as "tcb.snp >= 22".
func ParseProp(s string) (Prop, error) {
	p := &parser{s: s, scope: &scope{}}
	q, err := p.prop()
	if err == nil {
		if p.space(); p.s != "" {
			err = fmt.Errorf("unexpected %.40q", p.s)
		} else {
			err = q.check()
		}
	}
	return q, err
}

func (p *parser) prop() (q Prop, err error) {
	if q.Name, err = p.word(); err != nil {
		return q, err
	}
	value := p.word
	if q.Name == "chip" {
		value = func() (string, error) { v, err := p.word(); return chipID(v), err }
	}
	for _, op := range []Op{Is, Ge, Le, Eq} {
		if p.eat(string(op)) {
			q.Op = op
			v, err := value()
			q.Values = []string{v}
			return q, err
		}
	}
	if !p.eat("in") {
		return q, fmt.Errorf("property %.40s: want :, =, >=, <= or in at %.40q", q.Name, p.s)
	}
	q.Op = In
	if err = p.want("{"); err != nil {
		return q, err
	}
	for more := true; more; more = p.eat(",") {
		v, err := value()
		if err != nil {
			return q, err
		}
		if len(q.Values) == maxSet {
			return q, fmt.Errorf("property %.40s: more than %d values", q.Name, maxSet)
		}
		q.Values = append(q.Values, v)
	}
	slices.SortFunc(q.Values, func(a, b string) int {
		switch {
		case a == b:
			return 0
		case less(a, b):
			return -1
		}
		return 1
	})
	q.Values = slices.Compact(q.Values)
	return q, p.want("}")
}

// serial reads a claim's number: 1 to 2^63-1, no leading zeros.
func serial(s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil || n == 0 || strconv.FormatUint(n, 10) != s {
		return 0, fmt.Errorf("%.40q is not a number from 1 up", s)
	}
	return n, nil
}
