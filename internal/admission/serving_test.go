package admission

import (
	"crypto"
	"crypto/x509"
	"errors"
	"testing"
	"time"

	"attestbox/internal/claim"
)

func servingClaim(t *testing.T, domain string, policyKey crypto.Signer, server crypto.PublicKey, role string) []byte {
	t.Helper()
	c := claim.Claim{Serial: 7, NotBefore: testNow.Add(-time.Hour), NotAfter: testNow.Add(90 * 24 * time.Hour), Statement: claim.Statement{
		Clause: claim.Clause{Subject: must(claim.KeyOf("server", server)), Verb: claim.IsTrustedForServing, Object: claim.Role{Name: role}}}}
	return must(claim.SignClaim(domain, claim.PolicyKeyName, policyKey, c)).Marshal()
}

func TestServing(t *testing.T) {
	w := newWorld(t, "a.example", newKey(), newKey())
	server, stranger := newKey(), newKey()
	verifier := servingClaim(t, "a.example", w.policyKey, server.Public(), "verifier")
	policyServer := servingClaim(t, "a.example", w.policyKey, server.Public(), "policy-server")
	cert := func(key crypto.Signer, claims ...[]byte) *x509.Certificate {
		return must(x509.ParseCertificate(must(ServingCertificate(key, claims, testNow))))
	}
	good := cert(server, policyServer, verifier)
	if err := CheckServing(good, w.policy, "verifier", testNow); err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]struct {
		cert *x509.Certificate
		role string
		now  time.Time
	}{
		"other role":                  {good, "key-server", testNow},
		"no role":                     {good, "", testNow},
		"expired":                     {good, "verifier", testNow.AddDate(1, 0, 0)},
		"not yet":                     {good, "verifier", testNow.AddDate(-1, 0, 0)},
		"no claim":                    {cert(server), "verifier", testNow},
		"somebody else's claim":       {cert(stranger, verifier), "verifier", testNow},
		"claim of another policy key": {cert(server, servingClaim(t, "a.example", stranger, server.Public(), "verifier")), "verifier", testNow},
		"claim of another domain":     {cert(server, servingClaim(t, "b.example", w.policyKey, server.Public(), "verifier")), "verifier", testNow},
		"no certificate":              {nil, "verifier", testNow},
	} {
		if err := CheckServing(bad.cert, w.policy, bad.role, bad.now); !errors.Is(err, ErrServing) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := CheckServing(good, nil, "verifier", testNow); err == nil {
		t.Error("accepted without a policy certificate")
	}
	for i := range verifier {
		bad := append([]byte(nil), verifier...)
		bad[i] ^= 1
		der, err := ServingCertificate(server, [][]byte{bad}, testNow)
		if err != nil {
			continue // not a claim any more
		}
		if CheckServing(must(x509.ParseCertificate(der)), w.policy, "verifier", testNow) == nil {
			t.Errorf("byte %d of the claim flipped: accepted", i)
		}
	}
	if _, err := ServingCertificate(server, [][]byte{verifier, verifier, verifier, verifier, verifier}, testNow); err == nil {
		t.Error("five claims")
	}
}

func FuzzServing(f *testing.F) {
	w := newWorld(new(testing.T), "a.example", newKey(), newKey())
	c := servingClaim(new(testing.T), "a.example", w.policyKey, newKey().Public(), "verifier")
	f.Add(must(marshalClaims([][]byte{c})))
	f.Add([]byte{0x30, 0x00})
	f.Fuzz(func(t *testing.T, der []byte) {
		claims, err := parseClaims(der)
		if err != nil {
			return
		}
		var texts [][]byte
		for _, c := range claims {
			texts = append(texts, c.Marshal())
		}
		if again, err := marshalClaims(texts); err != nil || string(again) != string(der) {
			t.Fatalf("accepted %x, writes %x (%v)", der, again, err)
		}
	})
}
