package volume

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"attestbox/internal/code"
	"attestbox/internal/luks"
	"attestbox/internal/secret"
	"attestbox/internal/wire"
)

// Device is a block device that nobody else uses.
type Device interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
}

// Mapped is an open volume.
type Mapped interface {
	io.WriterAt
	Sync() error
	Close() error // the mapping stays
	Remove() error
}

// Creation is what Create needs.
type Creation struct {
	Store  Store
	Tag    string
	Device Device
	Size   int64 // of the device
	// Open maps the volume; it takes the key over. The device may be closed then.
	Open func(ctx context.Context, record *wire.HeaderRecord, key *secret.Bytes) (Mapped, error)
	// Prepare, unless nil, fills the mapped volume before it counts as finished;
	// it leaves nothing mounted. Create called again calls it on a volume made anew.
	Prepare  func(ctx context.Context) error
	Progress func(step string, done, total int64)
}

const (
	firstBlock = 4096
	chunk      = 1 << 20
)

// Create makes a volume with hmac-sha256 on a blank device and leaves it
// mapped. Cut off anywhere, it can be called again with the same tag and device:
// the store's entry comes first and says "unfinished" until every sector of
// the device has its tag and Prepare is done.
//
// Errors: volume-exists if the store promises a finished volume of that tag;
// volume-device if the device is neither blank nor an unfinished volume of that
// tag. Nothing was written then.
func Create(ctx context.Context, c Creation) error {
	old, key, before, err := load(ctx, c.Store, c.Tag)
	key.Zero()
	switch {
	case err == nil && old.Finished:
		return code.Wrap(code.VolumeExists, fmt.Errorf("the store promises volume %q already: it is opened and never made again", c.Tag))
	case err != nil && !errors.Is(err, errUnknown): // and an entry that is something else stays
		return err
	}
	if err := c.checkDevice(ctx, old); err != nil {
		return err
	}
	key = secret.Random(keySize)
	defer key.Zero()
	uuid, err := luks.NewUUID(rand.Reader)
	if err != nil {
		return err
	}
	header, v, record, err := luks.Format(key, luks.Params{UUID: uuid, Integrity: luks.IntegrityHMAC})
	if err != nil {
		return err
	}
	v.Close()
	layout, err := luks.NewLayout(v.Suite, v.SectorSize, v.Offset, c.Size)
	if err != nil {
		return err
	}
	version, err := save(ctx, c.Store, c.Tag, key, entry{Record: record}, before)
	if err != nil {
		return err
	}
	if err := c.writeHeader(header, layout); err != nil {
		return fmt.Errorf("writing volume %q: %w", c.Tag, err)
	}
	m, err := c.Open(ctx, record, secret.Copy(key.Bytes()))
	if err != nil {
		return err
	}
	if err := c.fill(ctx, m, layout.Provided*512); err != nil {
		return fmt.Errorf("writing volume %q: %w", c.Tag, errors.Join(err, m.Close(), m.Remove()))
	}
	// A kernel may refuse to mount what is open for writing.
	if err := m.Close(); err != nil {
		return fmt.Errorf("writing volume %q: %w", c.Tag, errors.Join(err, m.Remove()))
	}
	if c.Prepare != nil {
		if err := c.Prepare(ctx); err != nil {
			return errors.Join(err, m.Remove())
		}
	}
	if _, err := save(ctx, c.Store, c.Tag, key, entry{Finished: true, Record: record}, version); err != nil {
		return errors.Join(err, m.Remove())
	}
	return nil
}

// writeHeader writes superblock, journal and header, the header's first block
// last: a device that begins with zeros holds no header of ours yet.
func (c *Creation) writeHeader(header []byte, l *luks.Layout) error {
	// A write that was cut off before may have left another header there.
	for _, w := range []struct {
		b  []byte
		at int64
	}{
		{make([]byte, firstBlock), 0},
		{append(l.Superblock(), l.Journal()...), l.Offset},
		{header[firstBlock:], firstBlock},
		{header[:firstBlock], 0},
	} {
		if _, err := c.Device.WriteAt(w.b, w.at); err != nil {
			return err
		}
		if err := c.Device.Sync(); err != nil {
			return err
		}
	}
	return nil
}

