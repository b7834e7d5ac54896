package vhostvsock

import (
	"context"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	numRings = 2
	rxRing   = 0 // device to driver
	txRing   = 1 // driver to device

	// dialTime bounds the host's side of a connection.
	dialTime = 10 * time.Second
	// maxResets is how many resets of unknown connections wait for the guest to
	// collect them before its packets are left lying.
	maxResets = 64
	// batch is how many packets are handled before others get the lock.
	batch = 64
)

// device is one life of the virtio device: one connection of QEMU's.
type device struct {
	opt  Options
	ctx  context.Context
	wake chan struct{} // capacity 1: there is something for run to do

	mu         sync.Mutex
	mem        memory
	rings      [numRings]ring
	call, kick [numRings]*os.File
	conns      map[key]*conn
	ready      []*conn // have something to send, in turn
	resets     []key   // resets of connections that are not in the table
	live       int     // connections whose goroutines or dial still run
	nextPort   uint32  // for DialGuest
	scratch    []byte
	closed     bool
}

func newDevice(ctx context.Context, opt Options) *device {
	return &device{opt: opt, ctx: ctx, wake: make(chan struct{}, 1), conns: make(map[key]*conn),
		nextPort: firstPort, scratch: make([]byte, maxPayload)}
}

func (d *device) logf(format string, a ...any) {
	if d.opt.Logf != nil {
		d.opt.Logf(format, a...)
	}
}

func (d *device) signal() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// enqueue puts a connection in the line for sending if it has something.
func (d *device) enqueue(c *conn) {
	if !c.queued && c.work() {
		c.queued = true
		d.ready = append(d.ready, c)
		d.signal()
	}
}

// reset queues a RST; the guest's packets wait while there are many.
func (d *device) reset(k key) {
	d.resets = append(d.resets, k)
	d.signal()
}

// run handles packets until ctx ends or the guest misbehaves.
func (d *device) run() error {
	for {
		select {
		case <-d.ctx.Done():
			return nil
		case <-d.wake:
		}
		d.mu.Lock()
		more, err := d.service()
		call := d.calls()
		d.mu.Unlock()
		for _, f := range call {
			notify(f)
		}
		if err != nil {
			return err
		}
		if more {
			d.signal()
		}
	}
}

// calls lists whom to notify.
func (d *device) calls() (files []*os.File) {
	for i := range d.rings {
		if d.rings[i].wantsCall() && d.call[i] != nil {
			files = append(files, d.call[i])
		}
	}
	return files
}

// notify adds one to an eventfd. Full or closed: the driver knows already, or
// the device is being stopped.
func notify(f *os.File) { _, _ = f.Write([]byte{1, 0, 0, 0, 0, 0, 0, 0}) }

// service handles one batch; more says that it was cut short.
func (d *device) service() (more bool, err error) {
	if d.closed {
		return false, nil
	}
	stalled := len(d.resets) >= maxResets
	sent, err := d.send()
	if err != nil {
		return false, err
	}
	got, err := d.receive()
	return sent == batch || got == batch || stalled && sent > 0, err
}

// receive takes packets from the guest.
func (d *device) receive() (n int, err error) {
	r := &d.rings[txRing]
	for ; r.ready() && n < batch && len(d.resets) < maxResets; n++ {
		c, err := r.pop(d.mem)
		if err != nil {
			return n, err
		}
		if c == nil {
			return n, nil
		}
		if err := d.packet(c); err != nil {
			return n, err
		}
		r.push(c.head, 0)
	}
	return n, nil
}

// packet handles one packet of the guest.
func (d *device) packet(c *chain) error {
	if len(c.write) > 0 || c.nread < headerSize {
		return guestError("a packet of %d bytes, or a writable one", c.nread)
	}
	var raw [headerSize]byte
	c.gather(raw[:], 0)
	h, err := parseHeader(raw[:])
	if err != nil {
		return err
	}
	if uint64(h.length) > uint64(c.nread-headerSize) || h.length > maxPayload {
		return guestError("a packet that claims %d bytes and has %d", h.length, c.nread-headerSize)
	}
	payload := d.scratch[:h.length]
	c.gather(payload, headerSize)
	d.handle(h, payload)
	return nil
}

