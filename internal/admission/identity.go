package admission

import (
	"encoding/hex"
	"fmt"
	"math/big"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"attestbox/internal/form"
)

// Identity is what an admission certificate says of its owner.
type Identity struct {
	Domain      string
	Measurement []byte   // 48 bytes for amd-sev-snp, 32 for simulated-enclave and attestd-program
	Instance    [32]byte // HOST_DATA
	Platform    string
	ChipID      [64]byte // zeros where there is none
	ReportID    [32]byte // zeros where there is none
	ReportedTCB uint64   // raw, as in the report
	// From the ID block of the launch, as in the report; zeros without one.
	IDKeyDigest       [48]byte
	ImageID, FamilyID [16]byte
	GuestSVN          uint32

	PolicyVersion uint64 // of the policy that the proof was made from; at least 1
	ProofDigest   [32]byte
	// Roles are what policy lets it serve as, sorted; being a client needs none.
	Roles []string

	// Set by Verify from the certificate.
	Serial              *big.Int
	NotBefore, NotAfter time.Time
	SPKI                [32]byte // SHA-256 of the SubjectPublicKeyInfo
	Certificate         [32]byte // SHA-256 of the certificate
	Issuer              [32]byte // SHA-256 of the issuer's SubjectPublicKeyInfo
}

// HasRole says whether policy lets it serve as role.
func (id *Identity) HasRole(role string) bool { return slices.Contains(id.Roles, role) }

func (id *Identity) String() string {
	s := fmt.Sprintf("%s measurement %x instance %x", id.Domain, id.Measurement, id.Instance)
	if len(id.Roles) > 0 {
		s += " roles " + strings.Join(id.Roles, ",")
	}
	return s
}

// Limits of what a certificate can hold.
const (
	maxDomain      = 253
	maxRoles       = 8
	maxName        = 64
	minMeasurement = 32
	maxMeasurement = 64
)

// CheckDomain says whether a name can stand in admission certificates: labels
// of lower-case letters, digits and hyphens joined by dots, and no IP address,
// which name constraints do not cover.
func CheckDomain(domain string) error {
	if len(domain) > maxDomain || !labels(domain) {
		return fmt.Errorf("domain %.64q: want lower-case letters, digits, hyphens and single dots", domain)
	}
	if _, err := netip.ParseAddr(domain); err == nil {
		return fmt.Errorf("domain %q is an IP address", domain)
	}
	return nil
}

func labels(domain string) bool {
	for label := range strings.SplitSeq(domain, ".") {
		if !form.Bounded(label, form.Chars("a-z0-9"), form.Chars("a-z0-9-")) {
			return false
		}
	}
	return true
}

func (id *Identity) check() error {
	switch {
	case len(id.Platform) > maxName || !form.Hyphenated(id.Platform):
		return fmt.Errorf("platform %.64q", id.Platform)
	case id.PolicyVersion == 0 || id.PolicyVersion > 1<<63-1:
		return fmt.Errorf("policy version %d", id.PolicyVersion)
	}
	return id.checkNames()
}

// checkNames checks what stands in the names of a certificate.
func (id *Identity) checkNames() error {
	if err := CheckDomain(id.Domain); err != nil {
		return err
	}
	switch {
	case len(id.Measurement) < minMeasurement || len(id.Measurement) > maxMeasurement:
		return fmt.Errorf("measurement of %d bytes", len(id.Measurement))
	case id.Instance == [32]byte{}:
		return fmt.Errorf("an instance of zeros is not one")
	case len(id.Roles) > maxRoles:
		return fmt.Errorf("%d roles, at most %d", len(id.Roles), maxRoles)
	}
	for i, r := range id.Roles {
		if len(r) > maxName || !form.Hyphenated(r) || i > 0 && id.Roles[i-1] >= r {
			return fmt.Errorf("role %.64q is malformed, given twice or not in order", r)
		}
	}
	return nil
}

const scheme = "attestbox"

// MemberURI names the owner of a certificate.
func MemberURI(domain string, measurement []byte, instance [32]byte) string {
	return fmt.Sprintf("%s://%s/measurement/%x/instance/%x", scheme, domain, measurement, instance)
}

// RoleURI names a role in a domain.
func RoleURI(domain, role string) string {
	return fmt.Sprintf("%s://%s/role/%s", scheme, domain, role)
}

func (id *Identity) uris() ([]*url.URL, error) {
	texts := []string{MemberURI(id.Domain, id.Measurement, id.Instance)}
	for _, r := range id.Roles {
		texts = append(texts, RoleURI(id.Domain, r))
	}
	var out []*url.URL
	for _, t := range texts {
		u, err := url.Parse(t)
		if err != nil {
			return nil, err
		}
		out = append(out, u)
	}
	return out, nil
}

// fromURIs is the strict inverse of uris.
func (id *Identity) fromURIs(uris []*url.URL) error {
	if len(uris) == 0 || len(uris) > 1+maxRoles {
		return fmt.Errorf("%d names", len(uris))
	}
	parts := strings.Split(strings.TrimPrefix(uris[0].Path, "/"), "/")
	if len(parts) != 4 || parts[0] != "measurement" || parts[2] != "instance" {
		return fmt.Errorf("name %.200q", uris[0])
	}
	id.Domain = uris[0].Host
	var err error
	if id.Measurement, err = hex.DecodeString(parts[1]); err != nil {
		return fmt.Errorf("measurement in the name: %w", err)
	}
	instance, err := hex.DecodeString(parts[3])
	if err != nil || len(instance) != len(id.Instance) {
		return fmt.Errorf("instance %.100q in the name", parts[3])
	}
	id.Instance = [32]byte(instance)
	id.Roles = nil
	for _, u := range uris[1:] {
		role, ok := strings.CutPrefix(u.Path, "/role/")
		if !ok {
			return fmt.Errorf("name %.200q", u)
		}
		id.Roles = append(id.Roles, role)
	}
	if err := id.checkNames(); err != nil {
		return err
	}
	// Whatever a URL can carry beside what was looked at is excluded here.
	again, err := id.uris()
	if err != nil {
		return err
	}
	for i, u := range again {
		if u.String() != uris[i].String() {
			return fmt.Errorf("name %.200q is not in canonical form", uris[i])
		}
	}
	return nil
}
