package cuse

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"
)

// FUSE messages (include/uapi/linux/fuse.h).
const (
	inHeaderSize  = 40 // struct fuse_in_header
	outHeaderSize = 16 // struct fuse_out_header
	ioctlInSize   = 32 // struct fuse_ioctl_in
	ioctlOutSize  = 16 // struct fuse_ioctl_out
	iovecSize     = 16 // struct fuse_ioctl_iovec

	opOpen      = 14
	opRelease   = 18
	opFlush     = 25
	opInterrupt = 36
	opIoctl     = 39
	opInit      = 4096 // CUSE_INIT

	flagUnrestricted = 1 << 0 // CUSE_UNRESTRICTED_IOCTL, in CUSE_INIT
	ioctlCompat      = 1 << 0 // FUSE_IOCTL_COMPAT: a 32-bit caller
	ioctlRetry       = 1 << 2 // FUSE_IOCTL_RETRY

	fuseMajor    = 7
	maxWrite     = 4096
	bufferSize   = 8192 // more than max_write and headers, or reads fail
	deviceName   = "sev-guest"
	initInSize   = inHeaderSize + 16 // struct cuse_init_in
	initBodySize = 72                // struct cuse_init_out
)

var errFormat = errors.New("message of the kernel is malformed")

// message is one FUSE message.
type message struct {
	opcode uint32
	unique uint64
	body   []byte
}

func parseMessage(b []byte) (*message, error) {
	if len(b) < inHeaderSize || uint64(binary.LittleEndian.Uint32(b)) != uint64(len(b)) {
		return nil, fmt.Errorf("%w: %d bytes", errFormat, len(b))
	}
	return &message{
		opcode: binary.LittleEndian.Uint32(b[4:]),
		unique: binary.LittleEndian.Uint64(b[8:]),
		body:   b[inHeaderSize:],
	}, nil
}

// reply makes an answer. With an errno there is no body.
func (m *message) reply(errno syscall.Errno, body ...[]byte) []byte {
	b := make([]byte, outHeaderSize)
	binary.LittleEndian.PutUint32(b[4:], uint32(-int32(errno)))
	binary.LittleEndian.PutUint64(b[8:], m.unique)
	for _, part := range body {
		b = append(b, part...)
	}
	binary.LittleEndian.PutUint32(b, uint32(len(b)))
	return b
}

// initReply answers CUSE_INIT: the device's name, and that its ioctls are
// unrestricted.
func initReply(b []byte) ([]byte, error) {
	m, err := parseMessage(b)
	if err != nil {
		return nil, err
	}
	if m.opcode != opInit || len(b) < initInSize {
		return nil, fmt.Errorf("%w: opcode %d in place of CUSE_INIT", errFormat, m.opcode)
	}
	major, minor := binary.LittleEndian.Uint32(m.body), binary.LittleEndian.Uint32(m.body[4:])
	if major != fuseMajor {
		return nil, fmt.Errorf("the kernel speaks FUSE %d, want %d", major, fuseMajor)
	}
	out := make([]byte, initBodySize)
	binary.LittleEndian.PutUint32(out, major)
	binary.LittleEndian.PutUint32(out[4:], minor)
	binary.LittleEndian.PutUint32(out[12:], flagUnrestricted)
	binary.LittleEndian.PutUint32(out[16:], maxWrite) // max_read
	binary.LittleEndian.PutUint32(out[20:], maxWrite) // max_write
	// dev_major and dev_minor 0: the kernel chooses.
	return m.reply(0, out, []byte("DEVNAME="+deviceName+"\x00")), nil
}

// iovec is a piece of the caller's memory.
type iovec struct{ base, length uint64 }

// retry asks for the call again with these pieces of memory.
func (m *message) retry(in, out []iovec) []byte {
	body := make([]byte, ioctlOutSize, ioctlOutSize+iovecSize*(len(in)+len(out)))
	binary.LittleEndian.PutUint32(body[4:], ioctlRetry)
	binary.LittleEndian.PutUint32(body[8:], uint32(len(in)))
	binary.LittleEndian.PutUint32(body[12:], uint32(len(out)))
	for _, v := range append(in, out...) {
		body = binary.LittleEndian.AppendUint64(body, v.base)
		body = binary.LittleEndian.AppendUint64(body, v.length)
	}
	return m.reply(0, body)
}

// result ends a call: its return value and what goes into the out pieces.
func (m *message) result(value int32, data ...[]byte) []byte {
	head := make([]byte, ioctlOutSize)
	binary.LittleEndian.PutUint32(head, uint32(value))
	return m.reply(0, append([][]byte{head}, data...)...)
}
