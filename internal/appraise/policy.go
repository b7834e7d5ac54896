package appraise

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"attestbox/internal/snp"
	"attestbox/internal/strictjson"
)

// Policy is what a report must state. Its zero value refuses everything: no
// product and no measurement is in it. What is left out takes the strict
// default of DESIGN section 8; docs/appraisal.md has the table.
type Policy struct {
	// Products is the product allow-list with the floors of each.
	Products map[snp.Product]ProductPolicy `json:"products"`
	// Measurements are the launch digests that are trusted.
	Measurements []Hex48 `json:"measurements"`
	// Identities admit launches beside those: by ID key, image ID and least SVN.
	Identities []Identity `json:"identities,omitempty"`

	// SigningKey is "vcek" (also where empty) or "vlek".
	SigningKey string `json:"signing_key,omitempty"`
	// CSPIDs are the providers whose VLEK counts; needed with "vlek".
	CSPIDs []string `json:"csp_ids,omitempty"`
	// Chips is the chip allow-list; empty accepts every chip of the products.
	Chips []ChipID `json:"chips,omitempty"`
	// Version2As accepts version 2 reports as this product.
	Version2As snp.Product `json:"version2_as,omitempty"`

	// VMPLs are the privilege levels that may ask; empty means 0 alone.
	VMPLs []uint32 `json:"vmpls,omitempty"`
	// GuestPolicyMask selects the bits of POLICY that must equal
	// GuestPolicyValue. DEBUG and MIGRATE_MA must be 0 whatever stands here.
	GuestPolicyMask  Mask `json:"guest_policy_mask,omitempty"`
	GuestPolicyValue Mask `json:"guest_policy_value,omitempty"`

	// PlatformInfoMask selects the bits of PLATFORM_INFO that must equal
	// PlatformInfoValue.
	PlatformInfoMask  Mask `json:"platform_info_mask,omitempty"`
	PlatformInfoValue Mask `json:"platform_info_value,omitempty"`
	// PlatformInfoAllow are bits accepted although the report's version does
	// not define them.
	PlatformInfoAllow Mask `json:"platform_info_allow,omitempty"`
	// WaiveAliasCheck accepts ALIAS_CHECK_COMPLETE = 0, and reports of
	// version 2, which predate the bit.
	WaiveAliasCheck bool `json:"waive_alias_check,omitempty"`

	// FamilyID and ImageID, where given, must be equal.
	FamilyID *Hex16 `json:"family_id,omitempty"`
	ImageID  *Hex16 `json:"image_id,omitempty"`
	// MinGuestSVN is a floor for GUEST_SVN.
	MinGuestSVN uint32 `json:"min_guest_svn,omitempty"`
	// IDKeyDigests and AuthorKeyDigests, where not empty, are the keys of the
	// ID block that are accepted.
	IDKeyDigests     []Hex48 `json:"id_key_digests,omitempty"`
	AuthorKeyDigests []Hex48 `json:"author_key_digests,omitempty"`

	// RequireCRL refuses where no revocation list is at hand; CRLGrace is how
	// long one counts after its next update was due.
	RequireCRL bool     `json:"require_crl,omitempty"`
	CRLGrace   Duration `json:"crl_grace,omitempty"`
}

// ProductPolicy is what is asked of one product.
type ProductPolicy struct {
	// Floors, each compared component by component.
	MinReportedTCB  TCBFloor `json:"min_reported_tcb,omitzero"`
	MinCommittedTCB TCBFloor `json:"min_committed_tcb,omitzero"`
	MinLaunchTCB    TCBFloor `json:"min_launch_tcb,omitzero"`
	// Bits that LAUNCH_MIT_VECTOR and CURRENT_MIT_VECTOR must have. A report
	// before version 5 has neither, and is refused where any bit is asked for.
	LaunchMitigations  Mask `json:"launch_mitigations,omitempty"`
	CurrentMitigations Mask `json:"current_mitigations,omitempty"`
}

// TCBFloor is the least TCB accepted. FMC exists on Turin only.
type TCBFloor struct {
	FMC        uint8 `json:"fmc,omitempty"`
	BootLoader uint8 `json:"boot_loader,omitempty"`
	TEE        uint8 `json:"tee,omitempty"`
	SNP        uint8 `json:"snp,omitempty"`
	Microcode  uint8 `json:"microcode,omitempty"`
}

// FloorOf is the floor that a TCB just meets.
func FloorOf(t snp.TCB) TCBFloor {
	return TCBFloor{FMC: t.FMC, BootLoader: t.BootLoader, TEE: t.TEE, SNP: t.SNP, Microcode: t.Microcode}
}

func (f TCBFloor) tcb(p snp.Product) snp.TCB {
	return snp.TCB{FMC: f.FMC, BootLoader: f.BootLoader, TEE: f.TEE, SNP: f.SNP, Microcode: f.Microcode, HasFMC: p == snp.Turin}
}

