package proof

import (
	"encoding/base64"
	"encoding/hex"
	"strings"
	"testing"

	"attestbox/internal/appraise"
	"attestbox/internal/appraise/amdroots"
	"attestbox/internal/appraise/appraisetest"
	"attestbox/internal/claim"
	"attestbox/internal/code"
	"attestbox/internal/snp"
)

// rootLines declare and trust a chain's ARK.
func rootLines(t *testing.T, ch *appraisetest.Chain) []string {
	t.Helper()
	name := ch.ARK.Subject.CommonName
	k, err := claim.KeyOfSPKI(name, ch.ARK.RawSubjectPublicKeyInfo)
	if err != nil {
		t.Fatal(err)
	}
	return []string{
		"certificate " + name + " rsa " + base64.StdEncoding.EncodeToString(ch.ARK.Raw),
		k.String() + " is-trusted-for-attestation on Platform[amd-sev-snp, product = " + string(ch.Product) + "]",
	}
}

// From the report's bytes to the proof, with roots and floors from the policy
// alone: field appraisal and proof agree.
func TestFromReport(t *testing.T) {
	digest := claim.Measurement{Digest: hexOf(0xA1, 48)}
	for _, product := range []snp.Product{snp.Milan, snp.Genoa, snp.Turin} {
		ch := appraisetest.Mint(appraisetest.Config{Product: product})
		lines := append(rootLines(t, ch), digest.String()+" is-trusted",
			"Platform[amd-sev-snp, debug: no, migrate: no, product = "+string(product)+", tcb.snp >= 22, reported-tcb.microcode >= 200] has-trusted-platform-property")
		p := policy(t, lines...)
		roots, err := Roots(p, must(amdroots.Load()))
		if err != nil {
			t.Fatal(err)
		}
		ap, err := AppraisePolicy(p)
		if err != nil {
			t.Fatal(err)
		}
		for name, tc := range map[string]struct {
			change func(*snp.Report)
			field  bool // refused by field appraisal
			proved bool
		}{
			"good":         {func(*snp.Report) {}, false, true},
			"debug":        {func(r *snp.Report) { r.Policy |= snp.PolicyDebug }, true, false},
			"another":      {func(r *snp.Report) { r.Measurement[0] ^= 1 }, true, false},
			"old launch":   {func(r *snp.Report) { r.LaunchTCB = snp.EncodeTCB(product, snp.TCB{SNP: 21, Microcode: 255}) }, true, false},
			"vmpl":         {func(r *snp.Report) { r.VMPL = 1 }, true, false},
			"alias check":  {func(r *snp.Report) { r.PlatformInfo = 0 }, true, false},
			"not migrated": {func(r *snp.Report) { r.Policy |= snp.PolicyMigrateMA }, true, false},
		} {
			r := ch.Report(3)
			tc.change(r)
			v, err := appraise.Verify(ch.Sign(r), appraise.Endorsements{VEK: ch.VEK.Raw, ASK: ch.ASK.Raw}, roots, now, ap.VerifyOptions(nil))
			if err != nil {
				t.Fatalf("%s %s: %v", product, name, err)
			}
			if res := appraise.Appraise(v, ap, appraise.Expect{}, now); res.Accepted == tc.field {
				t.Errorf("%s %s: field appraisal accepted %v: %v", product, name, res.Accepted, res.Err())
			}
			e, err := FromSNP(v, auth, "")
			if err != nil {
				t.Fatal(err)
			}
			proof, err := Prove(p, e, now)
			if (err == nil) != tc.proved {
				t.Errorf("%s %s: proved %v: %v", product, name, err == nil, err)
			}
			if err == nil && !strings.Contains(proof.String(), appraise.NotAMD) {
				t.Errorf("%s: the test's root is not named %s", product, appraise.NotAMD)
			}
		}
		if _, fmc := must(FromSNP(must(appraise.Verify(ch.Sign(ch.Report(3)), appraise.Endorsements{VEK: ch.VEK.Raw, ASK: ch.ASK.Raw}, roots, now, appraise.Options{})), auth, "")).Properties()["tcb.fmc"]; fmc != (product == snp.Turin) {
			t.Errorf("%s: FMC present %v", product, fmc)
		}
	}
}

