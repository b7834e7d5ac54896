package admission

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"time"

	"attestbox/internal/claim"
	"attestbox/internal/code"
)

// ErrServing is a server that shows no claim of the policy key for its role.
var ErrServing = errors.New("the server shows no claim that trusts its key to serve in this role")

// maxServing bounds the claims that one certificate carries, and servingLife
// its dates, which mean nothing: the claims have their own.
const (
	maxServing  = 4
	servingLife = 30 * 365 * 24 * time.Hour
)

// ServingCertificate makes the self-signed certificate, DER, of a server that
// clients trust by claim: each of the signed claims, in claim.SignedClaim's
// text, is carried in the extension OIDServing, SEQUENCE OF OCTET STRING. The
// claims are not verified here. Clients that pin the key take it as well.
func ServingCertificate(key crypto.Signer, claims [][]byte, now time.Time) ([]byte, error) {
	tmpl := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "attestbox server"},
		NotBefore:             now.Add(-time.Hour).UTC().Truncate(time.Second),
		NotAfter:              now.Add(servingLife).UTC().Truncate(time.Second),
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if len(claims) > 0 {
		value, err := marshalClaims(claims)
		if err != nil {
			return nil, fmt.Errorf("making the server's certificate: %w", err)
		}
		tmpl.ExtraExtensions = []pkix.Extension{{Id: OIDServing, Value: value}}
	}
	return create(tmpl, tmpl, key.Public(), key)
}

func marshalClaims(claims [][]byte) ([]byte, error) {
	if len(claims) > maxServing {
		return nil, fmt.Errorf("%d claims, at most %d", len(claims), maxServing)
	}
	for _, c := range claims {
		if _, err := claim.ParseSignedClaim(c); err != nil {
			return nil, err
		}
	}
	return asn1.Marshal(claims)
}

// parseClaims reads the value of OIDServing: exactly what marshalClaims writes.
func parseClaims(der []byte) ([]*claim.SignedClaim, error) {
	if len(der) > maxServing*(claim.MaxSignedClaim+16) {
		return nil, fmt.Errorf("serving claims of %d bytes", len(der))
	}
	var texts [][]byte
	rest, err := asn1.Unmarshal(der, &texts)
	if err != nil || len(rest) > 0 || len(texts) == 0 || len(texts) > maxServing {
		return nil, errors.New("serving claims: want a sequence of 1 to 4 claims")
	}
	if again, err := asn1.Marshal(texts); err != nil || !bytes.Equal(again, der) {
		return nil, errors.New("serving claims: not in canonical form")
	}
	var out []*claim.SignedClaim
	for _, t := range texts {
		c, err := claim.ParseSignedClaim(t)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

// CheckServing says whether a server's certificate carries a claim, signed by
// the policy key, that trusts the certificate's key to serve as role in the
// policy certificate's domain at now. The TLS handshake has to show that the
// server has that key. Revocations are not seen here.
func CheckServing(cert, policy *x509.Certificate, role string, now time.Time) error {
	refuse := func(err error) error {
		return code.Wrap(code.AdmissionRole, fmt.Errorf("%w: %q: %w", ErrServing, role, err))
	}
	domain, err := DomainOf(policy)
	if err != nil {
		return refuse(err)
	}
	if cert == nil {
		return refuse(errors.New("there is no certificate"))
	}
	spki := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	last := errors.New("the certificate carries no claim")
	for _, e := range cert.Extensions {
		if !e.Id.Equal(OIDServing) {
			continue
		}
		claims, err := parseClaims(e.Value)
		if err != nil {
			return refuse(err)
		}
		for _, c := range claims {
			v, err := c.Verify(policy.PublicKey)
			if err == nil {
				err = v.Serves(domain, spki, role, now)
			}
			if err == nil {
				return nil
			}
			last = err
		}
	}
	return refuse(last)
}
