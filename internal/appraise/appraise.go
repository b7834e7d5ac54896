package appraise

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"attestbox/internal/code"
	"attestbox/internal/snp"
)

// Expect is what the protocol asks of this one report. Nil means that nothing
// is known to compare with, as when a person looks at a report offline; the
// finding then says "not checked".
type Expect struct {
	ReportData *[64]byte
	// HostData is the instance ID; zeros are refused.
	HostData *[32]byte
	// NoHostData wants zeros in its place: the image brings its instance ID, and
	// the caller has shown which by the launch digest. HostData is then nil.
	NoHostData bool
}

// Result is the decision with its reasons.
type Result struct {
	Accepted bool        `json:"accepted"`
	Product  snp.Product `json:"product"`
	Root     string      `json:"root"`
	// AMD is false for a root that is not AMD's; Root says so too.
	AMD bool `json:"amd"`
	// By is the identity that admitted a launch whose digest is not listed.
	By *Identity `json:"by,omitempty"`
	// Findings are those of Verify, then those of Appraise.
	Findings []Finding `json:"findings"`
}

// Err is nil for an accepted report, else a *Refusal with the code of the first
// finding that refuses.
func (r *Result) Err() error { return refusal(r.Findings) }

// appraisal is one report on its way through a policy.
type appraisal struct {
	checks
	v *Verified
	r *snp.Report
	p *Policy

	by Identity // that admitted the launch; zero: none had to
}

// Appraise compares every field of a verified report with the policy and with
// what the protocol expects. now is compared with the certificates again, for a
// Verified that was kept for a while.
func Appraise(v *Verified, p *Policy, e Expect, now time.Time) *Result {
	if v == nil || v.report == nil || v.chain == nil {
		return &Result{Root: "none", Findings: []Finding{{Field: "REPORT", Found: "not verified", Want: "a verified report", Code: code.ReportMalformed}}}
	}
	a := &appraisal{v: v, r: v.report, p: p}
	a.list = v.Findings()
	a.expiry(now)
	if err := p.Check(); err != nil {
		a.check(false, code.AppraisalPolicy, "POLICY_FILE", err.Error(), "an appraisal policy that can be met")
	}
	if p != nil { // under a policy that cannot be met too: a reader wants every field
		a.platform()
		a.guest()
		a.identity(e)
	}
	res := &Result{Accepted: !a.failed(), Product: v.product, Root: v.chain.root.Name(), AMD: v.AMD(), Findings: a.list}
	if a.by != (Identity{}) {
		res.By = &a.by
	}
	return res
}

// expiry refuses a Verified that outlived its certificates.
func (a *appraisal) expiry(now time.Time) {
	again := &checks{}
	a.v.chain.within(again, now)
	for _, f := range again.list {
		if !f.OK {
			a.list = append(a.list, f)
		}
	}
}

// platform is what the report says of chip, firmware and host.
func (a *appraisal) platform() {
	r, p, product := a.r, a.p, a.v.product
	want := "VCEK"
	if p.vlek() {
		want = "VLEK"
	}
	a.check(a.v.SigningKey().String() == want, code.VEKKind, "SIGNING_KEY", a.v.SigningKey().String(), want)
	if a.v.SigningKey() == snp.SignedByVLEK {
		a.check(slices.Contains(p.CSPIDs, a.v.CSPID()), code.VEKCSP, "CSP_ID", a.v.CSPID(), orNone("one of ", p.CSPIDs))
	}
	pp, listed := p.Products[product]
	a.check(listed, code.ProductNotAllowed, "PRODUCT", string(product), products(p))
	if r.Version == 2 {
		a.check(p.Version2As == product, code.ReportVersion, "REPORT_VERSION", "2", "3 to 5, or 2 as the product that policy names")
	}
	a.chip()
	for _, f := range []struct {
		field string
		raw   uint64
		floor TCBFloor
	}{{"REPORTED_TCB", r.ReportedTCB, pp.MinReportedTCB}, {"COMMITTED_TCB", r.CommittedTCB, pp.MinCommittedTCB}, {"LAUNCH_TCB", r.LaunchTCB, pp.MinLaunchTCB}} {
		ok := listed && snp.CleanTCB(product, f.raw) && snp.DecodeTCB(product, f.raw).AtLeast(f.floor.tcb(product))
		a.check(ok, code.TCBFloor, f.field, tcbString(product, f.raw), "at least "+f.floor.tcb(product).String())
		if listed && f.floor == (TCBFloor{}) {
			a.note("policy sets no floor")
		}
	}
	a.state("CURRENT_TCB", tcbString(product, r.CurrentTCB), "what runs now; the floors are on the three others")
	a.state("FIRMWARE", fmt.Sprintf("current %v, committed %v", r.CurrentVersion, r.CommittedVersion), "")
	a.platformInfo()
	a.mitigations("LAUNCH_MIT_VECTOR", r.LaunchMitVector, pp.LaunchMitigations)
	a.mitigations("CURRENT_MIT_VECTOR", r.CurrentMitVector, pp.CurrentMitigations)
}

