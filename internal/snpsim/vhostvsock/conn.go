package vhostvsock

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"
)

const (
	// bufAlloc is the credit that each connection of the guest gets.
	bufAlloc = 256 << 10
	// chunk is what is read at once from the host's side.
	chunk = 64 << 10
	// drainTime bounds how long bytes of a closed connection wait for a host
	// side that does not read.
	drainTime = 30 * time.Second
)

// key names a connection: the guest has one CID and the host one.
type key struct{ guest, host uint32 }

// conn is one stream. Everything but its two goroutines' I/O happens under
// dev.mu. Its cond is signalled at each change that they wait for.
type conn struct {
	key
	dev  *device
	cond *sync.Cond
	nc   net.Conn // host side; nil while dialling

	open   bool       // both ends agreed
	dead   bool       // no longer in the table
	answer chan error // DialGuest waits here for the guest's answer

	in               []byte // from the guest, not yet written to nc
	inClosed         bool   // the guest will not send more
	rx, fwd, fwdTold uint32 // bytes received, taken, last told to the guest

	out          []byte // to the guest, not yet sent
	eof          bool   // the host will not send more
	shutSent     bool
	guestDeaf    bool // the guest will not receive more
	tx           uint32
	alloc, taken uint32 // the guest's buffer and how much it took from it

	wantRequest, wantResponse, wantCredit, askCredit, asked bool

	queued     bool // in dev.ready
	goroutines int
}

// credit is how many bytes the guest can take now.
func (c *conn) credit() int {
	flying := c.tx - c.taken // modulo 2^32
	if flying >= c.alloc {
		return 0
	}
	return int(c.alloc - flying)
}

// work says whether there is a packet to send.
func (c *conn) work() bool {
	if c.dead {
		return false
	}
	return c.wantRequest || c.wantResponse || c.wantCredit || c.askCredit ||
		c.open && (len(c.out) > 0 && c.credit() > 0 || c.eof && len(c.out) == 0 && !c.shutSent)
}

// next is the next packet to send, when there is work; room is how much payload
// fits, at least one byte.
func (c *conn) next(room int) (op uint16, flags uint32, payload []byte) {
	switch {
	case c.wantRequest:
		c.wantRequest = false
		return opRequest, 0, nil
	case c.wantResponse:
		c.wantResponse = false
		return opResponse, 0, nil
	case c.open && len(c.out) > 0 && c.credit() > 0:
		n := min(len(c.out), c.credit(), room)
		payload, c.out = c.out[:n], c.out[n:]
		c.tx += uint32(n)
		c.cond.Broadcast()
		return opRW, 0, payload
	case c.askCredit:
		c.askCredit, c.asked = false, true
		return opCreditRequest, 0, nil
	case c.wantCredit:
		return opCreditUpdate, 0, nil
	default: // the host's side has ended and all of it was sent
		c.shutSent = true
		return opShutdown, shutdownSend, nil
	}
}

// start begins to copy in both directions.
func (c *conn) start() {
	c.open = true
	c.goroutines = 2
	go c.copyIn()
	go c.copyOut()
}

// copyIn writes what the guest sent to the host's side.
func (c *conn) copyIn() {
	d := c.dev
	d.mu.Lock()
	defer d.mu.Unlock()
	for {
		for len(c.in) == 0 && !c.inClosed {
			c.cond.Wait()
		}
		if len(c.in) == 0 {
			break
		}
		b := c.in
		c.in = nil
		d.mu.Unlock()
		_, err := c.nc.Write(b)
		d.mu.Lock()
		c.fwd += uint32(len(b))
		if err != nil {
			c.abort()
			break
		}
		if c.fwd-c.fwdTold >= bufAlloc/4 {
			c.wantCredit = true
			d.enqueue(c)
		}
	}
	if h, ok := c.nc.(interface{ CloseWrite() error }); ok {
		_ = h.CloseWrite()
	}
	c.finished()
}

// copyOut reads from the host's side and hands it over for sending.
func (c *conn) copyOut() {
	d := c.dev
	buf := make([]byte, chunk)
	for {
		n, err := c.nc.Read(buf)
		d.mu.Lock()
		c.out = buf[:n]
		d.enqueue(c)
		for len(c.out) > 0 && !c.dead && !c.guestDeaf {
			if c.credit() == 0 && !c.asked {
				c.askCredit = true
				d.enqueue(c)
			}
			c.cond.Wait()
		}
		switch {
		case c.dead || c.guestDeaf:
			c.out = nil
		case errors.Is(err, io.EOF):
			c.eof = true
			d.enqueue(c)
		case err != nil:
			c.abort()
		default:
			d.mu.Unlock()
			continue
		}
		c.finished()
		d.mu.Unlock()
		return
	}
}

// finished counts the two goroutines down.
func (c *conn) finished() {
	if c.goroutines--; c.goroutines == 0 {
		c.nc.Close()
		c.dev.live--
	}
}

// abort resets the connection from our side.
func (c *conn) abort() {
	if !c.dead {
		c.dev.reset(c.key)
		c.drop(syscall.ECONNRESET)
	}
}

// drop takes the connection out of the table. What the guest sent before is
// still delivered, for a while.
func (c *conn) drop(why error) {
	if c.dead {
		return
	}
	c.dead, c.inClosed = true, true
	if c.dev.conns[c.key] == c {
		delete(c.dev.conns, c.key)
	}
	if c.answer != nil {
		c.answer <- why
		c.answer = nil
	}
	if c.nc != nil {
		_ = c.nc.SetReadDeadline(time.Unix(1, 0))
		_ = c.nc.SetWriteDeadline(time.Now().Add(drainTime))
	}
	c.cond.Broadcast()
}

// received takes the guest's payload into the buffer; false if the guest sent
// more than its credit.
func (c *conn) received(payload []byte) bool {
	if c.rx-c.fwd+uint32(len(payload)) > bufAlloc {
		return false
	}
	c.rx += uint32(len(payload))
	c.in = append(c.in, payload...)
	c.cond.Broadcast()
	return true
}

// dial connects the host's side of a connection that the guest asked for.
func (c *conn) dial(ctx context.Context, dial func(context.Context, uint32) (net.Conn, error)) {
	d := c.dev
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	nc, err := dial(ctx, c.host)
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil {
		d.logf("vsock: connection of the guest to port %d: %v", c.host, err)
		c.abort()
		d.live--
		return
	}
	if c.dead {
		nc.Close()
		d.live--
		return
	}
	c.nc = nc
	c.wantResponse = true
	d.enqueue(c)
	c.start()
}
