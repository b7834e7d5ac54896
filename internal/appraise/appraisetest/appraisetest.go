// Package appraisetest mints what tests of appraisal need: a chain of ARK, ASK
// and VCEK or VLEK with AMD's extensions, and reports signed by it. It shares
// no code with appraise, so that a misreading of the specification there does
// not hide here too. Nothing but tests may import it.
package appraisetest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"sync"
	"time"

	"attestbox/internal/snp"
)

// Now is a time at which everything minted here is valid.
var Now = time.Date(2026, 1, 15, 12, 0, 0, 0, time.UTC)

// Config says what to mint; the zero value is a VCEK of Milan.
type Config struct {
	Product  snp.Product
	VLEK     bool
	CSPID    string // of a VLEK; empty means "test-cloud"
	TCB      snp.TCB
	ChipID   []byte // of a VCEK; empty means 1, 2, 3, ... in the product's size
	OtherARK bool   // other keys of root and intermediate under the same names

	Serial           int64 // of the VEK; AMD's is 0, which Go does not write, so 0 means 77
	VEKFrom, VEKTo   time.Time
	ASKFrom, ASKTo   time.Time
	VEKName, ASKName string
	ASKNotCA         bool
	VEKCurve         elliptic.Curve
	PKCS1            bool                    // VEK signed with PKCS#1 v1.5 in place of PSS
	Extensions       map[string]*[]byte      // by OID: replaced, or dropped where nil
	MoreExtensions   []pkix.Extension        // added to the VEK
	EditVEK          func(*x509.Certificate) // last word on the VEK's template
}

// Chain is a minted chain with its keys.
type Chain struct {
	Config
	ARK, ASK, VEK *x509.Certificate
	key           *ecdsa.PrivateKey
	arkKey        *rsa.PrivateKey
}

// The RSA keys are made once: they are slow to make, and names tell chains apart.
var rsaKeys = sync.OnceValue(func() (keys [3]*rsa.PrivateKey) {
	for i := range keys {
		keys[i] = must(rsa.GenerateKey(rand.Reader, 2048))
	}
	return keys
})

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// Mint makes a chain. It panics on a config that no certificate can be made of.
func Mint(c Config) *Chain {
	c.defaults()
	keys := rsaKeys()
	ch := &Chain{Config: c, arkKey: keys[0]}
	askKey := keys[1]
	if c.OtherARK {
		ch.arkKey, askKey = keys[2], keys[0]
	}
	long := Now.AddDate(20, 0, 0)
	ark := &x509.Certificate{SerialNumber: big.NewInt(0x10000), Subject: name("ARK-" + string(c.Product)), NotBefore: Now.AddDate(-5, 0, 0), NotAfter: long,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, SignatureAlgorithm: x509.SHA384WithRSAPSS}
	ch.ARK = create(ark, ark, &ch.arkKey.PublicKey, ch.arkKey)
	ask := &x509.Certificate{SerialNumber: big.NewInt(0x10001), Subject: name(c.ASKName), NotBefore: c.ASKFrom, NotAfter: c.ASKTo,
		IsCA: !c.ASKNotCA, BasicConstraintsValid: true, MaxPathLenZero: !c.ASKNotCA, KeyUsage: x509.KeyUsageCertSign, SignatureAlgorithm: x509.SHA384WithRSAPSS}
	ch.ASK = create(ask, ch.ARK, &askKey.PublicKey, ch.arkKey)
	ch.key = must(ecdsa.GenerateKey(c.VEKCurve, rand.Reader))
	vek := &x509.Certificate{SerialNumber: big.NewInt(c.Serial), Subject: name(c.VEKName), NotBefore: c.VEKFrom, NotAfter: c.VEKTo,
		SignatureAlgorithm: x509.SHA384WithRSAPSS, ExtraExtensions: c.extensions()}
	if c.PKCS1 {
		vek.SignatureAlgorithm = x509.SHA384WithRSA
	}
	if c.EditVEK != nil {
		c.EditVEK(vek)
	}
	ch.VEK = create(vek, ch.ASK, &ch.key.PublicKey, askKey)
	return ch
}

func create(tmpl, parent *x509.Certificate, pub, priv any) *x509.Certificate {
	return must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, tmpl, parent, pub, priv))))
}

func name(cn string) pkix.Name {
	return pkix.Name{OrganizationalUnit: []string{"Engineering"}, Country: []string{"US"}, Organization: []string{"Advanced Micro Devices"}, CommonName: cn}
}

