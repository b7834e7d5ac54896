package admission

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"io"
	"math/big"
)

// With (r, s) an ECDSA signature is also (r, n - s), which anybody can compute:
// the owner of a certificate could give it another hash, and be missed by a
// revocation of the old one. So certificates carry the lower s, and those with
// the higher one are refused. Ed25519 and RSA-PSS, as the standard library
// verifies them, have no second form.

// lowS is an ECDSA key that signs with the lower s.
type lowS struct{ crypto.Signer }

type signatureDER struct{ R, S *big.Int }

func (k lowS) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	der, err := k.Signer.Sign(rand, digest, opts)
	pub, ok := k.Public().(*ecdsa.PublicKey)
	if err != nil || !ok {
		return der, err
	}
	var sig signatureDER
	if rest, err := asn1.Unmarshal(der, &sig); err != nil || len(rest) > 0 {
		return nil, errors.New("the signing key made a malformed signature")
	}
	if n := pub.Params().N; high(sig.S, n) {
		sig.S.Sub(n, sig.S)
	}
	return asn1.Marshal(sig)
}

func high(s, n *big.Int) bool { return s.Cmp(new(big.Int).Rsh(n, 1)) > 0 }

// checkLowS refuses the second form of an ECDSA signature by issuer.
func checkLowS(c, issuer *x509.Certificate) error {
	pub, ok := issuer.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return nil
	}
	var sig signatureDER
	if rest, err := asn1.Unmarshal(c.Signature, &sig); err != nil || len(rest) > 0 || high(sig.S, pub.Params().N) {
		return errors.New("its ECDSA signature is not in the one form that is accepted")
	}
	return nil
}
