package igvm

import (
	"attestbox/internal/idblock"
	"attestbox/internal/snp"
)

// The header of an SNP ID block, by offset: mask 4, author key enabled 1, zero 3,
// LD 48, family ID 16, image ID 16, version 4, guest SVN 4, ID key algorithm 4,
// author key algorithm 4; then signature (R 72, S 72) and public key (curve 4,
// zero 4, QX 72, QY 72) of the ID key, and the same of the author key. The guest
// policy that it signs is that of the file.
const (
	idBlockSize   = 696
	offAuthorOn   = 4
	offLD         = 8
	offFamilyID   = 56
	offImageID    = 72
	offVersion    = 88
	offSVN        = 92
	offIDAlgo     = 96
	offAuthorAlgo = 100
	offIDSig      = 104
	offIDKey      = 248
	offAuthorSig  = 400
	offAuthorKey  = 544
)

// IDBlock is an ID block as the file holds it. Nothing of it is verified.
type IDBlock struct{ raw []byte }

func parseIDBlock(b []byte) *IDBlock { return &IDBlock{b} }

// Launch is the block and its authentication, as a loader gives them to the secure
// processor, with the file's policy.
func (b *IDBlock) Launch(policy uint64) (*idblock.Block, *idblock.Auth, error) {
	raw := make([]byte, idblock.BlockSize)
	copy(raw, b.raw[offLD:offIDAlgo]) // the same order, up to the policy
	le.PutUint64(raw[idblock.BlockSize-8:], policy)
	block, err := idblock.ParseBlock(raw)
	if err != nil {
		return nil, nil, err
	}
	if err := zero(b.raw[offIDKey+4 : offIDKey+8]); err != nil {
		return nil, nil, err
	}
	auth := make([]byte, idblock.AuthSize)
	copy(auth[0x000:], b.raw[offIDAlgo:offIDAlgo+8])
	copy(auth[0x040:], b.raw[offIDSig:offIDKey])
	putKey(auth[0x240:], b.raw[offIDKey:offAuthorSig])
	if b.raw[offAuthorOn] != 0 {
		copy(auth[0x680:], b.raw[offAuthorSig:offAuthorKey])
		putKey(auth[0x880:], b.raw[offAuthorKey:])
	}
	a, err := idblock.ParseAuth(auth)
	return block, a, err
}

// putKey writes a key without the reserved word that IGVM has behind the curve.
func putKey(to, from []byte) {
	copy(to, from[:4])
	copy(to[4:], from[8:152])
}

// Digest is the launch digest that the block allows.
func (b *IDBlock) Digest() [48]byte { return [48]byte(b.raw[offLD:]) }

// Version, GuestSVN, FamilyID and ImageID are its fields.
func (b *IDBlock) Version() uint32    { return le.Uint32(b.raw[offVersion:]) }
func (b *IDBlock) GuestSVN() uint32   { return le.Uint32(b.raw[offSVN:]) }
func (b *IDBlock) FamilyID() [16]byte { return [16]byte(b.raw[offFamilyID:]) }
func (b *IDBlock) ImageID() [16]byte  { return [16]byte(b.raw[offImageID:]) }

// Policy is the guest policy for a platform; false where the file has none.
func (f *File) Policy(p Supported) (snp.GuestPolicy, bool) {
	for _, h := range f.For(p) {
		if h.Type == TypeGuestPolicy {
			return snp.GuestPolicy(h.Policy), true
		}
	}
	return 0, false
}
