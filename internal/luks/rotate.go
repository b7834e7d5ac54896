package luks

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"

	"attestbox/internal/code"
	"attestbox/internal/secret"
	"attestbox/internal/wire"
)

// Rotation gives a volume another keyslot key in place; the volume key and the
// data stay. The old header copy with the old key's area stays whole until the
// new copy, in the secondary header and with an area of its own, is written,
// synced and has been opened; then the primary header follows, and everything
// else of the header area becomes zero. So at every moment, within a write too,
// one of the records Before and After describes the device:
//
//	step              Before (primary, old key)   After (secondary, new key)
//	keyslot area      holds                       -
//	secondary header  holds                       when it is written
//	primary header    -                           holds
//	wipe              -                           holds; in the end Final does
//
// All three are registered before the first write. A rotation that was cut
// short goes on from what the device holds: from After if that matches, else
// from Before, with a new plan.
type Rotation struct {
	Before wire.HeaderRecord // of what is there now: the whole area or its primary copy
	After  wire.HeaderRecord // of one copy with the keyslot that stays
	Final  wire.HeaderRecord // of the whole area in the end

	final []byte
	steps []step
}

// step is some writes that may happen in any order, and what must open then.
type step struct {
	name   string
	writes []span
	opens  *wire.HeaderRecord // nil: nothing new
}

type span struct{ from, to int64 }

// Device is what a rotation writes to. Sync must reach the medium.
type Device interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
}

// CopyRecordOf checks every rule over one header copy with its keyslot's area,
// as if nothing else were there, and returns its scoped record. It is for
// whoever has no record yet: a disk's owner, or a rotation that makes them.
func CopyRecordOf(area []byte, scope string) (*wire.HeaderRecord, error) {
	hdr, err := copyAt(area, scope)
	if err != nil {
		return nil, err
	}
	n := len(hdr)
	whole := bytes.Clone(area)
	for i, magic := range []string{magicPrimary, magicSecondary} {
		if string(hdr[:offVersion]) == magic {
			copy(whole[i*n:], hdr)
		} else {
			copy(whole[i*n:], counterpart(hdr))
		}
	}
	s, err := parse(whole, nil, Limits{})
	if err != nil {
		return nil, err
	}
	r, err := RecordOf(whole)
	if err != nil {
		return nil, err
	}
	return s.scoped(whole, r, scope)
}

// scoped is the scoped record of a header area whose rules hold.
func (s *state) scoped(whole []byte, of *wire.HeaderRecord, scope string) (*wire.HeaderRecord, error) {
	r := *of
	r.Scope, r.HdrSize, r.AreaOffset, r.AreaSize = scope, int64(s.hdrSize), int64(s.areaOffset), s.suite.areaSize()
	sum := digestCovered(whole, &r)
	r.Digest = hex.EncodeToString(sum[:])
	return &r, CheckRecord(&r)
}

// copyAt finds a valid header copy. The secondary one lies where its own size
// says, and the primary one may be lost: every size is tried.
func copyAt(area []byte, scope string) ([]byte, error) {
	magic, sizes := magicPrimary, []uint64{}
	if scope == wire.ScopeSecondary {
		magic = magicSecondary
		for n := uint64(minHdrSize); n <= maxHdrSize; n *= 2 {
			sizes = append(sizes, n)
		}
	} else if len(area) >= binSize {
		sizes = append(sizes, binary.BigEndian.Uint64(area[offHdrSize:]))
	}
	var last error = code.Wrap(code.LUKSMagic, fmt.Errorf("no %s header was found", scope))
	for _, n := range sizes {
		if !validHdrSize(n) || uint64(len(area)) < 2*n {
			continue
		}
		at := uint64(0)
		if scope == wire.ScopeSecondary {
			at = n
		}
		hdr := area[at : at+n]
		if err := checkMagic(hdr, magic); err != nil {
			if len(sizes) == 1 {
				return nil, err
			}
			continue
		}
		err := errors.Join(checkHdrOffset(hdr, at), checkHdrSize(hdr), checkChecksum(hdr))
		if err == nil && binary.BigEndian.Uint64(hdr[offHdrSize:]) == n {
			return hdr, nil
		} else if err != nil {
			last = err
		}
	}
	return nil, last
}

