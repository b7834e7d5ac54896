package idblock

import (
	"encoding/binary"
	"errors"
	"fmt"

	"attestbox/internal/snp"
)

// Sizes in bytes.
const (
	BlockSize     = 96
	AuthSize      = 4096
	PublicKeySize = 0x404
	signatureSize = 512
)

// Version is the one version of the ID block.
const Version = 1

var (
	// ErrMalformed is wrapped by every error of the parsers.
	ErrMalformed = errors.New("malformed ID block")
	// ErrKey is wrapped too where a key is not a point of P-384.
	ErrKey = errors.New("not a key on P-384")
	// ErrSignature is wrapped where a signature does not verify.
	ErrSignature = errors.New("signature does not verify")
)

// Offsets in the ID block, see doc.go.
const (
	offLD       = 0x00
	offFamilyID = 0x30
	offImageID  = 0x40
	offVersion  = 0x50
	offGuestSVN = 0x54
	offPolicy   = 0x58
)

// Block is an ID block.
type Block struct {
	LaunchDigest      [48]byte
	FamilyID, ImageID [16]byte
	GuestSVN          uint32
	Policy            snp.GuestPolicy
}

// ParseBlock reads an ID block of exactly BlockSize bytes and version 1.
func ParseBlock(raw []byte) (*Block, error) {
	if len(raw) != BlockSize {
		return nil, fmt.Errorf("%w: %d bytes, want %d", ErrMalformed, len(raw), BlockSize)
	}
	le := binary.LittleEndian
	if v := le.Uint32(raw[offVersion:]); v != Version {
		return nil, fmt.Errorf("%w: VERSION %d, want %d", ErrMalformed, v, Version)
	}
	b := &Block{GuestSVN: le.Uint32(raw[offGuestSVN:]), Policy: snp.GuestPolicy(le.Uint64(raw[offPolicy:]))}
	copy(b.LaunchDigest[:], raw[offLD:])
	copy(b.FamilyID[:], raw[offFamilyID:])
	copy(b.ImageID[:], raw[offImageID:])
	return b, nil
}

// Marshal is the exact inverse of ParseBlock.
func (b *Block) Marshal() []byte {
	raw := make([]byte, BlockSize)
	le := binary.LittleEndian
	copy(raw[offLD:], b.LaunchDigest[:])
	copy(raw[offFamilyID:], b.FamilyID[:])
	copy(raw[offImageID:], b.ImageID[:])
	le.PutUint32(raw[offVersion:], Version)
	le.PutUint32(raw[offGuestSVN:], b.GuestSVN)
	le.PutUint64(raw[offPolicy:], uint64(b.Policy))
	return raw
}

// Check refuses a block that nobody should sign: one without digest, image
// ID or SVN, and a policy that lets the host read or move the guest.
func (b *Block) Check() error {
	switch {
	case b.LaunchDigest == [48]byte{}:
		return errors.New("the launch digest is all zeros")
	case b.ImageID == [16]byte{}:
		return errors.New("the image ID is all zeros, as in a launch without an ID block")
	case b.GuestSVN == 0:
		return errors.New("the guest's SVN is 0, as in a launch without an ID block")
	case b.Policy.Debug():
		return errors.New("the guest policy allows DEBUG: the host could read the guest")
	case b.Policy.MigrateMA():
		return errors.New("the guest policy allows MIGRATE_MA: a migration agent could move the guest")
	case b.Policy&snp.PolicyReserved1 == 0:
		return fmt.Errorf("the guest policy 0x%x lacks bit 17, which must be one", uint64(b.Policy))
	case b.Policy.Unknown() != 0:
		return fmt.Errorf("the guest policy has unknown bits 0x%x", uint64(b.Policy.Unknown()))
	}
	return nil
}