// fill writes zeros through the mapping, so that every sector has its tag.
func (c *Creation) fill(ctx context.Context, m Mapped, size int64) error {
	zeros := make([]byte, chunk)
	for off := int64(0); off < size; off += chunk {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := m.WriteAt(zeros[:min(chunk, size-off)], off); err != nil {
			return err
		}
		c.progress("format", off, size)
	}
	if err := m.Sync(); err != nil {
		return err
	}
	c.progress("format", size, size)
	return nil
}

func (c *Creation) progress(step string, done, total int64) {
	if c.Progress != nil {
		c.Progress(step, done, total)
	}
}

// checkDevice accepts a device that is blank, every byte of it, and one with
// the header of an unfinished volume of this tag, or with the beginning of
// writing one.
func (c *Creation) checkDevice(ctx context.Context, old *entry) error {
	skipFrom, skipTo := int64(0), int64(0)
	if old != nil {
		area := make([]byte, old.Record.Size)
		if n, err := c.Device.ReadAt(area, 0); err != nil && !(errors.Is(err, io.EOF) && n == len(area)) {
			return fmt.Errorf("reading the device: %w", err)
		}
		if sum := sha256.Sum256(area); hex.EncodeToString(sum[:]) == old.Record.Digest {
			return nil
		}
		// Cut off in writeHeader: the first block is zeros, which is checked
		// below; what may be written already follows it.
		l, err := layoutOf(old.Record, c.Size)
		if err != nil {
			return err
		}
		skipFrom, skipTo = firstBlock, l.Offset+luks.SuperblockBytes+l.JournalSectors()*512
	}
	buf, zeros := make([]byte, chunk), make([]byte, chunk)
	for off := int64(0); off < c.Size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		if off >= skipFrom && off < skipTo {
			off = skipTo
			continue
		}
		n := min(chunk, c.Size-off)
		if off < skipFrom {
			n = min(n, skipFrom-off)
		}
		if _, err := c.Device.ReadAt(buf[:n], off); err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("reading the device: %w", err)
		}
		if !bytes.Equal(buf[:n], zeros[:n]) {
			return code.Wrap(code.VolumeDevice, fmt.Errorf("the device is not blank: %s", c.found(off, buf[:n])))
		}
		off += n
		c.progress("check", off, c.Size)
	}
	return nil
}

func layoutOf(r *wire.HeaderRecord, size int64) (*luks.Layout, error) {
	suite, err := luks.SuiteNamed(r.Integrity)
	if err != nil {
		return nil, err
	}
	return luks.NewLayout(suite, r.SectorSize, r.SegmentOffset, size)
}

// signatures that are worth naming, with their places on a device.
var signatures = []struct {
	at    int64
	magic string
	what  string
}{
	{0, "LUKS\xba\xbe", "a LUKS header"},
	{0x438, "\x53\xef", "an ext2, ext3 or ext4 file system"},
	{0, "XFSB", "an XFS file system"},
	{0x10040, "_BHRfS_M", "a Btrfs file system"},
	{0x200, "EFI PART", "a GPT partition table"},
	{0x1fe, "\x55\xaa", "a partition table or boot sector"},
	{0x218, "LVM2 001", "an LVM volume"},
	{0xff6, "SWAPSPACE2", "swap"},
	{0xff6, "S1SUSPEND", "a hibernation image"},
	{0x1000, "\xfc\x4e\x2b\xa9", "an MD array"},
}

// found says what a device that is not blank seems to hold; b is its first
// part that is not zero, at off.
func (c *Creation) found(off int64, b []byte) string {
	for _, s := range signatures {
		m := make([]byte, len(s.magic))
		if _, err := c.Device.ReadAt(m, s.at); err == nil && string(m) == s.magic {
			return "it seems to hold " + s.what
		}
	}
	return fmt.Sprintf("data at %d", off+int64(bytes.IndexFunc(b, func(r rune) bool { return r != 0 })))
}
