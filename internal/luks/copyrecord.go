package luks

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"attestbox/internal/code"
	"attestbox/internal/wire"
)

// A scoped record is of one header copy and the area of its keyslot. While a
// key is rotated nothing else of the header area counts: the other copy and the
// other key's area are being written. Whoever opens by such a record makes a
// whole header area of what the digest covers, and every rule is checked on
// that.

// checkScope is CheckRecord's part on the scope.
func checkScope(r *wire.HeaderRecord) error {
	switch r.Scope {
	case wire.ScopeWhole:
		if r.HdrSize != 0 || r.AreaOffset != 0 || r.AreaSize != 0 {
			return errors.New("a record of the whole header area names a part of it")
		}
		return nil
	case wire.ScopePrimary, wire.ScopeSecondary:
	default:
		return fmt.Errorf("scope is %q", clip(r.Scope))
	}
	switch {
	case r.HdrSize < 0 || !validHdrSize(uint64(r.HdrSize)):
		return fmt.Errorf("hdr_size is %d, want a power of two from %d to %d", r.HdrSize, minHdrSize, maxHdrSize)
	case r.AreaSize <= 0 || r.AreaSize%areaAlign != 0 || r.AreaSize > r.Size:
		return fmt.Errorf("area_size is %d", r.AreaSize)
	case r.AreaOffset%areaAlign != 0 || r.AreaOffset < 2*r.HdrSize || r.AreaOffset > r.Size-r.AreaSize:
		return fmt.Errorf("area_offset is %d, want a multiple of %d from %d to %d", r.AreaOffset, areaAlign, 2*r.HdrSize, r.Size-r.AreaSize)
	}
	return nil
}

// covered is what a record's digest covers of a header area that is long enough.
func covered(area []byte, r *wire.HeaderRecord) [][]byte {
	switch r.Scope {
	case wire.ScopePrimary:
		return [][]byte{area[:r.HdrSize], area[r.AreaOffset : r.AreaOffset+r.AreaSize]}
	case wire.ScopeSecondary:
		return [][]byte{area[r.HdrSize : 2*r.HdrSize], area[r.AreaOffset : r.AreaOffset+r.AreaSize]}
	}
	return [][]byte{area[:r.Size]}
}

func digestCovered(area []byte, r *wire.HeaderRecord) [sha256.Size]byte {
	h := sha256.New()
	for _, b := range covered(area, r) {
		h.Write(b)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// Matches says whether a header area, at least Size bytes, is the one of a
// well-formed record.
func Matches(area []byte, r *wire.HeaderRecord) bool {
	if CheckRecord(r) != nil || int64(len(area)) < r.Size {
		return false
	}
	got := digestCovered(area, r)
	want, err := hex.DecodeString(r.Digest)
	return err == nil && subtle.ConstantTimeCompare(got[:], want) == 1
}

// Assembled is the header area that a record stands for, of one that matches:
// the area itself, or for a scoped record a whole one made of what it covers.
func Assembled(area []byte, r *wire.HeaderRecord) ([]byte, error) {
	if !Matches(area, r) {
		return nil, code.Wrap(code.LUKSHeaderDigest, errors.New("the header area is not the one of the record"))
	}
	return assemble(area[:r.Size], r)
}

// WholeFirst is the order in which records are tried: those of a whole header
// area before those of one copy.
func WholeFirst(records []wire.HeaderRecord) []wire.HeaderRecord {
	out := slices.Clone(records)
	slices.SortStableFunc(out, func(a, b wire.HeaderRecord) int {
		return min(len(a.Scope), 1) - min(len(b.Scope), 1)
	})
	return out
}

// assemble makes a whole header area from what a scoped record covers, whose
// digest was compared: the copy as both headers, the keyslot's area, zeros. The
// copy must be valid where it is; a whole area stays what it is.
func assemble(area []byte, r *wire.HeaderRecord) ([]byte, error) {
	if r.Scope == wire.ScopeWhole {
		return area, nil
	}
	part := covered(area, r)
	magic, offset := magicPrimary, uint64(0)
	if r.Scope == wire.ScopeSecondary {
		magic, offset = magicSecondary, uint64(r.HdrSize)
	}
	hdr := part[0]
	for _, err := range []error{
		checkMagic(hdr, magic), checkVersion(hdr), checkHdrSize(hdr), checkHdrOffset(hdr, offset),
		checkPadding(hdr), checkUUID(hdr, r.UUID),
	} {
		if err != nil {
			return nil, err
		}
	}
	if n := binary.BigEndian.Uint64(hdr[offHdrSize:]); n != uint64(r.HdrSize) {
		return nil, code.Wrap(code.LUKSHeaderSize, fmt.Errorf("header size is %d, registered is %d", n, r.HdrSize))
	}
	if err := checkChecksum(hdr); err != nil {
		return nil, err
	}
	whole := make([]byte, r.Size)
	for i, to := range []string{magicPrimary, magicSecondary} {
		at := int64(i) * r.HdrSize
		if to == magic {
			copy(whole[at:], hdr)
		} else {
			copy(whole[at:], counterpart(hdr))
		}
	}
	copy(whole[r.AreaOffset:], part[1])
	return whole, nil
}

const domainHeaderSalt = "attestbox/luks/header-salt/1"

// counterpart is the other header copy that goes with a valid one: the same
// fields and metadata, and a salt that follows from its own, so that whoever
// finds one copy alone can write the other that was planned.
func counterpart(hdr []byte) []byte {
	out := bytes.Clone(hdr)
	magic, offset := magicSecondary, binary.BigEndian.Uint64(hdr[offHdrSize:])
	if string(hdr[offMagic:offVersion]) == magicSecondary {
		magic, offset = magicPrimary, 0
	}
	copy(out[offMagic:], magic)
	binary.BigEndian.PutUint64(out[offHdrOffset:], offset)
	salt := sha512.Sum512(append([]byte(domainHeaderSalt+magic), hdr[offSalt:offSalt+lenSalt]...))
	copy(out[offSalt:], salt[:])
	sum := checksum(out)
	clear(out[offCsum : offCsum+lenCsum])
	copy(out[offCsum:], sum[:])
	return out
}
