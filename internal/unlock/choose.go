package unlock

import (
	"context"
	"errors"

	"attestbox/internal/code"
	"attestbox/internal/luks"
	"attestbox/internal/secret"
	"attestbox/internal/wire"
)

// Choose finds the record that a disk has, of several, and which of the keys
// opens it: while a disk's key is being rotated there are two, and records of
// every state. Records of the whole header area are tried first, and keys in
// order, an empty one never. The key stays the caller's.
func Choose(ctx context.Context, device string, records []wire.HeaderRecord, keys ...*secret.Bytes) (*wire.HeaderRecord, *secret.Bytes, error) {
	var last error = code.Wrap(code.BootRelease, errors.New("the release holds no key or no header record"))
	records = luks.WholeFirst(records)
	for i := range records {
		for _, key := range keys {
			if key.Len() == 0 {
				continue
			}
			_, err := Header(ctx, device, &records[i], key)
			if err == nil {
				return &records[i], key, nil
			}
			last = err
			if c, _ := code.Of(err); c != code.LUKSWrongKey {
				break
			}
		}
		if c, _ := code.Of(last); c != code.LUKSHeaderDigest {
			break
		}
	}
	return nil, nil, last
}
