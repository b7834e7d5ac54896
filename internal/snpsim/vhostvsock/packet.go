package vhostvsock

import (
	"encoding/binary"
	"fmt"
)

const (
	headerSize = 44
	// maxPayload is the largest payload taken of one packet; Linux's limit too.
	maxPayload = 64 << 10

	typeStream = 1

	opRequest       = 1
	opResponse      = 2
	opRST           = 3
	opShutdown      = 4
	opRW            = 5
	opCreditUpdate  = 6
	opCreditRequest = 7

	shutdownReceive = 1
	shutdownSend    = 2

	// HostCID is the host's address.
	HostCID = 2
)

// header is a packet's header; doc.go has the byte table.
type header struct {
	srcCID, dstCID   uint64
	srcPort, dstPort uint32
	length           uint32
	typ, op          uint16
	flags            uint32
	bufAlloc, fwdCnt uint32
}

// parseHeader reads a header. Every 44 bytes are one; what a value means is
// the device's matter.
func parseHeader(b []byte) (h header, err error) {
	if len(b) != headerSize {
		return h, fmt.Errorf("vsock packet header of %d bytes, want %d", len(b), headerSize)
	}
	le := binary.LittleEndian
	return header{
		srcCID: le.Uint64(b), dstCID: le.Uint64(b[8:]),
		srcPort: le.Uint32(b[16:]), dstPort: le.Uint32(b[20:]),
		length: le.Uint32(b[24:]), typ: le.Uint16(b[28:]), op: le.Uint16(b[30:]),
		flags: le.Uint32(b[32:]), bufAlloc: le.Uint32(b[36:]), fwdCnt: le.Uint32(b[40:]),
	}, nil
}

func (h *header) marshal() []byte {
	b := make([]byte, 0, headerSize)
	le := binary.LittleEndian
	b = le.AppendUint64(b, h.srcCID)
	b = le.AppendUint64(b, h.dstCID)
	b = le.AppendUint32(b, h.srcPort)
	b = le.AppendUint32(b, h.dstPort)
	b = le.AppendUint32(b, h.length)
	b = le.AppendUint16(b, h.typ)
	b = le.AppendUint16(b, h.op)
	b = le.AppendUint32(b, h.flags)
	b = le.AppendUint32(b, h.bufAlloc)
	return le.AppendUint32(b, h.fwdCnt)
}
