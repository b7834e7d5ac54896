package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"attestbox/internal/dm"
	"attestbox/internal/secret"
	"attestbox/internal/unlock"
	"attestbox/internal/wire"
)

// CreateOn is Create on the block device at path, which nothing else may be
// using; the volume is left as /dev/mapper/name. prepare, unless nil, gets the
// mapped volume before it counts as finished.
func CreateOn(ctx context.Context, s Store, tag, path, name string, prepare func(ctx context.Context, node string) error, progress func(step string, done, total int64)) (*unlock.Result, error) {
	dev, size, err := openAlone(path)
	if err != nil {
		return nil, err
	}
	defer dev.Close() // again, where it was closed for device-mapper
	var res *unlock.Result
	c := Creation{
		Store: s, Tag: tag, Device: dev, Size: size, Progress: progress,
		Open: func(ctx context.Context, record *wire.HeaderRecord, key *secret.Bytes) (Mapped, error) {
			dev.Close() // device-mapper wants it for itself
			r, err := unlock.Unlock(ctx, path, name, record, key)
			if err != nil {
				return nil, err
			}
			f, err := os.OpenFile(r.Node, os.O_RDWR, 0)
			if err != nil {
				return nil, errors.Join(err, r.Mapping.Remove())
			}
			res = r
			return mapped{f, r.Mapping}, nil
		},
	}
	if prepare != nil {
		c.Prepare = func(ctx context.Context) error { return prepare(ctx, res.Node) }
	}
	if err := Create(ctx, c); err != nil {
		return nil, err
	}
	return res, nil
}

// OpenOn opens the finished volume of a tag from the block device at path, as
// /dev/mapper/name, or nothing.
func OpenOn(ctx context.Context, s Store, tag, path, name string) (*unlock.Result, error) {
	record, key, err := Get(ctx, s, tag)
	if err != nil {
		return nil, err
	}
	return unlock.Unlock(ctx, path, name, record, key)
}

// mapped is an open volume while it is filled.
type mapped struct {
	*os.File
	m *dm.Mapping
}

func (v mapped) Remove() error { return v.m.Remove() }

// openAlone opens a block device that nothing else uses: not mounted, in no
// mapping, not swap.
func openAlone(name string) (*os.File, int64, error) {
	st, err := os.Stat(name)
	if err != nil {
		return nil, 0, fmt.Errorf("opening device: %w", err)
	}
	if st.Mode()&os.ModeDevice == 0 || st.Mode()&os.ModeCharDevice != 0 {
		return nil, 0, fmt.Errorf("opening device: %q is no block device", name)
	}
	f, err := os.OpenFile(name, os.O_RDWR|os.O_EXCL, 0)
	if errors.Is(err, unix.EBUSY) {
		return nil, 0, fmt.Errorf("opening device: it is mounted, mapped or otherwise in use: %w", err)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("opening device: %w", err)
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		f.Close()
		return nil, 0, fmt.Errorf("reading size of %q: %w", name, err)
	}
	return f, size, nil
}
