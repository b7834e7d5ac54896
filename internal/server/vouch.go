package server

import (
	"context"

	"attestbox/internal/appraise"
	"attestbox/internal/snp"
)

// Vouches says whether endorsements end in a root that the state trusts now:
// for whoever keeps what a network sent.
func (a *SNPAppraiser) Vouches(ctx context.Context, product snp.Product, e appraise.Endorsements) error {
	r, err := a.current(ctx)
	if err != nil {
		return err
	}
	return appraise.CheckEndorsements(e, r.roots, product)
}
