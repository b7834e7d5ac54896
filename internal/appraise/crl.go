package appraise

import (
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"attestbox/internal/code"
)

// maxCRL bounds a revocation list, in bytes.
const maxCRL = 1 << 20

// parseCRL reads a revocation list and verifies that the root signed it.
func parseCRL(der []byte, root *Root) (*x509.RevocationList, error) {
	if len(der) > maxCRL {
		return nil, fmt.Errorf("%d bytes, want at most %d", len(der), maxCRL)
	}
	crl, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, fmt.Errorf("not a revocation list: %w", err)
	}
	if crl.SignatureAlgorithm != x509.SHA384WithRSAPSS {
		return nil, fmt.Errorf("signed with %v, want %v", crl.SignatureAlgorithm, x509.SHA384WithRSAPSS)
	}
	if string(crl.RawIssuer) != string(root.cert.RawSubject) {
		return nil, fmt.Errorf("issuer is %q, want %q", crl.Issuer, root.cert.Subject)
	}
	if err := crl.CheckSignatureFrom(root.cert); err != nil {
		return nil, fmt.Errorf("signature: %w", err)
	}
	for _, x := range crl.Extensions {
		if x.Critical { // a list of another scope than it seems
			return nil, fmt.Errorf("unknown critical extension %v", x.Id)
		}
	}
	return crl, nil
}

// notRevoked records age and entries of the list. The list is the ARK's, and
// its entries name certificates that the ARK signed, so that the ASK's serial
// is what counts; an entry with the VEK's serial refuses too, although AMD
// gives every VEK the serial 0, since an error to that side only refuses.
func (c *chain) notRevoked(cs *checks, now time.Time, opt Options) {
	if c.crl == nil {
		if opt.RequireCRL {
			cs.check(false, code.CRLBad, "CRL", "none", "a revocation list signed by the ARK")
		} else {
			cs.state("CRL", "none", "revocation not checked")
		}
		return
	}
	last := c.crl.NextUpdate.Add(opt.CRLGrace)
	fresh := !c.crl.NextUpdate.IsZero() && !now.After(last) && !now.Before(c.crl.ThisUpdate)
	cs.check(fresh, code.CRLBad, "CRL.VALIDITY", stamp(now), stamp(c.crl.ThisUpdate)+" to "+stamp(last))
	for _, x := range []struct {
		field string
		cert  *x509.Certificate
	}{{"ASK.REVOCATION", c.ask}, {"VEK.REVOCATION", c.vek}} {
		err := revoked(c.crl, x.cert)
		found := fmt.Sprintf("serial %v", x.cert.SerialNumber)
		if err != nil {
			found += ": " + err.Error()
		}
		cs.check(err == nil, code.VEKRevoked, x.field, found, "not on the list")
	}
}

func revoked(crl *x509.RevocationList, cert *x509.Certificate) error {
	for _, e := range crl.RevokedCertificateEntries {
		if e.SerialNumber.Cmp(cert.SerialNumber) == 0 {
			return errors.New("revoked " + stamp(e.RevocationTime))
		}
	}
	return nil
}
