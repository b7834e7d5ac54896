package appraise

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"

	"attestbox/internal/snp"
)

// NotAMD is how every decision names a root that is not AMD's.
const NotAMD = "NOT AMD HARDWARE"

// amdARKs are the SHA-256 fingerprints of AMD's root certificates as the KDS
// serves them at /vcek/v1/<product>/cert_chain. They decide who is called AMD.
var amdARKs = map[snp.Product]string{
	snp.Milan: "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd",
	snp.Genoa: "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1",
	snp.Turin: "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a",
}

// Root is one trusted AMD Root Key (ARK) certificate of one product, with the
// intermediates known for it.
type Root struct {
	product snp.Product
	cert    *x509.Certificate
	asks    []*x509.Certificate
	sum     [32]byte
	amd     bool
}

// NewRoot makes a root from an ARK certificate in DER, self-signed with
// RSA-PSS and SHA-384. Intermediates (ASK, ASVK), if given, serve evidence that
// brings none; each must be signed by the ARK. Whether the root is AMD's is
// told from its fingerprint.
func NewRoot(product snp.Product, ark []byte, intermediates ...[]byte) (*Root, error) {
	if _, err := snp.ParseProduct(string(product)); err != nil {
		return nil, fmt.Errorf("making a root: %w", err)
	}
	cert, err := parseCert(ark)
	if err != nil {
		return nil, fmt.Errorf("reading ARK of %s: %w", product, err)
	}
	r := &Root{product: product, cert: cert, sum: sha256.Sum256(ark)}
	r.amd = hex.EncodeToString(r.sum[:]) == amdARKs[product]
	if err := isCA(cert, r.amd); err != nil {
		return nil, fmt.Errorf("ARK of %s: %w", product, err)
	}
	if err := signedBy(cert, cert); err != nil {
		return nil, fmt.Errorf("ARK of %s is not self-signed: %w", product, err)
	}
	for _, der := range intermediates {
		ask, err := parseCert(der)
		if err != nil {
			return nil, fmt.Errorf("reading ASK of %s: %w", product, err)
		}
		if err := errors.Join(isCA(ask, r.amd), signedBy(ask, cert)); err != nil {
			return nil, fmt.Errorf("ASK of %s: %w", product, err)
		}
		r.asks = append(r.asks, ask)
	}
	return r, nil
}

// AMD says whether the root is one of AMD's own.
func (r *Root) AMD() bool { return r.amd }

// Product is the product that the root speaks for.
func (r *Root) Product() snp.Product { return r.product }

// Fingerprint is the SHA-256 of the root certificate.
func (r *Root) Fingerprint() [32]byte { return r.sum }

// Name is the root's common name and the start of its fingerprint; for a root
// that is not AMD's it says so.
func (r *Root) Name() string {
	s := fmt.Sprintf("%s sha256:%x", r.cert.Subject.CommonName, r.sum[:8])
	if !r.amd {
		s += " " + NotAMD
	}
	return s
}

// Roots is a set of trusted roots; it does not change after it was made.
type Roots struct{ list []*Root }

// NewRoots makes the set. Roots that are AMD's and roots that are not never
// stand in one set: whoever trusts hardware does not trust a simulator beside
// it.
func NewRoots(roots ...*Root) (*Roots, error) {
	s := &Roots{}
	for _, r := range roots {
		if r == nil {
			return nil, errors.New("a root is nil")
		}
		if len(s.list) > 0 && s.list[0].amd != r.amd {
			return nil, fmt.Errorf("root %q beside root %q: roots of AMD and of others cannot be trusted together", r.Name(), s.list[0].Name())
		}
		s.list = append(s.list, r)
	}
	return s, nil
}

// AMD says whether the roots are AMD's; false for an empty set.
func (s *Roots) AMD() bool { return s != nil && len(s.list) > 0 && s.list[0].amd }

// Products lists the products that the set has roots for.
func (s *Roots) Products() []snp.Product {
	var ps []snp.Product
	if s != nil {
		for _, r := range s.list {
			ps = append(ps, r.product)
		}
	}
	return ps
}

// of is the roots of one product.
func (s *Roots) of(p snp.Product) []*Root {
	var rs []*Root
	if s != nil {
		for _, r := range s.list {
			if r.product == p {
				rs = append(rs, r)
			}
		}
	}
	return rs
}

// maxCert bounds a certificate, in bytes; real ones have 1.3 to 1.7 KiB.
const maxCert = 16 << 10

func parseCert(der []byte) (*x509.Certificate, error) {
	switch {
	case len(der) == 0:
		return nil, errors.New("no certificate")
	case len(der) > maxCert:
		return nil, fmt.Errorf("certificate of %d bytes, want at most %d", len(der), maxCert)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("not a certificate: %w", err)
	}
	return cert, nil
}

// minRSA is the size that AMD's roots and intermediates have, in bits; a
// simulator may use smaller keys, down to minRSAOther.
const (
	minRSA      = 4096
	minRSAOther = 2048
)

// isCA checks that a certificate may sign others.
func isCA(c *x509.Certificate, amd bool) error {
	least := minRSAOther
	if amd {
		least = minRSA
	}
	key, ok := c.PublicKey.(*rsa.PublicKey)
	switch {
	case !ok || key.N.BitLen() < least:
		return fmt.Errorf("key is not RSA of at least %d bits", least)
	case !c.BasicConstraintsValid || !c.IsCA:
		return errors.New("no CA bit")
	case c.KeyUsage&x509.KeyUsageCertSign == 0:
		return errors.New("key usage lacks certificate signing")
	case len(c.UnhandledCriticalExtensions) > 0:
		return fmt.Errorf("unknown critical extension %v", c.UnhandledCriticalExtensions[0])
	}
	return nil
}

// signedBy checks names and the RSA-PSS SHA-384 signature of child by parent.
func signedBy(child, parent *x509.Certificate) error {
	if !bytes.Equal(child.RawIssuer, parent.RawSubject) {
		return fmt.Errorf("issuer is %q, want %q", child.Issuer, parent.Subject)
	}
	if child.SignatureAlgorithm != x509.SHA384WithRSAPSS {
		return fmt.Errorf("signed with %v, want %v", child.SignatureAlgorithm, x509.SHA384WithRSAPSS)
	}
	if err := child.CheckSignatureFrom(parent); err != nil {
		return fmt.Errorf("signature: %w", err)
	}
	return nil
}
