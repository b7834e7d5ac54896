package snpsim

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"time"

	"attestbox/internal/snp"
)

// Organization is what the simulator's ARK calls its owner.
const Organization = "attestbox snp-sim, NOT AMD HARDWARE"

// authority is the vendor's side: root and intermediate.
type authority struct {
	arkKey, askKey *rsa.PrivateKey
	ark, ask       *x509.Certificate
}

const rsaBits = 4096 // 57230: ARK and ASK are RSA-4096 with PSS and SHA-384

// newKeys makes both keys at once; that takes seconds.
func newKeys() (*authority, error) {
	type result struct {
		key *rsa.PrivateKey
		err error
	}
	other := make(chan result, 1)
	go func() {
		k, err := rsa.GenerateKey(rand.Reader, rsaBits)
		other <- result{k, err}
	}()
	ark, err := rsa.GenerateKey(rand.Reader, rsaBits)
	ask := <-other
	if err != nil || ask.err != nil {
		return nil, fmt.Errorf("making RSA keys: %w", errors.Join(err, ask.err))
	}
	return &authority{arkKey: ark, askKey: ask.key}, nil
}

// simName is a name that only the simulator uses; the root has it.
func simName(cn string) []byte {
	return rdn([2]any{oidOU, "Engineering"}, [2]any{oidO, Organization}, [2]any{oidCN, cn})
}

// amdName has AMD's attributes in AMD's order. ASK and VCEK need it, because
// go-sev-guest and other tools compare them; who vouches for them is the root.
func amdName(cn string) []byte {
	return rdn([2]any{oidOU, "Engineering"}, [2]any{oidC, "US"}, [2]any{oidL, "Santa Clara"},
		[2]any{oidST, "CA"}, [2]any{oidO, "Advanced Micro Devices"}, [2]any{oidCN, cn})
}

var (
	oidCN = asn1.ObjectIdentifier{2, 5, 4, 3}
	oidC  = asn1.ObjectIdentifier{2, 5, 4, 6}
	oidL  = asn1.ObjectIdentifier{2, 5, 4, 7}
	oidST = asn1.ObjectIdentifier{2, 5, 4, 8}
	oidO  = asn1.ObjectIdentifier{2, 5, 4, 10}
	oidOU = asn1.ObjectIdentifier{2, 5, 4, 11}
)

func rdn(parts ...[2]any) []byte {
	var seq pkix.RDNSequence
	for _, p := range parts {
		seq = append(seq, pkix.RelativeDistinguishedNameSET{{Type: p[0].(asn1.ObjectIdentifier), Value: p[1]}})
	}
	b, err := asn1.Marshal(seq)
	if err != nil {
		panic(err) // constants
	}
	return b
}

// certify makes the certificates of ARK and ASK.
func (a *authority) certify(product snp.Product, now time.Time) error {
	crl := []string{"https://kdsintf.amd.com/vcek/v1/" + string(product) + "/crl"}
	begin := now.Add(-24 * time.Hour).UTC().Truncate(time.Second)
	arkTemplate := &x509.Certificate{
		SerialNumber: big.NewInt(0x10000), RawSubject: simName("ARK-" + string(product)),
		NotBefore: begin, NotAfter: begin.AddDate(25, 0, 0),
		SignatureAlgorithm: x509.SHA384WithRSAPSS,
		KeyUsage:           x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		IsCA:               true, BasicConstraintsValid: true,
		SubjectKeyId: keyID(a.arkKey), CRLDistributionPoints: crl,
	}
	var err error
	if a.ark, err = sign(arkTemplate, arkTemplate, &a.arkKey.PublicKey, a.arkKey); err != nil {
		return fmt.Errorf("certifying the ARK: %w", err)
	}
	askTemplate := &x509.Certificate{
		SerialNumber: big.NewInt(0x10001), RawSubject: amdName("SEV-" + string(product)),
		NotBefore: begin, NotAfter: begin.AddDate(25, 0, 0),
		SignatureAlgorithm: x509.SHA384WithRSAPSS,
		KeyUsage:           x509.KeyUsageCertSign,
		IsCA:               true, BasicConstraintsValid: true, MaxPathLenZero: true,
		SubjectKeyId: keyID(a.askKey), CRLDistributionPoints: crl,
	}
	if a.ask, err = sign(askTemplate, a.ark, &a.askKey.PublicKey, a.arkKey); err != nil {
		return fmt.Errorf("certifying the ASK: %w", err)
	}
	return nil
}

