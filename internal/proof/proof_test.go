package proof

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"attestbox/internal/claim"
	"attestbox/internal/code"
)

var update = flag.Bool("update", false, "write the golden files")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs (-update writes it):\n%s", name, got)
	}
}

// The worked proofs of docs/policy.md.
func TestWorkedProofs(t *testing.T) {
	p := policy(t, trustWeb, trustRoot, require, trustProgram, trustDeploy, web.String()+` is-trusted-for-serving Role["key-server"]`, trustAttester, trustIssuer, trustImage)
	for name, e := range map[string]*Evidence{
		"hardware": hardware(), "enclave": enclave(), "program": attested(), "image": hardware(signed), "serving": hardware(role("key-server")), "attester": hardware(role(RoleAttester)),
		"launch": hardware(func(e *Evidence) { e.subject = claim.Key{} }), "simulator": hardware(func(e *Evidence) { e.amd, e.root = false, "ARK-Genoa NOT AMD HARDWARE" }),
	} {
		proof, err := Prove(p, e, now)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		golden(t, name+".txt", []byte(proof.String()))
		var j bytes.Buffer
		if err := json.Indent(&j, must(proof.MarshalJSON()), "", "  "); err != nil {
			t.Fatal(err)
		}
		golden(t, name+".json", j.Bytes())
		if len(proof.String()) > 24<<10 {
			t.Errorf("%s: proof of %d bytes", name, len(proof.String()))
		}
		if !strings.Contains(proof.String(), "NOT AMD HARDWARE") != (e.amd || e.platform == AttestdProgram) {
			t.Errorf("%s: the root is not named as it must be", name)
		}
		if again, _ := Prove(p, e, now); again.Digest() != proof.Digest() || proof.Digest() == [32]byte{} {
			t.Errorf("%s: the digest is not stable", name)
		}
		if got, want := proof.NotAfter(p), now.Add(90*24*time.Hour); !got.Equal(want) {
			t.Errorf("%s: ends %v, want %v", name, got, want)
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// Attacks and mishaps: none is proved, and the code says what failed.
func TestRefused(t *testing.T) {
	all := []string{trustWeb, trustRoot, require, trustProgram, trustDeploy}
	with := func(more ...string) []string { return append(append([]string{}, all...), more...) }
	without := func(line string) (out []string) {
		for _, l := range all {
			if l != line {
				out = append(out, l)
			}
		}
		return out
	}
	other := key(claim.RSA, "ARK-Genoa", 0x66) // a simulator's root under AMD's name
	for _, tc := range []struct {
		name  string
		lines []string
		e     *Evidence
		want  code.Code
	}{
		{"nothing at all", nil, hardware(), code.ProofMeasurement},
		{"measurement not trusted", without(trustWeb), hardware(), code.ProofMeasurement},
		{"root not trusted", without(trustRoot), hardware(), code.ProofAttester},
		{"no requirement", without(require), hardware(), code.ProofPlatform},
		{"another image", all, hardware(func(e *Evidence) { e.measurement.Digest = hexOf(0xa1, 48) }), code.ProofMeasurement},
		{"narrowed to another instance", append(without(trustWeb), web.String()+" with-instance["+hexOf(2, 32)+"] is-trusted"), hardware(), code.ProofMeasurement},
		{"another root under the same name", all, hardware(func(e *Evidence) {
			e.chain = []Endorsement{{"ask", other, ask}, {"vek", ask, vcek}}
		}), code.ProofAttester},
		{"root of another product", all, hardware(prop("product", "Milan")), code.ProofAttester},
		{"debug", all, hardware(prop("debug", "yes")), code.ProofPlatform},
		{"migrate", all, hardware(prop("migrate", "yes")), code.ProofPlatform},
		{"absent debug", all, hardware(prop("debug", "")), code.ProofPlatform},
		{"vmpl", all, hardware(prop("vmpl", "1")), code.ProofPlatform},
		{"no alias check", all, hardware(prop("alias-check", "no")), code.ProofPlatform},
		{"alias check absent", all, hardware(prop("alias-check", "")), code.ProofPlatform},
		{"vlek", all, hardware(prop("signing-key", "vlek")), code.ProofPlatform},
		{"old firmware", all, hardware(prop("tcb.snp", "21")), code.ProofPlatform},
		{"absent tcb", all, hardware(prop("tcb.snp", "")), code.ProofPlatform},
		{"malformed tcb", all, hardware(prop("tcb.snp", "0x17")), code.ProofPlatform},
		{"chain with a link more", all, hardware(func(e *Evidence) {
			e.chain = append(e.chain, Endorsement{"vek", vcek, auth})
			e.attester = auth
		}), code.ProofAttester},
		{"chain with a link less", all, hardware(func(e *Evidence) { e.chain = []Endorsement{{"vek", ark, vcek}} }), code.ProofAttester},
		{"chain in another order", all, hardware(func(e *Evidence) { e.chain[0].Kind, e.chain[1].Kind = "vek", "ask" }), code.ProofAttester},
		{"attester not of the chain", all, hardware(func(e *Evidence) { e.attester = deploy }), code.ProofAttester},
		{"deployment machine vouches for a VM", all, enclave(func(e *Evidence) { e.measurement = claim.Measurement{Digest: web.Digest} }), code.ProofAttester},
		{"deployment machine's key signs a VM's evidence", all, hardware(func(e *Evidence) {
			e.attester, e.chain = deploy, []Endorsement{{"ask", deploy, ask}, {"vek", ask, deploy}}
		}), code.ProofAttester},
		{"AMD's key takes the short path", all, enclave(func(e *Evidence) { e.attester = ark }), code.ProofAttester},
		{"another machine's platform key", all, enclave(func(e *Evidence) { e.attester = key(claim.Ed25519, "deploy", 0x77) }), code.ProofAttester},
		{"another platform", all, enclave(func(e *Evidence) { e.platform = "intel-tdx" }), code.ProofPlatform},
		{"is-trusted does not reach serving", all, hardware(role("key-server")), code.ProofRole},
		{"another role is granted", with(web.String() + ` is-trusted-for-serving Role["verifier"]`), hardware(role("key-server")), code.ProofRole},
		{"is-trusted does not reach attestation", all, hardware(role(RoleAttester)), code.ProofRole},
		{"measurement revoked", with(web.String() + " is-revoked"), hardware(), code.ClaimRevoked},
		{"instance revoked", with(web.String() + " with-instance[" + inst + "] is-revoked"), hardware(), code.ClaimRevoked},
		{"root revoked", with(ark.String() + " is-revoked"), hardware(), code.ClaimRevoked},
		{"root revoked by another name", with("Key[rsa, nasty, " + ark.ID + "] is-revoked"), hardware(), code.ClaimRevoked},
		{"ASK revoked", with(ask.String() + " is-revoked"), hardware(), code.ClaimRevoked},
		{"VEK revoked", with(vcek.String() + " is-revoked"), hardware(), code.ClaimRevoked},
		{"subject revoked", with(auth.String() + " is-revoked"), hardware(), code.ClaimRevoked},
		{"chip revoked", with("Chip[" + chip + "] is-revoked"), hardware(), code.ClaimRevoked},
		{"platform key revoked", with(deploy.String() + " is-revoked"), enclave(), code.ClaimRevoked},
		{"claim revoked", []string{trustRoot, require, trustWeb + "; claim 5 from 2026-01-01 to 2026-02-01", "Claim[5] is-revoked"}, hardware(), code.ClaimRevoked},
		{"claim expired", []string{trustRoot, require, trustWeb + "; claim 5 from 2025-01-01 to 2025-02-01"}, hardware(), code.ClaimExpired},
		{"claim to come", []string{trustRoot, require, trustWeb + "; claim 5 from 2026-01-16 to 2026-02-01"}, hardware(), code.ClaimExpired},
		{"root's claim expired", []string{trustWeb, require, trustRoot + "; claim 5 from 2025-01-01 to 2025-02-01"}, hardware(), code.ClaimExpired},
		{"requirement expired", []string{trustWeb, trustRoot, require + "; claim 5 from 2025-01-01 to 2025-02-01"}, hardware(), code.ClaimExpired},
	} {
		p := policy(t, tc.lines...)
		proof, err := Prove(p, tc.e, now)
		if proof != nil {
			t.Errorf("%s: proved:\n%s", tc.name, proof)
		}
		wantCode(t, tc.name, err, tc.want)
		if f, ok := errors.AsType[*Failure](err); !ok || f.Premise == "" || f.Found == "" || f.Satisfy == "" {
			t.Errorf("%s: the failure does not explain itself: %+v", tc.name, err)
		}
	}
}

func TestAccepted(t *testing.T) {
	vlek := "Platform[amd-sev-snp, debug: no, migrate: no, product in {Genoa, Milan}, signing-key = vlek, csp = cloud, alias-check in {no, yes}, vmpl in {0, 1}, smt: no] has-trusted-platform-property"
	for name, tc := range map[string]struct {
		lines []string
		e     *Evidence
	}{
		"narrowed":            {[]string{trustRoot, require, web.String() + " with-instance[" + inst + "] is-trusted"}, hardware()},
		"second requirement":  {[]string{trustWeb, trustRoot, require, vlek}, hardware(prop("signing-key", "vlek"), prop("csp", "cloud"), prop("alias-check", "no"), prop("vmpl", "1"), prop("smt", "no"))},
		"expired beside good": {[]string{trustWeb + "; claim 5 from 2025-01-01 to 2025-02-01", trustWeb, trustRoot, require}, hardware()},
		"other one revoked":   {[]string{trustWeb, trustRoot, require, web.String() + " with-instance[" + hexOf(9, 32) + "] is-revoked", "Chip[" + hexOf(9, 64) + "] is-revoked"}, hardware()},
		"renamed root":        {[]string{trustWeb, strings.Replace(trustRoot, "ARK-Genoa", "myRoot", 1), require}, hardware()},
	} {
		if _, err := Prove(policy(t, tc.lines...), tc.e, now); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Without any one claim of a minimal policy there is no proof.
func TestMinimal(t *testing.T) {
	for name, tc := range map[string]struct {
		lines []string
		e     *Evidence
	}{
		"hardware": {[]string{trustWeb, trustRoot, require}, hardware()},
		"image":    {[]string{trustImage, trustRoot, require}, hardware(signed)},
		"enclave":  {[]string{trustProgram, trustDeploy}, enclave()},
		"program":  {[]string{trustWeb, trustProgram, trustIssuer, trustAttester}, attested()},
		"serving":  {[]string{trustWeb, trustRoot, require, web.String() + ` is-trusted-for-serving Role["verifier"]`}, hardware(role("verifier"))},
		"attester": {[]string{trustWeb, trustRoot, require, web.String() + " is-trusted-for-attestation"}, hardware(role(RoleAttester))},
	} {
		proof, err := Prove(policy(t, tc.lines...), tc.e, now)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if len(proof.Claims()) != len(tc.lines) {
			t.Errorf("%s: rests on claims %v of %d", name, proof.Claims(), len(tc.lines))
		}
		for i := range tc.lines {
			less := append(append([]string{}, tc.lines[:i]...), tc.lines[i+1:]...)
			if _, err := Prove(policy(t, less...), tc.e, now); err == nil {
				t.Errorf("%s: proved without %s", name, tc.lines[i])
			}
		}
	}
}

func TestProveClaim(t *testing.T) {
	issuer, outsider := edKey(2), edKey(3)
	issuerKey := must(claim.KeyOf("issuer", issuer.Public()))
	delegate := issuerKey.String() + " is-trusted-for-certification"
	admits := auth.String() + " is-trusted-for-authentication"
	serves := auth.String() + ` is-trusted-for-serving Role["key-server"]`
	makes := auth.String() + " is-trusted-for-certification"
	lines := []string{decl(t, "issuer", issuer), delegate}
	sign := func(by string, priv any, text string, change ...func(*claim.Claim)) *claim.SignedClaim {
		st := must(claim.ParseStatement(text))
		c := claim.Claim{Statement: st, Serial: 90, NotBefore: now, NotAfter: now.Add(time.Hour)}
		for _, f := range change {
			f(&c)
		}
		switch by {
		case claim.PolicyKeyName:
			return must(claim.SignClaim("bank.example", by, edKey(1), c))
		case "issuer":
			return must(claim.SignClaim("bank.example", by, issuer, c))
		}
		return must(claim.SignClaim("bank.example", by, outsider, c))
	}
	for name, tc := range map[string]struct {
		lines []string
		sc    *claim.SignedClaim
		steps int
	}{
		"policy key":      {nil, sign(claim.PolicyKeyName, nil, serves), 1},
		"issuer":          {lines, sign("issuer", nil, admits), 2},
		"policy delegate": {nil, sign(claim.PolicyKeyName, nil, makes), 1},
	} {
		proof, err := ProveClaim(policy(t, tc.lines...), tc.sc, now)
		if err != nil || len(proof.Steps()) != tc.steps {
			t.Errorf("%s: %v, %v", name, proof, err)
		}
	}
	late := func(c *claim.Claim) { c.NotBefore, c.NotAfter = now.Add(-2*time.Hour), now.Add(-time.Hour) }
	for name, tc := range map[string]struct {
		lines []string
		sc    *claim.SignedClaim
		want  code.Code
	}{
		"undelegated":               {lines, sign("outsider", nil, admits), code.ClaimUndelegated},
		"undelegated, issuer named": {lines, must(claim.SignClaim("bank.example", "issuer", outsider, claim.Claim{Statement: must(claim.ParseStatement(admits)), Serial: 1, NotBefore: now, NotAfter: now.Add(time.Hour)})), code.ClaimUndelegated},
		"issuer grants serving":     {lines, sign("issuer", nil, serves), code.ClaimUndelegated},
		"issuer makes an issuer":    {lines, sign("issuer", nil, makes), code.ClaimUndelegated},
		"issuer trusts a program":   {lines, sign("issuer", nil, trustWeb), code.ClaimUndelegated},
		"issuer trusts a root":      {lines, sign("issuer", nil, trustRoot), code.ClaimUndelegated},
		"issuer of hash alone":      {lines[1:], sign("issuer", nil, admits), code.ClaimUndelegated},
		"delegation revoked":        {append(lines[:2:2], issuerKey.String()+" is-revoked"), sign("issuer", nil, admits), code.ClaimRevoked},
		"delegation expired":        {[]string{lines[0], delegate + "; claim 1 from 2025-01-01 to 2025-02-01"}, sign("issuer", nil, admits), code.ClaimExpired},
		"claim expired":             {lines, sign("issuer", nil, admits, late), code.ClaimExpired},
		"subject revoked":           {append(lines[:2:2], auth.String()+" is-revoked"), sign("issuer", nil, admits), code.ClaimRevoked},
		"claim revoked":             {[]string{"Claim[90] is-revoked"}, sign(claim.PolicyKeyName, nil, serves), code.ClaimRevoked},
		"trusted key":               {nil, sign(claim.PolicyKeyName, nil, auth.String()+" is-trusted"), code.ClaimUndelegated},
		"another domain":            {lines, must(claim.SignClaim("other.example", "issuer", issuer, claim.Claim{Statement: must(claim.ParseStatement(admits)), Serial: 1, NotBefore: now, NotAfter: now.Add(time.Hour)})), code.ClaimScope},
	} {
		_, err := ProveClaim(policy(t, tc.lines...), tc.sc, now)
		wantCode(t, name, err, tc.want)
	}
}

func TestAuthorizer(t *testing.T) {
	next := claim.Measurement{Digest: hexOf(0xb0, 48)}
	server := must(claim.KeyOf("server", edKey(5).Public()))
	lines := []string{
		trustWeb, next.String() + " is-trusted",
		web.String() + ` may-read Secret["db/*"]`,
		next.String() + " with-instance[" + inst + `] may-write Secret["log/web-*"]`,
		next.String() + " may-succeed " + web.String(),
		web.String() + " may-nominate",
		program.String() + " may-nominate", // never trusted
		web.String() + ` is-trusted-for-serving Role["key-server"]`,
		server.String() + ` is-trusted-for-serving Role["verifier"]`,
		server.String() + " is-trusted-for-certification",
		program.String() + ` may-read Secret["db/*"]`, // never trusted
		"Certificate[" + inst + "] is-revoked",
	}
	a := NewAuthorizer(policy(t, lines...))
	at := claim.Measurement{Digest: next.Digest, Instance: inst}
	yes := func(name string, _ uint64, ok bool) {
		t.Helper()
		if !ok {
			t.Errorf("%s: refused", name)
		}
	}
	no := func(name string, _ uint64, ok bool) {
		t.Helper()
		if ok {
			t.Errorf("%s: allowed", name)
		}
	}
	ask := func(name string, want bool, f func() (uint64, bool)) {
		t.Helper()
		n, ok := f()
		if want {
			yes(name, n, ok)
		} else {
			no(name, n, ok)
		}
	}
	ask("read", true, func() (uint64, bool) { return a.MayRead(as(web), "db/password", now) })
	ask("read below", false, func() (uint64, bool) { return a.MayRead(as(web), "db/a/b", now) })
	ask("read is not write", false, func() (uint64, bool) { return a.MayWrite(as(web), "db/password", now) })
	ask("read later", false, func() (uint64, bool) { return a.MayRead(as(web), "db/password", now.Add(100*24*time.Hour)) })
	ask("read by another", false, func() (uint64, bool) { return a.MayRead(as(next), "db/password", now) })
	ask("read by who is not trusted", false, func() (uint64, bool) { return a.MayRead(as(program), "db/password", now) })
	ask("write, narrowed", true, func() (uint64, bool) { return a.MayWrite(as(at), "log/web-1", now) })
	ask("write, other instance", false, func() (uint64, bool) { return a.MayWrite(as(next), "log/web-1", now) })
	ask("succeed", true, func() (uint64, bool) { return a.MaySucceed(as(at), as(web), now) })
	ask("succeed backwards", false, func() (uint64, bool) { return a.MaySucceed(as(web), as(next), now) })
	ask("nominate", true, func() (uint64, bool) { return a.MayNominate(as(web), now) })
	ask("nominate by another", false, func() (uint64, bool) { return a.MayNominate(as(next), now) })
	ask("nominate by who is not trusted", false, func() (uint64, bool) { return a.MayNominate(as(program), now) })
	ask("serve", true, func() (uint64, bool) { return a.ServingMeasurement(as(web), "key-server", now) })
	ask("serve another role", false, func() (uint64, bool) { return a.ServingMeasurement(as(web), "verifier", now) })
	ask("serve by key", true, func() (uint64, bool) { return a.ServingKey(server, "verifier", now) })
	ask("serve by another key", false, func() (uint64, bool) { return a.ServingKey(auth, "verifier", now) })
	ask("issuer", true, func() (uint64, bool) { return a.Issuer(server, now) })
	ask("no issuer", false, func() (uint64, bool) { return a.Issuer(auth, now) })
	ask("revoked certificate", true, func() (uint64, bool) { return a.Revoked(claim.Certificate{SHA256: inst}) })
	ask("good certificate", false, func() (uint64, bool) { return a.Revoked(claim.Certificate{SHA256: hexOf(3, 32)}) })
	b := NewAuthorizer(policy(t, append(lines, web.String()+" is-revoked")...))
	ask("read after revocation", false, func() (uint64, bool) { return b.MayRead(as(web), "db/password", now) })
	ask("nominate after revocation", false, func() (uint64, bool) { return b.MayNominate(as(web), now) })
	ask("succeed a revoked image", true, func() (uint64, bool) { return b.MaySucceed(as(next), as(web), now) })
	c := NewAuthorizer(policy(t, append(lines, server.String()+" is-revoked")...))
	ask("serve by a revoked key", false, func() (uint64, bool) { return c.ServingKey(server, "verifier", now) })
}
