package disk

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"io"
	"os"
	"runtime"
	"sync"
	"sync/atomic"

	"attestbox/internal/luks"
	"attestbox/internal/xts"
)

const chunk = 1 << 20 // a multiple of every sector size, a part of a run between tags

// writer puts a file system behind a header as dm-crypt would, for
// hmac-sha256 with everything that dm-integrity keeps beside the data.
type writer struct {
	v      *luks.Volume
	end    int64        // of the image
	layout *luks.Layout // nil: bare XTS
}

func newWriter(v *luks.Volume, size int64) (*writer, error) {
	w := &writer{v: v, end: size}
	switch v.Suite.Integrity {
	case luks.IntegrityNone:
		return w, nil
	case luks.IntegrityHMAC:
		l, err := luks.NewLayout(v.Suite, v.SectorSize, v.Offset, size)
		w.layout = l
		return w, err
	}
	return nil, fmt.Errorf("integrity %q is not written", v.Suite.Integrity)
}

// size is how much the file system gets.
func (w *writer) size() int64 {
	if w.layout == nil {
		return w.end - w.v.Offset
	}
	return w.layout.Provided * 512
}

// encrypt copies plain to the image. One worker per core.
func (w *writer) encrypt(ctx context.Context, out io.WriterAt, plain *os.File, progress func(string, int64, int64)) error {
	if w.layout != nil {
		if _, err := out.WriteAt(append(w.layout.Superblock(), w.layout.Journal()...), w.v.Offset); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	size := w.size()
	var next, done atomic.Int64
	var wg sync.WaitGroup
	workers := runtime.GOMAXPROCS(0)
	tick := make(chan struct{}, workers)
	for range workers {
		wg.Go(func() {
			s, err := w.newSealer()
			if err != nil {
				cancel(err)
				return
			}
			buf := make([]byte, chunk)
			defer clear(buf)
			for ctx.Err() == nil {
				off := next.Add(chunk) - chunk
				if off >= size {
					return
				}
				b := buf[:min(chunk, size-off)]
				if _, err := plain.ReadAt(b, off); err != nil {
					cancel(err)
					return
				}
				if err := s.write(out, b, off); err != nil {
					cancel(err)
					return
				}
				done.Add(int64(len(b)))
				select {
				case tick <- struct{}{}:
				default:
				}
			}
		})
	}
	go func() { wg.Wait(); close(tick) }()
	for range tick {
		progress("encrypt", done.Load(), size)
	}
	return context.Cause(ctx)
}

// sealer is one worker's ciphers.
type sealer struct {
	*writer
	xts  *xts.Cipher
	mac  hash.Hash // nil: bare XTS
	tags []byte
}

// newSealer: the volume key of hmac-sha256 is the cipher's and then HMAC's, as
// dm-crypt takes it.
func (w *writer) newSealer() (*sealer, error) {
	key := w.v.VolumeKey.Bytes()
	c, err := xts.New(key[:xts.KeySize])
	if err != nil {
		return nil, err
	}
	s := &sealer{writer: w, xts: c}
	if w.layout != nil {
		s.mac = hmac.New(sha256.New, key[xts.KeySize:])
	}
	return s, nil
}

// write encrypts b in place and writes it, and its tags, for byte off of the
// mapping. The tweak of XTS (plain64) is the number of the 512-byte sector at
// which an encryption sector begins. The tag is HMAC-SHA-256 over what
// crypt_convert_block_aead gives authenc as associated data, that number as 8
// bytes little-endian and the IV of 16 bytes, and then the encrypted sector.
func (s *sealer) write(out io.WriterAt, b []byte, off int64) error {
	s.tags = s.tags[:0]
	var aad [8 + 16]byte
	for i := 0; i < len(b); i += s.v.SectorSize {
		sector, n := b[i:i+s.v.SectorSize], uint64(off+int64(i))/512
		s.xts.Encrypt(sector, sector, n)
		if s.mac != nil {
			binary.LittleEndian.PutUint64(aad[:], n)
			binary.LittleEndian.PutUint64(aad[8:], n)
			s.mac.Reset()
			s.mac.Write(aad[:])
			s.mac.Write(sector)
			s.tags = s.mac.Sum(s.tags)
		}
	}
	if s.mac == nil {
		_, err := out.WriteAt(b, s.v.Offset+off)
		return err
	}
	if _, err := out.WriteAt(s.tags, s.layout.TagOffset(off)); err != nil {
		return err
	}
	_, err := out.WriteAt(b, s.layout.DataOffset(off))
	return err
}
