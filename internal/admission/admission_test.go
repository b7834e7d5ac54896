package admission

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"net/url"
	"sync"
	"testing"
	"time"

	"attestbox/internal/code"
)

var testNow = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func newKey() ed25519.PrivateKey {
	_, k, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	return k
}

type world struct {
	t                            *testing.T
	policyKey, issuerKey, ownKey crypto.Signer
	policy, issuer               *x509.Certificate
	trust                        *Trust
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func newWorld(t *testing.T, domain string, policyKey, issuerKey crypto.Signer) *world {
	t.Helper()
	w := &world{t: t, policyKey: policyKey, issuerKey: issuerKey, ownKey: newKey()}
	w.policy = must(x509.ParseCertificate(must(NewPolicyCertificate(policyKey, domain, testNow, PolicyValidity))))
	w.issuer = must(x509.ParseCertificate(must(NewIssuer(w.policy, policyKey, issuerKey.Public(), testNow, IssuerValidity))))
	w.trust = &Trust{Policy: w.policy, Domain: domain, MinPolicyVersion: 3}
	return w
}

func testIdentity(domain string) *Identity {
	return &Identity{
		Domain: domain, Measurement: bytes.Repeat([]byte{0xA1}, 48), Instance: [32]byte{0xB2}, Platform: "amd-sev-snp",
		ChipID: [64]byte{0xC3}, ReportID: [32]byte{0xD4}, ReportedTCB: 0xD516000000000003, PolicyVersion: 3, ProofDigest: [32]byte{0xE5},
	}
}

func (w *world) issue(id *Identity) []byte {
	w.t.Helper()
	return must(Issue(w.issuer, w.issuerKey, w.ownKey.Public(), id, testNow, time.Hour))
}

func (w *world) refused(what string, want error, chain [][]byte, now time.Time) {
	w.t.Helper()
	id, err := w.trust.Verify(chain, now)
	if err == nil {
		w.t.Fatalf("%s: accepted as %v", what, id)
	}
	if !errors.Is(err, want) {
		w.t.Errorf("%s: got %v, want %v", what, err, want)
	}
	if _, ok := code.Of(err); !ok {
		w.t.Errorf("%s: no code: %v", what, err)
	}
}

var rsaKey = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 3072)) })

func TestIssueAndVerify(t *testing.T) {
	p384 := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	for name, key := range map[string]crypto.Signer{"ed25519": newKey(), "p384": p384, "rsa": rsaKey()} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "bank-a.example", key, newKey())
			want := testIdentity("bank-a.example")
			want.Roles = []string{"key-server", "policy-server"}
			leaf := w.issue(want)
			got, err := w.trust.Verify([][]byte{leaf, w.issuer.Raw}, testNow)
			if err != nil {
				t.Fatal(err)
			}
			if got.String() != want.String() || got.ChipID != want.ChipID || got.ReportID != want.ReportID || got.ReportedTCB != want.ReportedTCB ||
				got.PolicyVersion != want.PolicyVersion || got.ProofDigest != want.ProofDigest || got.Platform != want.Platform {
				t.Errorf("got %+v, want %+v", got, want)
			}
			if !got.HasRole("key-server") || got.HasRole("verifier") || got.Serial.BitLen() < 120 || !got.NotAfter.Equal(testNow.Add(time.Hour)) || got.SPKI == [32]byte{} {
				t.Errorf("got %+v", got)
			}
			if errors.Is(RequireRole(got, "verifier"), ErrRole) != true || RequireRole(got, "key-server") != nil || RequireRole(got, "") != nil {
				t.Error("RequireRole is wrong")
			}
		})
	}
	w := newWorld(t, "a", newKey(), newKey()) // one label is a domain too
	if _, err := w.trust.Verify([][]byte{w.issue(testIdentity("a")), w.issuer.Raw}, testNow); err != nil {
		t.Error(err)
	}
}

