package claim

import (
	"strconv"
	"strings"
)

// Entity is what statements are about: Key, Measurement, Image, Platform,
// Environment, Secret, Role, Chip, Serial or Certificate. String prints its
// canonical text; two entities are equal where their texts are.
type Entity interface {
	String() string
	kind() kinds
}

// kinds is a set of kinds of entities.
type kinds uint16

const (
	kindKey kinds = 1 << iota
	kindMeasurement
	kindPlatform
	kindEnvironment
	kindSecret
	kindRole
	kindChip
	kindSerial
	kindCertificate
	kindImage
)

// Measurement is what was launched: the launch digest of a VM (48 bytes), or
// the digest of a program (32 bytes).
type Measurement struct {
	Digest string // lower-case hex, 96 or 64 digits
	// Instance narrows it to one instance: HOST_DATA in 64 hex digits. The host
	// chooses that, so it narrows and never proves.
	Instance string
}

func (m Measurement) String() string {
	s := "Measurement[" + m.Digest + "]"
	if m.Instance != "" {
		s += " with-instance[" + m.Instance + "]"
	}
	return s
}

// Covers says whether what is said of m is said of o: the same digest, and the
// same instance where m names one.
func (m Measurement) Covers(o Measurement) bool {
	return m.Digest != "" && m.Digest == o.Digest && (m.Instance == "" || m.Instance == o.Instance)
}

// Environment is a measurement on a platform.
type Environment struct {
	Platform    Platform
	Measurement Measurement
}

func (e Environment) String() string {
	return "Environment[" + e.Platform.String() + ", " + e.Measurement.String() + "]"
}

// Secret is a name of secrets, or a pattern: a * stands for any characters but
// a slash.
type Secret struct{ Pattern string }

func (s Secret) String() string { return `Secret["` + s.Pattern + `"]` }

// Role is what a server may be: verifier, policy-server, key-server, or a name
// of the owner's own.
type Role struct{ Name string }

func (r Role) String() string { return `Role["` + r.Name + `"]` }

// Chip is a CHIP_ID: 128 hex digits, or the 16 of Turin, which the parser also
// takes padded with zeros, as reports have it.
type Chip struct{ ID string }

func (c Chip) String() string { return "Chip[" + c.ID + "]" }

// Serial is a claim of this policy.
type Serial uint64

func (s Serial) String() string { return "Claim[" + strconv.FormatUint(uint64(s), 10) + "]" }

// Certificate is an admission certificate by its SHA-256, 64 hex digits.
type Certificate struct{ SHA256 string }

func (c Certificate) String() string { return "Certificate[" + c.SHA256 + "]" }

func (Key) kind() kinds         { return kindKey }
func (Measurement) kind() kinds { return kindMeasurement }
func (Image) kind() kinds       { return kindImage }
func (Platform) kind() kinds    { return kindPlatform }
func (Environment) kind() kinds { return kindEnvironment }
func (Secret) kind() kinds      { return kindSecret }
func (Role) kind() kinds        { return kindRole }
func (Chip) kind() kinds        { return kindChip }
func (Serial) kind() kinds      { return kindSerial }
func (Certificate) kind() kinds { return kindCertificate }

// Matches says whether the pattern covers a secret's name, part by part
// between slashes.
func (s Secret) Matches(name string) bool {
	if !validSecret(name, false) {
		return false
	}
	pattern, parts := strings.Split(s.Pattern, "/"), strings.Split(name, "/")
	if len(pattern) != len(parts) {
		return false
	}
	for i := range parts {
		if !glob(pattern[i], parts[i]) {
			return false
		}
	}
	return true
}

// glob matches a name with a pattern in which * stands for any characters. Its
// cost is at most the product of both lengths.
func glob(pattern, name string) bool {
	p, n, star, mark := 0, 0, -1, 0
	for n < len(name) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, n
			p++
		case p < len(pattern) && pattern[p] == name[n]:
			p, n = p+1, n+1
		case star >= 0:
			mark++
			p, n = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
