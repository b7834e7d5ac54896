package appraise_test

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"strings"
	"testing"

	"github.com/google/go-sev-guest/verify/testdata"
	"github.com/google/go-sev-guest/verify/trust"

	"attestbox/internal/appraise"
	"attestbox/internal/appraise/appraisetest"
	"attestbox/internal/snp"
)

// Extensions of any content never panic, and accepted ones make the same TCB
// and kind when written again.
func FuzzVEKExtensions(f *testing.F) {
	f.Add("1", []byte{2, 1, 0}, "3.1", []byte{2, 1, 3})
	f.Add("4", make([]byte, 64), "2", append([]byte{0x16, 8}, "Milan-B0"...))
	f.Add("5", []byte{0x16, 1, 'x'}, "3.9", []byte{2, 1, 0})
	f.Add("3.8", []byte{2, 2, 0, 0xd5}, "1", []byte{2, 1, 1})
	base := appraisetest.Mint(appraisetest.Config{}).VEK
	f.Fuzz(func(t *testing.T, id1 string, v1 []byte, id2 string, v2 []byte) {
		cert := &x509.Certificate{}
		for _, x := range base.Extensions {
			for id, v := range map[string][]byte{id1: v1, id2: v2} {
				if x.Id.String() == "1.3.6.1.4.1.3704.1."+id {
					x.Value = v
				}
			}
			cert.Extensions = append(cert.Extensions, x)
		}
		e, err := appraise.ParseVEK(cert)
		if err != nil {
			return
		}
		if (len(e.HWID) > 0) == (e.CSPID != "") || len(e.HWID) > 0 && len(e.HWID) != e.Product.ChipIDSize() {
			t.Fatalf("accepted %+v", e)
		}
		for _, x := range cert.Extensions { // what was accepted is canonical
			var n int
			if _, err := asn1.Unmarshal(x.Value, &n); err == nil && len(x.Id) == 10 {
				if again, _ := asn1.Marshal(n); !bytes.Equal(again, x.Value) {
					t.Fatalf("%v: % x is not canonical", x.Id, x.Value)
				}
			}
		}
	})
}

// Whole certificates of any content.
func FuzzVEKCertificate(f *testing.F) {
	f.Add(testdata.VcekBytes)
	f.Add(appraisetest.Mint(appraisetest.Config{Product: snp.Turin}).VEK.Raw)
	f.Add(appraisetest.Mint(appraisetest.Config{VLEK: true}).VEK.Raw)
	f.Fuzz(func(t *testing.T, der []byte) {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return
		}
		e, err := appraise.ParseVEK(cert)
		if err == nil && e.Product == "" {
			t.Fatal("accepted without a product")
		}
	})
}

// What the command line reads: report, certificates, chain and roots.
func FuzzInputs(f *testing.F) {
	c := appraisetest.Mint(appraisetest.Config{})
	f.Add(c.Sign(c.Report(3)))
	f.Add([]byte(hex.EncodeToString(c.Sign(c.Report(2))) + "\n"))
	f.Add(trust.AskArkMilanVcekBytes)
	f.Add(append(bytes.Clone(c.ARK.Raw), c.ASK.Raw...))
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.VEK.Raw}))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n"))
	f.Add([]byte("0x"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := appraise.DecodeReport(b); err == nil && len(r) == 0 {
			t.Fatal("an empty report")
		}
		list, err := appraise.DecodeCerts(b)
		if err == nil {
			var all []byte
			for _, der := range list {
				all = append(all, der...)
			}
			if len(list) == 0 {
				t.Fatal("no certificate, no error")
			}
			again, err := appraise.DecodeCerts(all)
			if !bytes.Contains(b, []byte("-----BEGIN ")) && (err != nil || len(again) != len(list) || !bytes.Equal(all, b)) {
				t.Fatalf("DER does not read back: %v", err)
			}
		}
		appraise.DecodeChain(b)
		appraise.DecodeRoots(b, "Milan")
	})
}

// Evidence of any content: no panic, and nothing but the minted report passes.
func FuzzVerify(f *testing.F) {
	c := appraisetest.Mint(appraisetest.Config{})
	good := c.Sign(c.Report(5))
	f.Add(good, c.VEK.Raw, c.ASK.Raw, c.ARK.Raw)
	f.Add(good[:100], c.VEK.Raw[:100], []byte{}, []byte{})
	root, err := appraise.NewRoot(c.Product, c.ARK.Raw, c.ASK.Raw)
	if err != nil {
		f.Fatal(err)
	}
	roots, err := appraise.NewRoots(root)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, report, vek, ask, ark []byte) {
		v, err := appraise.Verify(report, appraise.Endorsements{VEK: vek, ASK: ask, ARK: ark}, roots, now, appraise.Options{Version2As: snp.Milan})
		if err == nil && (!bytes.Equal(report, good) || !bytes.Equal(vek, c.VEK.Raw) || v == nil) {
			t.Fatal("something else verifies")
		}
	})
}

func FuzzPolicy(f *testing.F) {
	f.Add([]byte(`{"products": {"Milan": {"min_reported_tcb": {"snp": 8}}}, "measurements": ["7a1e5c266c0108dbc9bb94fa926951320940915d0aafb42464bd88b579ea158d3e1a0dc39b2c60bd95b9c480cd81841f"], "crl_grace": "72h", "vmpls": [0, 1]}`))
	f.Add([]byte(`{"products": {"Milan": {}}, "measurements": [], "identities": [{"id_key": "` + strings.Repeat("1d", 48) + `", "image_id": "` + strings.Repeat("77", 16) + `", "min_svn": 3}]}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := appraise.ParsePolicy(b)
		if err != nil {
			return
		}
		out, err := p.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		again, err := appraise.ParsePolicy(out)
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		b1, _ := json.Marshal(p)
		b2, _ := json.Marshal(again)
		if !bytes.Equal(b1, b2) {
			t.Fatalf("%s\n%s", b1, b2)
		}
	})
}