func TestIssueRefuses(t *testing.T) {
	w := newWorld(t, "a.example", newKey(), newKey())
	good := func() *Identity { return testIdentity("a.example") }
	for name, edit := range map[string]func(*Identity){
		"other domain":   func(id *Identity) { id.Domain = "b.example" },
		"subdomain":      func(id *Identity) { id.Domain = "x.a.example" },
		"no instance":    func(id *Identity) { id.Instance = [32]byte{} },
		"no measurement": func(id *Identity) { id.Measurement = nil },
		"no version":     func(id *Identity) { id.PolicyVersion = 0 },
		"role twice":     func(id *Identity) { id.Roles = []string{"verifier", "verifier"} },
		"role with path": func(id *Identity) { id.Roles = []string{"verifier/x"} },
		"no platform":    func(id *Identity) { id.Platform = "" },
	} {
		id := good()
		edit(id)
		if _, err := Issue(w.issuer, w.issuerKey, w.ownKey.Public(), id, testNow, time.Hour); err == nil {
			t.Errorf("%s: issued", name)
		}
	}
	if _, err := Issue(w.issuer, w.issuerKey, w.ownKey.Public(), good(), testNow, 25*time.Hour); err == nil {
		t.Error("25 hours were issued")
	}
	if _, err := Issue(w.issuer, w.policyKey, w.ownKey.Public(), good(), testNow, time.Hour); err == nil {
		t.Error("signed by another key than the issuer's")
	}
	if _, err := Issue(w.policy, w.policyKey, w.ownKey.Public(), good(), testNow, time.Hour); err == nil {
		t.Error("issued by the policy certificate itself")
	}
	if _, err := Issue(w.issuer, w.issuerKey, w.issuerKey.Public(), good(), testNow, time.Hour); err == nil {
		t.Error("issued to the issuer's own key")
	}
	if _, err := Issue(w.issuer, w.issuerKey, w.ownKey.Public(), good(), w.issuer.NotAfter.Add(time.Hour), time.Hour); err == nil {
		t.Error("issued after the issuer's end")
	}
	if _, err := NewIssuer(w.policy, w.policyKey, w.policyKey.Public(), testNow, time.Hour); err == nil {
		t.Error("the policy key became an issuer")
	}
	for _, d := range []string{"", "A.example", "a..b", ".a", "a.", "10.0.0.1", "a/b", "a b", "-a"} {
		if CheckDomain(d) == nil {
			t.Errorf("domain %q is accepted", d)
		}
	}
	weak := must(rsa.GenerateKey(rand.Reader, 2048))
	if CheckKey(weak.Public()) == nil || CheckKey(must(ecdsa.GenerateKey(elliptic.P224(), rand.Reader)).Public()) == nil {
		t.Error("a weak key may be certified")
	}
}

func TestCSR(t *testing.T) {
	key := newKey()
	csr := must(NewCSR(key))
	pub, err := KeyFromCSR(csr)
	if err != nil || !same(pub, key.Public()) {
		t.Fatalf("%v %v", pub, err)
	}
	for i := range csr {
		bad := bytes.Clone(csr)
		bad[i] ^= 1
		if p, err := KeyFromCSR(bad); err == nil && same(p, key.Public()) {
			t.Errorf("byte %d flipped: accepted", i)
		}
	}
}

// leafWith issues a certificate after edit changed the template's result: what
// an issuer gone astray could make.
func (w *world) leafWith(edit func(*x509.Certificate), ext []byte) []byte {
	id := testIdentity(w.trust.Domain)
	if ext == nil {
		ext = must(id.marshalExtension())
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(7), NotBefore: testNow.Add(-time.Minute), NotAfter: testNow.Add(time.Hour), BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, URIs: must(id.uris()),
		ExtraExtensions: []pkix.Extension{{Id: OIDAdmission, Critical: true, Value: ext}},
	}
	if edit != nil {
		edit(c)
	}
	return must(x509.CreateCertificate(rand.Reader, c, w.issuer, w.ownKey.Public(), w.issuerKey))
}

func uri(s string) *url.URL { return must(url.Parse(s)) }

