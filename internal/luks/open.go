package luks

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"attestbox/internal/code"
	"attestbox/internal/secret"
	"attestbox/internal/wire"
)

// Volume is an opened LUKS2 volume: what a mapping needs. Its owner calls Close.
type Volume struct {
	VolumeKey    *secret.Bytes // Suite.KeyBytes long
	Offset       int64         // of the data on the device, in bytes
	SectorSize   int           // 512 or 4096
	Suite        *Suite
	UUID         string // 36 characters
	HeaderDigest [sha256.Size]byte
}

// Close wipes the volume key.
func (v *Volume) Close() {
	if v != nil {
		v.VolumeKey.Zero()
	}
}

// Open reads the header area of r once, compares its digest with the
// registered one before anything in it is parsed, checks every rule and
// recovers the volume key. It is OpenWithin for the default limits.
//
// Errors carry a code: luks-record, luks-read, luks-truncated,
// luks-header-digest, one of the rules', or luks-wrong-key. The caller keeps
// key and wipes it.
func Open(r io.ReaderAt, want *wire.HeaderRecord, key *secret.Bytes) (*Volume, error) {
	return OpenWithin(r, want, key, Limits{})
}

// OpenWithin is Open with limits of the caller's.
func OpenWithin(r io.ReaderAt, want *wire.HeaderRecord, key *secret.Bytes, limits Limits) (*Volume, error) {
	if err := CheckRecord(want); err != nil {
		return nil, err
	}
	if key.Len() == 0 || key.Len() > maxKey {
		return nil, code.Wrap(code.LUKSWrongKey, fmt.Errorf("key is %d bytes, want 1 to %d", key.Len(), maxKey))
	}
	area, err := readArea(r, want)
	if err != nil {
		return nil, err
	}
	if area, err = assemble(area, want); err != nil {
		return nil, err
	}
	s, err := parse(area, want, limits)
	if err != nil {
		return nil, err
	}
	vk, err := s.unlock(key)
	if err != nil {
		return nil, err
	}
	v := &Volume{VolumeKey: vk, Offset: want.SegmentOffset, SectorSize: want.SectorSize, Suite: s.suite, UUID: want.UUID}
	hex.Decode(v.HeaderDigest[:], []byte(want.Digest)) // checked by CheckRecord
	return v, nil
}

// unlock recovers the volume key from the keyslot and checks its digest.
func (s *state) unlock(key *secret.Bytes) (*secret.Bytes, error) {
	slotKey := s.slot.KDF.derive(key, s.kdfSalt)
	defer slotKey.Zero()
	c, err := newXTS(slotKey)
	if err != nil {
		return nil, code.Wrap(code.LUKSWrongKey, err)
	}
	size := s.suite.afSize() // whole sectors for every suite
	stripes := secret.New(size)
	defer stripes.Zero()
	src := s.buf[s.areaOffset : s.areaOffset+uint64(size)]
	for i := 0; i < size; i += areaSector {
		c.Decrypt(stripes.Bytes()[i:i+areaSector], src[i:i+areaSector], uint64(i/areaSector))
	}
	vk := afMerge(stripes.Bytes(), s.suite.KeyBytes)
	sum := pbkdf2(vk, s.digSalt, s.dig.Iterations, digestSize)
	defer sum.Zero()
	if subtle.ConstantTimeCompare(sum.Bytes(), s.digValue) != 1 {
		vk.Zero()
		return nil, code.Wrap(code.LUKSWrongKey, errors.New("the key does not open the keyslot"))
	}
	return vk, nil
}
