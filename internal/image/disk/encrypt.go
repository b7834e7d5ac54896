package disk

import (
	"context"
	"crypto/aes"
	"io"
	"os"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/crypto/xts"

	"attestbox/internal/luks"
)

const chunk = 1 << 20 // a multiple of every sector size

// encrypt copies size bytes of plain to out at v.Offset through AES-XTS, as
// dm-crypt does for aes-xts-plain64: the tweak is the number of the 512-byte
// sector at which the encryption sector begins. One worker per core.
func encrypt(ctx context.Context, out io.WriterAt, plain *os.File, v *luks.Volume, size int64, progress func(string, int64, int64)) error {
	c, err := xts.NewCipher(aes.NewCipher, v.VolumeKey.Bytes())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next, done atomic.Int64
	var wg sync.WaitGroup
	workers := runtime.GOMAXPROCS(0)
	tick := make(chan struct{}, workers)
	for range workers {
		wg.Go(func() {
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
				for i := 0; i < len(b); i += v.SectorSize {
					s := b[i : i+v.SectorSize]
					c.Encrypt(s, s, uint64(off+int64(i))/512)
				}
				if _, err := out.WriteAt(b, v.Offset+off); err != nil {
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
