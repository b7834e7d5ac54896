package disk

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/google/renameio/v2"

	"attestbox/internal/luks"
	"attestbox/internal/verity"
)

// BuildVerity writes a read-only root in clear with its hash tree. The same
// source, size, UUID, salt and epoch give the same bytes; without UUID and salt
// they follow from what is in the source and how it is named.
func BuildVerity(ctx context.Context, o Options) (*verity.Record, error) {
	if o.Progress == nil {
		o.Progress = func(string, int64, int64) {}
	}
	if o.UUID != "" && !luks.ValidUUID(o.UUID) {
		return nil, fmt.Errorf("UUID %q is malformed", o.UUID)
	}
	o.readOnly = true
	blocks := verity.DataBlocks(uint64(max(0, o.Size)))
	size := int64(blocks * verity.BlockSize)
	if o.Size%blockSize != 0 || size < minReadOnly {
		return nil, fmt.Errorf("size is %d bytes, want a multiple of %d and at least %d with the hash tree", o.Size, blockSize, minReadOnly)
	}
	plain, err := memfd("attestbox-verity", size)
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	if err := makeFS(ctx, plain, size, &o); err != nil {
		return nil, err
	}

	rec := &verity.Record{DataBlocks: blocks, HashOffset: uint64(size)}
	if o.Salt != nil {
		rec.Salt = *o.Salt
	} else {
		rec.Salt = sha256.Sum256([]byte("attestbox verity salt " + o.UUID))
	}
	out, err := renameio.NewPendingFile(o.Out, renameio.WithPermissions(0o644))
	if err != nil {
		return nil, fmt.Errorf("creating disk image: %w", err)
	}
	defer out.Cleanup()
	if err := out.Truncate(o.Size); err != nil {
		return nil, fmt.Errorf("writing disk image: %w", err)
	}
	if _, err := io.Copy(out, io.NewSectionReader(plain, 0, size)); err != nil {
		return nil, fmt.Errorf("writing disk image: %w", err)
	}
	o.Progress("hash tree", 0, size)
	var uuid [16]byte
	if _, err := hex.Decode(uuid[:], []byte(strings.ReplaceAll(o.UUID, "-", ""))); err != nil {
		return nil, err
	}
	if err := verity.Format(ctx, plain, out, rec, uuid); err != nil {
		return nil, fmt.Errorf("writing disk image: %w", err)
	}
	o.Progress("hash tree", size, size)
	if err := out.CloseAtomicallyReplace(); err != nil {
		return nil, fmt.Errorf("writing disk image: %w", err)
	}
	return rec, nil
}

// minReadOnly is the smallest file system without a journal.
const minReadOnly = 1 << 20

// uuid names a source by its entries, so that a build without -uuid repeats.
func (s *source) uuid(size int64, epoch time.Time) string {
	var b strings.Builder
	fmt.Fprintf(&b, "source %d %d\n", size, epoch.Unix())
	for i := range s.entries {
		e := &s.entries[i]
		fmt.Fprintf(&b, "%q %o %d %d\n", e.path, unixMode(e.mode), e.uid, e.gid)
	}
	return derivedUUID(b.String(), "root")
}
