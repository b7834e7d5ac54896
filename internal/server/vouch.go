package server

import (
	"context"
	"errors"
	"slices"

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

// Vouches is SNPAppraiser.Vouches for the roots of the domain's policy.
func (d *Domain) Vouches(product snp.Product, e appraise.Endorsements) error {
	cur := d.current.Load()
	if cur == nil || cur.roots == nil {
		return errors.New("the policy trusts no root of AMD SEV-SNP")
	}
	return appraise.CheckEndorsements(e, cur.roots, product)
}

// ListsChip says whether every platform requirement of the policy names its
// chips, and this one is among them.
func (d *Domain) ListsChip(chip [64]byte) bool {
	cur := d.current.Load()
	return cur != nil && cur.appraisal != nil && slices.Contains(cur.appraisal.Chips, appraise.ChipID(chip))
}
