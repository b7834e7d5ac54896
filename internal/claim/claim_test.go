package claim

import (
	"crypto"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"

	"attestbox/internal/code"
)

var now = time.Date(2026, 1, 15, 12, 0, 0, 0, time.UTC)

const (
	digestA = "a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1"
	digestB = "b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1"
	prog    = "c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1"
	image   = "77656200000000000000000000000000"
	hash    = "3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f"
)

// testKey is an Ed25519 key made of a byte.
func testKey(b byte) ed25519.PrivateKey {
	seed := make([]byte, ed25519.SeedSize)
	seed[0] = b
	return ed25519.NewKeyFromSeed(seed)
}

func decl(t testing.TB, name string, key crypto.PublicKey) string {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	k, err := KeyOf(name, key)
	if err != nil {
		t.Fatal(err)
	}
	return "key " + name + " " + k.Alg + " " + base64.StdEncoding.EncodeToString(spki)
}

// text is a policy with the test's policy key and the given lines.
func text(t testing.TB, lines ...string) string {
	t.Helper()
	return "attestbox-policy 1\ndomain bank.example\nversion 0\nlast-serial 0\n" +
		decl(t, PolicyKeyName, testKey(1).Public()) + "\n" + strings.Join(lines, "\n") + "\n"
}

// handwritten uses every short form.
func handwritten(t testing.TB) string {
	return text(t,
		"# the web servers",
		"",
		"measurement web-1 "+digestA,
		decl(t, "deploy", testKey(2).Public()),
		decl(t, "issuer", testKey(3).Public()),
		"Measurement[web-1] is-trusted",
		"  Key[policyKey]   says Measurement[web-1] with-instance["+hash+"] may-read Secret[\"db/*\"]",
		"Measurement[web-1] may-write Secret[\"log/web-*\"]; claim 2 from 2026-01-01 to 2026-04-01",
		"Key[rsa, ARK-Genoa, 429a69c9422aa258ee4d8db5fcda9c6470ef15f8cd5a9cebd6cbc7d90b863831] is-trusted-for-attestation on Platform[amd-sev-snp, product=Genoa]",
		"Platform[amd-sev-snp, debug:no, migrate : no, tcb.snp>=22, product in {Milan, Genoa,Genoa}, vmpl in {1, 0}] has-trusted-platform-property",
		"Key[deploy] is-trusted-for-attestation on Platform[simulated-enclave] about Measurement["+prog+"],Measurement["+hash+"]",
		"Measurement["+prog+"] is-trusted-for-serving Role[\"key-server\"]",
		"Measurement["+digestB+"] may-succeed Measurement[web-1]",
		"Measurement["+digestB+"] may-nominate",
		"Image[id-key:"+digestA+",image-id : "+image+", svn>=3] is-trusted",
		"Image[id-key: "+digestA+", image-id: "+image+", family-id: "+image+", svn >= 4] with-instance["+hash+"] may-read Secret[\"db/*\"]",
		"Image[id-key: "+digestA+", image-id: "+image+", svn >= 3] may-succeed Image[id-key: "+digestA+", image-id: "+image+", svn >= 3]",
		"Image[id-key: "+digestA+", image-id: "+image+", svn >= 3] is-trusted-for-serving Role[\"key-server\"]",
		"Measurement["+digestB+"] is-trusted-for-attestation",
		"Key[issuer] is-trusted-for-certification",
		"Key[issuer] is-trusted-for-serving Role[\"verifier\"]",
		"Key[ed25519, old, "+hash+"] is-revoked",
		"Chip["+strings.Repeat("ab", 64)+"] is-revoked",
		"Claim[1] is-revoked",
		"Certificate["+hash+"] is-revoked",
		"Measurement["+digestA+"] is-trusted; from 2026-01-01 to 2026-03-01",
		"Chip["+strings.Repeat("a1", 64)+"] is-revoked; from 2026-01-01 to never",
	)
}