// PlanRotation plans the way from the keyslot that base names and oldKey opens to
// one for newKey, 32 random bytes or more, with the cheapest pbkdf2. base is a
// record of the whole area, or of its primary copy, that matches; area is what
// the device holds now. The caller keeps the keys. random nil is crypto/rand.
func PlanRotation(area []byte, base *wire.HeaderRecord, oldKey, newKey *secret.Bytes, random io.Reader, limits Limits) (*Rotation, error) {
	fail := func(err error) (*Rotation, error) { return nil, fmt.Errorf("planning the rotation: %w", err) }
	if random == nil {
		random = rand.Reader
	}
	if newKey.Len() < MinKey {
		return fail(fmt.Errorf("the new key is %d bytes, want at least %d random ones", newKey.Len(), MinKey))
	}
	if base.Scope == wire.ScopeSecondary {
		return fail(errors.New("a rotation begins with the primary copy"))
	}
	if !Matches(area, base) {
		return fail(code.Wrap(code.LUKSHeaderDigest, errors.New("the header area is not the one of the record")))
	}
	now, err := assemble(area, base)
	if err != nil {
		return fail(err)
	}
	s, err := parse(now, base, limits)
	if err != nil {
		return fail(err)
	}
	vk, err := s.unlock(oldKey)
	if err != nil {
		return fail(err)
	}
	defer vk.Zero()
	r := &Rotation{}
	before, err := s.scoped(area, base, wire.ScopePrimary)
	if err != nil {
		return fail(err)
	}
	r.Before = *before
	if r.final, err = s.rotated(vk, newKey, random); err != nil {
		return fail(err)
	}
	return r.complete(area, wire.ScopeSecondary, newKey)
}

// rotated is the header area in the end: the metadata with one other keyslot.
func (s *state) rotated(vk, key *secret.Bytes, random io.Reader) ([]byte, error) {
	at, err := s.freeArea()
	if err != nil {
		return nil, err
	}
	salts := make([]byte, saltSize+lenSalt)
	if _, err := io.ReadFull(random, salts); err != nil {
		return nil, err
	}
	final := make([]byte, s.segOffset)
	iter, hash := uint64(minIterations), "sha256"
	slot := s.slot
	slot.Area.Offset = strconv.FormatInt(at, 10)
	slot.KDF = kdf{Type: "pbkdf2", Hash: &hash, Iterations: &iter, Salt: base64.StdEncoding.EncodeToString(salts[:saltSize])}
	if err := sealSlot(final[at:], vk, key, &slot.KDF, salts[:saltSize], random); err != nil {
		return nil, err
	}
	md := s.md
	md.Keyslots = map[string]keyslot{s.slotID: slot}
	bin := fields(s.buf)
	bin.SeqID++
	n := int64(s.hdrSize)
	if err := writeHeaders(final, bin, &md, append(make([]byte, lenSalt), salts[saltSize:]...)); err != nil {
		return nil, err
	}
	copy(final, counterpart(final[n:2*n]))
	return final, nil
}

// freeArea is the first place for a keyslot's area beside the one in use.
func (s *state) freeArea() (int64, error) {
	size, used := s.suite.areaSize(), int64(s.areaOffset)
	end := int64(2*s.hdrSize + s.keyslotsSize)
	for at := int64(2 * s.hdrSize); at+size <= end; at += areaAlign {
		if at+size <= used || at >= used+size {
			return at, nil
		}
	}
	return 0, code.Wrap(code.LUKSAreaBounds, fmt.Errorf("the keyslot area of %d bytes has no room for a second keyslot of %d", s.keyslotsSize, size))
}

