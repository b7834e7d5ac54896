package luks

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"attestbox/internal/code"
	"attestbox/internal/strictjson"
	"attestbox/internal/wire"
)

// state is a header area on its way through the rules.
type state struct {
	buf    []byte             // the header area, or all that was read of it
	want   *wire.HeaderRecord // nil where no record is known (check, record)
	limits Limits

	hdrSize uint64
	json    []byte
	md      metadata

	slotID string
	slot   keyslot
	seg    segment
	suite  *Suite // chosen by want
	dig    keyDigest

	segOffset    uint64
	keyslotsSize uint64
	areaOffset   uint64
	kdfSalt      []byte
	digSalt      []byte
	digValue     []byte
}

// rule is one thing that must hold. Rules of one stage do not depend on each
// other; a stage is reached when all earlier ones hold.
type rule struct {
	stage int
	code  code.Code
	what  string // what holds when it passes
	check func(*state) error
}

func (r *rule) run(s *state) error {
	if err := r.check(s); err != nil {
		return code.Wrap(r.code, err)
	}
	return nil
}

// rules is every rule after the comparison of digests, in order.
var rules = []rule{
	{0, code.LUKSTruncated, "the header is long enough", (*state).ruleLength},
	{1, code.LUKSMagic, "magic is LUKS2's", func(s *state) error { return checkMagic(s.buf, magicPrimary) }},
	{1, code.LUKSVersion, "version is 2", func(s *state) error { return checkVersion(s.buf) }},
	{1, code.LUKSHeaderSize, "header size is one that LUKS2 allows", func(s *state) error { return checkHdrSize(s.buf) }},
	{1, code.LUKSHeaderOffset, "header offset is 0", func(s *state) error { return checkHdrOffset(s.buf, 0) }},
	{1, code.LUKSPadding, "reserved bytes and ends of fields are zero", func(s *state) error { return checkPadding(s.buf) }},
	{1, code.LUKSUUID, "UUID is well-formed and the registered one", (*state).ruleUUID},
	{2, code.LUKSTruncated, "both headers are there", (*state).ruleHeaders},
	{3, code.LUKSChecksum, "checksum is SHA-256 and matches", func(s *state) error { return checkChecksum(s.buf[:s.hdrSize]) }},
	{3, code.LUKSSecondary, "secondary header is a copy of the primary one", func(s *state) error { return checkSecondary(s.buf, s.hdrSize) }},
	{3, code.LUKSPadding, "JSON area is zero after the metadata", (*state).rulePadJSON},
	{4, code.LUKSJSON, "metadata is strict JSON with known fields only", (*state).ruleJSON},
	{5, code.LUKSObjects, "exactly one keyslot, one segment and one digest", (*state).ruleObjects},
	{5, code.LUKSTokens, "no tokens", (*state).ruleTokens},
	{5, code.LUKSRequirements, "no flags and no requirements", (*state).ruleRequirements},
	{6, code.LUKSReencrypt, "no re-encryption", (*state).ruleReencrypt},
	{6, code.LUKSReference, "digest refers to the keyslot and the segment", (*state).ruleReference},
	{6, code.LUKSKeyslot, "keyslot is a luks2 one for the cipher's key, without priority", (*state).ruleKeyslot},
	{6, code.LUKSAF, "anti-forensic splitter is luks1, 4000 stripes, SHA-256", (*state).ruleAF},
	{6, code.LUKSArea, "keyslot area is raw, aes-xts-plain64, 64 bytes", (*state).ruleArea},
	{6, code.LUKSKDF, "key derivation is pbkdf2-sha256 or argon2id, salt 32 bytes", (*state).ruleKDF},
	{6, code.LUKSKDFCost, "key derivation's cost is within limits", (*state).ruleKDFCost},
	{6, code.LUKSKeyDigest, "volume key digest is pbkdf2-sha256, salt and digest 32 bytes", (*state).ruleKeyDigest},
	{6, code.LUKSSegment, "segment is a crypt one over the rest of the device", (*state).ruleSegment},
	{6, code.LUKSCipher, "cipher is a supported one and the registered one", (*state).ruleCipher},
	{6, code.LUKSSectorSize, "sector size is 512 or 4096 and the registered one", (*state).ruleSectorSize},
	{6, code.LUKSIntegrity, "integrity is the registered one", (*state).ruleIntegrity},
	{6, code.LUKSGeometry, "sizes and offsets fit together and are the registered ones", (*state).ruleGeometry},
	{7, code.LUKSAreaBounds, "keyslot area lies between headers and data", (*state).ruleAreaBounds},
	{7, code.LUKSTruncated, "the whole header area is there", (*state).ruleAll},
}

func (s *state) ruleLength() error {
	if len(s.buf) < 2*minHdrSize {
		return fmt.Errorf("%d bytes, want at least %d", len(s.buf), 2*minHdrSize)
	}
	return nil
}

func (s *state) ruleUUID() error {
	want := ""
	if s.want != nil {
		want = s.want.UUID
	}
	return checkUUID(s.buf, want)
}

