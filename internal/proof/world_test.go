package proof

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"attestbox/internal/claim"
	"attestbox/internal/code"
)

var now = time.Date(2026, 1, 15, 12, 0, 0, 0, time.UTC)

func hexOf(b byte, n int) string { return strings.Repeat(fmt.Sprintf("%02x", b), n) }

func key(alg, name string, b byte) claim.Key {
	return claim.Key{Alg: alg, Name: name, ID: hexOf(b, 32)}
}

func edKey(b byte) ed25519.PrivateKey {
	seed := make([]byte, ed25519.SeedSize)
	seed[0] = b
	return ed25519.NewKeyFromSeed(seed)
}

func decl(t testing.TB, name string, priv ed25519.PrivateKey) string {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(priv.Public())
	if err != nil {
		t.Fatal(err)
	}
	return "key " + name + " ed25519 " + base64.StdEncoding.EncodeToString(spki)
}

var (
	ark      = key(claim.RSA, "ARK-Genoa", 0x41)
	ask      = key(claim.RSA, "ASK-Genoa", 0x42)
	vcek     = key(claim.P384, "VCEK", 0x43)
	auth     = key(claim.Ed25519, "auth", 0x44)
	issuer   = key(claim.Ed25519, "issuer", 0x46)
	attester = key(claim.Ed25519, "attester", 0x47)
	deploy   = key(claim.Ed25519, "deploy", 0x45)
	web      = claim.Measurement{Digest: hexOf(0xa0, 48)}
	program  = claim.Measurement{Digest: hexOf(0xc0, 32)}
	inst     = hexOf(0x1d, 32)
	chip     = hexOf(0xcc, 64)
)

// The claims of a policy that admits hardware(): nothing can be left out.
var (
	trustWeb  = web.String() + " is-trusted"
	trustRoot = ark.String() + " is-trusted-for-attestation on Platform[amd-sev-snp, product = Genoa]"
	require   = "Platform[amd-sev-snp, debug: no, migrate: no, product = Genoa, tcb.snp >= 22] has-trusted-platform-property"
)

// The claims that admit enclave().
var (
	trustProgram = program.String() + " is-trusted"
	trustDeploy  = deploy.String() + " is-trusted-for-attestation on Platform[simulated-enclave] about " + program.String()
)

// The claims that admit attested(), beside trustWeb and trustProgram.
var (
	trustIssuer   = issuer.String() + " is-trusted-for-certification"
	trustAttester = web.String() + " is-trusted-for-attestation"
)

// hardware is evidence of a VM on Genoa.
func hardware(change ...func(*Evidence)) *Evidence {
	e := &Evidence{
		platform: claim.AMDSEVSNP, chain: []Endorsement{{"ask", ark, ask}, {"vek", ask, vcek}}, attester: vcek,
		measurement: claim.Measurement{Digest: web.Digest, Instance: inst}, chip: chip, reportID: hexOf(0xd4, 32), subject: auth, role: RoleClient,
		root: "ARK-Genoa", amd: true,
		props: map[string]string{
			"product": "Genoa", "debug": "no", "migrate": "no", "smt": "yes", "vmpl": "0", "alias-check": "yes", "signing-key": "vcek", "chip": chip,
			"tcb.bootloader": "9", "tcb.tee": "0", "tcb.snp": "23", "tcb.microcode": "72", "reported-tcb.snp": "23", "guest-svn": "0", "abi.major": "0", "abi.minor": "31",
		},
	}
	for _, f := range change {
		f(e)
	}
	return e
}

// enclave is evidence of a program on the deployment machine.
func enclave(change ...func(*Evidence)) *Evidence {
	e := &Evidence{platform: claim.SimulatedEnclave, attester: deploy, measurement: program, subject: auth, role: RoleClient, root: "simulated enclave NOT AMD HARDWARE"}
	for _, f := range change {
		f(e)
	}
	return e
}

// attested is evidence of a program in a VM.
func attested(change ...func(*Evidence)) *Evidence {
	vm := claim.Measurement{Digest: web.Digest, Instance: inst}
	e := must(FromProgram(issuer, attester, vm, chip, [32]byte(must(hex.DecodeString(program.Digest))), auth, ""))
	for _, f := range change {
		f(e)
	}
	return e
}

func prop(name, value string) func(*Evidence) {
	return func(e *Evidence) {
		e.props = maps.Clone(e.props)
		if value == "" {
			delete(e.props, name)
		} else {
			e.props[name] = value
		}
	}
}

// as is a launch without an ID block.
func as(m claim.Measurement) claim.Launched { return claim.Launched{Measurement: m} }

func role(r string) func(*Evidence) { return func(e *Evidence) { e.role = r } }

// policy signs lines and verifies them; drafts are in force for 90 days from
// now.
func policy(t testing.TB, lines ...string) *claim.VerifiedPolicy {
	t.Helper()
	priv := edKey(1)
	src := "attestbox-policy 1\ndomain bank.example\nversion 3\nlast-serial 100\n" + decl(t, claim.PolicyKeyName, priv) + "\n" + strings.Join(lines, "\n") + "\n"
	p, err := claim.Parse([]byte(src))
	if err != nil {
		t.Fatalf("%v\n%s", err, src)
	}
	p.Complete(now, 90*24*time.Hour)
	b, err := p.Sign(priv)
	if err != nil {
		t.Fatal(err)
	}
	v, err := claim.Verify(b, priv.Public(), 0)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func wantCode(t testing.TB, name string, err error, want code.Code) {
	t.Helper()
	if c, _ := code.Of(err); err == nil || c != want {
		t.Errorf("%s: code %q, want %q: %v", name, c, want, err)
	}
}