func TestHandwritten(t *testing.T) {
	src := strings.Replace(handwritten(t), "last-serial 0", "last-serial 5", 1)
	p, err := Parse([]byte(src))
	if err != nil {
		t.Fatal(err)
	}
	out := string(p.Format())
	k, _ := p.PolicyKey()
	for _, want := range []string{
		"# the web servers\n\nmeasurement web-1 ",
		k.String() + " says Measurement[" + digestA + "] is-trusted\n",
		`] with-instance[` + hash + `] may-read Secret["db/*"]` + "\n",
		`; claim 2 from 2026-01-01T00:00:00Z to 2026-04-01T00:00:00Z` + "\n",
		` is-trusted; from 2026-01-01T00:00:00Z to 2026-03-01T00:00:00Z` + "\n",
		"Platform[amd-sev-snp, debug: no, migrate: no, tcb.snp >= 22, product in {Genoa, Milan}, vmpl in {0, 1}] has-trusted-platform-property\n",
		"says Image[id-key: " + digestA + ", image-id: " + image + ", svn >= 3] is-trusted\n",
		"about Measurement[" + prog + "], Measurement[" + hash + "]\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
	again, err := Parse([]byte(out))
	if err != nil || string(again.Format()) != out {
		t.Fatalf("not a fixed point: %v\n%s", err, again.Format())
	}
	p.Complete(now, 90*24*time.Hour)
	if n := uint64(len(p.Claims())); p.LastSerial != 5+n-1 { // one had its number
		t.Errorf("last serial %d after %d claims", p.LastSerial, n)
	}
	for _, c := range p.Claims() {
		if c.Draft() || !c.InForce(now) || !c.Revokes() && c.InForce(now.Add(91*24*time.Hour)) {
			t.Errorf("after Complete: %s", c)
		}
	}
}

// What several claims say together.
func TestRefusedTogether(t *testing.T) {
	m := func(b string) string { return "Measurement[" + strings.Repeat(b, 48) + "]" }
	of := func(id string) string {
		return m("a1") + " with-instance[" + strings.Repeat(id, 32) + "] takes-id-from-image"
	}
	for _, tc := range []struct {
		lines []string
		why   string
	}{
		{[]string{m("a1") + " renews " + m("b1"), m("b1") + " renews " + m("c1"), m("c1") + " renews " + m("a1")}, "lead back to it"},
		{[]string{of("1d"), of("2d")}, "cannot bring both"},
	} {
		if _, err := Parse([]byte(text(t, tc.lines...))); err == nil || !strings.Contains(err.Error(), tc.why) {
			t.Errorf("%q: %v", tc.lines, err)
		}
		if _, err := Parse([]byte(text(t, tc.lines[:len(tc.lines)-1]...))); err != nil {
			t.Errorf("without the last: %v", err)
		}
	}
}

// Every line here is refused, with a reason that has the given words.
func TestRefused(t *testing.T) {
	edkey := "Key[ed25519, x, " + hash + "]"
	for _, tc := range []struct{ line, why string }{
		{"Measurement[" + digestA + "] is-nice", "unknown verb"},
		{"Measurement[" + digestA + "] renews Measurement[" + digestA + "]", "two measurements"},
		{"Measurement[" + digestA + "] renews Measurement[" + strings.Repeat("b2", 48) + "] with-instance[" + hash + "]", "two measurements"},
		{"Measurement[" + digestA + "] takes-id-from-image", "with-instance"},
		{"Measurement[" + prog + "] with-instance[" + hash + "] takes-id-from-image", "launch digest"},
		{"Measurement[" + digestA + "] is-trusted; from 2026-01-01 to never", "time"},
		{"Measurement[" + digestA + "] is-trusted; from 2026-02-01 to 2026-01-01", "ends before"},
		{"Measurement[" + digestA + "] is-trusted; from 2026-01-01", "want"},
		{"Measurement[" + digestA + "] is-revoked; from 2026-01-01 to 2026-02-01", "never"},
		{"Measurement[" + digestA + "] is-trusted-for-authentication", "kind that it cannot be said of"},
		{"Measurement[" + digestA + "]", "want a word"},
		{"Measurement[" + digestA + "] is-trusted now", "unexpected"},
		{"Measurement[nobody] is-trusted", "neither"},
		{"Measurement[" + strings.ToUpper(digestA) + "] is-trusted", "neither"},
		{"Measurement[" + strings.Repeat("0", 96) + "] is-trusted", "zeros"},
		{"Measurement[" + digestA + "] with-instance[" + strings.Repeat("0", 64) + "] is-trusted", "with-instance"},
		{"Image[id-key: " + digestA + ", image-id: " + image + "] is-trusted", "want \",\""},
		{"Image[id-key: " + digestA + ", svn >= 3] is-trusted", "image-id"},
		{"Image[image-id: " + image + ", id-key: " + digestA + ", svn >= 3] is-trusted", "id-key"},
		{"Image[id-key: " + digestA + ", image-id: " + image + ", svn >= 0] is-trusted", "svn"},
		{"Image[id-key: " + digestA + ", image-id: " + image + ", svn >= 03] is-trusted", "svn"},
		{"Image[id-key: " + digestA + ", image-id: " + image + ", svn >= 4294967296] is-trusted", "svn"},
		{"Image[id-key: " + digestA + ", image-id: " + image + ", svn = 3] is-trusted", ">="},
		{"Image[id-key: " + digestA[2:] + ", image-id: " + image + ", svn >= 3] is-trusted", "id-key"},
		{"Image[id-key: " + strings.Repeat("0", 96) + ", image-id: " + image + ", svn >= 3] is-trusted", "id-key"},
		{"Image[id-key: " + strings.ToUpper(digestA) + ", image-id: " + image + ", svn >= 3] is-trusted", "id-key"},
		{"Image[id-key: " + digestA + ", image-id: " + strings.Repeat("0", 32) + ", svn >= 3] is-trusted", "image-id"},
		{"Image[id-key: " + digestA + ", image-id: web, svn >= 3] is-trusted", "image-id"},
		{"Image[id-key: " + digestA + ", image-id: " + image + ", family-id: " + strings.Repeat("0", 32) + ", svn >= 3] is-trusted", "family-id"},
		{"Image[id-key: " + digestA + ", image-id: " + image + ", colour: red, svn >= 3] is-trusted", "family-id"},
		{"Image[id-key: " + digestA + ", image-id: " + image + ", svn >= 3] with-instance[" + strings.Repeat("0", 64) + "] is-trusted", "with-instance"},
		{"Image[id-key: " + digestA + ", image-id: " + image + ", svn >= 3] is-revoked", "kind"},
		{"Image[id-key: " + digestA + ", image-id: " + image + ", svn >= 3] is-trusted-for-attestation", "kind"},
		{"Key[ed25519, x, " + hash + "] speaks-for Image[id-key: " + digestA + ", image-id: " + image + ", svn >= 3]", "kind"},
		{"Measurement[" + digestA + "] may-read", "want a word"},
		{"Measurement[" + digestA + "] may-read Secret[\"a//b\"]", "pattern"},
		{"Measurement[" + digestA + "] may-read Secret[\"../b\"]", "pattern"},
		{"Measurement[" + digestA + "] may-read Role[\"x\"]", "object"},
		{"Measurement[" + digestA + "] is-trusted-for-serving Role[\"Key Server\"]", "role"},
		{"Measurement[" + digestA + "] may-succeed Measurement[" + digestA + "]", "itself"},
		{"Measurement[" + digestA + "] is-trusted-for-attestation on Platform[simulated-enclave]", "said of keys"},
		{edkey + " is-trusted", "what a key is trusted for"},
		{edkey + " says Measurement[" + digestA + "] is-trusted", "alone"},
		{edkey + " speaks-for Measurement[" + digestA + "]", "evidence"},
		{edkey + " is-trusted-for-attestation", "names a platform"},
		{edkey + " is-trusted-for-attestation on Platform[simulated-enclave]", "about named measurements"},
		{edkey + " is-trusted-for-attestation on Platform[simulated-enclave] about Measurement[" + digestA + "]", "never for a VM"},
		{edkey + " is-trusted-for-attestation on Platform[amd-sev-snp]", "one product"},
		{edkey + " is-trusted-for-attestation on Platform[amd-sev-snp, product = Genoa] about Measurement[" + digestA + "]", "simulated-enclave"},
		{edkey + " is-trusted-for-attestation on Platform[intel-tdx]", "unknown platform"},
		{"Key[policyKey] is-revoked", "policy key"},
		{"Key[policyKey] is-trusted-for-serving Role[\"x\"]", "policy key"},
		{"Key[nobody] is-revoked", "declared"},
		{"Key[dsa, x, " + hash + "] is-revoked", "algorithm"},
		{"Key[ed25519, x, " + hash[2:] + "] is-revoked", "64"},
		{"Key[ed25519, policyKey, " + hash + "] is-revoked", "another hash"},
		{"Platform[amd-sev-snp, debug: no, migrate: no] has-trusted-platform-property", "product"},
		{"Platform[amd-sev-snp, product = Genoa] has-trusted-platform-property", "debug"},
		{"Platform[amd-sev-snp, debug: yes, migrate: no, product = Genoa] has-trusted-platform-property", "always refused"},
		{"Platform[amd-sev-snp, debug in {no, yes}, migrate: no, product = Genoa] has-trusted-platform-property", "always refused"},
		{"Platform[amd-sev-snp, debug: no, migrate: no, product = Rome] has-trusted-platform-property", "not a value"},
		{"Platform[amd-sev-snp, debug: no, migrate: no, product = Genoa, tcb.fmc >= 1] has-trusted-platform-property", "FMC"},
		{"Platform[amd-sev-snp, debug: no, migrate: no, product = Genoa, tcb.snp >= 1, tcb.snp >= 2] has-trusted-platform-property", "twice"},
		{"Platform[amd-sev-snp, debug: no, migrate: no, product = Genoa, colour = red] has-trusted-platform-property", "unknown property"},
		{"Platform[amd-sev-snp, debug: no, migrate: no, product >= Genoa] has-trusted-platform-property", "takes no"},
		{"Platform[amd-sev-snp, debug: no, migrate: no, product = Genoa, tcb.snp >= 022] has-trusted-platform-property", "not a value"},
		{"Platform[simulated-enclave] has-trusted-platform-property", "no properties"},
		{"Platform[amd-sev-snp, debug: no, migrate: no, product = Genoa] is-environment", "kind"},
		{"Environment[Platform[amd-sev-snp], Measurement[" + digestA + "]] is-environment", "evidence"},
		{"Claim[0] is-revoked", "number"},
		{"Chip[" + strings.Repeat("0", 128) + "] is-revoked", "Chip"},
		{"Measurement[" + digestA + "] is-trusted; claim 1 from 2026-01-01 to 2026-02-01", "last-serial"},
		{"Measurement[" + digestA + "] is-trusted; claim 1 from 2026-02-01 to 2026-01-01", "ends before"},
		{"Measurement[" + digestA + "] is-trusted; claim 1 from 2026-02-30 to 2026-03-01", "time"},
		{"Measurement[" + digestA + "] is-trusted; claim 1 from 2026-01-01 to never", "time"},
		{"Measurement[" + digestA + "] is-revoked; claim 1 from 2026-01-01 to 2026-03-01", "never"},
		{"Measurement[" + digestA + "] is-trusted; serial 1", "want"},
		{"measurement " + digestA + " " + digestA, "name"},
		{"measurement x 12", "digits"},
		{"key policyKey ed25519 AAAA", "policyKey"},
		{decl(t, "again", testKey(1).Public()), "already"},
		{"# bell \a", "control"},
	} {
		_, err := Parse([]byte(text(t, tc.line)))
		le, ok := errors.AsType[*LineError](err)
		if !ok || le.Line != 6 || !strings.Contains(err.Error(), tc.why) {
			t.Errorf("%s\n\t%v, want line 6 and %q", tc.line, err, tc.why)
		}
	}
	for _, src := range []string{"", "attestbox-policy 2\ndomain a\nversion 1\nlast-serial 0\n", strings.Replace(text(t), "bank.example", "Bank", 1), "attestbox-policy 1\ndomain a\nversion 0\nlast-serial 0\n"} {
		if _, err := Parse([]byte(src)); err == nil {
			t.Errorf("accepted %q", src)
		}
	}
}

// A root of AMD's and a simulator's do not stand in one policy, and an AMD root
// is of its own product.
func TestMixedRoots(t *testing.T) {
	amd, _ := AMDRoot("Genoa")
	sim := "Key[rsa, ARK-sim, " + hash + "]"
	on := " is-trusted-for-attestation on Platform[amd-sev-snp, product = Genoa]"
	_, err := Parse([]byte(text(t, amd.String()+on, sim+on)))
	if c, _ := code.Of(err); !errors.Is(err, ErrMixedRoots) || c != code.PolicyMixedRoots {
		t.Errorf("simulator beside AMD: %v", err)
	}
	if _, err := Parse([]byte(text(t, sim+on))); err != nil {
		t.Error(err)
	}
	if _, err := Parse([]byte(text(t, amd.String()+strings.Replace(on, "Genoa", "Milan", 1)))); err == nil {
		t.Error("AMD's root of Genoa was accepted for Milan")
	}
}

func TestSecretMatches(t *testing.T) {
	for _, tc := range []struct {
		pattern, name string
		want          bool
	}{
		{"db/*", "db/password", true}, {"db/*", "db/a/b", false}, {"db/*", "db", false}, {"*", "db/a", false}, {"*", "db", true},
		{"db/web-*-key", "db/web-1-key", true}, {"db/web-*-key", "db/web-key", false}, {"*/*", "a/b", true}, {"a*b*c", "aXbYc", true},
		{"a*b*c", "aXbY", false}, {"a", "a", true}, {"a", "ab", false}, {"*", "..", false}, {"db/*", "db/*", false}, {"db/*", "db/", false}, {"**", "x", true},
	} {
		if got := (Secret{tc.pattern}).Matches(tc.name); got != tc.want {
			t.Errorf("%q matches %q: %v", tc.pattern, tc.name, got)
		}
	}
}
