// Package amdroots makes the set of AMD's own root keys, with the
// intermediates for VCEK and VLEK, from the certificates that go-sev-guest
// embeds. It stands apart from appraise because that module's trust package
// brings net/http with it.
package amdroots

import (
	"encoding/pem"
	"fmt"

	"github.com/google/go-sev-guest/verify/trust"

	"attestbox/internal/appraise"
	"attestbox/internal/snp"
)

// Load makes the roots of Milan, Genoa and Turin.
func Load() (*appraise.Roots, error) {
	var roots []*appraise.Root
	for _, p := range []struct {
		product    snp.Product
		vcek, vlek []byte
	}{
		{snp.Milan, trust.AskArkMilanVcekBytes, trust.AskArkMilanVlekBytes},
		{snp.Genoa, trust.AskArkGenoaVcekBytes, trust.AskArkGenoaVlekBytes},
		{snp.Turin, trust.AskArkTurinVcekBytes, trust.AskArkTurinVlekBytes},
	} {
		ask, ark, err := split(p.vcek)
		if err != nil {
			return nil, fmt.Errorf("reading AMD's chain for %s: %w", p.product, err)
		}
		asvk, _, err := split(p.vlek)
		if err != nil {
			return nil, fmt.Errorf("reading AMD's VLEK chain for %s: %w", p.product, err)
		}
		root, err := appraise.NewRoot(p.product, ark, ask, asvk)
		if err != nil {
			return nil, err
		}
		if !root.AMD() {
			return nil, fmt.Errorf("the embedded ARK of %s is not the one that is pinned here", p.product)
		}
		roots = append(roots, root)
	}
	return appraise.NewRoots(roots...)
}

// split reads the two certificates of a chain as the KDS serves it: ASK, ARK.
func split(chain []byte) (ask, ark []byte, err error) {
	first, rest := pem.Decode(chain)
	if first == nil {
		return nil, nil, fmt.Errorf("no PEM block")
	}
	second, _ := pem.Decode(rest)
	if second == nil {
		return nil, nil, fmt.Errorf("one PEM block, want two")
	}
	return first.Bytes, second.Bytes, nil
}
