package cuse_test

import (
	"crypto/ecdsa"
	"crypto/sha512"
	"crypto/x509"
	"testing"

	"attestbox/internal/snp"
	"attestbox/internal/snpsim"
)

// checkReport wants a report of the guest, signed by the chip.
func checkReport(t *testing.T, p *snpsim.PSP, g *snpsim.Guest, b []byte, data [64]byte, vmpl uint32) {
	t.Helper()
	r, err := snp.Parse(b)
	if err != nil {
		t.Error(err)
		return
	}
	if r.ReportData != data || r.Measurement != g.Config.Measurement || r.HostData != g.Config.HostData ||
		r.VMPL != vmpl || r.ReportID != g.ReportID || r.ChipID != p.ChipID() {
		t.Errorf("report %+v", r)
	}
	vcek, err := x509.ParseCertificate(p.VCEK())
	if err != nil {
		t.Fatal(err)
	}
	R, S, err := r.SignatureRS()
	digest := sha512.Sum384(snp.SignedBytes(b))
	if err != nil || !ecdsa.Verify(vcek.PublicKey.(*ecdsa.PublicKey), digest[:], R, S) {
		t.Errorf("the chip did not sign this: %v", err)
	}
}
