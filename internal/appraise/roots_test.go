package appraise_test

import (
	"encoding/pem"
	"sync"
	"testing"
	"time"

	"github.com/google/go-sev-guest/verify/trust"

	"attestbox/internal/appraise"
	"attestbox/internal/appraise/appraisetest"
	"attestbox/internal/snp"
	"attestbox/internal/wire"
)

// amdARK is AMD's root of a product, in DER.
func amdARK(t testing.TB, p snp.Product) []byte {
	t.Helper()
	chain := map[snp.Product][]byte{snp.Milan: trust.AskArkMilanVcekBytes, snp.Genoa: trust.AskArkGenoaVcekBytes, snp.Turin: trust.AskArkTurinVcekBytes}[p]
	_, rest := pem.Decode(chain)
	ark, _ := pem.Decode(rest)
	if ark == nil {
		t.Fatal("no ARK")
	}
	return ark.Bytes
}

func mustAMD(t testing.TB, p snp.Product) *appraise.Root {
	t.Helper()
	r, err := appraise.NewRoot(p, amdARK(t, p))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRoots(t *testing.T) {
	for _, p := range amdRoots(t).Products() {
		if r := mustAMD(t, p); !r.AMD() {
			t.Errorf("%s: AMD's ARK is not called AMD's", p)
		}
	}
	if got := len(amdRoots(t).Products()); got != 3 || !amdRoots(t).AMD() {
		t.Errorf("%d products", got)
	}
	if r, err := appraise.NewRoot(snp.Genoa, amdARK(t, snp.Milan)); err == nil && r.AMD() {
		t.Error("Milan's root is AMD's for Genoa")
	}
	c := appraisetest.Mint(appraisetest.Config{})
	other := appraisetest.Mint(appraisetest.Config{OtherARK: true})
	for name, f := range map[string]func() (*appraise.Root, error){
		"no certificate":     func() (*appraise.Root, error) { return appraise.NewRoot(snp.Milan, nil) },
		"garbage":            func() (*appraise.Root, error) { return appraise.NewRoot(snp.Milan, []byte("x")) },
		"unknown product":    func() (*appraise.Root, error) { return appraise.NewRoot("Rome", c.ARK.Raw) },
		"an ASK":             func() (*appraise.Root, error) { return appraise.NewRoot(snp.Milan, c.ASK.Raw) },
		"a VEK":              func() (*appraise.Root, error) { return appraise.NewRoot(snp.Milan, c.VEK.Raw) },
		"another's ASK":      func() (*appraise.Root, error) { return appraise.NewRoot(snp.Milan, c.ARK.Raw, other.ASK.Raw) },
		"a VEK as ASK":       func() (*appraise.Root, error) { return appraise.NewRoot(snp.Milan, c.ARK.Raw, c.VEK.Raw) },
		"AMD's ASK, own ARK": func() (*appraise.Root, error) { return appraise.NewRoot(snp.Milan, c.ARK.Raw, amdARK(t, snp.Milan)) },
	} {
		if _, err := f(); err == nil {
			t.Errorf("%s: a root", name)
		}
	}
	if _, err := appraise.NewRoots(nil); err == nil {
		t.Error("a nil root")
	}
}

func TestChainCache(t *testing.T) {
	cache := appraise.NewChainCache(2)
	opt := appraise.Options{Cache: cache}
	type kit struct {
		c      *appraisetest.Chain
		roots  *appraise.Roots
		report []byte
	}
	var kits []kit
	for range 3 {
		c := appraisetest.Mint(appraisetest.Config{VEKTo: now.Add(time.Hour)})
		kits = append(kits, kit{c, rootsOf(t, c), c.Sign(c.Report(3))})
	}
	for _, i := range []int{0, 0, 1, 2, 1, 0} {
		k := kits[i]
		if _, err := appraise.Verify(k.report, endorse(k.c), k.roots, now, opt); err != nil {
			t.Fatal(err)
		}
		if cache.Len() > 2 {
			t.Fatalf("%d chains in a cache of 2", cache.Len())
		}
	}
	k := kits[0]
	// A remembered chain expires all the same, counts for its roots alone and
	// says nothing about another report.
	if _, err := appraise.Verify(k.report, endorse(k.c), k.roots, now.Add(2*time.Hour), opt); err == nil {
		t.Error("an expired VEK is accepted from the cache")
	}
	other := appraisetest.Mint(appraisetest.Config{OtherARK: true})
	if _, err := appraise.Verify(k.report, endorse(k.c), rootsOf(t, other), now, opt); err == nil {
		t.Error("a chain of other roots is accepted from the cache")
	}
	if _, err := appraise.Verify(kits[1].report, endorse(k.c), k.roots, now, opt); err == nil {
		t.Error("the report of another key is accepted from the cache")
	}
	bad := endorse(other)
	if _, err := appraise.Verify(other.Sign(other.Report(3)), bad, k.roots, now, opt); err == nil {
		t.Fatal("accepted")
	}
	if _, err := appraise.Verify(other.Sign(other.Report(3)), bad, k.roots, now, opt); err == nil {
		t.Error("a failure was remembered as a success")
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			k := kits[i%3]
			for range 20 {
				if _, err := appraise.Verify(k.report, endorse(k.c), k.roots, now, opt); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func TestFromWire(t *testing.T) {
	e, err := appraise.FromWire([]wire.Endorsement{{Kind: "ark", DER: []byte{1}}, {Kind: "vek", DER: []byte{2}}, {Kind: "ask", DER: []byte{3}}, {Kind: "crl", DER: []byte{4}}})
	if err != nil || e.VEK[0] != 2 || e.ASK[0] != 3 || e.ARK[0] != 1 || e.CRL[0] != 4 {
		t.Errorf("%+v, %v", e, err)
	}
	for name, list := range map[string][]wire.Endorsement{
		"unknown kind": {{Kind: "VEK", DER: []byte{1}}},
		"twice":        {{Kind: "vek", DER: []byte{1}}, {Kind: "vek", DER: []byte{2}}},
		"empty":        {{Kind: "vek"}},
	} {
		if _, err := appraise.FromWire(list); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
