package vhostvsock

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// firstPort is where DialGuest's own port numbers begin.
const firstPort = 1 << 30

// ErrNotReady says that the guest's driver has not started the device.
var ErrNotReady = errors.New("the guest's vsock device is not running")

// Options of a Server.
type Options struct {
	// GuestCID is the guest's address, 3 or more and below 2^32-1.
	GuestCID uint64
	// Dial is called for each connection of the guest to CID 2 at a port, and
	// has 10 seconds. nil refuses all. A net.Conn with CloseWrite keeps half
	// closed connections open.
	Dial func(ctx context.Context, port uint32) (net.Conn, error)
	// MaxConns bounds the guest's connections; default 128.
	MaxConns int
	// Logf receives what went wrong with single connections.
	Logf func(format string, a ...any)
}

// Server is a backend for the vsock device of one guest.
type Server struct {
	opt Options

	mu  sync.Mutex
	dev *device
}

// New makes a server.
func New(opt Options) (*Server, error) {
	if opt.GuestCID < 3 || opt.GuestCID >= 1<<32-1 {
		return nil, fmt.Errorf("guest CID %d: want 3 to %d", opt.GuestCID, uint32(1<<32-2))
	}
	if opt.MaxConns <= 0 {
		opt.MaxConns = 128
	}
	return &Server{opt: opt}, nil
}

// Serve listens on a Unix socket and serves QEMU there, one connection after
// the other, until ctx ends.
func (s *Server) Serve(ctx context.Context, socketPath string) error {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socketPath, Net: "unix"})
	if err != nil {
		return fmt.Errorf("serving vhost-user-vsock: %w", err)
	}
	defer l.Close()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for {
		c, err := l.AcceptUnix()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("serving vhost-user-vsock: %w", err)
		}
		if err := s.ServeConn(ctx, c); err != nil && s.opt.Logf != nil {
			s.opt.Logf("vsock: %v", err)
		}
	}
}

// ServeConn serves one connection of QEMU's and closes it. It returns nil when
// QEMU closed it or ctx ended.
func (s *Server) ServeConn(ctx context.Context, c *net.UnixConn) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	d := newDevice(ctx, s.opt)
	defer d.close()
	s.mu.Lock()
	s.dev = d
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		if s.dev == d {
			s.dev = nil
		}
		s.mu.Unlock()
	}()

	ran := make(chan error, 1)
	go func() {
		err := d.run()
		if err != nil {
			cancel() // ends the loop below
		}
		ran <- err
	}()
	err := d.talk(c)
	stopped := ctx.Err() != nil
	cancel()
	if rerr := <-ran; rerr != nil {
		return rerr
	}
	if stopped || errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// DialGuest connects to a port on which a program in the guest listens. The
// connection can be half closed (CloseWrite).
func (s *Server) DialGuest(ctx context.Context, port uint32) (net.Conn, error) {
	s.mu.Lock()
	d := s.dev
	s.mu.Unlock()
	if d == nil {
		return nil, fmt.Errorf("connecting to the guest's vsock port %d: %w", port, ErrNotReady)
	}
	nc, err := d.dialGuest(ctx, port)
	if err != nil {
		return nil, fmt.Errorf("connecting to the guest's vsock port %d: %w", port, err)
	}
	return nc, nil
}

func (d *device) dialGuest(ctx context.Context, port uint32) (net.Conn, error) {
	ours, theirs, err := connPair()
	if err != nil {
		return nil, err
	}
	answer := make(chan error, 1)
	d.mu.Lock()
	if d.closed || !d.rings[rxRing].ready() || !d.rings[txRing].ready() || d.live >= d.opt.MaxConns {
		d.mu.Unlock()
		ours.Close()
		theirs.Close()
		return nil, ErrNotReady
	}
	k := key{guest: port, host: d.nextPort}
	for d.conns[k] != nil {
		k.host++
	}
	if d.nextPort = k.host + 1; d.nextPort < firstPort {
		d.nextPort = firstPort
	}
	c := d.newConn(k)
	c.nc, c.answer, c.wantRequest = ours, answer, true
	d.enqueue(c)
	d.mu.Unlock()
	select {
	case err = <-answer:
	case <-ctx.Done():
		err = context.Cause(ctx)
		d.mu.Lock()
		c.abort()
		d.mu.Unlock()
	}
	if err == nil {
		return theirs, nil
	}
	theirs.Close()
	d.mu.Lock()
	if !c.open {
		ours.Close()
		d.live--
	}
	d.mu.Unlock()
	return nil, err
}

// talk handles vhost-user messages until the connection ends.
func (d *device) talk(c *net.UnixConn) error {
	for {
		m, err := readMessage(c)
		if err != nil {
			return err
		}
		answer, err := d.message(m)
		m.close()
		if err != nil {
			return fmt.Errorf("vhost-user message %d: %w", m.request, err)
		}
		if answer == nil && m.flags&flagNeedReply != 0 {
			answer = u64(0)
		}
		if answer != nil {
			if err := reply(c, m, answer); err != nil {
				return err
			}
		}
	}
}

