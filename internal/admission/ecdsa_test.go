package admission

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/asn1"
	"math/big"
	"testing"
)

// A revoked member gives its certificate another hash, by the other form of its
// issuer's signature.
func TestSecondFormOfSignature(t *testing.T) {
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384()} {
		issuer := must(ecdsa.GenerateKey(curve, rand.Reader))
		w := newWorld(t, "bank-a.example", newKey(), issuer)
		for range 8 { // the library's own choice is high every other time
			der := w.issue(testIdentity("bank-a.example"))
			if _, err := w.trust.Verify([][]byte{der, w.issuer.Raw}, testNow); err != nil {
				t.Fatal(err)
			}
			leaf := must(x509.ParseCertificate(der))
			var sig struct{ R, S *big.Int }
			must(asn1.Unmarshal(leaf.Signature, &sig))
			sig.S.Sub(curve.Params().N, sig.S)
			var cert struct {
				TBS       asn1.RawValue
				Algorithm asn1.RawValue
				Signature asn1.BitString
			}
			must(asn1.Unmarshal(der, &cert))
			other := must(asn1.Marshal(sig))
			cert.Signature = asn1.BitString{Bytes: other, BitLength: 8 * len(other)}
			twin := must(asn1.Marshal(cert))
			if err := must(x509.ParseCertificate(twin)).CheckSignatureFrom(w.issuer); err != nil {
				t.Fatalf("the twin is not one: %v", err)
			}
			w.refused("the twin", ErrCertificate, [][]byte{twin, w.issuer.Raw}, testNow)
		}
	}
}
