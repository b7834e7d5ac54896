package image

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// Compression of the initramfs. The kernel needs CONFIG_RD_ZSTD, CONFIG_RD_XZ or
// CONFIG_RD_GZIP, which distribution kernels have.
const (
	Zstd = "zstd"
	Xz   = "xz"
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
func compressor(w io.Writer, kind string, small bool) (io.WriteCloser, error) {
	switch kind {
	case Zstd:
		level := zstd.SpeedDefault // the next level takes twice the time, for 2 % less
		if small {
			level = zstd.SpeedBestCompression
		}
		// The kernel refuses windows above 128 MiB; 8 MiB keeps its buffer small,
		// and a larger one gains nothing.
		return zstd.NewWriter(w, zstd.WithEncoderLevel(level),
			zstd.WithWindowSize(8<<20), zstd.WithEncoderConcurrency(2), zstd.WithEncoderCRC(true))
	case Xz:
		// The kernel's decoder knows CRC32 alone (Documentation/staging/xz.rst).
		return xz.WriterConfig{DictCap: xzDict, CheckSum: xz.CRC32}.NewWriter(w)
	case Gzip:
		return gzip.NewWriterLevel(w, gzip.BestCompression) // no name, no time
	case None:
		return nopCloser{w}, nil
	}
	return nil, errCompression(kind)
}

func errCompression(kind string) error {
	return fmt.Errorf("compression %q is not one of zstd, xz, gzip, none", kind)
}

// Decompress recognises zstd, xz, gzip and plain cpio by their first bytes. An
// initramfs made of several parts is refused by the archive reader.
func Decompress(initrd []byte) (data []byte, kind string, err error) {
	var r io.Reader
	size := int64(-1) // where the file says it
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
	case bytes.HasPrefix(initrd, []byte(xzMagic)):
		kind = Xz
		if size, err = checkXz(initrd); err != nil {
			return nil, "", fmt.Errorf("decompressing initrd: %w", err)
		}
		if r, err = (xz.ReaderConfig{DictCap: xzDict, SingleStream: true}).NewReader(bytes.NewReader(initrd)); err != nil {
			return nil, "", fmt.Errorf("decompressing initrd: %w", err)
		}
	case bytes.HasPrefix(initrd, []byte{0x1f, 0x8b}):
		kind = Gzip
		if r, err = gzip.NewReader(bytes.NewReader(initrd)); err != nil {
			return nil, "", fmt.Errorf("decompressing initrd: %w", err)
		}
	case bytes.HasPrefix(initrd, []byte(newcMagic)):
		return initrd, None, nil
	default:
		return nil, "", fmt.Errorf("%w: neither zstd, xz, gzip nor cpio", ErrForeign)
	}
	data, err = io.ReadAll(io.LimitReader(r, MaxInitrd+1))
	if err != nil {
		return nil, "", fmt.Errorf("decompressing initrd: %w", err)
	}
	if len(data) > MaxInitrd {
		return nil, "", fmt.Errorf("decompressing initrd: more than %d bytes", MaxInitrd)
	}
	if size >= 0 && int64(len(data)) != size {
		return nil, "", fmt.Errorf("decompressing initrd: %d bytes, the file says %d", len(data), size)
	}
	return data, kind, nil
}