// message handles one message; its answer is nil if it has none of its own.
func (d *device) message(m *message) (answer []byte, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	defer d.signal()
	switch m.request {
	case reqGetFeatures:
		return u64(features), nil
	case reqGetProtocolFeatures:
		return u64(protocolFeatures), nil
	case reqGetQueueNum:
		return u64(numRings), nil
	case reqSetFeatures, reqSetProtocolFeatures:
		offered := uint64(features)
		if m.request == reqSetProtocolFeatures {
			offered = protocolFeatures
		}
		v, err := parseU64(m.payload)
		if err == nil && v&^offered != 0 {
			err = fmt.Errorf("features %#x were not offered", v&^offered)
		}
		if err == nil && m.request == reqSetFeatures && v&featureProtocol == 0 {
			// Without it there is no SET_VRING_ENABLE: rings are on.
			for i := range d.rings {
				d.rings[i].enabled = true
			}
		}
		return nil, err
	case reqSetOwner, reqResetOwner, reqSetConfig:
		return nil, nil
	case reqSetMemTable:
		return nil, d.setMemory(m)
	case reqGetConfig:
		return d.config(m.payload)
	case reqSetVringAddr:
		a, err := parseVringAddr(m.payload)
		if err != nil {
			return nil, err
		}
		if a.flags != 0 {
			return nil, fmt.Errorf("ring flags %#x", a.flags)
		}
		r := &d.rings[a.index]
		r.descAt, r.usedAt, r.availAt = a.desc, a.used, a.avail
		return nil, r.resolve(d.mem)
	case reqSetVringKick, reqSetVringCall, reqSetVringErr:
		return nil, d.setVringFD(m)
	case reqSetVringNum, reqSetVringBase, reqGetVringBase, reqSetVringEnable:
		return d.setVring(m)
	}
	return nil, errors.New("unknown request")
}

func (d *device) setVring(m *message) ([]byte, error) {
	i, num, err := parseVring(m.payload)
	if err != nil {
		return nil, err
	}
	r := &d.rings[i]
	switch m.request {
	case reqSetVringNum:
		if r.started {
			return nil, errors.New("the ring is running")
		}
		r.num, r.desc = num, nil
	case reqSetVringBase:
		if num > 0xFFFF {
			return nil, fmt.Errorf("ring index %d", num)
		}
		// The used index continues where the available one does: nothing is in
		// flight while a ring stands still.
		r.nextAvail, r.nextUsed = uint16(num), uint16(num)
	case reqSetVringEnable:
		r.enabled = num == 1
	case reqGetVringBase:
		r.started = false
		d.setKick(i, nil)
		d.dropAll()
		b := binary.LittleEndian.AppendUint32(nil, uint32(i))
		return binary.LittleEndian.AppendUint32(b, uint32(r.nextAvail)), nil
	}
	return nil, nil
}

func (d *device) setVringFD(m *message) error {
	v, err := parseU64(m.payload)
	if err != nil {
		return err
	}
	i := v & 0xFF
	if i >= numRings {
		return fmt.Errorf("ring %d of %d", i, numRings)
	}
	var f *os.File
	if v&vringNoFD == 0 {
		fd := m.take(0)
		if fd < 0 {
			return errors.New("a descriptor is missing")
		}
		// eventfds; they have to be pollable for Close to end a read.
		if err := unix.SetNonblock(fd, true); err != nil {
			unix.Close(fd)
			return err
		}
		f = os.NewFile(uintptr(fd), "eventfd")
	}
	switch m.request {
	case reqSetVringCall:
		if d.call[i] != nil {
			d.call[i].Close()
		}
		d.call[i] = f
		if f != nil {
			notify(f) // whatever was pushed before it came
		}
	case reqSetVringKick:
		if f == nil {
			return errors.New("rings without notifications are not supported")
		}
		d.setKick(int(i), f)
		d.rings[i].started = true
	default:
		if f != nil {
			f.Close()
		}
	}
	return nil
}

func (d *device) setMemory(m *message) error {
	table, err := parseMemTable(m.payload)
	if err != nil {
		return err
	}
	if len(table) != len(m.fds) {
		return fmt.Errorf("%d memory regions with %d descriptors", len(table), len(m.fds))
	}
	var mem memory
	for i, t := range table {
		r, err := mapRegion(t, m.fds[i]) // the mapping outlives the descriptor
		if err != nil {
			mem.unmap()
			return err
		}
		mem = append(mem, r)
	}
	// No ring may point into what is unmapped, whatever fails below.
	var lost [numRings]bool
	for i := range d.rings {
		r := &d.rings[i]
		lost[i] = r.desc != nil
		r.desc, r.avail, r.used = nil, nil, nil
	}
	d.mem.unmap()
	d.mem = mem
	for i := range d.rings {
		if !lost[i] {
			continue
		}
		if err := d.rings[i].resolve(mem); err != nil {
			return err
		}
	}
	return nil
}

// config answers GET_CONFIG: offset, size, flags, and the bytes themselves. The
// device's configuration is guest_cid, 8 bytes.
func (d *device) config(payload []byte) ([]byte, error) {
	if len(payload) < 12 {
		return nil, fmt.Errorf("payload of %d bytes", len(payload))
	}
	le := binary.LittleEndian
	offset, size := le.Uint32(payload), le.Uint32(payload[4:])
	if offset > 8 || size > 8-offset {
		return nil, fmt.Errorf("configuration bytes %d to %d of 8", offset, uint64(offset)+uint64(size))
	}
	answer := append([]byte(nil), payload[:12]...)
	return append(answer, u64(d.opt.GuestCID)[offset:offset+size]...), nil
}

// connPair is a connected pair that can be half closed.
func connPair() (a, b net.Conn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	var conns [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "vsock")
		c, cerr := net.FileConn(f)
		f.Close()
		conns[i], err = c, errors.Join(err, cerr)
	}
	if err != nil {
		for _, c := range conns {
			if c != nil {
				c.Close()
			}
		}
		return nil, nil, err
	}
	return conns[0], conns[1], nil
}
