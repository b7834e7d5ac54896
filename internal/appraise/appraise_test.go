package appraise_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"attestbox/internal/appraise"
	"attestbox/internal/appraise/appraisetest"
	"attestbox/internal/code"
	"attestbox/internal/snp"
)

func repeat48(b byte) (h appraise.Hex48) {
	for i := range h {
		h[i] = b
	}
	return h
}

// expected is what appraisetest's reports hold.
func expected() appraise.Expect {
	rd, hd := new([64]byte), new([32]byte)
	for i := range rd {
		rd[i] = 0xC3
	}
	for i := range hd {
		hd[i] = 0xB2
	}
	return appraise.Expect{ReportData: rd, HostData: hd}
}

func basePolicy(c *appraisetest.Chain) *appraise.Policy {
	floor := appraise.FloorOf(c.TCB)
	return &appraise.Policy{
		Products:     map[snp.Product]appraise.ProductPolicy{c.Product: {MinReportedTCB: floor, MinCommittedTCB: floor, MinLaunchTCB: floor}},
		Measurements: []appraise.Hex48{repeat48(1), repeat48(0xA1)},
	}
}

func verified(t testing.TB, c *appraisetest.Chain, r *snp.Report) *appraise.Verified {
	t.Helper()
	v, err := appraise.Verify(c.Sign(r), endorse(c), rootsOf(t, c), now, appraise.Options{Version2As: c.Product})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestAppraiseAccepts(t *testing.T) {
	for _, p := range []snp.Product{snp.Milan, snp.Genoa, snp.Turin} {
		c := appraisetest.Mint(appraisetest.Config{Product: p})
		for version := uint32(3); version <= 5; version++ {
			res := appraise.Appraise(verified(t, c, c.Report(version)), basePolicy(c), expected(), now)
			if !res.Accepted || res.Err() != nil {
				t.Errorf("%s version %d: %v", p, version, res.Err())
			}
			if res.AMD || !strings.Contains(res.Root, appraise.NotAMD) {
				t.Errorf("a minted root is called %q", res.Root)
			}
			named := false
			for _, f := range res.Findings {
				named = named || strings.Contains(f.Note, appraise.NotAMD)
			}
			if !named {
				t.Errorf("no finding says %s", appraise.NotAMD)
			}
		}
	}
}

// Each row changes one thing, in the report, in the policy or in what is
// expected, and is refused for that thing.
func TestAppraiseRefuses(t *testing.T) {
	milan := appraisetest.Mint(appraisetest.Config{})
	turin := appraisetest.Mint(appraisetest.Config{Product: snp.Turin})
	vlek := appraisetest.Mint(appraisetest.Config{VLEK: true})
	type row struct {
		name    string
		c       *appraisetest.Chain
		version uint32
		report  func(*snp.Report)
		policy  func(*appraise.Policy)
		expect  func(*appraise.Expect)
		code    code.Code
		field   string
	}
	rep := func(name string, f func(*snp.Report), c code.Code, field string) row {
		return row{name: name, report: f, code: c, field: field}
	}
	pol := func(name string, f func(*appraise.Policy), c code.Code, field string) row {
		return row{name: name, policy: f, code: c, field: field}
	}
	floors := func(name string, raise func(*appraise.TCBFloor)) []row {
		return []row{
			pol("reported "+name, func(p *appraise.Policy) {
				pp := p.Products[snp.Turin]
				raise(&pp.MinReportedTCB)
				p.Products[snp.Turin] = pp
			}, code.TCBFloor, "REPORTED_TCB"),
			pol("committed "+name, func(p *appraise.Policy) {
				pp := p.Products[snp.Turin]
				raise(&pp.MinCommittedTCB)
				p.Products[snp.Turin] = pp
			}, code.TCBFloor, "COMMITTED_TCB"),
			pol("launch "+name, func(p *appraise.Policy) {
				pp := p.Products[snp.Turin]
				raise(&pp.MinLaunchTCB)
				p.Products[snp.Turin] = pp
			}, code.TCBFloor, "LAUNCH_TCB"),
		}
	}
	rows := []row{
		rep("debug policy", func(r *snp.Report) { r.Policy |= snp.PolicyDebug }, code.GuestDebug, "POLICY.DEBUG"),
		rep("migration agent", func(r *snp.Report) { r.Policy |= snp.PolicyMigrateMA }, code.GuestMigratable, "POLICY.MIGRATE_MA"),
		rep("policy without bit 17", func(r *snp.Report) { r.Policy &^= snp.PolicyReserved1 }, code.GuestPolicy, "POLICY"),
		rep("unknown policy bit", func(r *snp.Report) { r.Policy |= 1 << 40 }, code.GuestPolicy, "POLICY"),
		rep("VMPL 1", func(r *snp.Report) { r.VMPL = 1 }, code.GuestVMPL, "VMPL"),
		rep("the host's own report", func(r *snp.Report) { r.VMPL = snp.VMPLHost }, code.GuestVMPL, "VMPL"),
		rep("another measurement", func(r *snp.Report) { r.Measurement[47] ^= 1 }, code.MeasurementUnknown, "MEASUREMENT"),
		rep("another instance", func(r *snp.Report) { r.HostData[0] ^= 1 }, code.HostDataMismatch, "HOST_DATA"),
		rep("another exchange", func(r *snp.Report) { r.ReportData[63] ^= 1 }, code.ReportDataMismatch, "REPORT_DATA"),
		rep("reserved platform bit 6", func(r *snp.Report) { r.PlatformInfo |= 1 << 6 }, code.PlatformInfo, "PLATFORM_INFO"),
		rep("TIO before version 5", func(r *snp.Report) { r.PlatformInfo |= snp.PlatformTIO }, code.PlatformInfo, "PLATFORM_INFO"),
		rep("unknown platform bit", func(r *snp.Report) { r.PlatformInfo |= 1 << 33 }, code.PlatformInfo, "PLATFORM_INFO"),
		rep("no alias check", func(r *snp.Report) { r.PlatformInfo &^= snp.PlatformAliasCheckComplete }, code.PlatformAliasCheck, "PLATFORM_INFO.ALIAS_CHECK_COMPLETE"),
		rep("reserved byte in COMMITTED_TCB", func(r *snp.Report) { r.CommittedTCB |= 1 << 16 }, code.TCBFloor, "COMMITTED_TCB"),
		rep("old LAUNCH_TCB", func(r *snp.Report) { r.LaunchTCB -= 1 << 56 }, code.TCBFloor, "LAUNCH_TCB"),
		{name: "version 2 by default", version: 2, code: code.ReportVersion, field: "REPORT_VERSION"},
		{name: "version 2 has no alias check", version: 2, policy: func(p *appraise.Policy) { p.Version2As = snp.Milan }, code: code.PlatformAliasCheck, field: "PLATFORM_INFO.ALIAS_CHECK_COMPLETE"},
		{name: "alias bit in version 2 is unknown", version: 2, report: func(r *snp.Report) { r.PlatformInfo |= snp.PlatformAliasCheckComplete },
			policy: func(p *appraise.Policy) { p.Version2As, p.WaiveAliasCheck = snp.Milan, true }, code: code.PlatformInfo, field: "PLATFORM_INFO"},
		{name: "VLEK by default", c: vlek, code: code.VEKKind, field: "SIGNING_KEY"},
		{name: "VLEK of another provider", c: vlek, policy: func(p *appraise.Policy) { p.SigningKey, p.CSPIDs = "vlek", []string{"other"} }, code: code.VEKCSP, field: "CSP_ID"},
		pol("VCEK where a VLEK is wanted", func(p *appraise.Policy) { p.SigningKey, p.CSPIDs = "vlek", []string{"test-cloud"} }, code.VEKKind, "SIGNING_KEY"),
		{name: "VLEK and a chip list", c: vlek, policy: func(p *appraise.Policy) {
			p.SigningKey, p.CSPIDs, p.Chips = "vlek", []string{"test-cloud"}, []appraise.ChipID{{1}}
		}, code: code.VEKKind, field: ""},
		pol("chip not listed", func(p *appraise.Policy) { p.Chips = []appraise.ChipID{{1}} }, code.ChipNotAllowed, "CHIP"),
		pol("product not listed", func(p *appraise.Policy) {
			p.Products = map[snp.Product]appraise.ProductPolicy{snp.Genoa: {}}
		}, code.ProductNotAllowed, "PRODUCT"),
		pol("guest policy value", func(p *appraise.Policy) { p.GuestPolicyMask = Mask(snp.PolicySMT) }, code.GuestPolicy, "POLICY.VALUE"),
		pol("guest policy asks for a bit", func(p *appraise.Policy) {
			p.GuestPolicyMask, p.GuestPolicyValue = Mask(snp.PolicySingleSocket), Mask(snp.PolicySingleSocket)
		}, code.GuestPolicy, "POLICY.VALUE"),
		pol("SMT forbidden", func(p *appraise.Policy) { p.PlatformInfoMask = 1 }, code.PlatformInfo, "PLATFORM_INFO.VALUE"),
		pol("TSME asked for", func(p *appraise.Policy) { p.PlatformInfoMask, p.PlatformInfoValue = 2, 2 }, code.PlatformInfo, "PLATFORM_INFO.VALUE"),
		pol("family ID", func(p *appraise.Policy) { p.FamilyID = &appraise.Hex16{1} }, code.GuestIDBlock, "FAMILY_ID"),
		pol("image ID", func(p *appraise.Policy) { p.ImageID = &appraise.Hex16{1} }, code.GuestIDBlock, "IMAGE_ID"),
		pol("guest SVN", func(p *appraise.Policy) { p.MinGuestSVN = 1 }, code.GuestIDBlock, "GUEST_SVN"),
		pol("ID key", func(p *appraise.Policy) { p.IDKeyDigests = []appraise.Hex48{{1}} }, code.GuestIDBlock, "ID_KEY_DIGEST"),
		pol("author key", func(p *appraise.Policy) { p.AuthorKeyDigests = []appraise.Hex48{{1}} }, code.GuestIDBlock, "AUTHOR_KEY_DIGEST"),
		{name: "author key digest without AUTHOR_KEY_EN", report: func(r *snp.Report) { r.AuthorKeyDigest = [48]byte{1} },
			policy: func(p *appraise.Policy) { p.AuthorKeyDigests = []appraise.Hex48{{1}} }, code: code.GuestIDBlock, field: "AUTHOR_KEY_DIGEST"},
		{name: "mitigation missing", version: 5, policy: func(p *appraise.Policy) {
			p.Products[snp.Milan] = appraise.ProductPolicy{LaunchMitigations: 0x4}
		}, code: code.PlatformMitigations, field: "LAUNCH_MIT_VECTOR"},
		{name: "current mitigation missing", version: 5, policy: func(p *appraise.Policy) {
			p.Products[snp.Milan] = appraise.ProductPolicy{LaunchMitigations: 0x2, CurrentMitigations: 0x10}
		}, code: code.PlatformMitigations, field: "CURRENT_MIT_VECTOR"},
		{name: "no vector before version 5", version: 4, policy: func(p *appraise.Policy) {
			p.Products[snp.Milan] = appraise.ProductPolicy{LaunchMitigations: 0x1}
		}, code: code.PlatformMitigations, field: "LAUNCH_MIT_VECTOR"},
		{name: "expected ID zero", report: func(r *snp.Report) { r.HostData = [32]byte{} }, expect: func(e *appraise.Expect) { e.HostData = new([32]byte) }, code: code.HostDataMismatch, field: "HOST_DATA"},
		pol("empty policy", func(p *appraise.Policy) { *p = appraise.Policy{} }, code.AppraisalPolicy, "POLICY_FILE"),
		pol("no measurement", func(p *appraise.Policy) { p.Measurements = nil }, code.AppraisalPolicy, "POLICY_FILE"),
		pol("no product", func(p *appraise.Policy) { p.Products = nil }, code.AppraisalPolicy, "POLICY_FILE"),
	}
	for name, raise := range map[string]func(*appraise.TCBFloor){
		"FMC":         func(f *appraise.TCBFloor) { f.FMC++ },
		"boot loader": func(f *appraise.TCBFloor) { f.BootLoader++ },
		"TEE":         func(f *appraise.TCBFloor) { f.TEE++ },
		"SNP":         func(f *appraise.TCBFloor) { f.SNP++ },
		"microcode":   func(f *appraise.TCBFloor) { f.Microcode++ },
	} {
		for _, r := range floors(name, raise) {
			r.c = turin
			rows = append(rows, r)
		}
	}
	for _, tc := range rows {
		c, version := tc.c, tc.version
		if c == nil {
			c = milan
		}
		if version == 0 {
			version = 3
		}
		r, p, e := c.Report(version), basePolicy(c), expected()
		if tc.report != nil {
			tc.report(r)
		}
		if tc.policy != nil {
			tc.policy(p)
		}
		if tc.expect != nil {
			tc.expect(&e)
		}
		res := appraise.Appraise(verified(t, c, r), p, e, now)
		if res.Accepted || res.Err() == nil {
			t.Errorf("%s: accepted", tc.name)
			continue
		}
		if tc.field == "" { // the policy contradicts itself
			continue
		}
		found := false
		for _, f := range res.Findings {
			found = found || !f.OK && f.Field == tc.field && f.Code == tc.code
			if !f.OK && (f.Found == "" || f.Want == "" || f.Code == "") {
				t.Errorf("%s: a refusal that does not explain itself: %+v", tc.name, f)
			}
		}
		if !found {
			t.Errorf("%s: refused by %v, want %s in %s", tc.name, res.Err(), tc.code, tc.field)
		}
	}
	if res := appraise.Appraise(verified(t, milan, milan.Report(3)), nil, expected(), now); res.Accepted {
		t.Error("no policy at all: accepted")
	}
	if res := appraise.Appraise(nil, basePolicy(milan), expected(), now); res.Accepted {
		t.Error("nothing verified: accepted")
	}
	if res := appraise.Appraise(&appraise.Verified{}, basePolicy(milan), expected(), now); res.Accepted {
		t.Error("an empty Verified: accepted")
	}
	if res := appraise.Appraise(verified(t, milan, milan.Report(3)), basePolicy(milan), expected(), now.AddDate(30, 0, 0)); res.Accepted {
		t.Error("a Verified older than its certificates: accepted")
	}
}

type Mask = appraise.Mask

// Whatever a default refuses, policy can allow where it should.
func TestPolicyAllows(t *testing.T) {
	milan := appraisetest.Mint(appraisetest.Config{})
	vlek := appraisetest.Mint(appraisetest.Config{VLEK: true})
	for _, tc := range []struct {
		name    string
		c       *appraisetest.Chain
		version uint32
		report  func(*snp.Report)
		policy  func(*appraise.Policy)
	}{
		{"version 2 with a waiver", milan, 2, nil, func(p *appraise.Policy) { p.Version2As, p.WaiveAliasCheck = snp.Milan, true }},
		{"VLEK", vlek, 3, nil, func(p *appraise.Policy) { p.SigningKey, p.CSPIDs = "vlek", []string{"a", "test-cloud"} }},
		{"VLEK without CHIP_ID", vlek, 3, func(r *snp.Report) { r.ChipID = [64]byte{} }, func(p *appraise.Policy) { p.SigningKey, p.CSPIDs = "vlek", []string{"test-cloud"} }},
		{"chip listed", milan, 3, nil, func(p *appraise.Policy) { p.Chips = []appraise.ChipID{{9}, appraise.ChipID(milan.ChipID)} }},
		{"VMPL 1", milan, 3, func(r *snp.Report) { r.VMPL = 1 }, func(p *appraise.Policy) { p.VMPLs = []uint32{1} }},
		{"platform bit 6", milan, 3, func(r *snp.Report) { r.PlatformInfo |= 1 << 6 }, func(p *appraise.Policy) { p.PlatformInfoAllow = 1 << 6 }},
		{"mitigations", milan, 5, nil, func(p *appraise.Policy) {
			p.Products[snp.Milan] = appraise.ProductPolicy{LaunchMitigations: 3, CurrentMitigations: 4}
		}},
		{"guest policy bit named by mask", milan, 3, func(r *snp.Report) { r.Policy |= 1 << 40 }, func(p *appraise.Policy) { p.GuestPolicyMask, p.GuestPolicyValue = 1<<40, 1<<40 }},
		{"author key", milan, 3, func(r *snp.Report) {
			r.AuthorKeyDigest, r.KeyInfo = [48]byte{1}, snp.MakeKeyInfo(snp.SignedByVCEK, false, true)
		}, func(p *appraise.Policy) { p.AuthorKeyDigests = []appraise.Hex48{{1}} }},
		{"guest SVN", milan, 3, func(r *snp.Report) { r.GuestSVN = 5 }, func(p *appraise.Policy) { p.MinGuestSVN = 5 }},
	} {
		r, p := tc.c.Report(tc.version), basePolicy(tc.c)
		if tc.report != nil {
			tc.report(r)
		}
		tc.policy(p)
		if err := appraise.Appraise(verified(t, tc.c, r), p, expected(), now).Err(); err != nil {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

// Offline, what was not compared is said to be so.
func TestNotCheckedIsSaid(t *testing.T) {
	c := appraisetest.Mint(appraisetest.Config{})
	res := appraise.Appraise(verified(t, c, c.Report(3)), basePolicy(c), appraise.Expect{}, now)
	if !res.Accepted {
		t.Fatal(res.Err())
	}
	want := map[string]bool{"HOST_DATA": true, "REPORT_DATA": true}
	for _, f := range res.Findings {
		if want[f.Field] {
			delete(want, f.Field)
			if f.Verdict() != "not checked" || f.Note == "" {
				t.Errorf("%s: %s, %q", f.Field, f.Verdict(), f.Note)
			}
		}
	}
	if len(want) > 0 {
		t.Errorf("no finding for %v", want)
	}
}

func TestPolicyFile(t *testing.T) {
	m := strings.Repeat("a1", 48)
	good := `{"products": {"Milan": {"min_reported_tcb": {"snp": 22, "microcode": 213}}, "Turin": {"min_launch_tcb": {"fmc": 1}}},
	  "measurements": ["` + m + `"], "chips": ["1e550a8ee5cf9f4d"], "guest_policy_mask": "0x90000", "guest_policy_value": "0x10000",
	  "crl_grace": "72h", "waive_alias_check": true, "version2_as": "Milan"}`
	p, err := appraise.ParsePolicy([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	if p.Products[snp.Milan].MinReportedTCB.SNP != 22 || p.Chips[0][0] != 0x1e || p.Chips[0][8] != 0 || time.Duration(p.CRLGrace) != 72*time.Hour || p.GuestPolicyMask != 0x90000 {
		t.Errorf("%+v", p)
	}
	b, err := p.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	again, err := appraise.ParsePolicy(b)
	if err != nil {
		t.Fatalf("what Marshal wrote: %v\n%s", err, b)
	}
	b2, _ := json.Marshal(again)
	b1, _ := json.Marshal(p)
	if string(b1) != string(b2) {
		t.Errorf("%s\n%s", b1, b2)
	}
	minimal := func(more string) string {
		return `{"products": {"Milan": {}}, "measurements": ["` + m + `"]` + more + `}`
	}
	if _, err := appraise.ParsePolicy([]byte(minimal(""))); err != nil {
		t.Error(err)
	}
	for name, bad := range map[string]string{
		"empty":                      `{}`,
		"no bytes":                   ``,
		"unknown field":              minimal(`, "debug": true`),
		"wrong case":                 `{"Products": {"Milan": {}}, "measurements": ["` + m + `"]}`,
		"no measurement":             `{"products": {"Milan": {}}, "measurements": []}`,
		"measurement of zeros":       `{"products": {"Milan": {}}, "measurements": ["` + strings.Repeat("0", 96) + `"]}`,
		"short measurement":          `{"products": {"Milan": {}}, "measurements": ["a1"]}`,
		"measurement is no hex":      `{"products": {"Milan": {}}, "measurements": ["` + strings.Repeat("zz", 48) + `"]}`,
		"unknown product":            `{"products": {"Rome": {}}, "measurements": ["` + m + `"]}`,
		"alias of a product":         `{"products": {"Bergamo": {}}, "measurements": ["` + m + `"]}`,
		"floor out of range":         `{"products": {"Milan": {"min_reported_tcb": {"snp": 256}}}, "measurements": ["` + m + `"]}`,
		"FMC on Milan":               `{"products": {"Milan": {"min_reported_tcb": {"fmc": 1}}}, "measurements": ["` + m + `"]}`,
		"unknown signing key":        minimal(`, "signing_key": "any"`),
		"VLEK without provider":      minimal(`, "signing_key": "vlek"`),
		"provider without VLEK":      minimal(`, "csp_ids": ["x"]`),
		"empty provider":             minimal(`, "signing_key": "vlek", "csp_ids": [""]`),
		"VLEK with chips":            minimal(`, "signing_key": "vlek", "csp_ids": ["x"], "chips": ["1e550a8ee5cf9f4d"]`),
		"chip of zeros":              minimal(`, "chips": ["0000000000000000"]`),
		"value outside mask":         minimal(`, "guest_policy_value": "0x10000"`),
		"debug asked for":            minimal(`, "guest_policy_mask": "0x80000", "guest_policy_value": "0x80000"`),
		"platform value outside":     minimal(`, "platform_info_value": "0x2"`),
		"mask as a number":           minimal(`, "guest_policy_mask": 65536`),
		"mask with underscore":       minimal(`, "guest_policy_mask": "0x1_0"`),
		"family of zeros":            minimal(`, "family_id": "` + strings.Repeat("0", 32) + `"`),
		"key digest of zeros":        minimal(`, "id_key_digests": ["` + strings.Repeat("0", 96) + `"]`),
		"VMPL 4":                     minimal(`, "vmpls": [4]`),
		"negative grace":             minimal(`, "crl_grace": "-1h"`),
		"version 2 as other product": minimal(`, "version2_as": "Genoa"`),
	} {
		if _, err := appraise.ParsePolicy([]byte(bad)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
