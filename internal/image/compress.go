package image

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

// Compression of the initramfs. The kernel needs CONFIG_RD_ZSTD or
// CONFIG_RD_GZIP, which distribution kernels have.
const (
	Zstd = "zstd"
	Gzip = "gzip"
	None = "none"
)

// MaxInitrd bounds what inspect decompresses.
const MaxInitrd = MaxContents + MaxEntries*2*MaxPath

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// compressor gives one fixed encoder setting per kind: the bytes depend on the
// input and on the pinned library version (recorded in image.json), never on
// the number of processors.
func compressor(w io.Writer, kind string) (io.WriteCloser, error) {
	switch kind {
	case Zstd:
		// The kernel refuses windows above 128 MiB; 8 MiB keeps its buffer small.
		return zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedBetterCompression),
			zstd.WithWindowSize(8<<20), zstd.WithEncoderConcurrency(2), zstd.WithEncoderCRC(true))
	case Gzip:
		return gzip.NewWriterLevel(w, gzip.BestCompression) // no name, no time
	case None:
		return nopCloser{w}, nil
	}
	return nil, fmt.Errorf("compression %q is not one of zstd, gzip, none", kind)
}

// Decompress recognises zstd, gzip and plain cpio by their first bytes. An
// initramfs made of several parts is refused by the archive reader.
func Decompress(initrd []byte) (data []byte, kind string, err error) {
	var r io.Reader
	switch {
	case bytes.HasPrefix(initrd, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		kind = Zstd
		dec, err := zstd.NewReader(bytes.NewReader(initrd), zstd.WithDecoderConcurrency(1),
			zstd.WithDecoderMaxWindow(128<<20), zstd.WithDecoderMaxMemory(MaxInitrd))
		if err != nil {
			return nil, "", fmt.Errorf("decompressing initrd: %w", err)
		}
		defer dec.Close()
		r = dec
	case bytes.HasPrefix(initrd, []byte{0x1f, 0x8b}):
		kind = Gzip
		if r, err = gzip.NewReader(bytes.NewReader(initrd)); err != nil {
			return nil, "", fmt.Errorf("decompressing initrd: %w", err)
		}
	case bytes.HasPrefix(initrd, []byte(newcMagic)):
		return initrd, None, nil
	default:
		return nil, "", fmt.Errorf("%w: neither zstd, gzip nor cpio", ErrForeign)
	}
	data, err = io.ReadAll(io.LimitReader(r, MaxInitrd+1))
	if err != nil {
		return nil, "", fmt.Errorf("decompressing initrd: %w", err)
	}
	if len(data) > MaxInitrd {
		return nil, "", fmt.Errorf("decompressing initrd: more than %d bytes", MaxInitrd)
	}
	return data, kind, nil
}
