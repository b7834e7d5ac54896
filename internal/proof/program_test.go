package proof

import (
	"testing"

	"attestbox/internal/claim"
	"attestbox/internal/code"
)

func TestProgramRefused(t *testing.T) {
	all := []string{trustWeb, trustProgram, trustIssuer, trustAttester}
	instance := func(s string) func(*Evidence) { return func(e *Evidence) { e.measurement.Instance = s } }
	for name, c := range map[string]struct {
		extra string
		e     *Evidence
		want  code.Code
	}{
		"a program that attests":        {e: attested(role(RoleAttester)), want: code.ProofRole},
		"a role that nobody granted":    {e: attested(role("key-server")), want: code.ProofRole},
		"an issuer that nobody trusts":  {e: attested(func(e *Evidence) { e.issuer = deploy }), want: code.ProofAttester},
		"a platform key as issuer":      {extra: trustDeploy, e: attested(func(e *Evidence) { e.issuer = deploy }), want: code.ProofAttester},
		"a VM that may not attest":      {e: attested(func(e *Evidence) { e.vm.Digest = hexOf(0xb0, 48) }), want: code.ProofMeasurement},
		"a VM instead of a program":     {e: attested(func(e *Evidence) { e.measurement.Digest = web.Digest }), want: code.ProofAttester},
		"a program without an instance": {e: attested(instance("")), want: code.ProofAttester},
		"revoked VM":                    {extra: web.String() + " is-revoked", e: attested(), want: code.ClaimRevoked},
		"revoked instance":              {extra: web.String() + " with-instance[" + inst + "] is-revoked", e: attested(), want: code.ClaimRevoked},
		"revoked attester":              {extra: attester.String() + " is-revoked", e: attested(), want: code.ClaimRevoked},
		"revoked issuer":                {extra: issuer.String() + " is-revoked", e: attested(), want: code.ClaimRevoked},
		"revoked program":               {extra: program.String() + " is-revoked", e: attested(), want: code.ClaimRevoked},
		"revoked program key":           {extra: auth.String() + " is-revoked", e: attested(), want: code.ClaimRevoked},
		"revoked chip":                  {extra: claim.Chip{ID: chip}.String() + " is-revoked", e: attested(), want: code.ClaimRevoked},
	} {
		lines := all
		if c.extra != "" {
			lines = append(append([]string{}, all...), c.extra)
		}
		_, err := Prove(policy(t, lines...), c.e, now)
		wantCode(t, name, err, c.want)
	}
	// A program of another VM: the search does not see it, the checker does.
	if _, err := Prove(policy(t, all...), attested(instance(hexOf(0x77, 32))), now); err == nil {
		t.Error("an attester vouches for a program in another VM")
	}
}

// An attester's key, which no platform binds, says that keys speak for programs
// and nothing else; an issuer says it of any measurement with its instance.
func TestR6WithoutPlatform(t *testing.T) {
	vm, prog := claim.Measurement{Digest: web.Digest, Instance: inst}, claim.Measurement{Digest: program.Digest, Instance: inst}
	env := claim.Environment{Platform: claim.Platform{Type: claim.AMDSEVSNP}, Measurement: vm}
	says := func(k claim.Key, c claim.Clause) claim.Statement { return claim.Statement{Speaker: k, Clause: c} }
	speaks := func(x claim.Entity) claim.Clause {
		return claim.Clause{Subject: auth, Verb: claim.SpeaksFor, Object: x}
	}
	trusted := claim.Clause{Subject: attester, Verb: claim.IsTrustedForAttestation}
	certifies := claim.Clause{Subject: issuer, Verb: claim.IsTrustedForCertification}
	for name, c := range map[string]struct {
		trusted claim.Clause
		said    claim.Statement
		ok      bool
	}{
		"program":               {trusted, says(attester, speaks(prog)), true},
		"VM":                    {trusted, says(attester, speaks(vm)), false},
		"no instance":           {trusted, says(attester, speaks(program)), false},
		"environment":           {trusted, says(attester, speaks(env)), false},
		"is-environment":        {trusted, says(attester, claim.Clause{Subject: env, Verb: claim.IsEnvironment}), false},
		"another attester":      {trusted, says(attester, claim.Clause{Subject: auth, Verb: claim.IsTrustedForAttestation}), false},
		"somebody else":         {trusted, says(deploy, speaks(prog)), false},
		"nobody":                {trusted, says(claim.Key{}, speaks(prog)), false},
		"issuer of a VM":        {certifies, says(issuer, speaks(vm)), true},
		"issuer, no instance":   {certifies, says(issuer, speaks(web)), false},
		"issuer, environment":   {certifies, says(issuer, speaks(env)), false},
		"authenticated key":     {claim.Clause{Subject: auth, Verb: claim.IsTrustedForAuthentication}, says(auth, speaks(prog)), false},
		"a measurement, no key": {trusted, says(attester, claim.Clause{Subject: vm, Verb: claim.SpeaksFor, Object: prog}), false},
	} {
		if err := R6(c.trusted, c.said, c.said.Clause); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	if R6(trusted, says(attester, speaks(prog)), speaks(vm)) == nil {
		t.Error("another conclusion follows")
	}
	// Rule 5 hands nothing on from a key without a platform.
	if s := says(attester, claim.Clause{Subject: auth, Verb: claim.IsTrustedForAttestation}); R5(trusted, s, s.Clause) == nil {
		t.Error("an attester makes attesters")
	}
}

func TestFromProgramRefuses(t *testing.T) {
	vm := claim.Measurement{Digest: web.Digest, Instance: inst}
	for name, f := range map[string]func() (*Evidence, error){
		"no issuer":   func() (*Evidence, error) { return FromProgram(claim.Key{}, attester, vm, "", [32]byte{1}, auth, "") },
		"no attester": func() (*Evidence, error) { return FromProgram(issuer, claim.Key{}, vm, "", [32]byte{1}, auth, "") },
		"no subject":  func() (*Evidence, error) { return FromProgram(issuer, attester, vm, "", [32]byte{1}, claim.Key{}, "") },
		"no instance": func() (*Evidence, error) { return FromProgram(issuer, attester, web, "", [32]byte{1}, auth, "") },
		"role":        func() (*Evidence, error) { return FromProgram(issuer, attester, vm, "", [32]byte{1}, auth, "A B") },
	} {
		if _, err := f(); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}
