package vhostvsock

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"

	"golang.org/x/sys/unix"
)

// Requests of the vhost-user protocol that a vsock device sees.
const (
	reqGetFeatures         = 1
	reqSetFeatures         = 2
	reqSetOwner            = 3
	reqResetOwner          = 4
	reqSetMemTable         = 5
	reqSetVringNum         = 8
	reqSetVringAddr        = 9
	reqSetVringBase        = 10
	reqGetVringBase        = 11
	reqSetVringKick        = 12
	reqSetVringCall        = 13
	reqSetVringErr         = 14
	reqGetProtocolFeatures = 15
	reqSetProtocolFeatures = 16
	reqGetQueueNum         = 17
	reqSetVringEnable      = 18
	reqGetConfig           = 24
	reqSetConfig           = 25
)

const (
	featureVersion1 = 1 << 32 // VIRTIO_F_VERSION_1
	featureProtocol = 1 << 30 // VHOST_USER_F_PROTOCOL_FEATURES
	features        = featureVersion1 | featureProtocol

	protocolReplyAck = 1 << 3 // VHOST_USER_PROTOCOL_F_REPLY_ACK
	protocolConfig   = 1 << 9 // VHOST_USER_PROTOCOL_F_CONFIG
	protocolFeatures = protocolReplyAck | protocolConfig

	flagVersion   = 1
	flagReply     = 1 << 2
	flagNeedReply = 1 << 3

	maxMessage = 1024 // bytes of payload
	maxFDs     = 8
	maxRegions = 8

	vringNoFD = 1 << 8 // in the kick, call and err messages
)

// message is one vhost-user message. Its descriptors belong to whoever handles
// it; close closes those that were not taken.
type message struct {
	request, flags uint32
	payload        []byte
	fds            []int // -1 where taken
}

func (m *message) close() {
	for _, fd := range m.fds {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	m.fds = nil
}

// take hands over the i-th descriptor, -1 if there is none.
func (m *message) take(i int) int {
	if i >= len(m.fds) {
		return -1
	}
	fd := m.fds[i]
	m.fds[i] = -1
	return fd
}

// readMessage reads one message with its descriptors; io.EOF at a clean end.
func readMessage(c *net.UnixConn) (*message, error) {
	m := &message{}
	var head [12]byte
	oob := make([]byte, unix.CmsgSpace(4*maxFDs))
	for got := 0; got < len(head); {
		n, oobn, flags, _, err := c.ReadMsgUnix(head[got:], oob)
		if oobn > 0 {
			m.addFDs(oob[:oobn])
		}
		switch {
		case err == nil && n == 0, errors.Is(err, io.EOF):
			if got == 0 {
				m.close()
				return nil, io.EOF
			}
			err = io.ErrUnexpectedEOF
		case err == nil && flags&unix.MSG_CTRUNC != 0:
			err = errors.New("more descriptors than allowed")
		}
		if err != nil {
			m.close()
			return nil, fmt.Errorf("reading vhost-user message: %w", err)
		}
		got += n
	}
	le := binary.LittleEndian
	m.request, m.flags = le.Uint32(head[:]), le.Uint32(head[4:])
	size := le.Uint32(head[8:])
	if m.flags&3 != flagVersion || m.flags&flagReply != 0 || size > maxMessage {
		m.close()
		return nil, fmt.Errorf("vhost-user message %d: flags %#x, %d bytes", m.request, m.flags, size)
	}
	m.payload = make([]byte, size)
	if _, err := io.ReadFull(c, m.payload); err != nil {
		m.close()
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("reading vhost-user message %d: %w", m.request, err)
	}
	return m, nil
}

func (m *message) addFDs(oob []byte) {
	cms, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return
	}
	for _, cm := range cms {
		fds, err := unix.ParseUnixRights(&cm)
		if err != nil {
			continue
		}
		m.fds = append(m.fds, fds...)
	}
}

// reply answers m.
func reply(c *net.UnixConn, m *message, payload []byte) error {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, m.request)
	b = le.AppendUint32(b, flagVersion|flagReply)
	b = le.AppendUint32(b, uint32(len(payload)))
	if _, err := c.Write(append(b, payload...)); err != nil {
		return fmt.Errorf("answering vhost-user message %d: %w", m.request, err)
	}
	return nil
}

func u64(v uint64) []byte { return binary.LittleEndian.AppendUint64(nil, v) }

// parseU64 reads a payload that is one number.
func parseU64(b []byte) (uint64, error) {
	if len(b) != 8 {
		return 0, fmt.Errorf("payload of %d bytes, want 8", len(b))
	}
	return binary.LittleEndian.Uint64(b), nil
}

// parseVring reads {index, num}; there are two rings.
func parseVring(b []byte) (index int, num uint32, err error) {
	if len(b) != 8 {
		return 0, 0, fmt.Errorf("payload of %d bytes, want 8", len(b))
	}
	i := binary.LittleEndian.Uint32(b)
	if i >= numRings {
		return 0, 0, fmt.Errorf("ring %d of %d", i, numRings)
	}
	return int(i), binary.LittleEndian.Uint32(b[4:]), nil
}

// vringAddr is SET_VRING_ADDR's payload, 40 bytes.
type vringAddr struct {
	index             int
	flags             uint32
	desc, used, avail uint64
}

func parseVringAddr(b []byte) (a vringAddr, err error) {
	if len(b) != 40 {
		return a, fmt.Errorf("payload of %d bytes, want 40", len(b))
	}
	le := binary.LittleEndian
	i := le.Uint32(b)
	if i >= numRings {
		return a, fmt.Errorf("ring %d of %d", i, numRings)
	}
	return vringAddr{int(i), le.Uint32(b[4:]), le.Uint64(b[8:]), le.Uint64(b[16:]), le.Uint64(b[24:])}, nil
}

// memRegion is one region of SET_MEM_TABLE, 32 bytes.
type memRegion struct{ gpa, size, uva, offset uint64 }

func parseMemTable(b []byte) ([]memRegion, error) {
	le := binary.LittleEndian
	if len(b) < 8 {
		return nil, fmt.Errorf("payload of %d bytes", len(b))
	}
	n := le.Uint32(b)
	if n == 0 || n > maxRegions || len(b) != int(8+32*n) {
		return nil, fmt.Errorf("%d memory regions in %d bytes", n, len(b))
	}
	var out []memRegion
	for b = b[8:]; len(b) > 0; b = b[32:] {
		out = append(out, memRegion{le.Uint64(b), le.Uint64(b[8:]), le.Uint64(b[16:]), le.Uint64(b[24:])})
	}
	return out, nil
}
