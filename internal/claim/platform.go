package claim

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Types of platforms.
const (
	AMDSEVSNP        = "amd-sev-snp"
	SimulatedEnclave = "simulated-enclave"
)

// Platform is a platform's type with properties: what a platform has, or what
// is asked of one.
type Platform struct {
	Type  string
	Props []Prop
}

// Op says how a property is compared.
type Op string

// The operators. Is is for yes and no and prints as "name: yes".
const (
	Is Op = ":"
	Eq Op = "="
	Ge Op = ">="
	Le Op = "<="
	In Op = "in"
)

// Prop is one property with its value, or the values that are accepted.
type Prop struct {
	Name   string
	Op     Op
	Values []string // one; sorted, and at least one, for In
}

func (p Prop) String() string {
	switch p.Op {
	case Is:
		return p.Name + ": " + p.Values[0]
	case In:
		return p.Name + " in {" + strings.Join(p.Values, ", ") + "}"
	}
	return p.Name + " " + string(p.Op) + " " + p.Values[0]
}

func (p Platform) String() string {
	var b strings.Builder
	b.WriteString("Platform[" + p.Type)
	for _, q := range p.Props {
		b.WriteString(", " + q.String())
	}
	return b.String() + "]"
}

// Satisfied says whether a value that a platform has meets the property. A
// value of another form never does.
func (p Prop) Satisfied(have string) bool {
	switch p.Op {
	case Is, Eq:
		return have == p.Values[0]
	case In:
		return slices.Contains(p.Values, have)
	}
	h, ok := number(have)
	w, ok2 := number(p.Values[0])
	return ok && ok2 && (p.Op == Ge && h >= w || p.Op == Le && h <= w)
}

// number reads a canonical decimal number of at most 32 bits.
func number(s string) (uint64, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	return n, err == nil && strconv.FormatUint(n, 10) == s
}

// valueType is the form that a property's values have.
type valueType int

const (
	boolean valueType = iota + 1
	integer
	word
	hexText
)

// properties are those of amd-sev-snp. tcb.* is the least of reported,
// committed and launch TCB.
var properties = func() map[string]valueType {
	t := map[string]valueType{
		"product": word, "signing-key": word, "csp": word,
		"vmpl": integer, "abi.major": integer, "abi.minor": integer, "guest-svn": integer, "report-version": integer,
		"chip": hexText, "family-id": hexText, "image-id": hexText, "id-key-digest": hexText, "author-key-digest": hexText,
	}
	for _, set := range []string{"tcb", "reported-tcb", "committed-tcb", "launch-tcb"} {
		for _, part := range []string{"bootloader", "tee", "snp", "microcode", "fmc"} {
			t[set+"."+part] = integer
		}
	}
	for _, name := range []string{
		"debug", "migrate", "smt", "single-socket", "cxl", "memory-aes-256-xts", "rapl-disabled", "ciphertext-hiding", "page-swap-disabled",
		"platform-smt", "platform-tsme", "platform-ecc", "platform-rapl-disabled", "platform-ciphertext-hiding", "platform-tio", "alias-check",
	} {
		t[name] = boolean
	}
	return t
}()

// Properties lists the names of all properties, sorted.
func Properties() []string {
	var names []string
	for n := range properties {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// hexDigits are the lengths of hex properties.
var hexDigits = map[string][]int{
	"chip": {128, 16}, "family-id": {32}, "image-id": {32}, "id-key-digest": {96}, "author-key-digest": {96},
}

// check refuses an unknown type or property, a value of another form, and a
// property that is there twice with one operator.
func (p Platform) check() error {
	if p.Type != AMDSEVSNP && p.Type != SimulatedEnclave {
		return fmt.Errorf("unknown platform %.40q, want %s or %s", p.Type, AMDSEVSNP, SimulatedEnclave)
	}
	if p.Type == SimulatedEnclave && len(p.Props) > 0 {
		return fmt.Errorf("%s has no properties", p.Type)
	}
	for i, q := range p.Props {
		if err := q.check(); err != nil {
			return err
		}
		for _, r := range p.Props[:i] {
			if r.Name == q.Name && r.Op == q.Op {
				return fmt.Errorf("property %s %s is there twice", q.Name, q.Op)
			}
		}
	}
	return nil
}

func (p Prop) check() error {
	t, ok := properties[p.Name]
	if !ok {
		return fmt.Errorf("unknown property %.40q", p.Name)
	}
	if len(p.Values) == 0 || p.Op != In && len(p.Values) != 1 {
		return fmt.Errorf("property %s: no value", p.Name)
	}
	allowed := []Op{Eq, In}
	switch t {
	case boolean:
		allowed = []Op{Is, In}
	case integer:
		allowed = []Op{Eq, Ge, Le, In}
	}
	if !slices.Contains(allowed, p.Op) {
		return fmt.Errorf("property %s takes no %q, want one of %q", p.Name, p.Op, allowed)
	}
	for i, v := range p.Values {
		if i > 0 && !less(p.Values[i-1], v) {
			return fmt.Errorf("property %s: values not sorted, or one twice", p.Name)
		}
		if !valueOK(p.Name, t, v) {
			return fmt.Errorf("property %s: %.40q is not a value of it", p.Name, v)
		}
	}
	return nil
}

// less is the order of values in a set: short ones first, so that numbers are
// in theirs.
func less(a, b string) bool {
	if len(a) != len(b) {
		return len(a) < len(b)
	}
	return a < b
}

func valueOK(name string, t valueType, v string) bool {
	switch t {
	case boolean:
		return v == "yes" || v == "no"
	case integer:
		_, ok := number(v)
		return ok
	case hexText:
		for _, n := range hexDigits[name] {
			if isHex(v, n) && !zeros(v) && (name != "chip" || chipID(v) == v) {
				return true
			}
		}
		return false
	}
	switch name {
	case "product":
		return v == "Milan" || v == "Genoa" || v == "Turin"
	case "signing-key":
		return v == "vcek" || v == "vlek"
	}
	return isWord(v) && len(v) <= maxName
}
