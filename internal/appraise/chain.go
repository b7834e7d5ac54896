package appraise

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	"attestbox/internal/code"
	"attestbox/internal/snp"
)

// chain is VEK, ASK and root whose signatures have been verified. Times are
// not part of it: they are judged at every use.
type chain struct {
	root *Root
	ask  *x509.Certificate
	vek  *x509.Certificate
	key  *ecdsa.PublicKey
	ext  *VEKExtensions
	kind snp.SigningKey
	crl  *x509.RevocationList // nil when none was given
}

// chainError says which link failed.
type chainError struct {
	code  code.Code
	field string
	err   error
}

func (e *chainError) Error() string { return e.field + ": " + e.err.Error() }

// buildChain verifies VEK by ASK and ASK by a pinned ARK of the product.
func buildChain(e Endorsements, roots *Roots, product snp.Product) (*chain, *chainError) {
	vek, err := parseCert(e.VEK)
	if err != nil {
		return nil, &chainError{code.VEKChain, "VEK", err}
	}
	c := &chain{vek: vek}
	if c.key, err = vekKey(vek); err != nil {
		return nil, &chainError{code.VEKChain, "VEK", err}
	}
	if c.ext, err = ParseVEK(vek); err != nil {
		return nil, &chainError{code.VEKExtension, "VEK.EXTENSIONS", err}
	}
	if c.kind, err = c.kindOf(); err != nil {
		return nil, &chainError{code.VEKKind, "VEK.KIND", err}
	}
	if ce := c.findRoot(e, roots, product); ce != nil {
		return nil, ce
	}
	if isVLEK := strings.HasPrefix(c.ask.Subject.CommonName, "SEV-VLEK"); isVLEK != (c.kind == snp.SignedByVLEK) {
		return nil, &chainError{code.VEKKind, "ASK", fmt.Errorf("%q does not sign a %v", c.ask.Subject.CommonName, c.kind)}
	}
	if err := signedBy(vek, c.ask); err != nil {
		return nil, &chainError{code.VEKChain, "VEK", err}
	}
	if len(e.CRL) > 0 {
		if c.crl, err = parseCRL(e.CRL, c.root); err != nil {
			return nil, &chainError{code.CRLBad, "CRL", err}
		}
	}
	return c, nil
}

// findRoot picks ASK and root: the ARK must be pinned, and sign the ASK.
func (c *chain) findRoot(e Endorsements, roots *Roots, product snp.Product) *chainError {
	pinned := roots.of(product)
	if len(pinned) == 0 {
		return &chainError{code.VEKRoot, "ARK", fmt.Errorf("no root is trusted for %s", product)}
	}
	if len(e.ARK) > 0 {
		var ce *chainError
		if pinned, ce = arrived(e.ARK, pinned); ce != nil {
			return ce
		}
	}
	if len(e.ASK) == 0 {
		for _, r := range pinned {
			for _, ask := range r.asks {
				if bytes.Equal(ask.RawSubject, c.vek.RawIssuer) {
					c.root, c.ask = r, ask // NewRoot has verified its signature
					return nil
				}
			}
		}
		return &chainError{code.VEKChain, "ASK", errors.New("none came with the report, and the root brings none for this VEK")}
	}
	ask, err := parseCert(e.ASK)
	if err != nil {
		return &chainError{code.VEKChain, "ASK", err}
	}
	var why error
	for _, r := range pinned {
		if why = signedBy(ask, r.cert); why == nil {
			if err := isCA(ask, r.amd); err != nil {
				return &chainError{code.VEKChain, "ASK", err}
			}
			c.root, c.ask = r, ask
			return nil
		}
	}
	return &chainError{code.VEKRoot, "ASK", fmt.Errorf("not signed by a trusted ARK of %s: %w", product, why)}
}

// arrived finds the pinned root that an ARK which came with the evidence
// repeats. The bytes may differ (AMD may issue its root anew), the key and the
// name may not, and what arrived must be self-signed; only the pinned one is
// used from here on.
func arrived(der []byte, pinned []*Root) ([]*Root, *chainError) {
	ark, err := parseCert(der)
	if err != nil {
		return nil, &chainError{code.VEKRoot, "ARK", err}
	}
	for _, r := range pinned {
		if !bytes.Equal(ark.RawSubjectPublicKeyInfo, r.cert.RawSubjectPublicKeyInfo) {
			continue
		}
		if err := signedBy(ark, r.cert); err != nil {
			return nil, &chainError{code.VEKRoot, "ARK", err}
		}
		return []*Root{r}, nil
	}
	return nil, &chainError{code.VEKRoot, "ARK",
		fmt.Errorf("%q sha256:%x is not a trusted root", ark.Subject.CommonName, sha256.Sum256(der))}
}

// vekKey checks that a certificate can be a VEK's: ECDSA P-384, no CA.
func vekKey(vek *x509.Certificate) (*ecdsa.PublicKey, error) {
	key, ok := vek.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P384() {
		return nil, errors.New("key is not ECDSA P-384")
	}
	if vek.IsCA {
		return nil, errors.New("has the CA bit")
	}
	for _, id := range vek.UnhandledCriticalExtensions {
		if len(id) < len(arcVEK) || !id[:len(arcVEK)].Equal(arcVEK) {
			return nil, fmt.Errorf("unknown critical extension %v", id)
		}
	}
	return key, nil
}

// kindOf tells VCEK from VLEK by the certificate's name and extensions, which
// must agree.
func (c *chain) kindOf() (snp.SigningKey, error) {
	switch cn := c.vek.Subject.CommonName; {
	case cn == "SEV-VCEK" && c.ext.HWID != nil:
		return snp.SignedByVCEK, nil
	case cn == "SEV-VLEK" && c.ext.CSPID != "":
		return snp.SignedByVLEK, nil
	default:
		return 0, fmt.Errorf("common name %q with hwID of %d bytes and cspID %q, want SEV-VCEK with hwID or SEV-VLEK with cspID",
			cn, len(c.ext.HWID), c.ext.CSPID)
	}
}

// within records the validity of the three certificates at a time.
func (c *chain) within(cs *checks, now time.Time) {
	for _, x := range []struct {
		field string
		cert  *x509.Certificate
	}{{"ARK", c.root.cert}, {"ASK", c.ask}, {"VEK", c.vek}} {
		cs.check(!now.Before(x.cert.NotBefore) && !now.After(x.cert.NotAfter), code.VEKValidity, x.field+".VALIDITY",
			stamp(now), stamp(x.cert.NotBefore)+" to "+stamp(x.cert.NotAfter))
	}
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
