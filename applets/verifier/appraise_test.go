package verifier

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-sev-guest/verify/trust"

	"attestbox/internal/applet"
	"attestbox/internal/appraise"
	"attestbox/internal/appraise/appraisetest"
	"attestbox/internal/code"
	"attestbox/internal/snp"
	"attestbox/internal/testenv"
)

// call runs the applet with what a shell would give it.
func call(stdin []byte, args ...string) (stdout, stderr string, exit int) {
	var out, errs bytes.Buffer
	env := &applet.Env{Name: "verifier appraise", Stdin: bytes.NewReader(stdin), Stdout: &out, Stderr: &errs, Getenv: func(string) string { return "" }}
	err := Appraise(context.Background(), env, args)
	applet.Print(&errs, env.Name, err)
	return out.String(), errs.String(), applet.ExitCode(err)
}

func file(t testing.TB, name string, b []byte) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(p, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func asPEM(ders ...[]byte) []byte {
	var b bytes.Buffer
	for _, d := range ders {
		pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: d})
	}
	return b.Bytes()
}

const at = "2026-01-15T12:00:00Z"

// The report of a real Milan chip, as a person would try it.
func TestRealMilan(t *testing.T) {
	report := testenv.Shared(t, "vectors/snp/report_milan.hex")
	vek := testenv.Shared(t, "vectors/snp/vcek_milan.der")
	chain := testenv.Shared(t, "vectors/snp/cert_chain_milan")
	base := []string{"-report", report, "-vek", vek, "-chain", chain, "-time", at}
	out, errs, exit := call(nil, append(base, "-signature-only", "-product", "Milan")...)
	if exit != 0 || !strings.Contains(out, "verdict: SIGNATURE VERIFIED") || strings.Contains(out, appraise.NotAMD) || !strings.Contains(out, "not checked  MEASUREMENT") {
		t.Errorf("exit %d\n%s%s", exit, out, errs)
	}
	out, errs, exit = call(nil, append(base, "-signature-only")...)
	if exit != applet.ExitRefused || !strings.Contains(errs, "report-version") || !strings.Contains(errs, "-product") {
		t.Errorf("version 2 without -product: exit %d\n%s%s", exit, out, errs)
	}
	digest := "7a1e5c266c0108dbc9bb94fa926951320940915d0aafb42464bd88b579ea158d3e1a0dc39b2c60bd95b9c480cd81841f"
	out, errs, exit = call(nil, append(base, "-product", "Milan", "-measurement", digest)...)
	if exit != applet.ExitRefused || !strings.Contains(errs, "platform-alias-check") {
		t.Errorf("without a waiver: exit %d\n%s%s", exit, out, errs)
	}
	policy := file(t, "policy.json", []byte(`{"products": {"Milan": {"min_reported_tcb": {"boot_loader": 3, "snp": 8, "microcode": 115}}},
		"measurements": ["`+digest+`"], "version2_as": "Milan", "waive_alias_check": true}`))
	out, errs, exit = call(nil, append(base, "-policy", policy)...)
	if exit != 0 || !strings.Contains(out, "verdict: ACCEPTED") {
		t.Errorf("with a waiver: exit %d\n%s%s", exit, out, errs)
	}
	out, _, exit = call(nil, append(base, "-policy", policy, "-measurement", strings.Repeat("ab", 48))...)
	if exit != applet.ExitRefused || !strings.Contains(out, "REFUSED      MEASUREMENT") {
		t.Errorf("another measurement: exit %d\n%s", exit, out)
	}
	out, _, exit = call(nil, append(base, "-policy", policy, "-host-data", strings.Repeat("11", 32))...)
	if exit != applet.ExitRefused || !strings.Contains(out, "REFUSED      HOST_DATA") {
		t.Errorf("another instance: exit %d\n%s", exit, out)
	}
}