func (a *appraisal) chip() {
	found := ChipID(a.r.ChipID)
	switch {
	case len(a.p.Chips) > 0:
		ok := a.v.SigningKey() == snp.SignedByVCEK && slices.Contains(a.p.Chips, found)
		a.check(ok, code.ChipNotAllowed, "CHIP", found.String(), oneOf(a.p.Chips))
	case a.v.SigningKey() == snp.SignedByVLEK:
		a.state("CHIP", found.String(), "a VLEK does not vouch for the chip")
	default:
		a.state("CHIP", found.String(), "policy lists no chips")
	}
}

func (a *appraisal) platformInfo() {
	r, p := a.r, a.p
	unknown := r.PlatformInfo &^ snp.KnownPlatformInfo(r.Version) &^ snp.PlatformInfo(p.PlatformInfoAllow)
	want := fmt.Sprintf("known bits 0x%x", uint64(snp.KnownPlatformInfo(r.Version)))
	if p.PlatformInfoAllow != 0 {
		want += " and allowed " + p.PlatformInfoAllow.String()
	}
	a.check(unknown == 0, code.PlatformInfo, "PLATFORM_INFO", r.PlatformInfo.String(), want)
	if unknown != 0 {
		a.note("unknown bits 0x%x", uint64(unknown))
	}
	if p.PlatformInfoMask != 0 {
		a.check(Mask(r.PlatformInfo)&p.PlatformInfoMask == p.PlatformInfoValue, code.PlatformInfo, "PLATFORM_INFO.VALUE",
			Mask(r.PlatformInfo).String(), fmt.Sprintf("%v under mask %v", p.PlatformInfoValue, p.PlatformInfoMask))
	}
	found, done := "0", false
	switch {
	case r.Version < 3:
		found = fmt.Sprintf("no such bit in version %d", r.Version)
	case r.PlatformInfo&snp.PlatformAliasCheckComplete != 0:
		found, done = "1", true
	}
	a.check(done || p.WaiveAliasCheck, code.PlatformAliasCheck, "PLATFORM_INFO.ALIAS_CHECK_COMPLETE", found, "1")
	if !done && p.WaiveAliasCheck {
		a.note("waived by policy")
	}
}

func (a *appraisal) mitigations(field string, found uint64, want Mask) {
	text := Mask(found).String()
	if a.r.Version < 5 {
		text = fmt.Sprintf("no such field in version %d", a.r.Version)
	}
	if want == 0 {
		a.state(field, text, "policy asks for no mitigation")
		return
	}
	a.check(a.r.Version >= 5 && Mask(found)&want == want, code.PlatformMitigations, field, text, "all bits of "+want.String())
}

// guest is what the report says of how the guest was launched.
func (a *appraisal) guest() {
	r, p := a.r, a.p
	a.check(!r.Policy.Debug(), code.GuestDebug, "POLICY.DEBUG", bit(r.Policy.Debug()), "0")
	a.check(!r.Policy.MigrateMA(), code.GuestMigratable, "POLICY.MIGRATE_MA", bit(r.Policy.MigrateMA()), "0")
	formed := r.Policy&snp.PolicyReserved1 != 0 && Mask(r.Policy.Unknown())&^p.GuestPolicyMask == 0
	a.check(formed, code.GuestPolicy, "POLICY", r.Policy.String(), "bit 17 set, no unknown bit that the mask does not name")
	if p.GuestPolicyMask != 0 {
		a.check(Mask(r.Policy)&p.GuestPolicyMask == p.GuestPolicyValue, code.GuestPolicy, "POLICY.VALUE",
			Mask(r.Policy).String(), fmt.Sprintf("%v under mask %v", p.GuestPolicyValue, p.GuestPolicyMask))
	}
	vmpls := p.VMPLs
	if len(vmpls) == 0 {
		vmpls = []uint32{0}
	}
	found := fmt.Sprint(r.VMPL)
	if r.VMPL == snp.VMPLHost {
		found = "none: the host asked for this report"
	}
	a.check(slices.Contains(vmpls, r.VMPL), code.GuestVMPL, "VMPL", found, strings.Trim(fmt.Sprint(vmpls), "[]"))
	a.idBlock()
}

