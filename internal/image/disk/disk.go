// Package disk writes a root disk image without root rights and without
// device-mapper: an ext4 file system made by mke2fs in memory, encrypted in
// user space behind a LUKS2 header that cryptsetup opens.
//
// The plain file system exists only in a memfd and the unpacked tarball only
// below a tmpfs folder; neither is written to persistent storage (both can be
// swapped out where the machine has swap). Every sector of the data area is
// encrypted, empty ones too, so that the image does not show what is in use,
// and with integrity every one has its tag.
//
// The bytes of the file system depend on the source, the size, the UUID and
// SOURCE_DATE_EPOCH alone (and on the version of e2fsprogs); the bytes of the
// image depend on random keys.
//
// It does not check what is in the source: that is the owner's.
package disk

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"attestbox/internal/luks"
	"attestbox/internal/secret"
	"attestbox/internal/wire"
)

// Options say what Build writes.
type Options struct {
	From       string    // a folder or a tarball (.tar, .tar.gz, .tar.zst), found by its content
	Empty      bool      // without From: an empty file system
	Out        string    // the image, replaced atomically
	Size       int64     // of the whole image in bytes, a multiple of 4096
	UUID       string    // of LUKS; empty: random. The file system's is derived from it
	Label      string    // of LUKS
	SectorSize int       // 512 or 4096; 0: 4096
	Integrity  string    // luks.IntegrityHMAC or luks.IntegrityNone; required
	HeaderArea int64     // offset of the data; 0: 1 MiB
	Epoch      time.Time // no time in the file system is later; zero: the newest in the source
	Instance   *[32]byte // written into the volume, for init to compare; may be nil
	TempDir    string    // where a tarball is unpacked; must be tmpfs; empty: /dev/shm
	Salt       *[32]byte // of a verity root; nil: derived from the UUID
	readOnly   bool      // a file system that is never written
	// Progress is called now and then from one goroutine; may be nil.
	Progress func(step string, done, total int64)
}

// blockSize is the file system's: that of the larger encryption sector.
const blockSize = 4096

// minData is the smallest data area in which mke2fs puts a journal.
const minData = 8 << 20

// Result is what Build wrote.
type Result struct {
	Record *wire.HeaderRecord
	Header []byte // the header area, a detached copy
}

// Build writes the image. The caller keeps key (32 random bytes) and wipes it.
func Build(ctx context.Context, key *secret.Bytes, o Options) (*Result, error) {
	if o.Progress == nil {
		o.Progress = func(string, int64, int64) {}
	}
	if o.UUID == "" {
		var err error
		if o.UUID, err = luks.NewUUID(rand.Reader); err != nil {
			return nil, err
		}
	}
	header, v, record, err := luks.Format(key, luks.Params{
		UUID: o.UUID, Label: o.Label, Integrity: o.Integrity, SectorSize: o.SectorSize, HeaderArea: o.HeaderArea,
	})
	if err != nil {
		return nil, err
	}
	defer v.Close()
	if o.Size%blockSize != 0 {
		return nil, fmt.Errorf("size is %d bytes, want a multiple of %d", o.Size, blockSize)
	}
	w, err := newWriter(v, o.Size)
	if err != nil {
		return nil, fmt.Errorf("size is %d bytes: %w", o.Size, err)
	}
	data := w.size()
	if data < minData {
		return nil, fmt.Errorf("size is %d bytes, of which the file system gets %d, want at least %d", o.Size, max(data, 0), minData)
	}

	plain, err := memfd("attestbox-disk", data)
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	if err := makeFS(ctx, plain, data, &o); err != nil {
		return nil, err
	}

	out, err := renameio.NewPendingFile(o.Out, renameio.WithPermissions(0o644))
	if err != nil {
		return nil, fmt.Errorf("creating disk image: %w", err)
	}
	defer out.Cleanup()
	if _, err := out.WriteAt(header, 0); err != nil {
		return nil, fmt.Errorf("writing disk image: %w", err)
	}
	if err := out.Truncate(o.Size); err != nil {
		return nil, fmt.Errorf("writing disk image: %w", err)
	}
	if err := w.encrypt(ctx, out.File, plain, o.Progress); err != nil {
		return nil, fmt.Errorf("writing disk image: %w", err)
	}
	if err := out.CloseAtomicallyReplace(); err != nil {
		return nil, fmt.Errorf("writing disk image: %w", err)
	}
	return &Result{Record: record, Header: header}, nil
}

// memfd is an anonymous file of size bytes in memory.
func memfd(name string, size int64) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("creating file in memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if err := f.Truncate(size); err != nil {
		f.Close()
		return nil, fmt.Errorf("creating file of %d bytes in memory: %w", size, err)
	}
	return f, nil
}

// derivedUUID is a UUID that depends on the LUKS UUID and a purpose alone
// (RFC 9562, version 8).
func derivedUUID(uuid, purpose string) string {
	h := sha256.Sum256([]byte("attestbox disk " + purpose + " " + uuid))
	u := h[:16]
	u[6], u[8] = u[6]&0x0f|0x80, u[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

// ErrSource is an entry of the source that cannot go into the image.
var ErrSource = errors.New("source cannot be used")