func TestAttacks(t *testing.T) {
	w := newWorld(t, "a.example", newKey(), newKey())
	if _, err := w.trust.Verify([][]byte{w.leafWith(nil, nil), w.issuer.Raw}, testNow); err != nil {
		t.Fatalf("the unchanged certificate: %v", err)
	}
	for name, edit := range map[string]func(*x509.Certificate){
		"a CA":                func(c *x509.Certificate) { c.IsCA = true; c.KeyUsage |= x509.KeyUsageCertSign },
		"may sign":            func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign },
		"no constraints":      func(c *x509.Certificate) { c.BasicConstraintsValid = false },
		"server EKU, no role": func(c *x509.Certificate) { c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth) },
		"server EKU only":     func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} },
		"any EKU":             func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} },
		"no EKU":              func(c *x509.Certificate) { c.ExtKeyUsage = nil },
		"role without EKU":    func(c *x509.Certificate) { c.URIs = append(c.URIs, uri("attestbox://a.example/role/key-server")) },
		"DNS name":            func(c *x509.Certificate) { c.DNSNames = []string{"a.example"} },
		"subject":             func(c *x509.Certificate) { c.Subject.CommonName = "root" },
		"no names":            func(c *x509.Certificate) { c.URIs = nil },
		"other domain":        func(c *x509.Certificate) { c.URIs[0].Host = "b.example" },
		"subdomain":           func(c *x509.Certificate) { c.URIs[0].Host = "x.a.example" },
		"port":                func(c *x509.Certificate) { c.URIs[0].Host = "a.example:1" },
		"user":                func(c *x509.Certificate) { c.URIs[0].User = url.User("root") },
		"query":               func(c *x509.Certificate) { c.URIs[0].RawQuery = "role=key-server" },
		"fragment":            func(c *x509.Certificate) { c.URIs[0].Fragment = "x" },
		"other scheme":        func(c *x509.Certificate) { c.URIs[0].Scheme = "https" },
		"upper-case hex": func(c *x509.Certificate) {
			c.URIs[0] = uri(string(bytes.ReplaceAll([]byte(c.URIs[0].String()), []byte("a1"), []byte("A1"))))
		},
		"other instance": func(c *x509.Certificate) {
			c.URIs[0] = uri(MemberURI("a.example", bytes.Repeat([]byte{1}, 48), [32]byte{9}))
		},
		"name twice": func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs[0]) },
		"role of another domain": func(c *x509.Certificate) {
			c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
			c.URIs = append(c.URIs, uri("attestbox://b.example/role/key-server"))
		},
		"no extension":           func(c *x509.Certificate) { c.ExtraExtensions = nil },
		"extension not critical": func(c *x509.Certificate) { c.ExtraExtensions[0].Critical = false },
		"extension twice": func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: OIDServing, Value: []byte{5, 0}})
		},
		"unknown critical extension": func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}})
		},
		"a year": func(c *x509.Certificate) { c.NotAfter = testNow.AddDate(1, 0, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			w := *w
			w.t = t
			w.refused(name, ErrCertificate, [][]byte{w.leafWith(edit, nil), w.issuer.Raw}, testNow)
		})
	}
	id := testIdentity("a.example")
	good := w.issue(id)
	chain := [][]byte{good, w.issuer.Raw}
	w.refused("expired", ErrValidity, chain, testNow.Add(2*time.Hour))
	w.refused("not yet valid", ErrValidity, chain, testNow.Add(-time.Hour))
	w.refused("no issuer", ErrCertificate, chain[:1], testNow)
	w.refused("nothing", ErrCertificate, nil, testNow)
	w.refused("three", ErrCertificate, append(chain, w.policy.Raw), testNow)
	w.refused("policy as issuer", ErrCertificate, [][]byte{good, w.policy.Raw}, testNow)
	w.refused("policy as leaf", ErrCertificate, [][]byte{w.policy.Raw, w.issuer.Raw}, testNow)
	w.refused("issuer as leaf", ErrCertificate, [][]byte{w.issuer.Raw, w.issuer.Raw}, testNow)
	w.refused("9 MB", ErrCertificate, [][]byte{make([]byte, 9<<20), w.issuer.Raw}, testNow)

	old := testIdentity("a.example")
	old.PolicyVersion = 2
	w.refused("policy rolled back", ErrPolicyVersion, [][]byte{w.issue(old), w.issuer.Raw}, testNow)
	w.trust.Revoked = func(id *Identity) bool { return id.ChipID == [64]byte{0xC3} }
	w.refused("revoked chip", ErrRevoked, chain, testNow)
	w.trust.Revoked = nil

	// A member signs for another: the certificate used as a CA.
	member := must(x509.ParseCertificate(good))
	member.IsCA, member.MaxPathLenZero, member.PermittedURIDomains, member.PermittedDNSDomainsCritical = true, true, []string{"a.example"}, true
	forged := must(Issue(member, w.ownKey, newKey().Public(), id, testNow, time.Hour))
	w.refused("certificate used as CA", ErrCertificate, [][]byte{forged, good}, testNow)

	// Another domain, under the same names and under its own.
	for _, domain := range []string{"a.example", "b.example"} {
		other := newWorld(t, domain, newKey(), newKey())
		o := testIdentity(domain)
		w.refused("stranger's chain", ErrCertificate, [][]byte{other.issue(o), other.issuer.Raw}, testNow)
		w.refused("stranger's leaf", ErrCertificate, [][]byte{other.issue(o), w.issuer.Raw}, testNow)
		w.refused("stranger's issuer", ErrCertificate, [][]byte{good, other.issuer.Raw}, testNow)
	}
	// The same policy key owns two domains.
	second := newWorld(t, "b.example", w.policyKey, w.issuerKey)
	w.refused("other domain of the same owner", ErrCertificate, [][]byte{second.issue(testIdentity("b.example")), second.issuer.Raw}, testNow)

	for _, bad := range []*Trust{{}, {Policy: w.policy}, {Domain: "a.example"}, {Policy: w.policy, Domain: "b.example"}, {Policy: w.issuer, Domain: "a.example"}} {
		if _, err := bad.Verify(chain, testNow); err == nil {
			t.Errorf("trust %+v accepts", bad)
		}
	}
}

