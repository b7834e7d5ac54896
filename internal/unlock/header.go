package unlock

import (
	"bytes"
	"context"
	"fmt"
	"os"

	"attestbox/internal/luks"
	"attestbox/internal/secret"
	"attestbox/internal/wire"
)

// Header is for a disk that another program opens: it reads the header area of
// device once, and returns these bytes if they are the registered ones, hold
// every rule, and key opens them. That program must be given the returned bytes
// as a detached header. Of a scoped record they are made of what it covers, so
// that no program sees the other copy. The caller keeps key.
func Header(ctx context.Context, device string, record *wire.HeaderRecord, key *secret.Bytes) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	f, err := os.Open(device)
	if err != nil {
		return nil, fmt.Errorf("opening disk: %w", err)
	}
	defer f.Close()
	area, err := luks.ReadRegistered(f, record)
	if err != nil {
		return nil, fmt.Errorf("reading %q: %w", device, err)
	}
	v, err := luks.OpenWithin(bytes.NewReader(area), record, key, limits())
	if err != nil {
		return nil, fmt.Errorf("judging the header of %q: %w", device, err)
	}
	v.Close()
	return luks.Assembled(area, record)
}