// Every shape in which reports and certificates are kept.
func TestInputShapes(t *testing.T) {
	for _, c := range []*appraisetest.Chain{
		appraisetest.Mint(appraisetest.Config{Product: snp.Genoa}),
		appraisetest.Mint(appraisetest.Config{Product: snp.Turin}),
		appraisetest.Mint(appraisetest.Config{Product: snp.Genoa, VLEK: true}),
	} {
		raw := c.Sign(c.Report(5))
		root := file(t, "ark.pem", asPEM(c.ARK.Raw))
		text := hex.EncodeToString(raw)
		for name, report := range map[string][]byte{
			"raw": raw, "hex": []byte(text), "hex in lines": []byte("0x" + text[:100] + "\n" + strings.ToUpper(text[100:]) + "\n"),
		} {
			_, errs, exit := call(nil, "-report", file(t, "report", report), "-vek", file(t, "vek", c.VEK.Raw), "-chain", file(t, "chain", asPEM(c.ASK.Raw, c.ARK.Raw)), "-root", root, "-signature-only", "-time", at)
			if exit != 0 {
				t.Errorf("report %s: exit %d %s", name, exit, errs)
			}
		}
		for name, chain := range map[string][]byte{
			"PEM": asPEM(c.ASK.Raw, c.ARK.Raw), "PEM, ARK first": asPEM(c.ARK.Raw, c.ASK.Raw),
			"DER": append(bytes.Clone(c.ASK.Raw), c.ARK.Raw...), "DER, ARK first": append(bytes.Clone(c.ARK.Raw), c.ASK.Raw...), "ASK alone": c.ASK.Raw,
			"the VEK too": asPEM(c.VEK.Raw, c.ASK.Raw, c.ARK.Raw), "each twice": asPEM(c.ASK.Raw, c.ARK.Raw, c.ASK.Raw, c.ARK.Raw),
			"text around, CRLF": bytes.ReplaceAll(slices.Concat([]byte("subject=ASK\n"), asPEM(c.ASK.Raw), []byte("\nBag Attributes: <none>\n"), asPEM(c.ARK.Raw), []byte("end\n")), []byte("\n"), []byte("\r\n")),
		} {
			out, errs, exit := call(raw, "-report", "-", "-vek", file(t, "vek.pem", asPEM(c.VEK.Raw)), "-chain", file(t, "chain", chain), "-root", root, "-signature-only", "-time", at)
			if exit != 0 || !strings.Contains(out, appraise.NotAMD) {
				t.Errorf("chain %s: exit %d %s%s", name, exit, out, errs)
			}
		}
		if _, errs, exit := call(raw, "-report", "-", "-vek", file(t, "vek", c.VEK.Raw), "-root", file(t, "both.pem", asPEM(c.ARK.Raw, c.ASK.Raw)), "-signature-only", "-time", at); exit != 0 {
			t.Errorf("intermediate in the root file: exit %d %s", exit, errs)
		}
		_, errs, exit := call(raw, "-report", "-", "-vek", file(t, "vek", c.VEK.Raw), "-chain", file(t, "chain", asPEM(c.ASK.Raw, c.ARK.Raw)), "-signature-only", "-time", at)
		if exit != applet.ExitRefused || !strings.Contains(errs, string(code.VEKRoot)) {
			t.Errorf("under AMD's roots: exit %d %s", exit, errs)
		}
	}
}

