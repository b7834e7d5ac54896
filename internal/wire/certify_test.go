package wire

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

// Every field of a certify transcript changes what the report binds.
func TestCertifyTranscriptBindsEveryField(t *testing.T) {
	base := func() *CertifyTranscript {
		return &CertifyTranscript{Version: 1, Domain: "example.org", Role: RoleClient, CSR: []byte("csr"), Suite: SuiteID(), Key: []byte("key"), StoreEpoch: 3}
	}
	seen := map[[64]byte]string{base().ReportData(): "nothing"}
	for name, change := range map[string]func(*CertifyTranscript){
		"version":  func(c *CertifyTranscript) { c.Version++ },
		"SPKI":     func(c *CertifyTranscript) { c.SPKI[0] = 1 },
		"exporter": func(c *CertifyTranscript) { c.Exporter[0] = 1 },
		"nonce":    func(c *CertifyTranscript) { c.Nonce[0] = 1 },
		"domain":   func(c *CertifyTranscript) { c.Domain = "example.com" },
		"role":     func(c *CertifyTranscript) { c.Role = RoleKeyServer },
		"CSR":      func(c *CertifyTranscript) { c.CSR = []byte("csR") },
		"suite":    func(c *CertifyTranscript) { c.Suite = nil },
		"key":      func(c *CertifyTranscript) { c.Key = nil },
		"epoch":    func(c *CertifyTranscript) { c.StoreEpoch++ },
	} {
		c := base()
		change(c)
		if other, ok := seen[c.ReportData()]; ok {
			t.Errorf("changing %s gives the report data of changing %s", name, other)
		}
		seen[c.ReportData()] = name
	}
}

// A begin that leaves the store's epoch out would count as "none open".
func TestCertifyBeginNeedsEveryField(t *testing.T) {
	m := &CertifyBegin{Version: 1, Domain: "example.org", Role: RoleClient, CSR: []byte{1}, Suite: SuiteHex(), Key: []byte{1}, StoreEpoch: 9}
	b, err := Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(b)
	if err != nil || got.(*CertifyBegin).StoreEpoch != 9 {
		t.Fatalf("%+v, %v", got, err)
	}
	b = bytes.Replace(b, []byte(`,"store_epoch":9`), nil, 1)
	if _, err := Parse(b); !errors.Is(err, ErrMalformed) {
		t.Errorf("without the epoch: %v", err)
	}
}

func TestRoles(t *testing.T) {
	m := &CertifyBegin{Version: 1, Domain: "example.org", CSR: []byte{1}, Suite: SuiteHex(), Key: []byte{1}}
	for role, want := range map[string]bool{
		RoleClient: true, RoleKeyServer: true, "bank-a": true, "7": true, strings.Repeat("r", 32): true,
		"": false, "Bank": false, "bank_a": false, "-a": false, "a-": false, "a--b": false, "a/b": false, "a b": false, "\u00e4": false,
		strings.Repeat("r", 33): false, RoleAttester: true,
	} {
		m.Role = role
		b, err := Marshal(m)
		if err == nil {
			_, err = Parse(b)
		}
		if (err == nil) != want {
			t.Errorf("role %q: %v", role, err)
		}
	}
}
