package luks

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"attestbox/internal/code"
)

// binHeader is one binary header as fields. Text fields are without padding.
type binHeader struct {
	HdrSize   uint64
	SeqID     uint64
	Label     string
	Salt      [lenSalt]byte
	UUID      string
	Subsystem string
	HdrOffset uint64
}

func validHdrSize(n uint64) bool {
	return n >= minHdrSize && n <= maxHdrSize && n&(n-1) == 0
}

// text reads a zero-padded text field of printable ASCII or UTF-8 bytes.
func text(b []byte) (string, error) {
	i := bytes.IndexByte(b, 0)
	if i < 0 {
		return "", errors.New("is not terminated")
	}
	if !zero(b[i:]) {
		return "", errors.New("has bytes after its end")
	}
	for _, c := range b[:i] {
		if c < 0x20 || c == 0x7f {
			return "", errors.New("holds a control character")
		}
	}
	return string(b[:i]), nil
}

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// marshal writes the header with a zero checksum.
func (h *binHeader) marshal(b []byte, magic string) {
	clear(b[:binSize])
	copy(b[offMagic:], magic)
	binary.BigEndian.PutUint16(b[offVersion:], 2)
	binary.BigEndian.PutUint64(b[offHdrSize:], h.HdrSize)
	binary.BigEndian.PutUint64(b[offSeqID:], h.SeqID)
	copy(b[offLabel:offLabel+lenLabel-1], h.Label)
	copy(b[offCsumAlg:], "sha256")
	copy(b[offSalt:offSalt+lenSalt], h.Salt[:])
	copy(b[offUUID:offUUID+lenUUID-1], h.UUID)
	copy(b[offSubsystem:offSubsystem+lenSubsystem-1], h.Subsystem)
	binary.BigEndian.PutUint64(b[offHdrOffset:], h.HdrOffset)
}

// checksum is the SHA-256 over the whole header with its checksum field zero.
func checksum(hdr []byte) [sha256.Size]byte {
	var none [lenCsum]byte
	s := sha256.New()
	s.Write(hdr[:offCsum])
	s.Write(none[:])
	s.Write(hdr[offCsum+lenCsum:])
	return [sha256.Size]byte(s.Sum(nil))
}

// The checks below each look at one thing of a binary header; b holds at least
// binSize bytes. They are split so that every rule has its own code.

func checkMagic(b []byte, magic string) error {
	if string(b[offMagic:offVersion]) != magic {
		return code.Wrap(code.LUKSMagic, fmt.Errorf("magic is %q, want %q", b[offMagic:offVersion], magic))
	}
	return nil
}

func checkVersion(b []byte) error {
	if v := binary.BigEndian.Uint16(b[offVersion:]); v != 2 {
		return code.Wrap(code.LUKSVersion, fmt.Errorf("LUKS version is %d, want 2", v))
	}
	return nil
}

func checkHdrSize(b []byte) error {
	n := binary.BigEndian.Uint64(b[offHdrSize:])
	if !validHdrSize(n) {
		return code.Wrap(code.LUKSHeaderSize, fmt.Errorf("header size is %d, want a power of two from %d to %d", n, minHdrSize, maxHdrSize))
	}
	return nil
}

func checkHdrOffset(b []byte, want uint64) error {
	if n := binary.BigEndian.Uint64(b[offHdrOffset:]); n != want {
		return code.Wrap(code.LUKSHeaderOffset, fmt.Errorf("header offset is %d, want %d", n, want))
	}
	return nil
}

func checkPadding(b []byte) error {
	for _, p := range []struct {
		name     string
		from, to int
	}{
		{"reserved bytes", offPadding, offCsum},
		{"tail of the checksum", offCsum + sha256.Size, offCsum + lenCsum},
		{"rest of the binary header", offPadding4K, binSize},
	} {
		if !zero(b[p.from:p.to]) {
			return code.Wrap(code.LUKSPadding, fmt.Errorf("%s (offset %d to %d) not zero", p.name, p.from, p.to))
		}
	}
	for _, p := range []struct {
		name     string
		off, len int
	}{
		{"label", offLabel, lenLabel},
		{"checksum algorithm", offCsumAlg, lenCsumAlg},
		{"UUID", offUUID, lenUUID},
		{"subsystem", offSubsystem, lenSubsystem},
	} {
		if _, err := text(b[p.off : p.off+p.len]); err != nil {
			return code.Wrap(code.LUKSPadding, fmt.Errorf("%s field %w", p.name, err))
		}
	}
	return nil
}

// checkChecksum takes the whole header, binary part and JSON area.
func checkChecksum(hdr []byte) error {
	if alg, _ := text(hdr[offCsumAlg : offCsumAlg+lenCsumAlg]); alg != "sha256" {
		return code.Wrap(code.LUKSChecksum, fmt.Errorf("checksum algorithm is %q, want \"sha256\"", alg))
	}
	if sum := checksum(hdr); !bytes.Equal(sum[:], hdr[offCsum:offCsum+sha256.Size]) {
		return code.Wrap(code.LUKSChecksum, errors.New("checksum does not match"))
	}
	return nil
}

func checkUUID(b []byte, want string) error {
	u, _ := text(b[offUUID : offUUID+lenUUID])
	if !ValidUUID(u) {
		return code.Wrap(code.LUKSUUID, fmt.Errorf("UUID %q is not 36 lower-case characters of the form 8-4-4-4-12", u))
	}
	if want != "" && u != want {
		return code.Wrap(code.LUKSUUID, fmt.Errorf("UUID is %s, registered is %s", u, want))
	}
	return nil
}

// ValidUUID accepts the 36 characters of a lower-case UUID.
func ValidUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		switch i {
		case 8, 13, 18, 23:
			if c != '-' {
				return false
			}
		default:
			if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
				return false
			}
		}
	}
	return true
}

// fields reads a header whose checks passed.
func fields(b []byte) binHeader {
	h := binHeader{
		HdrSize:   binary.BigEndian.Uint64(b[offHdrSize:]),
		SeqID:     binary.BigEndian.Uint64(b[offSeqID:]),
		HdrOffset: binary.BigEndian.Uint64(b[offHdrOffset:]),
	}
	h.Label, _ = text(b[offLabel : offLabel+lenLabel])
	h.UUID, _ = text(b[offUUID : offUUID+lenUUID])
	h.Subsystem, _ = text(b[offSubsystem : offSubsystem+lenSubsystem])
	copy(h.Salt[:], b[offSalt:])
	return h
}

// checkSecondary: the secondary header is valid by itself and carries the same
// fields and metadata as the primary one. hdrs holds both.
func checkSecondary(hdrs []byte, size uint64) error {
	b := hdrs[size : 2*size]
	for _, err := range []error{
		checkMagic(b, magicSecondary), checkVersion(b), checkHdrSize(b),
		checkHdrOffset(b, size), checkPadding(b), checkUUID(b, ""), checkChecksum(b),
	} {
		if err != nil {
			return &code.Error{Code: code.LUKSSecondary, Err: fmt.Errorf("secondary header: %s", err)}
		}
	}
	p, s := fields(hdrs), fields(b)
	s.Salt, s.HdrOffset = p.Salt, p.HdrOffset // these differ by design
	if p != s || !bytes.Equal(hdrs[binSize:size], b[binSize:]) {
		return code.Wrap(code.LUKSSecondary, errors.New("secondary header differs from the primary one"))
	}
	return nil
}
