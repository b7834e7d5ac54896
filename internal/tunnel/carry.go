package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"attestbox/internal/admission"
)

// block is what is copied at once in each direction, in bytes.
const block = 32 << 10

// closeWriter is a socket or a TLS connection whose sending half can be closed.
type closeWriter interface{ CloseWrite() error }

// carry copies both ways until both halves have ended, one was cut, or the
// other end is a peer no more.
func (t *server) carry(ctx context.Context, plain net.Conn, conn *tls.Conn, raw net.Conn, id *admission.Identity) error {
	cs := conn.ConnectionState()
	ends := time.NewTimer(max(0, id.NotAfter.Sub(t.Now())))
	defer ends.Stop()
	again := time.NewTicker(t.Check)
	defer again.Stop()

	done := make(chan error, 2)
	go func() { done <- half(conn, plain) }() // plain -> member
	go func() { done <- half(plain, conn) }() // member -> plain
	var err error
	for halves := 2; halves > 0 && err == nil; {
		select {
		case err = <-done:
			halves--
		case <-ends.C:
			err = t.over(&cs, id)
			ends.Reset(t.Check) // its clock may be another one
		case <-again.C:
			if gone := t.stillPeer(&cs); gone != nil {
				err = fmt.Errorf("the stream with %s ends: %w", id, gone)
			}
		case <-ctx.Done():
			err = ctx.Err()
		}
		if halves == 0 && err == nil {
			return nil
		}
	}
	// Cut: neither side may take this for a proper end. The TLS side gets no
	// close_notify, the plain side a reset where there is such a thing.
	reset(plain)
	raw.Close()
	return err
}

func (t *server) over(cs *tls.ConnectionState, id *admission.Identity) error {
	if err := t.stillPeer(cs); err != nil {
		return fmt.Errorf("the stream with %s ends: %w", id, err)
	}
	return nil
}

// half copies one direction and passes its end on. A TLS stream that ends
// without close_notify was cut: see strict.
func half(dst, src net.Conn) error {
	buf := make([]byte, block)
	for {
		n, rerr := src.Read(buf)
		if n > 0 {
			if _, err := dst.Write(buf[:n]); err != nil {
				return fmt.Errorf("writing: %w", err)
			}
		}
		if rerr == io.EOF {
			break
		}
		if rerr != nil {
			return fmt.Errorf("reading: %w", rerr)
		}
	}
	if c, ok := dst.(closeWriter); ok {
		if err := c.CloseWrite(); err != nil && !errors.Is(err, net.ErrClosed) && !isNotConnected(err) {
			return fmt.Errorf("closing one half: %w", err)
		}
	}
	return nil
}

// strict is a socket whose end is an error. crypto/tls takes the end of the
// socket between two records for the end of the stream (RFC 8446 section 6.1
// does not), so that a host could cut a stream and have it look finished. A
// close_notify comes before the socket's end and is not affected.
type strict struct{ net.Conn }

func (s strict) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	if err == io.EOF {
		err = errCut // not io.ErrUnexpectedEOF, which crypto/tls turns into io.EOF
	}
	return n, err
}

var errCut = errors.New("the stream was cut")

// reset closes a connection so that the other end sees an error, not an end.
func reset(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	c.Close()
}