func (s *state) ruleHeaders() error {
	s.hdrSize = binary.BigEndian.Uint64(s.buf[offHdrSize:])
	if uint64(len(s.buf)) < 2*s.hdrSize {
		return fmt.Errorf("%d bytes, want two headers of %d", len(s.buf), s.hdrSize)
	}
	area := s.buf[binSize:s.hdrSize]
	s.json = area
	if i := bytes.IndexByte(area, 0); i >= 0 {
		s.json = area[:i]
	}
	return nil
}

func (s *state) rulePadJSON() error {
	if !zero(s.buf[binSize+len(s.json) : s.hdrSize]) {
		return errors.New("bytes after the end of the metadata")
	}
	return nil
}

func (s *state) ruleJSON() error {
	if len(s.json) == int(s.hdrSize)-binSize {
		return errors.New("metadata is not terminated")
	}
	if len(s.json) > maxJSON {
		return fmt.Errorf("metadata of %d bytes, at most %d", len(s.json), maxJSON)
	}
	if len(s.json) < 2 || s.json[0] != '{' || s.json[len(s.json)-1] != '}' {
		return errors.New("metadata does not begin with { and end with }") // no space around it
	}
	if err := strictjson.Unmarshal(s.json, &s.md); err != nil {
		return fmt.Errorf("metadata: %w", err)
	}
	return nil
}

func (s *state) ruleObjects() error {
	if n, m, d := len(s.md.Keyslots), len(s.md.Segments), len(s.md.Digests); n != 1 || m != 1 || d != 1 {
		return fmt.Errorf("%d keyslots, %d segments and %d digests, want one of each", n, m, d)
	}
	if s.md.Config == nil {
		return errors.New("no config object")
	}
	s.slotID, s.slot = only(s.md.Keyslots)
	_, s.seg = only(s.md.Segments)
	_, s.dig = only(s.md.Digests)
	s.suite = suiteOf(s.want, &s.seg)
	return nil
}

func (s *state) ruleTokens() error {
	if s.md.Tokens == nil || len(s.md.Tokens) != 0 {
		return fmt.Errorf("%d tokens, want an empty object", len(s.md.Tokens))
	}
	return nil
}

func (s *state) ruleRequirements() error {
	if c := s.md.Config; c != nil && (c.Flags != nil || c.Requirements != nil) {
		return errors.New("config holds flags or requirements")
	}
	return nil
}

func (s *state) ruleReencrypt() error {
	if s.slot.Type == "reencrypt" || s.slot.Mode != nil || s.slot.Direction != nil || s.seg.Flags != nil {
		return errors.New("keyslot or segment belongs to a re-encryption")
	}
	return nil
}

func (s *state) ruleReference() error {
	if n, err := decimal("keyslot number", s.slotID); err != nil || n >= maxSlots {
		return fmt.Errorf("keyslot number is %q", clip(s.slotID))
	}
	if id, _ := only(s.md.Segments); id != "0" {
		return fmt.Errorf("segment number is %q, want \"0\"", clip(id))
	}
	if id, _ := only(s.md.Digests); id != "0" {
		return fmt.Errorf("digest number is %q, want \"0\"", clip(id))
	}
	if k := s.dig.Keyslots; len(k) != 1 || k[0] != s.slotID {
		return fmt.Errorf("digest is not for keyslot %s alone", s.slotID)
	}
	if g := s.dig.Segments; len(g) != 1 || g[0] != "0" {
		return errors.New("digest is not for segment 0 alone")
	}
	return nil
}

func (s *state) ruleGeometry() error {
	off, err := decimal("segment offset", s.seg.Offset)
	if err != nil {
		return err
	}
	json, err := decimal("json_size", s.md.Config.JSONSize)
	if err != nil {
		return err
	}
	slots, err := decimal("keyslots_size", s.md.Config.KeyslotsSize)
	if err != nil {
		return err
	}
	switch {
	case json != s.hdrSize-binSize:
		return fmt.Errorf("json_size is %d, want %d", json, s.hdrSize-binSize)
	case slots%areaAlign != 0 || slots < uint64(s.suite.areaSize()) || slots > MaxHeaderArea:
		return fmt.Errorf("keyslots_size is %d", slots)
	case off < 2*s.hdrSize+slots || off > MaxHeaderArea || off%areaAlign != 0:
		return fmt.Errorf("segment offset is %d, want a multiple of %d from %d to %d", off, areaAlign, 2*s.hdrSize+slots, MaxHeaderArea)
	case s.want != nil && off != uint64(s.want.SegmentOffset):
		return fmt.Errorf("segment offset is %d, registered is %d", off, s.want.SegmentOffset)
	}
	s.segOffset, s.keyslotsSize = off, slots
	return nil
}

func (s *state) ruleAll() error {
	if uint64(len(s.buf)) < s.segOffset {
		return fmt.Errorf("%d bytes, want %d", len(s.buf), s.segOffset)
	}
	return nil
}
