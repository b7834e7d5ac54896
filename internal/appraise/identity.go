package appraise

import (
	"errors"
	"fmt"

	"attestbox/internal/snp"
)

// Identity admits every launch that the owner of an ID key signed as a version
// of an image: the secure processor compared the launch digest with the signed
// one, so that no list of digests is needed. That the digest is complete is the
// key owner's word. A launch without an ID block has zeros in all these fields
// and matches no identity.
type Identity struct {
	IDKey    Hex48  `json:"id_key"` // ID_KEY_DIGEST
	ImageID  Hex16  `json:"image_id"`
	FamilyID Hex16  `json:"family_id,omitzero"` // zeros: any
	MinSVN   uint32 `json:"min_svn"`
}

// Check refuses an identity that a launch without an ID block could meet.
func (i Identity) Check() error {
	switch {
	case i.IDKey == Hex48{}:
		return errors.New("the ID key's digest is zero, which is what a launch without an ID block has")
	case i.ImageID == Hex16{}:
		return errors.New("the image ID is zero, which is what a launch without an ID block has")
	case i.MinSVN == 0:
		return errors.New("the least SVN is 0, which is what a launch without an ID block has")
	}
	return nil
}

// Admits says whether a verified report shows this identity.
func (i Identity) Admits(r *snp.Report) bool {
	return i.Check() == nil && r.Measurement != [48]byte{} && Hex48(r.IDKeyDigest) == i.IDKey && Hex16(r.ImageID) == i.ImageID &&
		(i.FamilyID == Hex16{} || Hex16(r.FamilyID) == i.FamilyID) && r.GuestSVN >= i.MinSVN
}

// Admitting is the first of a list that a verified report shows.
func Admitting(list []Identity, r *snp.Report) (Identity, bool) {
	for _, i := range list {
		if i.Admits(r) {
			return i, true
		}
	}
	return Identity{}, false
}

// SameImage says whether both name one key's one image, whatever their least
// SVN: a launch could be of either. One that names no family is of every family.
func (i Identity) SameImage(o Identity) bool {
	return i.IDKey == o.IDKey && i.ImageID == o.ImageID && (i.FamilyID == o.FamilyID || i.FamilyID == Hex16{} || o.FamilyID == Hex16{})
}

func (i Identity) String() string {
	s := fmt.Sprintf("ID key %v, image ID %v", i.IDKey, i.ImageID)
	if i.FamilyID != (Hex16{}) {
		s += fmt.Sprintf(", family ID %v", i.FamilyID)
	}
	return s + fmt.Sprintf(", SVN at least %d", i.MinSVN)
}
