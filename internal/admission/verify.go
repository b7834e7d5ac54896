package admission

import (
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"attestbox/internal/code"
)

// Why a certificate is not accepted; each comes with its code.
var (
	ErrCertificate   = errors.New("not an admission certificate of this domain")
	ErrValidity      = errors.New("the admission certificate is not valid at this time")
	ErrPolicyVersion = errors.New("the admission certificate was made under a policy that is no longer accepted")
	ErrRevoked       = errors.New("the admission is revoked")
	ErrRole          = errors.New("the peer's admission certificate does not grant the role")
)

// maxCertificate bounds one certificate of a chain, in bytes.
const maxCertificate = 8 << 10

// Trust is what makes an admission certificate count. All of it is needed, but
// for Revoked.
type Trust struct {
	Policy *x509.Certificate // the domain's policy certificate
	Domain string
	// MinPolicyVersion is the least version of the policy that a certificate
	// may have been made under.
	MinPolicyVersion uint64
	// Revoked, if set, says whether the domain takes an admission back.
	Revoked func(*Identity) bool
}

// Verify checks a chain of admission certificate and issuer's certificate, in
// DER, and returns what it says. Nothing but what Issue and NewIssuer make is
// accepted.
func (t *Trust) Verify(chain [][]byte, now time.Time) (*Identity, error) {
	id, err := t.verify(chain, now)
	switch {
	case err == nil:
		return id, nil
	case errors.Is(err, ErrValidity):
		return nil, code.Wrap(code.AdmissionValidity, err)
	case errors.Is(err, ErrPolicyVersion):
		return nil, code.Wrap(code.AdmissionPolicyVersion, err)
	case errors.Is(err, ErrRevoked):
		return nil, code.Wrap(code.AdmissionRevoked, err)
	case errors.Is(err, ErrRole):
		return nil, code.Wrap(code.AdmissionRole, err)
	case errors.Is(err, ErrCertificate):
		return nil, code.Wrap(code.AdmissionBad, err)
	}
	return nil, code.Wrap(code.AdmissionBad, fmt.Errorf("%w: %w", ErrCertificate, err))
}

func (t *Trust) verify(chain [][]byte, now time.Time) (*Identity, error) {
	domain, err := DomainOf(t.Policy)
	if err != nil {
		return nil, err
	}
	switch {
	case t.Domain != domain:
		return nil, fmt.Errorf("the policy certificate is of %s, not of %q", domain, t.Domain)
	case t.Policy.MaxPathLen != 1:
		return nil, errors.New("the policy certificate's path length is not 1")
	case len(chain) != 2:
		return nil, fmt.Errorf("chain of %d certificates, want the admission certificate and its issuer's", len(chain))
	}
	var certs [2]*x509.Certificate
	for i, der := range chain {
		if len(der) > maxCertificate {
			return nil, fmt.Errorf("certificate of %d bytes", len(der))
		}
		if certs[i], err = x509.ParseCertificate(der); err != nil {
			return nil, err
		}
	}
	leaf, issuer := certs[0], certs[1]
	if err := checkIssuer(issuer, domain); err != nil {
		return nil, fmt.Errorf("issuer's certificate: %w", err)
	}
	id, err := checkLeaf(leaf, domain)
	if err != nil {
		return nil, err
	}
	for _, c := range []*x509.Certificate{leaf, issuer, t.Policy} {
		if now.Before(c.NotBefore) || now.After(c.NotAfter) {
			return nil, fmt.Errorf("%w: it is valid from %s to %s", ErrValidity, c.NotBefore.Format(time.RFC3339), c.NotAfter.Format(time.RFC3339))
		}
	}
	// Signatures, path length and name constraints once more by the library,
	// to which our extension is known now.
	leaf.UnhandledCriticalExtensions = nil
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(t.Policy)
	between.AddCert(issuer)
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		return nil, err
	}
	if err := checkLowS(leaf, issuer); err != nil {
		return nil, err
	}
	id.Issuer = sha256.Sum256(issuer.RawSubjectPublicKeyInfo)
	if id.PolicyVersion < t.MinPolicyVersion {
		return nil, fmt.Errorf("%w: version %d, want at least %d", ErrPolicyVersion, id.PolicyVersion, t.MinPolicyVersion)
	}
	if t.Revoked != nil && t.Revoked(id) {
		return nil, fmt.Errorf("%w: %s", ErrRevoked, id)
	}
	return id, nil
}