// Evidence without an instance is none.
func TestZeroHostData(t *testing.T) {
	ch := appraisetest.Mint(appraisetest.Config{})
	r := ch.Report(3)
	r.HostData = [32]byte{}
	root := must(appraise.NewRoots(must(appraise.NewRoot(snp.Milan, ch.ARK.Raw))))
	v := must(appraise.Verify(ch.Sign(r), appraise.Endorsements{VEK: ch.VEK.Raw, ASK: ch.ASK.Raw}, root, now, appraise.Options{}))
	if _, err := FromSNP(v, auth, ""); err == nil {
		t.Error("accepted HOST_DATA of zeros")
	}
	if _, err := FromSNP(nil, auth, ""); err == nil {
		t.Error("accepted no report")
	}
}

func TestFromEnclave(t *testing.T) {
	var m [32]byte
	if _, err := hex.Decode(m[:], []byte(program.Digest)); err != nil {
		t.Fatal(err)
	}
	p := policy(t, trustProgram, trustDeploy)
	if _, err := Prove(p, must(FromEnclave(deploy, m, [32]byte{1}, auth, "")), now); err != nil {
		t.Error(err)
	}
	if _, err := FromEnclave(claim.Key{}, m, [32]byte{}, auth, ""); err == nil {
		t.Error("accepted without a platform key")
	}
	if _, err := FromEnclave(deploy, m, [32]byte{}, claim.Key{}, ""); err == nil {
		t.Error("accepted without a subject")
	}
	if _, err := FromEnclave(deploy, m, [32]byte{}, auth, "Key Server"); err == nil {
		t.Error("accepted a malformed role")
	}
}

// The keys that claim calls AMD's are those of AMD's certificates, and a policy
// that trusts them by hash finds them.
func TestAMDRoots(t *testing.T) {
	builtin := must(amdroots.Load())
	for _, r := range builtin.List() {
		want, ok := claim.AMDRoot(string(r.Product()))
		got, err := claim.KeyOfSPKI("ARK-"+string(r.Product()), r.SPKI())
		if !ok || err != nil || got != want {
			t.Errorf("%s: %v, %v, want %v", r.Product(), got, err, want)
		}
		p := policy(t, trustWeb, want.String()+" is-trusted-for-attestation on Platform[amd-sev-snp, product = "+string(r.Product())+"]")
		roots, err := Roots(p, builtin)
		if err != nil || !roots.AMD() || !p.AMD() || len(roots.List()) != 1 {
			t.Errorf("%s: %v, %v", r.Product(), roots, err)
		}
	}
	ch := appraisetest.Mint(appraisetest.Config{Product: snp.Genoa})
	set, err := Roots(policy(t, append(rootLines(t, ch), "certificate SEV-Genoa rsa "+base64.StdEncoding.EncodeToString(ch.ASK.Raw))...), builtin)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := appraise.Verify(ch.Sign(ch.Report(3)), appraise.Endorsements{VEK: ch.VEK.Raw}, set, now, appraise.Options{}); err != nil {
		t.Errorf("a declared intermediate does not serve: %v", err)
	}
	if _, err := Roots(policy(t, trustWeb, trustRoot), builtin); err == nil {
		t.Error("a root without a certificate was made")
	}
	if _, err := Roots(policy(t, trustWeb), builtin); err == nil {
		t.Error("roots without a claim")
	}
}

