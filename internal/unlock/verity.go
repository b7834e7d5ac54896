package unlock

import (
	"context"
	"fmt"
	"os"

	"attestbox/internal/code"
	"attestbox/internal/dm"
	"attestbox/internal/verity"
)

// Verity maps device (a block device with data and hash tree) read-only as
// /dev/mapper/name. Everything that the kernel is told comes from the record;
// nothing of the device is believed. Errors: verity-record, verity-truncated,
// verity-root-hash; dm-unavailable, dm-table.
func Verity(ctx context.Context, device, name string, record *verity.Record) (*dm.Mapping, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := record.Check(); err != nil {
		return nil, code.Wrap(code.VerityRecord, err)
	}
	f, err := os.Open(device)
	if err != nil {
		return nil, fmt.Errorf("opening disk: %w", err)
	}
	defer f.Close()
	return dm.OpenVerity(name, f, record)
}
