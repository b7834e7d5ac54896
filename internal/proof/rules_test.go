package proof

import (
	"testing"

	"attestbox/internal/claim"
)

func clause(t *testing.T, s string) claim.Clause {
	t.Helper()
	st, err := claim.ParseStatement(s)
	if err != nil {
		t.Fatal(err)
	}
	return st.Clause
}

func says(t *testing.T, s string) claim.Statement {
	t.Helper()
	st, err := claim.ParseStatement(s)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// Each rule with premises from which the conclusion follows, and beside it
// everything near that it must refuse.
func TestRules(t *testing.T) {
	k1, k2 := key(claim.P384, "one", 1).String(), key(claim.Ed25519, "two", 2).String()
	m, m2 := web.String(), claim.Measurement{Digest: hexOf(0xa1, 48)}.String()
	at := claim.Measurement{Digest: web.Digest, Instance: inst}.String()
	pf := "Platform[amd-sev-snp, alias-check: yes, debug: no, migrate: no, product = Genoa, signing-key = vcek, tcb.snp = 23, vmpl = 0]"
	env, env2 := "Environment["+pf+", "+at+"]", "Environment["+pf+", "+m2+"]"
	bad := "Environment[Platform[amd-sev-snp, debug: no, product = Genoa], " + at + "]"
	on, sim := " is-trusted-for-attestation on Platform[amd-sev-snp, product = Genoa]", " is-trusted-for-attestation on Platform[simulated-enclave] about "+program.String()
	milan := " is-trusted-for-attestation on Platform[amd-sev-snp, product = Milan]"
	req := "Platform[amd-sev-snp, debug: no, migrate: no, product = Genoa, tcb.snp >= 22] has-trusted-platform-property"
	c := func(s string) claim.Clause { return clause(t, s) }
	s := func(x string) claim.Statement { return says(t, x) }
	for _, tc := range []struct {
		name string
		ok   bool
		err  error
	}{
		{"R1", true, R1(c(env+" is-trusted"), c(k2+" speaks-for "+env), c(k2+" is-trusted-for-authentication"))},
		{"R1 measurement", true, R1(c(m+" is-trusted"), c(k2+" speaks-for "+at), c(k2+" is-trusted-for-authentication"))},
		{"R1 other environment", false, R1(c(env2+" is-trusted"), c(k2+" speaks-for "+env), c(k2+" is-trusted-for-authentication"))},
		{"R1 other instance", false, R1(c(at+" is-trusted"), c(k2+" speaks-for "+m), c(k2+" is-trusted-for-authentication"))},
		{"R1 measurement for environment", false, R1(c(at+" is-trusted"), c(k2+" speaks-for "+env), c(k2+" is-trusted-for-authentication"))},
		{"R1 other key", false, R1(c(env+" is-trusted"), c(k2+" speaks-for "+env), c(k1+" is-trusted-for-authentication"))},
		{"R1 other verb", false, R1(c(env+" is-trusted"), c(k2+" speaks-for "+env), c(k2+" is-trusted"))},
		{"R1 not trusted", false, R1(c(env+" is-environment"), c(k2+" speaks-for "+env), c(k2+" is-trusted-for-authentication"))},
		{"R1 key trusted", false, R1(c(k1+" is-trusted"), c(k2+" speaks-for "+m), c(k2+" is-trusted-for-authentication"))},

		{"R3", true, R3(c(k1+" is-trusted"), s(k1+" says "+m+" is-trusted"), c(m+" is-trusted"))},
		{"R3 other speaker", false, R3(c(k2+" is-trusted"), s(k1+" says "+m+" is-trusted"), c(m+" is-trusted"))},
		{"R3 nobody says", false, R3(c(k1+" is-trusted"), s(m+" is-trusted"), c(m+" is-trusted"))},
		{"R3 narrower trust", false, R3(c(k1+on), s(k1+" says "+m+" is-trusted"), c(m+" is-trusted"))},
		{"R3 other conclusion", false, R3(c(k1+" is-trusted"), s(k1+" says "+m+" is-trusted"), c(m2+" is-trusted"))},

		{"R5", true, R5(c(k1+on), s(k1+" says "+k2+on), c(k2+on))},
		{"R5 policy", true, R5(c(k1+" is-trusted"), s(k1+" says "+k2+sim), c(k2+sim))},
		{"R5 issuer", true, R5(c(k1+" is-trusted-for-certification"), s(k1+" says "+k2+" is-trusted-for-authentication"), c(k2+" is-trusted-for-authentication"))},
		{"R5 issuer of issuers", false, R5(c(k1+" is-trusted-for-certification"), s(k1+" says "+k2+" is-trusted-for-certification"), c(k2+" is-trusted-for-certification"))},
		{"R5 is-trusted reaches certification", false, R5(c(k1+" is-trusted"), s(k1+" says "+k2+" is-trusted-for-certification"), c(k2+" is-trusted-for-certification"))},
		{"R5 is-trusted reaches serving", false, R5(c(k1+" is-trusted"), s(k1+` says `+k2+` is-trusted-for-serving Role["x"]`), c(k2+` is-trusted-for-serving Role["x"]`))},
		{"R5 is-trusted is handed on", false, R5(c(k1+" is-trusted"), s(k1+" says "+k2+" is-trusted"), c(k2+" is-trusted"))},
		{"R5 wider product", false, R5(c(k1+on), s(k1+" says "+k2+milan), c(k2+milan))},
		{"R5 enclave hands on", false, R5(c(k1+sim), s(k1+" says "+k2+sim), c(k2+sim))},
		{"R5 without platform", false, R5(c(k1+" is-trusted-for-attestation"), s(k1+" says "+k2+on), c(k2+on))},
		{"R5 other speaker", false, R5(c(k1+on), s(k2+" says "+k2+on), c(k2+on))},
		{"R5 about a measurement", false, R5(c(k1+" is-trusted"), s(k1+" says "+m+" is-trusted-for-attestation"), c(m+" is-trusted-for-attestation"))},
		{"R5 attestation reaches trust", false, R5(c(k1+on), s(k1+" says "+k2+" is-trusted"), c(k2+" is-trusted"))},

		{"R6 environment", true, R6(c(k1+on), s(k1+" says "+env+" is-environment"), c(env+" is-environment"))},
		{"R6 speaks-for", true, R6(c(k1+on), s(k1+" says "+k2+" speaks-for "+env), c(k2+" speaks-for "+env))},
		{"R6 enclave", true, R6(c(k1+sim), s(k1+" says "+k2+" speaks-for "+program.String()), c(k2+" speaks-for "+program.String()))},
		{"R6 short path of hardware", false, R6(c(k1+on), s(k1+" says "+k2+" speaks-for "+at), c(k2+" speaks-for "+at))},
		{"R6 enclave about a VM", false, R6(c(k1+sim), s(k1+" says "+k2+" speaks-for "+m), c(k2+" speaks-for "+m))},
		{"R6 enclave about an environment", false, R6(c(k1+sim), s(k1+" says "+env+" is-environment"), c(env+" is-environment"))},
		{"R6 other product", false, R6(c(k1+milan), s(k1+" says "+env+" is-environment"), c(env+" is-environment"))},
		{"R6 no platform", false, R6(c(k1+" is-trusted-for-attestation"), s(k1+" says "+env+" is-environment"), c(env+" is-environment"))},
		{"R6 is-trusted alone", false, R6(c(k1+" is-trusted"), s(k1+" says "+env+" is-environment"), c(env+" is-environment"))},
		{"R6 says trust", false, R6(c(k1+on), s(k1+" says "+m+" is-trusted"), c(m+" is-trusted"))},
		{"R6 other speaker", false, R6(c(k1+on), s(k2+" says "+env+" is-environment"), c(env+" is-environment"))},

		{"R7", true, R7(c(env+" is-trusted"), c(k2+" speaks-for "+env), c(m+" is-trusted-for-attestation"), c(k2+" is-trusted-for-attestation"))},
		{"R7 not granted", false, R7(c(env+" is-trusted"), c(k2+" speaks-for "+env), c(m+" is-trusted"), c(k2+" is-trusted-for-attestation"))},
		{"R7 granted to another", false, R7(c(env+" is-trusted"), c(k2+" speaks-for "+env), c(m2+" is-trusted-for-attestation"), c(k2+" is-trusted-for-attestation"))},
		{"R7 about a platform", false, R7(c(env+" is-trusted"), c(k2+" speaks-for "+env), c(m+" is-trusted-for-attestation"), c(k2+on))},

		{"R8", true, R8(c(env+" is-environment"), c(req), c(env+" environment-platform-is-trusted"))},
		{"R8 defaults absent", false, R8(c(bad+" is-environment"), c(req), c(bad+" environment-platform-is-trusted"))},
		{"R8 not shown", false, R8(c(env+" is-trusted"), c(req), c(env+" environment-platform-is-trusted"))},
		{"R8 too old", false, R8(c(env+" is-environment"), c("Platform[amd-sev-snp, tcb.snp >= 24] has-trusted-platform-property"), c(env+" environment-platform-is-trusted"))},
		{"R8 at most", true, R8(c(env+" is-environment"), c("Platform[amd-sev-snp, tcb.snp <= 23] has-trusted-platform-property"), c(env+" environment-platform-is-trusted"))},
		{"R8 other environment", false, R8(c(env+" is-environment"), c(req), c(env2+" environment-platform-is-trusted"))},

		{"R9", true, R9(c(env+" is-environment"), c(m+" is-trusted"), c(env+" environment-measurement-is-trusted"))},
		{"R9 narrowed", true, R9(c(env+" is-environment"), c(at+" is-trusted"), c(env+" environment-measurement-is-trusted"))},
		{"R9 other", false, R9(c(env+" is-environment"), c(m2+" is-trusted"), c(env+" environment-measurement-is-trusted"))},
		{"R9 other verb", false, R9(c(env+" is-environment"), c(m+" is-revoked"), c(env+" environment-measurement-is-trusted"))},

		{"R10", true, R10(c(env+" environment-platform-is-trusted"), c(env+" environment-measurement-is-trusted"), c(env+" is-trusted"))},
		{"R10 two environments", false, R10(c(env+" environment-platform-is-trusted"), c(env2+" environment-measurement-is-trusted"), c(env+" is-trusted"))},
		{"R10 one half", false, R10(c(env+" environment-platform-is-trusted"), c(env+" environment-platform-is-trusted"), c(env+" is-trusted"))},
		{"R10 nothing", false, R10(claim.Clause{}, claim.Clause{}, claim.Clause{})},
		{"R1 nothing", false, R1(claim.Clause{}, claim.Clause{}, claim.Clause{})},
		{"R3 nothing", false, R3(claim.Clause{}, claim.Statement{}, claim.Clause{})},
		{"R5 nothing", false, R5(claim.Clause{}, claim.Statement{}, claim.Clause{})},
		{"R6 nothing", false, R6(claim.Clause{}, claim.Statement{}, claim.Clause{})},
		{"R7 nothing", false, R7(claim.Clause{}, claim.Clause{}, claim.Clause{}, claim.Clause{})},
		{"R8 nothing", false, R8(claim.Clause{}, claim.Clause{}, claim.Clause{})},
		{"R9 nothing", false, R9(claim.Clause{}, claim.Clause{}, claim.Clause{})},
	} {
		if (tc.err == nil) != tc.ok {
			t.Errorf("%s: %v", tc.name, tc.err)
		}
	}
}