func TestExitCodes(t *testing.T) {
	c := appraisetest.Mint(appraisetest.Config{Product: snp.Genoa})
	other := appraisetest.Mint(appraisetest.Config{Product: snp.Genoa})
	raw := c.Sign(c.Report(3))
	dir := t.TempDir()
	write := func(name string, b []byte) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	report, vek := write("report", raw), write("vek", c.VEK.Raw)
	chain, root := write("chain", asPEM(c.ASK.Raw, c.ARK.Raw)), write("root", c.ARK.Raw)
	flipped := bytes.Clone(raw)
	flipped[0x90] ^= 1
	digest := strings.Repeat("a1", 48)
	with := func(report, vek, chain, root string, more ...string) []string {
		return append([]string{"-report", report, "-vek", vek, "-chain", chain, "-root", root, "-time", at}, more...)
	}
	for _, tc := range []struct {
		name string
		args []string
		exit int
		want string
	}{
		{"accepted", with(report, vek, chain, root, "-measurement", digest, "-host-data", strings.Repeat("b2", 32), "-report-data", strings.Repeat("c3", 64)), 0, ""},
		{"accepted, one of two", with(report, vek, chain, root, "-measurement", strings.Repeat("00", 47)+"01", "-measurement", digest), 0, ""},
		{"help", []string{"-h"}, 0, ""},
		{"flipped", with(write("flipped", flipped), vek, chain, root, "-signature-only"), 3, "report-signature"},
		{"short", with(write("short", raw[:1183]), vek, chain, root, "-signature-only"), 3, "report-malformed"},
		{"long", with(write("long", append(bytes.Clone(raw), 0)), vek, chain, root, "-signature-only"), 3, "report-malformed"},
		{"another measurement", with(report, vek, chain, root, "-measurement", strings.Repeat("a2", 48)), 3, "measurement-unknown"},
		{"another product", with(report, vek, chain, root, "-product", "Milan", "-signature-only"), 3, "report-product"},
		{"expired", []string{"-report", report, "-vek", vek, "-chain", chain, "-root", root, "-signature-only", "-time", "2060-01-01T00:00:00Z"}, 3, "vek-validity"},
		{"broken VEK", with(report, write("cut", c.VEK.Raw[:len(c.VEK.Raw)-1]), chain, root, "-signature-only"), 3, "neither PEM nor DER"},
		{"VEK is no certificate", with(report, write("seq", []byte{0x30, 3, 2, 1, 1}), chain, root, "-signature-only"), 3, "vek-chain"},
		{"two VEKs", with(report, write("two", asPEM(c.VEK.Raw, c.VEK.Raw)), chain, root, "-signature-only"), 3, "want one"},
		{"key for a VEK", with(report, write("key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{1}})), chain, root, "-signature-only"), 3, "CERTIFICATE"},
		{"chain with another's VEK", with(report, vek, write("three", asPEM(c.ASK.Raw, other.VEK.Raw, other.ASK.Raw, c.ARK.Raw)), root, "-signature-only"), 3, "two intermediate"},
		{"two roots", with(report, vek, write("four", asPEM(c.ASK.Raw, other.ARK.Raw, c.ARK.Raw)), root, "-signature-only"), 3, "two root"},
		{"empty revocation list", with(report, vek, chain, root, "-signature-only", "-crl", write("crl", nil)), 3, "crl-bad"},
		{"root is no root", with(report, vek, chain, chain+"x", "-signature-only"), 1, "no such file"},
		{"root without a root", with(report, vek, chain, write("ask", c.ASK.Raw), "-signature-only"), 1, "self-signed"},
		{"no such report", with(report+"x", vek, chain, root, "-signature-only"), 1, "no such file"},
		{"empty report", with(write("empty", nil), vek, chain, root, "-signature-only"), 3, "report-malformed"},
		{"huge report", with(write("huge", make([]byte, 65<<10)), vek, chain, root, "-signature-only"), 1, "more than 65536 bytes"},
		{"bad policy", with(report, vek, chain, root, "-policy", write("p", []byte(`{"products": {}}`))), 1, "appraisal-policy"},
		{"nothing to judge by", with(report, vek, chain, root), 3, "give -policy or -measurement"},
		{"both", with(report, vek, chain, root, "-signature-only", "-measurement", digest), 2, "-signature-only"},
		{"no report", []string{"-vek", vek, "-signature-only"}, 2, "-report"},
		{"bad time", []string{"-report", report, "-vek", vek, "-signature-only", "-time", "yesterday"}, 2, "RFC 3339"},
		{"bad product", with(report, vek, chain, root, "-signature-only", "-product", "Rome"), 2, "Rome"},
		{"bad measurement", with(report, vek, chain, root, "-measurement", "a1"), 2, "hex digits"},
		{"bad host data", with(report, vek, chain, root, "-measurement", digest, "-host-data", "zz"), 2, "-host-data"},
		{"argument", with(report, vek, chain, root, "-signature-only", "x"), 2, "unexpected"},
		{"unknown flag", []string{"-nope"}, 2, "nope"},
	} {
		_, errs, exit := call(nil, tc.args...)
		if exit != tc.exit || !strings.Contains(errs, tc.want) {
			t.Errorf("%s: exit %d, want %d; %s", tc.name, exit, tc.exit, errs)
		}
	}
}

func TestJSON(t *testing.T) {
	c := appraisetest.Mint(appraisetest.Config{Product: snp.Turin})
	r := c.Report(5)
	r.Policy |= snp.PolicyDebug
	args := []string{"-report", file(t, "report", c.Sign(r)), "-vek", file(t, "vek", c.VEK.Raw), "-chain", file(t, "chain", asPEM(c.ASK.Raw, c.ARK.Raw)),
		"-root", file(t, "root", c.ARK.Raw), "-time", at, "-json", "-measurement", strings.Repeat("a1", 48)}
	out, errs, exit := call(nil, args...)
	var v verdict
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if exit != applet.ExitRefused || v.Accepted || v.AMD || v.Product != snp.Turin || v.Time != at || !strings.Contains(v.Root, appraise.NotAMD) {
		t.Errorf("exit %d, %+v, %s", exit, v, errs)
	}
	bad := 0
	for _, f := range v.Findings {
		if !f.OK {
			bad++
			if f.Field != "POLICY.DEBUG" || f.Code != code.GuestDebug || f.Found != "1" || f.Want != "0" {
				t.Errorf("%+v", f)
			}
		}
	}
	if bad != 1 {
		t.Errorf("%d findings refuse, want one", bad)
	}
	if when, err := time.Parse(time.RFC3339, v.Time); err != nil || !when.Equal(appraisetest.Now) {
		t.Errorf("time %q", v.Time)
	}
}

// Without a policy nothing is accepted, and a reader still sees every field
// with what the defaults want.
func TestNoPolicyShowsEveryField(t *testing.T) {
	c := appraisetest.Mint(appraisetest.Config{Product: snp.Genoa})
	r := c.Report(5)
	r.VMPL = 2
	out, errs, exit := call(c.Sign(r), "-report", "-", "-vek", file(t, "vek", c.VEK.Raw), "-chain", file(t, "chain", asPEM(c.ASK.Raw, c.ARK.Raw)), "-root", file(t, "root", c.ARK.Raw), "-time", at)
	if exit != applet.ExitRefused || !strings.Contains(errs, string(code.AppraisalPolicy)) {
		t.Errorf("exit %d: %s", exit, errs)
	}
	for _, want := range []string{"REFUSED      MEASUREMENT", "REFUSED      VMPL", "ok           POLICY.DEBUG", "ok           SIGNATURE ", "verdict: REFUSED"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}

// Any byte of the certificates changed, wherever it hits, is a refusal, not a
// failure, and in JSON a decision.
func TestFlippedCertificates(t *testing.T) {
	c := appraisetest.Mint(appraisetest.Config{Product: snp.Turin})
	dir := t.TempDir()
	path := func(name string, b []byte) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	report, root := path("report", c.Sign(c.Report(5))), path("root", c.ARK.Raw)
	chain := slices.Concat(c.ASK.Raw, c.ARK.Raw)
	try := func(what string, at0 int, vek, chain []byte) {
		out, errs, exit := call(nil, "-report", report, "-vek", path("vek", vek), "-chain", path("chain", chain), "-root", root, "-signature-only", "-json", "-time", at)
		var v verdict
		if err := json.Unmarshal([]byte(out), &v); err != nil || exit != applet.ExitRefused || v.Accepted || len(v.Findings) == 0 {
			t.Fatalf("byte %d of %s: exit %d, %v, %s%s", at0, what, exit, err, out, errs)
		}
	}
	for i := 0; i < len(c.VEK.Raw); i += 7 {
		b := bytes.Clone(c.VEK.Raw)
		b[i] ^= 0x41
		try("VEK", i, b, chain)
	}
	for i := 0; i < len(chain); i += 31 {
		b := bytes.Clone(chain)
		b[i] ^= 0x41
		try("chain", i, c.VEK.Raw, b)
	}
}

// AMD's bundles for VCEK and VLEK in one file: the VEK says which one it needs.
func TestBothIntermediates(t *testing.T) {
	vek, err := os.ReadFile(testenv.Shared(t, "vectors/snp/vcek_milan.der"))
	if err != nil {
		t.Fatal(err)
	}
	both := file(t, "chain", slices.Concat(trust.AskArkMilanVlekBytes, trust.AskArkMilanVcekBytes, asPEM(vek)))
	report := testenv.Shared(t, "vectors/snp/report_milan.hex")
	args := []string{"-report", report, "-vek", testenv.Shared(t, "vectors/snp/vcek_milan.der"), "-product", "Milan", "-signature-only", "-time", at}
	out, errs, exit := call(nil, append(args, "-chain", both)...)
	if exit != 0 || !strings.Contains(out, "SEV-VCEK < SEV-Milan < ARK-Milan") {
		t.Errorf("exit %d\n%s%s", exit, out, errs)
	}
	genoa := file(t, "genoa", slices.Concat(trust.AskArkGenoaVcekBytes, trust.AskArkMilanVlekBytes))
	if _, errs, exit := call(nil, append(args, "-chain", genoa)...); exit != applet.ExitRefused {
		t.Errorf("chains of two products: exit %d, %s", exit, errs)
	}
}