func (c *Config) defaults() {
	set := func(to *string, v string) {
		if *to == "" {
			*to = v
		}
	}
	when := func(to *time.Time, years int) {
		if to.IsZero() {
			*to = Now.AddDate(years, 0, 0)
		}
	}
	if c.Product == "" {
		c.Product = snp.Milan
	}
	c.TCB.HasFMC = c.Product == snp.Turin
	if c.TCB == (snp.TCB{HasFMC: c.TCB.HasFMC}) {
		c.TCB = snp.TCB{BootLoader: 3, TEE: 1, SNP: 22, Microcode: 213, HasFMC: c.TCB.HasFMC}
		if c.TCB.HasFMC {
			c.TCB.FMC = 2
		}
	}
	kind := "SEV-"
	if c.VLEK {
		kind = "SEV-VLEK-"
		set(&c.VEKName, "SEV-VLEK")
		set(&c.CSPID, "test-cloud")
	}
	set(&c.VEKName, "SEV-VCEK")
	set(&c.ASKName, kind+string(c.Product))
	if len(c.ChipID) == 0 {
		for i := range c.Product.ChipIDSize() {
			c.ChipID = append(c.ChipID, byte(i+1))
		}
	}
	if c.Serial == 0 {
		c.Serial = 77
	}
	if c.VEKCurve == nil {
		c.VEKCurve = elliptic.P384()
	}
	when(&c.VEKFrom, -1)
	when(&c.VEKTo, 6)
	when(&c.ASKFrom, -4)
	when(&c.ASKTo, 15)
}

// extensions are AMD's, as the KDS writes them.
func (c *Config) extensions() []pkix.Extension {
	arc := asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1}
	var list []pkix.Extension
	add := func(v []byte, tail ...int) {
		id := append(append(asn1.ObjectIdentifier{}, arc...), tail...)
		if r, ok := c.Extensions[id.String()]; ok {
			if r == nil {
				return
			}
			v = *r
		}
		list = append(list, pkix.Extension{Id: id, Value: v})
	}
	num := func(n uint8) []byte { return must(asn1.Marshal(int(n))) }
	productName := string(c.Product) + "-B1"
	version := uint8(0)
	if c.Product == snp.Turin {
		productName, version = "Turin", 1
	}
	add(num(version), 1)
	add(must(asn1.MarshalWithParams(productName, "ia5")), 2)
	if c.Product == snp.Turin {
		add(num(c.TCB.FMC), 3, 9)
	} else {
		add(num(0), 3, 4)
	}
	add(num(c.TCB.BootLoader), 3, 1)
	add(num(c.TCB.TEE), 3, 2)
	add(num(c.TCB.SNP), 3, 3)
	add(num(0), 3, 5)
	add(num(0), 3, 6)
	add(num(0), 3, 7)
	add(num(c.TCB.Microcode), 3, 8)
	if c.VLEK {
		add(must(asn1.MarshalWithParams(c.CSPID, "ia5")), 5)
	} else {
		add(c.ChipID, 4)
	}
	return append(list, c.MoreExtensions...)
}

// Report is a report of the chip that every default accepts, but for the launch
// digest and instance that policy must name: its MEASUREMENT is 48 bytes of
// 0xA1, its HOST_DATA 32 bytes of 0xB2 and its REPORT_DATA 64 bytes of 0xC3.
func (c *Chain) Report(version uint32) *snp.Report {
	tcb := snp.EncodeTCB(c.Product, c.TCB)
	r := &snp.Report{
		Version: version, Policy: snp.PolicyReserved1 | snp.PolicySMT, SignatureAlgo: snp.SigECDSAP384SHA384,
		CurrentTCB: tcb, ReportedTCB: tcb, CommittedTCB: tcb, LaunchTCB: tcb,
		CurrentVersion: snp.FirmwareVersion{Build: 21, Minor: 55, Major: 1}, CommittedVersion: snp.FirmwareVersion{Build: 21, Minor: 55, Major: 1},
		PlatformInfo: snp.PlatformSMT | snp.PlatformECC,
	}
	if version >= 3 {
		r.PlatformInfo |= snp.PlatformAliasCheckComplete
		r.CPUIDFamily, r.CPUIDModel, r.CPUIDStepping = c.Product.CPUID()
	}
	if version >= 5 {
		r.LaunchMitVector, r.CurrentMitVector = 0x3, 0x7
	}
	if c.VLEK {
		r.KeyInfo = snp.MakeKeyInfo(snp.SignedByVLEK, false, false)
	}
	copy(r.ChipID[:], c.ChipID)
	fill(r.Measurement[:], 0xA1)
	fill(r.HostData[:], 0xB2)
	fill(r.ReportData[:], 0xC3)
	fill(r.ReportID[:], 0xD4)
	fill(r.ReportIDMA[:], 0xFF)
	return r
}

func fill(b []byte, v byte) {
	for i := range b {
		b[i] = v
	}
}

// Sign is the report in bytes with a valid signature of the chain's VEK.
func (c *Chain) Sign(r *snp.Report) []byte {
	raw := r.Marshal()
	digest := sha512.Sum384(snp.SignedBytes(raw))
	R, S, err := ecdsa.Sign(rand.Reader, c.key, digest[:])
	if err == nil {
		err = snp.PutSignature(raw, R, S)
	}
	if err != nil {
		panic(err)
	}
	return raw
}

// CRL is a revocation list, signed by the ARK.
func (c *Chain) CRL(from, to time.Time, serials ...*big.Int) []byte {
	l := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: from, NextUpdate: to, SignatureAlgorithm: x509.SHA384WithRSAPSS}
	for _, s := range serials {
		l.RevokedCertificateEntries = append(l.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: s, RevocationTime: from})
	}
	return must(x509.CreateRevocationList(rand.Reader, l, c.ARK, c.arkKey))
}
