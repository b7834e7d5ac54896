package luks

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"attestbox/internal/code"
	"attestbox/internal/wire"
)

// Limits bound what a header may make its reader spend.
type Limits struct {
	// MemoryKiB bounds argon2id's memory: half of RAM, say. It never exceeds
	// 1 GiB; 0 means 1 GiB.
	MemoryKiB uint64
}

func (l Limits) memoryKiB() uint64 {
	if l.MemoryKiB == 0 {
		return maxMemoryKiB
	}
	return min(l.MemoryKiB, maxMemoryKiB)
}

// Result is one rule's outcome in a report.
type Result struct {
	Code code.Code
	Rule string // what must hold
	Err  error  // nil: it holds
	// Reached is false where an earlier failure left nothing to look at.
	Reached bool
}

// parse runs the rules and stops at the first that fails.
func parse(buf []byte, want *wire.HeaderRecord, limits Limits) (*state, error) {
	s := &state{buf: buf, want: want, limits: limits}
	for i := range rules {
		if err := rules[i].run(s); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Check runs every rule over a header area, for a report. With a record the
// digest and the registered values are compared as well. ok says that all hold.
func Check(header []byte, want *wire.HeaderRecord, limits Limits) (results []Result, ok bool) {
	ok = true
	add := func(c code.Code, rule string, err error, reached bool) {
		results = append(results, Result{c, rule, err, reached})
		ok = ok && err == nil && reached
	}
	if want != nil {
		err := CheckRecord(want)
		add(code.LUKSRecord, "record is well-formed and supported", err, true)
		reached := err == nil
		if reached {
			err = checkDigest(header, want)
		}
		add(code.LUKSHeaderDigest, "SHA-256 of the header area is the registered one", err, reached)
		if !reached {
			want = nil
		} else if err == nil {
			// Rules are checked on what the record covers; a copy that is not valid
			// where it lies is looked at as it is, and fails there.
			if whole, err := assemble(header, want); err == nil {
				header = whole
			}
		}
	}
	s := &state{buf: header, want: want, limits: limits}
	failed := -1 // the stage of the first failure
	for i := range rules {
		r := &rules[i]
		if failed >= 0 && r.stage > failed {
			add(r.code, r.what, nil, false)
			continue
		}
		err := r.run(s)
		if err != nil && failed < 0 {
			failed = r.stage
		}
		add(r.code, r.what, err, true)
	}
	return results, ok
}

// CheckRecord refuses a record that this package does not serve: cipher, size
// of the key and integrity must be one of the suites'.
func CheckRecord(r *wire.HeaderRecord) error {
	bad := func(format string, a ...any) error {
		return code.Wrap(code.LUKSRecord, fmt.Errorf("header record: "+format, a...))
	}
	if r == nil {
		return bad("absent")
	}
	suite, err := SuiteNamed(r.Integrity)
	if err != nil {
		return bad("%w", err)
	}
	d, err := hex.DecodeString(r.Digest)
	switch {
	case err != nil || len(d) != sha256.Size || hex.EncodeToString(d) != r.Digest:
		return bad("digest is not 64 lower-case hexadecimal digits")
	case r.Size != r.SegmentOffset:
		return bad("size %d is not the segment's offset %d", r.Size, r.SegmentOffset)
	case r.Size < suite.minHeaderArea() || r.Size > MaxHeaderArea || r.Size%areaAlign != 0:
		return bad("size is %d, want a multiple of %d from %d to %d", r.Size, areaAlign, suite.minHeaderArea(), MaxHeaderArea)
	case !ValidUUID(r.UUID):
		return bad("UUID %q is malformed", clip(r.UUID))
	case r.SectorSize != 512 && r.SectorSize != 4096:
		return bad("sector size is %d, want 512 or 4096", r.SectorSize)
	case r.Cipher != suite.Cipher:
		return bad("cipher is %q, want %q for integrity %q", clip(r.Cipher), suite.Cipher, suite.Integrity)
	case r.KeyBytes != suite.KeyBytes:
		return bad("key is %d bytes, want %d for integrity %q", r.KeyBytes, suite.KeyBytes, suite.Integrity)
	}
	if err := checkScope(r); err != nil {
		return bad("%w", err)
	}
	return nil
}

func checkDigest(header []byte, want *wire.HeaderRecord) error {
	if int64(len(header)) < want.Size {
		return code.Wrap(code.LUKSTruncated, fmt.Errorf("header area is %d bytes, registered are %d", len(header), want.Size))
	}
	return compareDigest(digestCovered(header, want), want)
}

func compareDigest(got [sha256.Size]byte, want *wire.HeaderRecord) error {
	reg, err := hex.DecodeString(want.Digest)
	if err != nil || subtle.ConstantTimeCompare(got[:], reg) != 1 {
		return code.Wrap(code.LUKSHeaderDigest, fmt.Errorf("SHA-256 of the header area is %x, registered is %s", got, want.Digest))
	}
	return nil
}

// RecordOf checks every rule over a header area (the device's first bytes, at
// least up to the data segment; more is ignored) and returns the record that
// is to be registered.
func RecordOf(header []byte) (*wire.HeaderRecord, error) {
	s, err := parse(header, nil, Limits{})
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(header[:s.segOffset])
	r := &wire.HeaderRecord{
		Digest:        hex.EncodeToString(sum[:]),
		Size:          int64(s.segOffset),
		UUID:          fields(s.buf).UUID,
		SegmentOffset: int64(s.segOffset),
		SectorSize:    int(s.seg.SectorSize),
		Cipher:        s.seg.Encryption,
		KeyBytes:      s.suite.KeyBytes,
		Integrity:     s.suite.Integrity,
	}
	return r, CheckRecord(r)
}

// ReadHeader reads what a tool without a record needs of a device, an image or
// a detached header: its first bytes, at most MaxHeaderArea.
func ReadHeader(r io.ReaderAt) ([]byte, error) {
	buf := make([]byte, MaxHeaderArea)
	n, err := r.ReadAt(buf, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, code.Wrap(code.LUKSRead, fmt.Errorf("reading LUKS header: %w", err))
	}
	return buf[:n], nil
}