// DecodePolicy reads a policy file, strictly, but does not check it: for a
// caller who sets the measurements itself. Appraise checks in any case.
func DecodePolicy(data []byte) (*Policy, error) {
	p := &Policy{}
	if err := strictjson.Unmarshal(data, p); err != nil {
		return nil, fmt.Errorf("reading appraisal policy: %w", err)
	}
	return p, nil
}

// ParsePolicy reads a policy file, strictly, and checks it.
func ParsePolicy(data []byte) (*Policy, error) {
	p, err := DecodePolicy(data)
	if err != nil {
		return nil, err
	}
	if err := p.Check(); err != nil {
		return nil, fmt.Errorf("appraisal policy: %w", err)
	}
	return p, nil
}

// Marshal writes the policy as ParsePolicy reads it.
func (p *Policy) Marshal() ([]byte, error) { return json.MarshalIndent(p, "", "  ") }

// VerifyOptions are the options of Verify that follow from the policy.
func (p *Policy) VerifyOptions(cache *ChainCache) Options {
	return Options{Version2As: p.Version2As, RequireCRL: p.RequireCRL, CRLGrace: time.Duration(p.CRLGrace), Cache: cache}
}

// Check refuses a policy that lacks what it must say or contradicts itself.
func (p *Policy) Check() error {
	switch {
	case p == nil:
		return errors.New("there is none")
	case len(p.Products) == 0:
		return errors.New(`"products" is empty: no report can be accepted`)
	case len(p.Measurements)+len(p.Identities) == 0:
		return errors.New(`"measurements" is empty, and there are no "identities": no report can be accepted`)
	case slices.Contains(p.Measurements, Hex48{}):
		return errors.New(`"measurements" holds a digest of zeros`)
	case p.SigningKey != "" && p.SigningKey != "vcek" && p.SigningKey != "vlek":
		return fmt.Errorf(`"signing_key" is %q, want "vcek" or "vlek"`, p.SigningKey)
	case p.vlek() && len(p.CSPIDs) == 0:
		return errors.New(`"csp_ids" is empty, and "signing_key" is "vlek": name the provider`)
	case !p.vlek() && len(p.CSPIDs) > 0:
		return errors.New(`"csp_ids" says nothing about a VCEK`)
	case p.vlek() && len(p.Chips) > 0:
		return errors.New(`"chips" needs a VCEK: a VLEK does not vouch for one chip`)
	case slices.Contains(p.CSPIDs, ""):
		return errors.New(`"csp_ids" holds an empty name`)
	case slices.Contains(p.Chips, ChipID{}):
		return errors.New(`"chips" holds a chip of zeros`)
	case p.GuestPolicyValue&^p.GuestPolicyMask != 0:
		return errors.New(`"guest_policy_value" has bits outside "guest_policy_mask"`)
	case p.GuestPolicyValue&Mask(snp.PolicyDebug|snp.PolicyMigrateMA) != 0:
		return errors.New(`"guest_policy_value" asks for DEBUG or MIGRATE_MA, which are always refused`)
	case p.PlatformInfoValue&^p.PlatformInfoMask != 0:
		return errors.New(`"platform_info_value" has bits outside "platform_info_mask"`)
	case p.FamilyID != nil && *p.FamilyID == Hex16{} || p.ImageID != nil && *p.ImageID == Hex16{}:
		return errors.New(`"family_id" or "image_id" is zero, which is what a launch without an ID block has`)
	case slices.Contains(p.IDKeyDigests, Hex48{}) || slices.Contains(p.AuthorKeyDigests, Hex48{}):
		return errors.New(`"id_key_digests" or "author_key_digests" holds zeros, which is what a launch without an ID block has`)
	case p.CRLGrace < 0:
		return errors.New(`"crl_grace" is negative`)
	}
	for _, i := range p.Identities {
		if err := i.Check(); err != nil {
			return fmt.Errorf(`"identities": %w`, err)
		}
	}
	for _, v := range p.VMPLs {
		if v > 3 {
			return fmt.Errorf(`"vmpls" holds %d, want 0 to 3`, v)
		}
	}
	return p.checkProducts()
}

func (p *Policy) checkProducts() error {
	if p.Version2As != "" {
		if _, ok := p.Products[p.Version2As]; !ok {
			return fmt.Errorf(`"version2_as" is %q, which "products" does not list`, p.Version2As)
		}
	}
	for name, pp := range p.Products {
		if got, err := snp.ParseProduct(string(name)); err != nil || got != name {
			return fmt.Errorf(`"products" lists %q, want Milan, Genoa or Turin`, name)
		}
		if name != snp.Turin && (pp.MinReportedTCB.FMC|pp.MinCommittedTCB.FMC|pp.MinLaunchTCB.FMC) != 0 {
			return fmt.Errorf("%s has no FMC, and its floor asks for one", name)
		}
	}
	return nil
}

func (p *Policy) vlek() bool { return p.SigningKey == "vlek" }