func TestAppraisePolicy(t *testing.T) {
	base := "Platform[amd-sev-snp, debug: no, migrate: no, product = Genoa"
	end := "] has-trusted-platform-property"
	p := must(AppraisePolicy(policy(t, trustWeb, trustProgram,
		base+", tcb.snp >= 22, reported-tcb.snp >= 23, tcb.microcode = 72, vmpl in {0, 1}, chip = "+chip+end,
		base+", tcb.snp >= 20, guest-svn >= 3, chip in {"+chip+", "+hexOf(0xcd, 64)+"}"+end,
		"Platform[amd-sev-snp, debug: no, migrate: no, product = Turin, tcb.fmc >= 1, alias-check in {yes, no}, chip = "+hexOf(0xce, 8)+end)))
	genoa, turin := p.Products[snp.Genoa], p.Products[snp.Turin]
	if genoa.MinReportedTCB != (appraise.TCBFloor{SNP: 20}) || genoa.MinLaunchTCB != (appraise.TCBFloor{SNP: 20}) || turin.MinCommittedTCB != (appraise.TCBFloor{FMC: 1}) {
		t.Errorf("floors %+v %+v", genoa, turin)
	}
	if len(p.Measurements) != 1 || len(p.Chips) != 3 || !p.WaiveAliasCheck || len(p.VMPLs) != 2 || p.MinGuestSVN != 0 || p.SigningKey == "vlek" {
		t.Errorf("%+v", p)
	}
	one := must(AppraisePolicy(policy(t, trustWeb, base+", tcb.snp >= 22, reported-tcb.snp >= 23, family-id = "+hexOf(1, 16)+", id-key-digest = "+hexOf(2, 48)+", signing-key = vlek, csp = cloud, guest-svn >= 3"+end)))
	if g := one.Products[snp.Genoa]; g.MinReportedTCB.SNP != 23 || g.MinLaunchTCB.SNP != 22 || one.FamilyID == nil || len(one.IDKeyDigests) != 1 || one.SigningKey != "vlek" || len(one.CSPIDs) != 1 || one.MinGuestSVN != 3 || len(one.VMPLs) != 1 {
		t.Errorf("%+v", one)
	}
	for name, lines := range map[string][]string{
		"nothing":        nil,
		"no requirement": {trustWeb},
		"no VM":          {trustProgram, require},
		"revoked":        {trustWeb, require, web.String() + " is-revoked"},
		"both keys":      {trustWeb, require, base + ", signing-key = vlek, csp = cloud" + end},
		"vlek, no csp":   {trustWeb, base + ", signing-key = vlek" + end},
		"tcb too high":   {trustWeb, base + ", tcb.snp >= 256" + end},
		"vmpl too high":  {trustWeb, base + ", vmpl = 4" + end},
	} {
		_, err := AppraisePolicy(policy(t, lines...))
		wantCode(t, name, err, code.AppraisalPolicy)
	}
}

// A chip is revoked whether it is named as its product does, or as reports do:
// Turin's CHIP_ID has 8 bytes and 56 zeros.
func TestChipRevoked(t *testing.T) {
	for _, product := range []snp.Product{snp.Milan, snp.Turin} {
		ch := appraisetest.Mint(appraisetest.Config{Product: product})
		r := ch.Report(3)
		lines := append(rootLines(t, ch), hexMeasurement(r)+" is-trusted",
			"Platform[amd-sev-snp, debug: no, migrate: no, product = "+string(product)+"] has-trusted-platform-property")
		root := must(appraise.NewRoots(must(appraise.NewRoot(product, ch.ARK.Raw))))
		v := must(appraise.Verify(ch.Sign(r), appraise.Endorsements{VEK: ch.VEK.Raw, ASK: ch.ASK.Raw}, root, now, appraise.Options{}))
		e := must(FromSNP(v, auth, ""))
		if _, err := Prove(policy(t, lines...), e, now); err != nil {
			t.Fatal(err)
		}
		for _, id := range []string{hex.EncodeToString(r.ChipID[:]), hex.EncodeToString(r.ChipID[:product.ChipIDSize()])} {
			_, err := Prove(policy(t, append(lines, "Chip["+id+"] is-revoked")...), e, now)
			wantCode(t, string(product)+" "+id, err, code.ClaimRevoked)
		}
	}
}

func hexMeasurement(r *snp.Report) string {
	return claim.Measurement{Digest: hex.EncodeToString(r.Measurement[:])}.String()
}