// certifyVCEK makes the chip's certificate for its reported TCB.
func (a *authority) certifyVCEK(p *PSP) (*x509.Certificate, error) {
	begin := p.now.Add(-24 * time.Hour).UTC().Truncate(time.Second)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(0), // AMD's all have 0
		RawSubject:   amdName("SEV-VCEK"),
		NotBefore:    begin, NotAfter: begin.AddDate(7, 0, 0),
		SignatureAlgorithm: x509.SHA384WithRSAPSS,
		ExtraExtensions:    vcekExtensions(p.product, p.state.Reported, p.chipID),
	}
	parent := *a.ask
	parent.SubjectKeyId = nil // a VCEK has no authority key identifier
	c, err := sign(template, &parent, &p.vcek.PublicKey, a.askKey)
	if err != nil {
		return nil, fmt.Errorf("certifying the VCEK: %w", err)
	}
	return c, nil
}

func sign(template, parent *x509.Certificate, pub any, key *rsa.PrivateKey) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func keyID(k *rsa.PrivateKey) []byte {
	id := sha1.Sum(x509.MarshalPKCS1PublicKey(&k.PublicKey)) // RFC 5280, 4.2.1.2, method 1: a name, not security
	return id[:]
}

// vcekExtensions are the KDS extensions (57230, "VCEK certificate") in the
// order that certificates of AMD's have them.
func vcekExtensions(product snp.Product, t snp.TCB, chipID [64]byte) []pkix.Extension {
	type spl struct {
		n int
		v uint8
	}
	name, structVersion := string(product)+"-B0", 0
	spls := []spl{{1, t.BootLoader}, {2, t.TEE}, {4, 0}, {5, 0}, {6, 0}, {7, 0}, {3, t.SNP}, {8, t.Microcode}}
	if product == snp.Turin {
		name, structVersion = string(product), 1
		spls = []spl{{9, t.FMC}, {1, t.BootLoader}, {2, t.TEE}, {3, t.SNP}, {5, 0}, {6, 0}, {7, 0}, {8, t.Microcode}}
	}
	exts := []pkix.Extension{
		{Id: kdsOID(1), Value: marshal(structVersion, "")},
		{Id: kdsOID(2), Value: marshal(name, "ia5")},
	}
	for _, s := range spls {
		exts = append(exts, pkix.Extension{Id: kdsOID(3, s.n), Value: marshal(int(s.v), "")})
	}
	// The hwID has no ASN.1 type of its own in AMD's certificates.
	return append(exts, pkix.Extension{Id: kdsOID(4), Value: chipID[:product.ChipIDSize():product.ChipIDSize()]})
}

func kdsOID(rest ...int) asn1.ObjectIdentifier {
	return append(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1}, rest...)
}

func marshal(v any, params string) []byte {
	b, err := asn1.MarshalWithParams(v, params)
	if err != nil {
		panic(err) // small integers and ASCII
	}
	return b
}

// CRL makes the ARK's revocation list, DER, with the serial numbers given.
func (p *PSP) CRL(thisUpdate, nextUpdate time.Time, revoked ...*big.Int) ([]byte, error) {
	list := &x509.RevocationList{
		Number: big.NewInt(1), ThisUpdate: thisUpdate, NextUpdate: nextUpdate,
		SignatureAlgorithm: x509.SHA384WithRSAPSS,
	}
	for _, serial := range revoked {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: serial, RevocationTime: thisUpdate})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, p.ca.ark, p.ca.arkKey)
	if err != nil {
		return nil, fmt.Errorf("making a revocation list: %w", err)
	}
	return der, nil
}
