package server

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"attestbox/internal/admission"
	"attestbox/internal/attestd"
	"attestbox/internal/client"
	"attestbox/internal/code"
	"attestbox/internal/platform"
	"attestbox/internal/wire"
)

// programPlatform is what attestd-client does with attestd's answers.
type programPlatform struct {
	now      func() time.Time
	attester crypto.Signer
	chain    [][]byte
	program  attestd.Program
	own      ed25519.PrivateKey
	edit     func([]byte) []byte
	other    *[64]byte // what the program answers instead
}

func (p *programPlatform) Name() string { return platform.AttestdProgram }
func (p *programPlatform) Close() error { return nil }
func (p *programPlatform) Report(_ context.Context, rd [64]byte) (*platform.Evidence, error) {
	if p.other != nil {
		rd = *p.other
	}
	b, err := attestd.MakeEvidence(p.attester, p.chain, p.program, p.own, rd, p.now())
	if err == nil && p.edit != nil {
		b = p.edit(b)
	}
	return &platform.Evidence{Platform: platform.AttestdProgram, Report: b}, err
}

var testProgram = attestd.Program{Kind: attestd.KindVerity, Alg: "sha512", Digest: bytes.Repeat([]byte{0x5A}, 64)}

func programText(p attestd.Program) string {
	return fmt.Sprintf("Measurement[%x]", wire.AttestdMeasurement([]byte(p.String())))
}

// programWorld has a VM that may attest to programs and one program that may
// be admitted.
func programWorld(t *testing.T, more ...string) (*domainWorld, *programPlatform) {
	w := newDomainWorld(t, nil)
	w.sign(2, append(w.programLines(), more...)...)
	w.reload()
	vm, _, err := w.certify(w.vm(imageA, 1, nil), wire.RoleAttester)
	if err != nil {
		t.Fatal(err, w.lastDecision())
	}
	return w, w.programOf(vm)
}

func (w *domainWorld) programLines() []string {
	return append(w.policyLines(), "Measurement["+hexOf(imageA)+"] is-trusted-for-attestation", programText(testProgram)+" is-trusted")
}

func (w *domainWorld) programOf(vm *tls.Certificate) *programPlatform {
	return &programPlatform{now: w.now, attester: vm.PrivateKey.(crypto.Signer), chain: vm.Certificate, program: testProgram, own: ed25519Key()}
}

func (w *domainWorld) certifyProgram(p *programPlatform, role string) (*client.Admitted, error) {
	w.t.Helper()
	c := w.certifyConfig(p)
	c.Role, c.Key, c.CSR = role, nil, must(admission.NewCSR(p.own))
	a, err := client.Certify(ctxFor(w.t), c)
	if err == nil {
		w.t.Cleanup(a.Close)
	}
	return a, err
}

func TestCertifyProgram(t *testing.T) {
	w, p := programWorld(t, programText(testProgram)+` is-trusted-for-serving Role["bank-a"]`)
	for _, role := range []string{wire.RoleClient, "bank-a"} {
		a, err := w.certifyProgram(p, role)
		if err != nil {
			t.Fatal(err, w.lastDecision())
		}
		id, m := a.Identity, wire.AttestdMeasurement([]byte(testProgram.String()))
		vm, err := w.trust().Verify(p.chain, w.now())
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(id.Measurement, m[:]) || id.Platform != platform.AttestdProgram || id.Instance != vm.Instance || id.ChipID != vm.ChipID || id.PolicyVersion != 2 ||
			id.HasRole("bank-a") != (role == "bank-a") || id.NotAfter.After(vm.NotAfter) {
			t.Errorf("identity %+v", id)
		}
		if !strings.Contains(a.Proof, "imply via rule 7") || !strings.Contains(a.Proof, "imply via rule 6") || !strings.Contains(a.Proof, "imply via rule 1,") {
			t.Errorf("proof:\n%s", a.Proof)
		}
	}
}

