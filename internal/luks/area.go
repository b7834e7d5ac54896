package luks

import (
	"io"

	"attestbox/internal/wire"
)

// ReadRegistered reads the header area of r, once, and returns it if its digest
// is the registered one: of a scoped record, the area that it makes. It is what
// OpenWithin then parses, for a caller that hands the same bytes on.
func ReadRegistered(r io.ReaderAt, want *wire.HeaderRecord) ([]byte, error) {
	if err := CheckRecord(want); err != nil {
		return nil, err
	}
	area, err := readArea(r, want.Size)
	if err != nil {
		return nil, err
	}
	if err := checkDigest(area, want); err != nil {
		return nil, err
	}
	return assemble(area, want)
}
