package link

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// Kinds of frames.
const (
	KindReport    = 0x01
	KindExtReport = 0x02
	KindKey       = 0x03
	KindAnswer    = 0x80 // added to the kind of the request
	KindRefused   = 0xff
)

// Reasons in a refusal's body.
const (
	RefusedKind = 1
	RefusedBody = 2
)

// Sizes in bytes.
const (
	ReportReqSize = 96
	ReportRspSize = 0x20 + 0x4a0
	KeyReqSize    = 32 // MSG_KEY_REQ of message version 1
	KeyReqSizeV2  = 40 // with LAUNCH_MIT_VECTOR
	KeyRspSize    = 64
	PageSize      = 4096
	// MaxCerts is what Linux's sev-guest driver takes at most
	// (SEV_FW_BLOB_MAX_SIZE).
	MaxCerts = 4 * PageSize

	headerSize = 20
	crcSize    = 4
	answerHead = 16
	maxReqBody = ReportReqSize + 4
	maxRspBody = answerHead + ReportRspSize + MaxCerts

	// MaxRequest and MaxResponse are the longest frames.
	MaxRequest  = headerSize + maxReqBody + crcSize
	MaxResponse = headerSize + maxRspBody + crcSize

	version = 1
)

var (
	magic = [4]byte{'S', 'N', 'P', 'l'}
	table = crc32.MakeTable(crc32.Castagnoli)

	errShort = errors.New("frame is not complete")
	errFrame = errors.New("not a frame")
)

// Frame is one message on the link.
type Frame struct {
	Kind byte
	Tag  uint64
	Body []byte
}

// Marshal gives the frame's bytes; ParseFrame is the inverse.
func (f *Frame) Marshal() []byte {
	b := make([]byte, 0, headerSize+len(f.Body)+crcSize)
	b = append(b, magic[:]...)
	b = append(b, version, f.Kind, 0, 0)
	b = binary.LittleEndian.AppendUint64(b, f.Tag)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(f.Body)))
	b = append(b, f.Body...)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, table))
}

// parseFrame reads a frame at the beginning of b, whose body has at most max
// bytes, and says how long it is. errShort asks for more bytes, errFrame says
// that no frame begins here.
func parseFrame(b []byte, max int) (*Frame, int, error) {
	if n := min(len(b), len(magic)); !bytes.Equal(b[:n], magic[:n]) {
		return nil, 0, errFrame
	}
	if len(b) < headerSize {
		return nil, 0, errShort
	}
	n := binary.LittleEndian.Uint32(b[16:])
	if b[4] != version || b[6] != 0 || b[7] != 0 || int64(n) > int64(max) {
		return nil, 0, errFrame
	}
	end := headerSize + int(n)
	if len(b) < end+crcSize {
		return nil, 0, errShort
	}
	if crc32.Checksum(b[:end], table) != binary.LittleEndian.Uint32(b[end:]) {
		return nil, 0, errFrame
	}
	return &Frame{
		Kind: b[5],
		Tag:  binary.LittleEndian.Uint64(b[8:]),
		Body: bytes.Clone(b[headerSize:end]),
	}, end + crcSize, nil
}

// ParseFrame reads exactly one frame of either direction.
func ParseFrame(b []byte) (*Frame, error) {
	f, n, err := parseFrame(b, maxRspBody)
	if err != nil {
		return nil, fmt.Errorf("parsing a frame: %w", err)
	}
	if n != len(b) {
		return nil, fmt.Errorf("parsing a frame: %d bytes follow it", len(b)-n)
	}
	return f, nil
}

// Reader finds frames in a stream of bytes. It holds at most one frame of the
// largest size and drops what is none.
type Reader struct {
	r   io.Reader
	buf []byte // read, not yet consumed
	max int    // of a body
}

// NewRequestReader reads what clients send.
func NewRequestReader(r io.Reader) *Reader { return newReader(r, maxReqBody) }

// NewResponseReader reads what the secure processor answers.
func NewResponseReader(r io.Reader) *Reader { return newReader(r, maxRspBody) }

func newReader(r io.Reader, max int) *Reader {
	return &Reader{r: r, max: max, buf: make([]byte, 0, headerSize+max+crcSize)}
}

// Next returns the next frame. Its error is that of the underlying reader; a
// later call goes on where this one stopped.
func (r *Reader) Next() (*Frame, error) {
	for {
		for len(r.buf) > 0 {
			f, n, err := parseFrame(r.buf, r.max)
			if err == nil {
				r.drop(n)
				return f, nil
			}
			if errors.Is(err, errShort) {
				break
			}
			// Drop up to the next byte that may begin a frame.
			n = 1 + bytes.IndexByte(r.buf[1:], magic[0])
			if n == 0 {
				n = len(r.buf)
			}
			r.drop(n)
		}
		n, err := r.r.Read(r.buf[len(r.buf):cap(r.buf)])
		r.buf = r.buf[:len(r.buf)+n]
		if n == 0 && err != nil {
			return nil, err
		}
	}
}

func (r *Reader) drop(n int) {
	r.buf = r.buf[:copy(r.buf, r.buf[n:])]
}
