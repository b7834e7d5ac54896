package policy

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"attestbox/internal/admission"
	"attestbox/internal/applet"
	"attestbox/internal/claim"
	"attestbox/internal/ownerkey"
	"attestbox/internal/proof"
)

// issuers makes the certificates of the keys that may certify, NAME.crt each,
// which end with the claim. One that is there already, of the same key and as
// long, stays.
func (f *folder) issuers(v *claim.VerifiedPolicy, cert *x509.Certificate, key crypto.Signer, now time.Time) (map[string][]byte, error) {
	auth := proof.NewAuthorizer(v)
	out := map[string][]byte{}
	for _, c := range v.Claims() {
		k, ok := c.Statement.Clause.Subject.(claim.Key)
		if !ok || c.Statement.Clause.Verb != claim.IsTrustedForCertification || !c.InForce(now) {
			continue
		}
		if _, ok := auth.Issuer(k, now); !ok { // revoked
			continue
		}
		name := k.Name + ".crt"
		if name == certName {
			return nil, applet.WithHint(errors.New("an issuer's key is called policy, and its certificate would replace the policy certificate"), "give it another name in policy.txt")
		}
		pub, ok := v.Lookup(k)
		if !ok || f.hasIssuer(name, pub, cert, c.NotAfter) {
			continue
		}
		der, err := admission.NewIssuer(cert, key, pub, now, c.NotAfter.Sub(now))
		if err != nil {
			return nil, fmt.Errorf("the certificate of issuer %s: %w", k.Name, err)
		}
		out[name] = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	return out, nil
}

// hasIssuer says whether the folder has a certificate of the key that lasts
// until end.
func (f *folder) hasIssuer(name string, pub crypto.PublicKey, policy *x509.Certificate, end time.Time) bool {
	b, err := applet.ReadFile(nil, f.path(name), ownerkey.MaxFile)
	if err != nil {
		return false
	}
	block, rest := pem.Decode(b)
	if block == nil || len(bytes.TrimSpace(rest)) > 0 {
		return false
	}
	c, err := x509.ParseCertificate(block.Bytes)
	return err == nil && claim.SamePublicKey(c.PublicKey, pub) && c.CheckSignatureFrom(policy) == nil && !c.NotAfter.Before(end.Add(-time.Minute))
}