// idBlock compares what the ID block of a launch sets.
func (a *appraisal) idBlock() {
	r, p := a.r, a.p
	for _, f := range []struct {
		field string
		found Hex16
		want  *Hex16
	}{{"FAMILY_ID", r.FamilyID, p.FamilyID}, {"IMAGE_ID", r.ImageID, p.ImageID}} {
		if f.want == nil {
			a.state(f.field, f.found.String(), "policy names none")
			continue
		}
		a.check(f.found == *f.want, code.GuestIDBlock, f.field, f.found.String(), f.want.String())
	}
	if p.MinGuestSVN == 0 {
		a.state("GUEST_SVN", fmt.Sprint(r.GuestSVN), "policy sets no floor")
	} else {
		a.check(r.GuestSVN >= p.MinGuestSVN, code.GuestIDBlock, "GUEST_SVN", fmt.Sprint(r.GuestSVN), fmt.Sprintf("at least %d", p.MinGuestSVN))
	}
	for _, f := range []struct {
		field   string
		found   Hex48
		want    []Hex48
		present bool
	}{{"ID_KEY_DIGEST", r.IDKeyDigest, p.IDKeyDigests, true}, {"AUTHOR_KEY_DIGEST", r.AuthorKeyDigest, p.AuthorKeyDigests, r.KeyInfo.AuthorKeyEn()}} {
		if len(f.want) == 0 {
			a.state(f.field, f.found.String(), "policy names none")
			continue
		}
		a.check(f.present && slices.Contains(f.want, f.found), code.GuestIDBlock, f.field, f.found.String(), oneOf(f.want))
		if !f.present {
			a.note("AUTHOR_KEY_EN is 0")
		}
	}
}

// identity is which guest this is, and for whom it asked.
func (a *appraisal) identity(e Expect) {
	r := a.r
	a.measurement()
	if e.NoHostData {
		ok := r.HostData == [32]byte{} && e.HostData == nil
		a.check(ok, code.HostDataMismatch, "HOST_DATA", fmt.Sprintf("%x", r.HostData), "zeros: the image brings the instance ID")
	} else if e.HostData == nil {
		a.state("HOST_DATA", fmt.Sprintf("%x", r.HostData), "no instance ID to compare with")
	} else {
		ok := r.HostData == *e.HostData && r.HostData != [32]byte{}
		a.check(ok, code.HostDataMismatch, "HOST_DATA", fmt.Sprintf("%x", r.HostData), fmt.Sprintf("%x, not zero", *e.HostData))
	}
	if e.ReportData == nil {
		a.state("REPORT_DATA", fmt.Sprintf("%x", r.ReportData), "no exchange to compare with")
	} else {
		a.check(r.ReportData == *e.ReportData, code.ReportDataMismatch, "REPORT_DATA", fmt.Sprintf("%x", r.ReportData), fmt.Sprintf("%x", *e.ReportData))
	}
	a.state("REPORT_ID", fmt.Sprintf("%x", r.ReportID), "one per launch; the release rules use it")
	a.state("REPORT_ID_MA", fmt.Sprintf("%x", r.ReportIDMA), "a migration agent's, which is refused above")
}

// measurement: the launch digest is one of those that are trusted, or was signed
// by an ID key that is, as an image at or above its least SVN.
func (a *appraisal) measurement() {
	r, digest := a.r, Hex48(a.r.Measurement)
	by, admitted := Admitting(a.p.Identities, r)
	listed := slices.Contains(a.p.Measurements, digest) && digest != Hex48{}
	want := oneOf(a.p.Measurements)
	if len(a.p.Identities) > 0 {
		want += ", or signed: " + oneOf(a.p.Identities)
	}
	a.check(listed || admitted, code.MeasurementUnknown, "MEASUREMENT", digest.String(), want)
	switch {
	case admitted && !listed:
		a.note("admitted by %v", by)
		a.by = by
	case !listed && len(a.p.Identities) > 0:
		a.note("signed by ID key %v as image ID %v, family ID %v, SVN %d", Hex48(r.IDKeyDigest), Hex16(r.ImageID), Hex16(r.FamilyID), r.GuestSVN)
	}
}

func products(p *Policy) string {
	var s []string
	for name := range p.Products {
		s = append(s, string(name))
	}
	slices.Sort(s)
	return orNone("", s)
}

func orNone(prefix string, s []string) string {
	if len(s) == 0 {
		return "none is accepted"
	}
	return prefix + strings.Join(s, ", ")
}