// handle does what a packet asks for. payload is valid during the call only.
func (d *device) handle(h header, payload []byte) {
	if h.srcCID != d.opt.GuestCID || h.dstCID != HostCID {
		return // not ours, and whoever it names did not send it
	}
	k := key{guest: h.srcPort, host: h.dstPort}
	c := d.conns[k]
	if h.typ != typeStream {
		if h.op != opRST {
			d.reset(k)
		}
		return
	}
	if c == nil {
		switch {
		case h.op == opRequest:
			d.request(k, h)
		case h.op != opRST:
			d.reset(k)
		}
		return
	}
	c.alloc, c.taken = h.bufAlloc, h.fwdCnt
	c.asked = c.asked && c.credit() == 0
	defer func() { c.cond.Broadcast(); d.enqueue(c) }()
	switch {
	case h.op == opRST:
		c.drop(syscall.ECONNREFUSED)
	case h.op == opResponse && c.answer != nil:
		c.answer <- nil
		c.answer = nil
		c.start()
	case !c.open:
		c.abort() // nothing but those two may come before the answer
	case h.op == opRW && !c.inClosed && c.received(payload):
	case h.op == opCreditUpdate:
	case h.op == opCreditRequest:
		c.wantCredit = true
	case h.op == opShutdown && h.flags&^(shutdownSend|shutdownReceive) == 0:
		c.inClosed = c.inClosed || h.flags&shutdownSend != 0
		c.guestDeaf = c.guestDeaf || h.flags&shutdownReceive != 0
		if c.inClosed && c.guestDeaf {
			c.abort() // the answer to a full shutdown is RST, once all was received
		}
	default:
		c.abort()
	}
}

// request begins a connection that the guest asks for.
func (d *device) request(k key, h header) {
	if d.opt.Dial == nil || d.live >= d.opt.MaxConns {
		d.reset(k)
		return
	}
	c := d.newConn(k)
	c.alloc, c.taken = h.bufAlloc, h.fwdCnt
	go c.dial(d.ctx, d.opt.Dial)
}

func (d *device) newConn(k key) *conn {
	c := &conn{key: k, dev: d, cond: sync.NewCond(&d.mu)}
	d.conns[k] = c
	d.live++
	return c
}

// pending says whether there is a packet to send, and drops from the line what
// no longer has one.
func (d *device) pending() bool {
	for len(d.ready) > 0 && !d.ready[0].work() {
		d.ready[0].queued = false
		d.ready = d.ready[1:]
	}
	return len(d.resets)+len(d.ready) > 0
}

// send fills the guest's receive buffers.
func (d *device) send() (n int, err error) {
	r := &d.rings[rxRing]
	for ; r.ready() && n < batch && d.pending(); n++ {
		b, err := r.pop(d.mem)
		if err != nil {
			return n, err
		}
		if b == nil {
			return n, nil
		}
		// A buffer has to hold some payload, or a stream could never go on.
		room := b.nwrit - headerSize
		if room < 1 || len(b.read) > 0 {
			return n, guestError("a receive buffer of %d bytes, or a readable one", b.nwrit)
		}
		r.push(b.head, d.fill(b, min(room, maxPayload)))
	}
	return n, nil
}

// fill writes the next packet into a receive buffer and returns its size.
func (d *device) fill(b *chain, room int) int {
	h := header{srcCID: HostCID, dstCID: d.opt.GuestCID, typ: typeStream}
	if len(d.resets) > 0 {
		k := d.resets[0]
		d.resets = d.resets[1:]
		h.srcPort, h.dstPort, h.op = k.host, k.guest, opRST
		return b.scatter(h.marshal())
	}
	c := d.ready[0]
	d.ready, c.queued = d.ready[1:], false
	op, flags, payload := c.next(room)
	c.wantCredit, c.fwdTold = false, c.fwd
	h.srcPort, h.dstPort, h.op, h.flags = c.host, c.guest, op, flags
	h.length, h.bufAlloc, h.fwdCnt = uint32(len(payload)), bufAlloc, c.fwd
	n := b.scatter(h.marshal(), payload)
	d.enqueue(c)
	return n
}

// setKick watches the driver's notifications of a ring; f may be nil.
func (d *device) setKick(i int, f *os.File) {
	if d.kick[i] != nil {
		d.kick[i].Close()
	}
	d.kick[i] = f
	if f == nil {
		return
	}
	go func() {
		var b [8]byte
		for {
			if _, err := f.Read(b[:]); err != nil {
				return
			}
			d.signal()
		}
	}()
}

// dropAll ends all connections.
func (d *device) dropAll() {
	for _, c := range d.conns {
		c.drop(net.ErrClosed)
	}
	d.ready, d.resets = nil, nil
}

// close ends the device.
func (d *device) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	d.dropAll()
	for i := range d.rings {
		d.rings[i] = ring{}
		for _, f := range []*os.File{d.kick[i], d.call[i]} {
			if f != nil {
				f.Close()
			}
		}
	}
	d.mem.unmap()
	d.mem = nil
}