func TestCertifyProgramAttacks(t *testing.T) {
	w, good := programWorld(t)
	plain := w.mustCertify(w.vm(imageA, 1, nil))
	replay, err := good.Report(context.Background(), [64]byte{9})
	if err != nil {
		t.Fatal(err)
	}
	edit := func(f func(*attestd.Evidence)) func([]byte) []byte {
		return func(b []byte) []byte {
			e := must(attestd.ParseEvidence(b))
			f(e)
			return must(json.Marshal(e))
		}
	}
	other := attestd.Program{Kind: attestd.KindImage, Alg: "sha256", Digest: testProgram.Digest[:32]}
	for name, c := range map[string]struct {
		f    func(*programPlatform)
		role string
		want code.Code
	}{
		"an attester without the role":        {f: func(p *programPlatform) { *p = *w.programOf(plain); p.own = good.own }, want: code.AdmissionRole},
		"a program that attests":              {role: wire.RoleAttester, want: code.ProofRole},
		"a role that policy denies":           {role: wire.RoleKeyServer, want: code.ProofRole},
		"a program that policy does not know": {f: func(p *programPlatform) { p.program = other }, want: code.ProofMeasurement},
		"unmeasured":                          {f: func(p *programPlatform) { p.program = attestd.Program{} }, want: code.ProgramEvidence},
		"replayed":                            {f: func(p *programPlatform) { p.edit = func([]byte) []byte { return replay.Report } }, want: code.ProgramEvidence},
		"another exchange":                    {f: func(p *programPlatform) { p.other = &[64]byte{9} }, want: code.ProgramEvidence},
		"a stranger's statement":              {f: func(p *programPlatform) { p.attester = ed25519Key() }, want: code.ProgramEvidence},
		"a VM's name for the program":         {f: func(p *programPlatform) { p.edit = edit(func(e *attestd.Evidence) { e.Program = hexOf(imageA) }) }, want: code.ProgramEvidence},
		"another program's name":              {f: func(p *programPlatform) { p.edit = edit(func(e *attestd.Evidence) { e.Program = other.String() }) }, want: code.ProgramEvidence},
		"a longer statement":                  {f: func(p *programPlatform) { p.edit = edit(func(e *attestd.Evidence) { e.NotAfter += 9 }) }, want: code.ProgramEvidence},
		"a stale statement":                   {f: func(p *programPlatform) { p.now = func() time.Time { return w.now().Add(-2 * time.Hour) } }, want: code.ProgramEvidence},
		"no chain":                            {f: func(p *programPlatform) { p.chain = nil }, want: code.ProgramEvidence},
		"an issuer as attester": {f: func(p *programPlatform) {
			p.chain = [][]byte{w.issuerCert.Raw, w.policyCert.Raw}
			p.attester = w.issuer
		}, want: code.AdmissionBad},
		"garbage": {f: func(p *programPlatform) { p.edit = func([]byte) []byte { return []byte("{}") } }, want: code.ProgramEvidence},
	} {
		t.Run(name, func(t *testing.T) {
			p := *good
			if c.f != nil {
				c.f(&p)
			}
			w.mustRefuse(t, &p, c.role, c.want)
		})
	}
	// Another key than the one in the request.
	cfg := w.certifyConfig(good)
	if _, err := client.Certify(ctxFor(t), cfg); err == nil || !strings.Contains(w.lastDecision(), string(code.ProgramEvidence)) {
		t.Errorf("another key: %v, %s", err, w.lastDecision())
	}
	// A program's certificate does not make an attester, whatever roles it has.
	a, err := w.certifyProgram(good, "")
	if err != nil {
		t.Fatal(err, w.lastDecision())
	}
	deep := *good
	deep.attester, deep.chain, deep.own = good.own, a.Chain, ed25519Key()
	w.mustRefuse(t, &deep, "", code.AdmissionRole)
	id := *a.Identity
	id.Roles = []string{wire.RoleAttester}
	deep.chain = [][]byte{must(admission.Issue(w.issuerCert, w.issuer, good.own.Public(), &id, w.now(), time.Hour)), w.issuerCert.Raw}
	w.mustRefuse(t, &deep, "", code.ProgramEvidence)
}