// ResumeRotation goes on from a copy that a record matches and key opens: the
// rest of the area becomes what goes with it. With the secondary copy it ends a
// rotation that was cut short; with the primary one, and the old key, it takes
// one back. The result is the same from every state that the copy matches.
func ResumeRotation(area []byte, part *wire.HeaderRecord, key *secret.Bytes) (*Rotation, error) {
	fail := func(err error) (*Rotation, error) { return nil, fmt.Errorf("going on with the rotation: %w", err) }
	if part.Scope == wire.ScopeWhole || !Matches(area, part) {
		return fail(code.Wrap(code.LUKSHeaderDigest, errors.New("the header copy is not the one of the record")))
	}
	final, err := assemble(area, part)
	if err != nil {
		return fail(err)
	}
	r := &Rotation{Before: *part, final: final}
	return r.complete(area, part.Scope, key)
}

// complete makes records and steps; key must open the result.
func (r *Rotation) complete(area []byte, scope string, key *secret.Bytes) (*Rotation, error) {
	whole, err := RecordOf(r.final)
	if err != nil {
		return nil, err
	}
	r.Final = *whole
	after, err := CopyRecordOf(r.final, scope)
	if err != nil {
		return nil, err
	}
	r.After = *after
	primary, err := CopyRecordOf(r.final, wire.ScopePrimary)
	if err != nil {
		return nil, err
	}
	for _, rec := range []*wire.HeaderRecord{whole, after, primary} {
		v, err := Open(bytes.NewReader(r.final), rec, key)
		if err != nil {
			return nil, fmt.Errorf("the planned header: %w", err)
		}
		v.Close()
	}
	n, a := after.HdrSize, after.AreaOffset
	rest := append(r.different(area, 2*n, a), r.different(area, a+after.AreaSize, r.Final.Size)...)
	for _, s := range []step{
		{"keyslot area", r.different(area, a, a+after.AreaSize), nil},
		{"secondary header", r.different(area, n, 2*n), after},
		{"primary header", r.different(area, 0, n), primary},
		{"wipe of the rest", rest, whole},
	} {
		if len(s.writes) > 0 {
			r.steps = append(r.steps, s)
		}
	}
	return r, nil
}

// wipeChunk bounds what one write of zeros takes.
const wipeChunk = 64 << 10

// different lists the parts of area from from to to that are not final yet.
func (r *Rotation) different(area []byte, from, to int64) (out []span) {
	for at := from; at < to; at += wipeChunk {
		end := min(at+wipeChunk, to)
		if bytes.Equal(area[at:end], r.final[at:end]) {
			continue
		}
		if n := len(out); n > 0 && out[n-1].to == at {
			out[n-1].to = end
		} else {
			out = append(out, span{at, end})
		}
	}
	return out
}

// Records are those that must be registered before Run, beside the ones that
// match the device now.
func (r *Rotation) Records() []wire.HeaderRecord {
	if r.Before.Digest == r.After.Digest {
		return []wire.HeaderRecord{r.After, r.Final}
	}
	return []wire.HeaderRecord{r.Before, r.After, r.Final}
}

// Run writes, step by step: each is synced, read back and, where a header was
// written, opened with key before the next begins. said hears of each step.
func (r *Rotation) Run(dev Device, key *secret.Bytes, said func(step string)) error {
	for _, s := range r.steps {
		said(s.name)
		fail := func(err error) error { return fmt.Errorf("writing the %s: %w", s.name, err) }
		for _, w := range s.writes {
			if _, err := dev.WriteAt(r.final[w.from:w.to], w.from); err != nil {
				return fail(err)
			}
		}
		if err := dev.Sync(); err != nil {
			return fail(err)
		}
		for _, w := range s.writes {
			got := make([]byte, w.to-w.from)
			if _, err := dev.ReadAt(got, w.from); err != nil {
				return fail(err)
			}
			if !bytes.Equal(got, r.final[w.from:w.to]) {
				return fail(code.Wrap(code.LUKSRead, errors.New("the device gives back something else")))
			}
		}
		if s.opens != nil {
			v, err := Open(dev, s.opens, key)
			if err != nil {
				return fail(fmt.Errorf("opening what was written: %w", err))
			}
			v.Close()
		}
	}
	return nil
}
