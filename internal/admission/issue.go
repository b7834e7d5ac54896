package admission

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// Lives of certificates, as the applets use them by default.
const (
	DefaultValidity = time.Hour      // of an admission certificate
	MaxValidity     = 24 * time.Hour // Issue refuses more
	PolicyValidity  = 10 * 365 * 24 * time.Hour
	IssuerValidity  = 90 * 24 * time.Hour

	// backdate is how far a certificate begins in the past, for peers whose
	// clock is a little behind.
	backdate = time.Minute
)

// NewPolicyCertificate makes the self-signed certificate of a policy key, DER.
func NewPolicyCertificate(key crypto.Signer, domain string, now time.Time, validity time.Duration) ([]byte, error) {
	tmpl, err := authority("attestbox policy", domain, now, validity)
	if err != nil {
		return nil, err
	}
	tmpl.MaxPathLen = 1
	return create(tmpl, tmpl, key.Public(), key)
}

// NewIssuer makes an issuer's certificate under the policy certificate, DER. It
// ends no later than that one.
func NewIssuer(policy *x509.Certificate, policyKey crypto.Signer, issuer crypto.PublicKey, now time.Time, validity time.Duration) ([]byte, error) {
	domain, err := DomainOf(policy)
	if err != nil {
		return nil, err
	}
	tmpl, err := authority("attestbox issuer", domain, now, validity)
	if err != nil {
		return nil, err
	}
	if same(policy.PublicKey, issuer) {
		return nil, errors.New("the issuer's key is the policy key: delegate to another key, so that this one can stay offline")
	}
	tmpl.MaxPathLenZero = true
	return createUnder(tmpl, policy, issuer, policyKey)
}

func authority(name, domain string, now time.Time, validity time.Duration) (*x509.Certificate, error) {
	if err := CheckDomain(domain); err != nil {
		return nil, err
	}
	if validity <= 0 {
		return nil, fmt.Errorf("validity of %v", validity)
	}
	return &x509.Certificate{
		Subject:               pkix.Name{CommonName: name, Organization: []string{domain}},
		NotBefore:             now.Add(-backdate).UTC().Truncate(time.Second),
		NotAfter:              now.Add(validity).UTC().Truncate(time.Second),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,

		PermittedDNSDomainsCritical: true, // all name constraints, whatever its name says
		PermittedURIDomains:         []string{domain},
	}, nil
}

// DomainOf is the domain of a policy or issuer certificate: the one URI domain
// that its name constraint permits.
func DomainOf(cert *x509.Certificate) (string, error) {
	if cert == nil {
		return "", errors.New("there is no policy certificate")
	}
	if !cert.IsCA || !cert.BasicConstraintsValid || !cert.PermittedDNSDomainsCritical || len(cert.PermittedURIDomains) != 1 {
		return "", errors.New("not the certificate of a domain: it must be a CA with a critical constraint to one URI domain")
	}
	domain := cert.PermittedURIDomains[0]
	return domain, CheckDomain(domain)
}

// CheckKey says whether a key may be certified: Ed25519, ECDSA on P-256 or
// P-384, RSA of 3072 to 4096 bits.
func CheckKey(key crypto.PublicKey) error {
	switch k := key.(type) {
	case ed25519.PublicKey:
		return nil
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() || k.Curve == elliptic.P384() {
			return nil
		}
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n >= 3072 && n <= 4096 {
			return nil
		}
	}
	return errors.New("a key to be certified is Ed25519, ECDSA P-256 or P-384, or RSA of 3072 to 4096 bits")
}

// NewCSR is a certification request that says nothing but the key.
func NewCSR(key crypto.Signer) ([]byte, error) {
	return x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{SignatureAlgorithm: algorithm(key.Public())}, key)
}

// KeyFromCSR takes the public key from a certification request and nothing
// else. Its signature must show that the sender has the private key.
func KeyFromCSR(der []byte) (crypto.PublicKey, error) {
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("reading the certification request: %w", err)
	}
	if err := CheckKey(csr.PublicKey); err != nil {
		return nil, err
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("signature of the certification request: %w", err)
	}
	return csr.PublicKey, nil
}