func (w *domainWorld) mustRefuse(t *testing.T, p *programPlatform, role string, want code.Code) {
	t.Helper()
	before := len(w.log.String())
	a, err := w.certifyProgram(p, role)
	if err == nil {
		t.Fatalf("admitted as %v", a.Identity)
	}
	if got, _ := code.Of(err); got != code.CertifyRefused {
		t.Errorf("the client learns %q: %v", got, err)
	}
	if l := w.log.String()[before:]; !strings.Contains(l, "code="+string(want)) {
		t.Errorf("want %s in the log:\n%s", want, l)
	}
}

// What policy says now counts, not what it said when the VM was admitted.
func TestCertifyProgramPolicyChanges(t *testing.T) {
	vm := "Measurement[" + hexOf(imageA) + "]"
	for name, c := range map[string]struct {
		add, drop string
		want      code.Code
	}{
		"attester's image revoked":    {add: vm + " is-revoked", want: code.AdmissionPolicyVersion},
		"program revoked":             {add: programText(testProgram) + " is-revoked", want: code.AdmissionPolicyVersion},
		"no trust for attestation":    {drop: vm + " is-trusted-for-attestation", want: code.AdmissionPolicyVersion},
		"the VM is not trusted":       {drop: vm + " is-trusted", want: code.AdmissionPolicyVersion},
		"the program is not trusted":  {drop: programText(testProgram) + " is-trusted", want: code.AdmissionPolicyVersion},
		"the issuer is not delegated": {drop: "Key[issuer] is-trusted-for-certification", want: code.ClaimUndelegated},
	} {
		t.Run(name, func(t *testing.T) {
			w, p := programWorld(t)
			var lines []string
			for _, l := range append(w.programLines(), c.add) {
				if l != "" && l != c.drop {
					lines = append(lines, l)
				}
			}
			w.sign(3, lines...)
			w.reload()
			w.mustRefuse(t, p, "", c.want)
		})
	}
	t.Run("attester's certificate expired", func(t *testing.T) {
		w, p := programWorld(t)
		w.advance(2 * time.Hour)
		w.mustRefuse(t, p, "", code.AdmissionValidity)
	})
	t.Run("the VM may not ask for the role", func(t *testing.T) {
		w := newDomainWorld(t, nil)
		if _, _, err := w.certify(w.vm(imageA, 1, nil), wire.RoleAttester); err == nil || !strings.Contains(w.lastDecision(), string(code.ProofRole)) {
			t.Errorf("%v: %s", err, w.lastDecision())
		}
	})
}

// Every byte of the evidence counts.
func TestProgramEvidenceFlipped(t *testing.T) {
	w, p := programWorld(t)
	ev := must(p.Report(context.Background(), [64]byte{1}))
	spki := must(x509.MarshalPKIXPublicKey(p.own.Public()))
	try := func(b []byte) error {
		_, err := fromProgram(&asked{report: b, reportData: [64]byte{1}, spki: spki, role: wire.RoleClient, now: w.now(), trust: w.trust()}, &shown{})
		return err
	}
	if err := try(ev.Report); err != nil {
		t.Fatal(err)
	}
	for i := range ev.Report {
		bad := bytes.Clone(ev.Report)
		bad[i] ^= 1 << (i % 8)
		if try(bad) == nil {
			t.Fatalf("byte %d of %d flipped, and accepted", i, len(bad))
		}
	}
	launch := &asked{report: ev.Report, reportData: [64]byte{1}, now: w.now()}
	if _, err := fromProgram(launch, &shown{}); !isCode(err, code.PlatformRefused) {
		t.Errorf("launched: %v", err)
	}
}
