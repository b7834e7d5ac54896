package appraise_test

import (
	"crypto/ecdsa"
	"crypto/sha512"
	"testing"

	"attestbox/internal/appraise"
	"attestbox/internal/appraise/appraisetest"
	"attestbox/internal/snp"
)

// Real certificates: RSA keys of 4096 bits, as in the field.
func benchmarkVerify(b *testing.B, cache *appraise.ChainCache) {
	report, err := appraise.DecodeReport(shared(b, "report_milan.hex"))
	if err != nil {
		b.Fatal(err)
	}
	ask, ark, err := appraise.DecodeChain(shared(b, "cert_chain_milan"))
	if err != nil {
		b.Fatal(err)
	}
	e := appraise.Endorsements{VEK: shared(b, "vcek_milan.der"), ASK: ask, ARK: ark}
	roots, opt := amdRoots(b), appraise.Options{Version2As: snp.Milan, Cache: cache}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := appraise.Verify(report, e, roots, now, opt); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerify(b *testing.B)       { benchmarkVerify(b, nil) }
func BenchmarkVerifyCached(b *testing.B) { benchmarkVerify(b, appraise.NewChainCache(8)) }

// The one operation that no cache saves.
func BenchmarkP384Verify(b *testing.B) {
	c := appraisetest.Mint(appraisetest.Config{})
	raw := c.Sign(c.Report(3))
	r, err := snp.Parse(raw)
	if err != nil {
		b.Fatal(err)
	}
	R, S, err := r.SignatureRS()
	if err != nil {
		b.Fatal(err)
	}
	key := c.VEK.PublicKey.(*ecdsa.PublicKey)
	b.ReportAllocs()
	for b.Loop() {
		digest := sha512.Sum384(snp.SignedBytes(raw))
		if !ecdsa.Verify(key, digest[:], R, S) {
			b.Fatal("signature")
		}
	}
}

func BenchmarkAppraise(b *testing.B) {
	c := appraisetest.Mint(appraisetest.Config{})
	v, p, e := verified(b, c, c.Report(5)), basePolicy(c), expected()
	b.ReportAllocs()
	for b.Loop() {
		if res := appraise.Appraise(v, p, e, now); !res.Accepted {
			b.Fatal(res.Err())
		}
	}
}