func TestFlippedBytes(t *testing.T) {
	w := newWorld(t, "a.example", newKey(), newKey())
	chain := [][]byte{w.issue(testIdentity("a.example")), w.issuer.Raw}
	for n := range chain {
		for i := range chain[n] {
			bad := [][]byte{bytes.Clone(chain[0]), bytes.Clone(chain[1])}
			bad[n][i] ^= 1 << (i % 8)
			if _, err := w.trust.Verify(bad, testNow); err == nil {
				t.Errorf("certificate %d, byte %d flipped: accepted", n, i)
			}
		}
	}
}

func TestExtensionStrict(t *testing.T) {
	id := testIdentity("a.example")
	der := must(id.marshalExtension())
	for name, bad := range map[string][]byte{
		"empty": {}, "trailing": append(bytes.Clone(der), 0), "truncated": der[:len(der)-1],
		"version 2": bytes.Replace(der, []byte{2, 1, 1}, []byte{2, 1, 2}, 1),
	} {
		if new(Identity).parseExtension(bad) == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzExtension(f *testing.F) {
	f.Add(must(testIdentity("a.example").marshalExtension()))
	f.Add(must(signedIdentity().marshalExtension()))
	f.Add([]byte{0x30, 0x03, 0x02, 0x01, 0x01})
	f.Fuzz(func(t *testing.T, der []byte) {
		var id Identity
		if id.parseExtension(der) != nil {
			return
		}
		again, err := id.marshalExtension()
		if err != nil || !bytes.Equal(again, der) {
			t.Fatalf("accepted %x, writes %x (%v)", der, again, err)
		}
	})
}

func FuzzVerify(f *testing.F) {
	t := new(testing.T)
	w := newWorld(t, "a.example", newKey(), newKey())
	leaf := w.issue(testIdentity("a.example"))
	f.Add(leaf, w.issuer.Raw)
	f.Fuzz(func(t *testing.T, l, i []byte) {
		if _, err := w.trust.Verify([][]byte{l, i}, testNow); err == nil && !(bytes.Equal(l, leaf) && bytes.Equal(i, w.issuer.Raw)) {
			t.Fatal("accepted a chain that nobody issued")
		}
	})
}
