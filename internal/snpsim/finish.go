package snpsim

import (
	"errors"
	"fmt"

	"attestbox/internal/idblock"
)

// Statuses of SNP_LAUNCH_FINISH for an ID block (56860, "Status codes").
var (
	ErrPolicyFailure  = errors.New("POLICY_FAILURE (0x07)")
	ErrBadSignature   = errors.New("BAD_SIGNATURE (0x0a)")
	ErrBadMeasurement = errors.New("BAD_MEASUREMENT (0x0b)")
)

// IDBlock is what the host passes to SNP_LAUNCH_FINISH with ID_BLOCK_EN: both
// structures as bytes, and AUTHOR_KEY_EN.
type IDBlock struct {
	Block, Auth []byte
	AuthorKeyEn bool
}

// LaunchFinish is Launch with an ID block, which is checked in the order of
// AMD's firmware: digest, guest policy, algorithms, the ID key's signature over
// the block, and with AUTHOR_KEY_EN the author key's over the ID key. It is
// stricter in one thing: VERSION and reserved bytes count, as INVALID_PARAM.
func (p *PSP) LaunchFinish(c GuestConfig, id *IDBlock) (*Guest, error) {
	fail := func(status error, format string, a ...any) (*Guest, error) {
		return nil, fmt.Errorf("SNP_LAUNCH_FINISH: %w: %s", status, fmt.Sprintf(format, a...))
	}
	if c.Policy == 0 {
		c.Policy = uint64(DefaultPolicy)
	}
	b, err := idblock.ParseBlock(id.Block)
	if err != nil {
		return fail(ErrInvalidParam, "%v", err)
	}
	if b.LaunchDigest != c.Measurement {
		return fail(ErrBadMeasurement, "the ID block is for launch digest %x, measured was %x", b.LaunchDigest, c.Measurement)
	}
	if uint64(b.Policy) != c.Policy {
		return fail(ErrPolicyFailure, "the ID block is for guest policy 0x%x, the launch has 0x%x", uint64(b.Policy), c.Policy)
	}
	a, err := idblock.ParseAuth(id.Auth)
	switch {
	case errors.Is(err, idblock.ErrKey):
		return fail(ErrBadSignature, "%v", err)
	case err != nil:
		return fail(ErrInvalidParam, "%v", err)
	}
	if err := a.Verify(b); err != nil {
		return fail(ErrBadSignature, "%v", err)
	}
	c.FamilyID, c.ImageID, c.SVN = b.FamilyID, b.ImageID, b.GuestSVN
	c.IDKeyDigest, c.AuthorKeyDigest, c.AuthorKeyEn = a.IDKey.Digest(), [48]byte{}, id.AuthorKeyEn
	if id.AuthorKeyEn {
		if err := a.VerifyAuthor(); err != nil {
			return fail(ErrBadSignature, "%v", err)
		}
		c.AuthorKeyDigest = a.AuthorKey.Digest()
	}
	return p.Launch(c), nil
}
