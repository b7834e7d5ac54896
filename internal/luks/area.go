package luks

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"attestbox/internal/code"
	"attestbox/internal/wire"
)

// ReadRegistered reads the header area of r, once, and returns it if its digest
// is the registered one: of a scoped record, the area that it makes. It is what
// OpenWithin then parses, for a caller that hands the same bytes on.
func ReadRegistered(r io.ReaderAt, want *wire.HeaderRecord) ([]byte, error) {
	if err := CheckRecord(want); err != nil {
		return nil, err
	}
	return readArea(r, want)
}

// readChunk is what is read while the bytes before it are hashed: of cryptsetup's
// 16 MiB area, reading and hashing are most of what an open costs.
const readChunk = 1 << 20

// readArea reads exactly the registered size from the start, each byte once, and
// refuses what does not have the registered digest.
func readArea(r io.ReaderAt, want *wire.HeaderRecord) ([]byte, error) {
	area := make([]byte, want.Size)
	if want.Scope != wire.ScopeWhole {
		if err := readAt(r, area, 0); err != nil {
			return nil, err
		}
		if err := checkDigest(area, want); err != nil {
			return nil, err
		}
		return area, nil
	}
	read := make(chan []byte, len(area)/readChunk+1) // room for all: the reader never waits
	var failed error
	go func() {
		defer close(read)
		for off := 0; off < len(area) && failed == nil; off += readChunk {
			part := area[off:min(off+readChunk, len(area))]
			if failed = readAt(r, part, off); failed == nil {
				read <- part
			}
		}
	}()
	h := sha256.New()
	for part := range read {
		h.Write(part)
	}
	if failed != nil {
		return nil, failed
	}
	if err := compareDigest([sha256.Size]byte(h.Sum(nil)), want); err != nil {
		return nil, err
	}
	return assemble(area, want)
}

// readAt fills part, which begins at off in the header area.
func readAt(r io.ReaderAt, part []byte, off int) error {
	n, err := r.ReadAt(part, int64(off))
	switch {
	case n == len(part):
		return nil
	case errors.Is(err, io.EOF):
		return code.Wrap(code.LUKSTruncated, fmt.Errorf("reading LUKS header: %d bytes, %d more are registered", off+n, len(part)-n))
	default:
		return code.Wrap(code.LUKSRead, fmt.Errorf("reading LUKS header: %w", err))
	}
}
