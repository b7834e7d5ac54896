// Package domaintest is a security domain of a few lines, for the tests of its
// clients: a policy key, an issuer, members, and servers that answer certify
// and keys as their script says. They check what binds an exchange together and
// nothing of the evidence; the real servers are tested in package server.
package domaintest

import (
	"crypto"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"testing"
	"time"

	"attestbox/internal/admission"
	"attestbox/internal/claim"
)

// Domain is one security domain with its keys.
type Domain struct {
	Name      string
	Policy    *x509.Certificate
	PolicyKey ed25519.PrivateKey
	Issuer    *x509.Certificate
	IssuerKey ed25519.PrivateKey
	Version   uint64 // of the policy
}

// Key makes an Ed25519 key.
func Key() ed25519.PrivateKey {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		panic(err)
	}
	return key
}

// New makes a domain a day before now, so that members can have expired.
func New(t testing.TB, name string, now time.Time) *Domain {
	t.Helper()
	now = now.Add(-24 * time.Hour)
	d := &Domain{Name: name, PolicyKey: Key(), IssuerKey: Key(), Version: 1}
	policy, err := admission.NewPolicyCertificate(d.PolicyKey, name, now, admission.PolicyValidity)
	if err != nil {
		t.Fatal(err)
	}
	if d.Policy, err = x509.ParseCertificate(policy); err != nil {
		t.Fatal(err)
	}
	issuer, err := admission.NewIssuer(d.Policy, d.PolicyKey, d.IssuerKey.Public(), now, admission.IssuerValidity)
	if err != nil {
		t.Fatal(err)
	}
	if d.Issuer, err = x509.ParseCertificate(issuer); err != nil {
		t.Fatal(err)
	}
	return d
}

// Trust is what members of the domain trust.
func (d *Domain) Trust() *admission.Trust {
	return &admission.Trust{Policy: d.Policy, Domain: d.Name, MinPolicyVersion: d.Version}
}

// Identity is a member whose measurement is 48 times m and whose instance is 32
// times i.
func (d *Domain) Identity(m, i byte, roles ...string) *admission.Identity {
	id := &admission.Identity{Domain: d.Name, Measurement: make([]byte, 48), Platform: "amd-sev-snp", PolicyVersion: d.Version, Roles: roles}
	for n := range id.Measurement {
		id.Measurement[n] = m
	}
	for n := range id.Instance {
		id.Instance[n] = i
	}
	return id
}

// Issue certifies a key: the chain, leaf first.
func (d *Domain) Issue(t testing.TB, key crypto.PublicKey, id *admission.Identity, now time.Time, validity time.Duration) [][]byte {
	t.Helper()
	leaf, err := admission.Issue(d.Issuer, d.IssuerKey, key, id, now, validity)
	if err != nil {
		t.Fatal(err)
	}
	return [][]byte{leaf, d.Issuer.Raw}
}

// Member is a new key with its admission certificate.
func (d *Domain) Member(t testing.TB, id *admission.Identity, now time.Time, validity time.Duration) *tls.Certificate {
	t.Helper()
	key := Key()
	chain := d.Issue(t, key.Public(), id, now, validity)
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: chain, PrivateKey: crypto.Signer(key), Leaf: leaf}
}

// Serving is a server's self-signed certificate with a claim of the policy key
// that trusts its key to serve in each of the roles, from a day before now to a
// day after.
func (d *Domain) Serving(t testing.TB, now time.Time, roles ...string) tls.Certificate {
	t.Helper()
	key := Key()
	subject, err := claim.KeyOf("server", key.Public())
	if err != nil {
		t.Fatal(err)
	}
	var claims [][]byte
	for i, role := range roles {
		c := claim.Claim{Serial: uint64(i + 1), NotBefore: now.Add(-24 * time.Hour), NotAfter: now.Add(24 * time.Hour), Statement: claim.Statement{
			Clause: claim.Clause{Subject: subject, Verb: claim.IsTrustedForServing, Object: claim.Role{Name: role}}}}
		signed, err := claim.SignClaim(d.Name, claim.PolicyKeyName, d.PolicyKey, c)
		if err != nil {
			t.Fatal(err)
		}
		claims = append(claims, signed.Marshal())
	}
	der, err := admission.ServingCertificate(key, claims, now)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: crypto.Signer(key), Leaf: leaf}
}
