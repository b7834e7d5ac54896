package attestd

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"attestbox/internal/admission"
	"attestbox/internal/code"
	"attestbox/internal/platform"
)

// A program's request and evidence are by one key, and about one exchange.
func TestCertifyOperation(t *testing.T) {
	w := newWorld(t, false, nil)
	f := strings.Fields(w.run(nil, w.measured("good"), "certify", w.socket))
	if len(f) != 3 || f[0] != platform.AttestdProgram {
		t.Fatalf("%.200q", f)
	}
	csr, _ := hex.DecodeString(f[1])
	report, _ := hex.DecodeString(f[2])
	key, err := admission.KeyFromCSR(csr)
	if err != nil {
		t.Fatal(err)
	}
	e, err := ParseEvidence(report)
	if err != nil {
		t.Fatal(err)
	}
	var rd [64]byte
	copy(rd[:], bytes.Repeat([]byte{1}, 64))
	now := time.Now()
	if err := e.Verify(w.key.Public(), rd, now); err != nil {
		t.Fatal(err)
	}
	p, err := ParseProgram(e.Program)
	if err != nil || !bytes.Equal(e.Chain[0], w.chain[0]) {
		t.Errorf("program %q, %v", e.Program, err)
	}
	if pub, err := VerifyStatement(w.key.Public(), p, e.SPKI, e.NotBefore, e.NotAfter, e.Statement, now); err != nil || !pub.(ed25519.PublicKey).Equal(key) {
		t.Errorf("request and statement are about different keys: %v", err)
	}
	for name, err := range map[string]error{
		"another exchange": e.Verify(w.key.Public(), [64]byte{2}, now),
		"another attester": e.Verify(key, rd, now),
		"later":            e.Verify(w.key.Public(), rd, now.Add(time.Hour)),
		"earlier":          e.Verify(w.key.Public(), rd, now.Add(-time.Hour)),
	} {
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	wantRefused(t, "unmeasured", w.run(nil, w.unmeasured(), "certify", w.socket), code.AttestdUnmeasured)
	if _, err := ParseRequest([]byte(`{"op":"certify","nonce":"` + strings.Repeat("0", 64) + `","size":63}`)); err == nil {
		t.Error("a transcript of 63 bytes")
	}
}
