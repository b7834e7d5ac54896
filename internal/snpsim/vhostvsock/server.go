package vhostvsock

import (
	"context"
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