// Issue makes an admission certificate, DER. Serial, times and SPKI of id are
// not used. It ends no later than the issuer's.
func Issue(issuer *x509.Certificate, issuerKey crypto.Signer, subject crypto.PublicKey, id *Identity, now time.Time, validity time.Duration) ([]byte, error) {
	domain, err := DomainOf(issuer)
	if err != nil {
		return nil, err
	}
	if err := id.check(); err != nil {
		return nil, fmt.Errorf("issuing a certificate: %w", err)
	}
	if err := CheckKey(subject); err != nil {
		return nil, fmt.Errorf("issuing a certificate: %w", err)
	}
	switch {
	case domain != id.Domain:
		return nil, fmt.Errorf("issuing a certificate: the issuer is of %s, not of %s", domain, id.Domain)
	case !issuer.MaxPathLenZero:
		return nil, errors.New("issuing a certificate: the issuer's certificate allows a path below it")
	case validity <= 0 || validity > MaxValidity:
		return nil, fmt.Errorf("issuing a certificate: validity of %v, at most %v", validity, MaxValidity)
	case same(issuer.PublicKey, subject):
		return nil, errors.New("issuing a certificate: the subject's key is the issuer's own")
	}
	ext, err := id.marshalExtension()
	if err != nil {
		return nil, err
	}
	uris, err := id.uris()
	if err != nil {
		return nil, err
	}
	usage := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if len(id.Roles) > 0 {
		usage = append(usage, x509.ExtKeyUsageServerAuth)
	}
	return createUnder(&x509.Certificate{
		NotBefore:             now.Add(-backdate).UTC().Truncate(time.Second),
		NotAfter:              now.Add(validity).UTC().Truncate(time.Second),
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           usage,
		URIs:                  uris,
		ExtraExtensions:       []pkix.Extension{{Id: OIDAdmission, Critical: true, Value: ext}},
	}, issuer, subject, issuerKey)
}

func createUnder(tmpl, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) ([]byte, error) {
	if !same(parent.PublicKey, key.Public()) {
		return nil, errors.New("the signing key is not the one of the certificate above")
	}
	if tmpl.NotAfter.After(parent.NotAfter) {
		tmpl.NotAfter = parent.NotAfter
	}
	if tmpl.NotBefore.Before(parent.NotBefore) {
		tmpl.NotBefore = parent.NotBefore
	}
	if !tmpl.NotBefore.Before(tmpl.NotAfter) {
		return nil, fmt.Errorf("the certificate above is not valid now: it ends %s", parent.NotAfter.Format(time.RFC3339))
	}
	return create(tmpl, parent, pub, key)
}

func create(tmpl, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) ([]byte, error) {
	serial := make([]byte, 16)
	rand.Read(serial)
	serial[0] = serial[0]&0x7f | 0x40 // positive, always 16 bytes: 126 random bits
	tmpl.SerialNumber = new(big.Int).SetBytes(serial)
	tmpl.SignatureAlgorithm = algorithm(key.Public())
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, err
	}
	if tmpl.IsCA {
		sum := sha256.Sum256(spki)
		tmpl.SubjectKeyId = sum[:20]
	}
	return x509.CreateCertificate(rand.Reader, tmpl, parent, pub, lowS{key})
}

// algorithm is RSA-PSS where crypto/x509 would choose PKCS #1 v1.5, and its
// own choice elsewhere.
func algorithm(pub crypto.PublicKey) x509.SignatureAlgorithm {
	if _, ok := pub.(*rsa.PublicKey); ok {
		return x509.SHA384WithRSAPSS
	}
	return x509.UnknownSignatureAlgorithm
}

func same(a, b crypto.PublicKey) bool {
	x, err1 := x509.MarshalPKIXPublicKey(a)
	y, err2 := x509.MarshalPKIXPublicKey(b)
	return err1 == nil && err2 == nil && bytes.Equal(x, y)
}
