package appraise

import (
	"fmt"
)

// Describe lists what a verified report states, none of it compared with
// anything: for a reader who asked for the signature only.
func Describe(v *Verified) []Finding {
	cs := &checks{}
	r, p := v.report, v.product
	for _, f := range []struct{ field, found string }{
		{"GUEST_SVN", fmt.Sprint(r.GuestSVN)},
		{"POLICY", r.Policy.String()},
		{"FAMILY_ID", fmt.Sprintf("%x", r.FamilyID)},
		{"IMAGE_ID", fmt.Sprintf("%x", r.ImageID)},
		{"VMPL", fmt.Sprint(int32(r.VMPL))},
		{"CURRENT_TCB", tcbString(p, r.CurrentTCB)},
		{"PLATFORM_INFO", r.PlatformInfo.String()},
		{"REPORT_DATA", fmt.Sprintf("%x", r.ReportData)},
		{"MEASUREMENT", fmt.Sprintf("%x", r.Measurement)},
		{"HOST_DATA", fmt.Sprintf("%x", r.HostData)},
		{"ID_KEY_DIGEST", fmt.Sprintf("%x", r.IDKeyDigest)},
		{"AUTHOR_KEY_DIGEST", fmt.Sprintf("%x", r.AuthorKeyDigest)},
		{"REPORT_ID", fmt.Sprintf("%x", r.ReportID)},
		{"REPORT_ID_MA", fmt.Sprintf("%x", r.ReportIDMA)},
		{"REPORTED_TCB", tcbString(p, r.ReportedTCB)},
		{"CHIP_ID", fmt.Sprintf("%x", trim(r.ChipID, p.ChipIDSize()))},
		{"COMMITTED_TCB", tcbString(p, r.CommittedTCB)},
		{"FIRMWARE", fmt.Sprintf("current %v, committed %v", r.CurrentVersion, r.CommittedVersion)},
		{"LAUNCH_TCB", tcbString(p, r.LaunchTCB)},
	} {
		cs.state(f.field, f.found, "")
	}
	if r.Version >= 5 {
		cs.state("LAUNCH_MIT_VECTOR", Mask(r.LaunchMitVector).String(), "")
		cs.state("CURRENT_MIT_VECTOR", Mask(r.CurrentMitVector).String(), "")
	}
	return cs.list
}