func checkIssuer(c *x509.Certificate, domain string) error {
	d, err := DomainOf(c)
	switch {
	case err != nil:
		return err
	case d != domain:
		return fmt.Errorf("it is of domain %s, not of %s", d, domain)
	case !c.MaxPathLenZero || c.MaxPathLen != 0:
		return errors.New("its path length is not 0")
	case c.KeyUsage != x509.KeyUsageCertSign || len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) > 0:
		return errors.New("its key usage is not keyCertSign alone")
	case len(c.UnhandledCriticalExtensions) > 0:
		return fmt.Errorf("unknown critical extension %v", c.UnhandledCriticalExtensions[0])
	}
	return CheckKey(c.PublicKey)
}

// checkLeaf checks everything that does not depend on time or trust.
func checkLeaf(c *x509.Certificate, domain string) (*Identity, error) {
	switch {
	case c.IsCA || !c.BasicConstraintsValid || c.MaxPathLen > 0:
		return nil, errors.New("an admission certificate is no CA")
	case c.KeyUsage != x509.KeyUsageDigitalSignature:
		return nil, errors.New("key usage is not digitalSignature alone")
	case len(c.Subject.Names) > 0:
		return nil, errors.New("the subject is not empty")
	case len(c.DNSNames)+len(c.EmailAddresses)+len(c.IPAddresses) > 0:
		return nil, errors.New("it has names of other kinds than URI")
	case c.NotAfter.Sub(c.NotBefore) > MaxValidity+backdate:
		return nil, fmt.Errorf("it is valid for %v, more than any domain issues", c.NotAfter.Sub(c.NotBefore))
	}
	if err := CheckKey(c.PublicKey); err != nil {
		return nil, err
	}
	id := &Identity{Serial: c.SerialNumber, NotBefore: c.NotBefore, NotAfter: c.NotAfter, SPKI: sha256.Sum256(c.RawSubjectPublicKeyInfo), Certificate: sha256.Sum256(c.Raw)}
	if err := id.fromURIs(c.URIs); err != nil {
		return nil, err
	}
	if id.Domain != domain {
		return nil, fmt.Errorf("it is of domain %s, not of %s", id.Domain, domain)
	}
	want := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if len(id.Roles) > 0 {
		want = append(want, x509.ExtKeyUsageServerAuth)
	}
	if !slices.Equal(c.ExtKeyUsage, want) || len(c.UnknownExtKeyUsage) > 0 {
		return nil, errors.New("its extended key usage does not fit its roles")
	}
	instance, found := id.Instance, 0
	for _, e := range c.Extensions {
		switch {
		case e.Id.Equal(OIDAdmission):
			found++
			if !e.Critical {
				return nil, errors.New("the admission extension is not critical")
			}
			if err := id.parseExtension(e.Value); err != nil {
				return nil, err
			}
		case !slices.ContainsFunc(known, e.Id.Equal):
			return nil, fmt.Errorf("unknown extension %v", e.Id)
		}
	}
	switch {
	case found != 1:
		return nil, errors.New("there is no admission extension")
	case id.Instance != instance:
		return nil, errors.New("name and admission extension are about different instances")
	}
	for _, e := range c.UnhandledCriticalExtensions {
		if !e.Equal(OIDAdmission) {
			return nil, fmt.Errorf("unknown critical extension %v", e)
		}
	}
	return id, nil
}
