package vhostvsock

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The fake driver's memory: a file of two regions that lie apart in the
// guest's address space. Rings are in the first, buffers in the second.
const (
	fileSize  = 1 << 20
	splitAt   = 1 << 16
	gpaHigh   = 1 << 32
	uvaLow    = 0x7f0000000000
	uvaHigh   = 0x7e0000000000
	ringSize  = 64
	bufSize   = 4096 + headerSize
	rxBuffers = 0
	txBuffers = 512 << 10 // in the second region
	testCID   = 7
)

func ringAt(i int) int { return i * 8192 }

// driver is a guest and its QEMU in one: it speaks vhost-user on one side and
// fills the rings on the other.
type driver struct {
	t          *testing.T
	srv        *Server
	conn       *net.UnixConn
	mem        []byte
	file       *os.File
	kick, call [numRings]*os.File
	avail      [numRings]uint16
	used       [numRings]uint16
	served     chan error
}

func eventfd(t *testing.T) *os.File {
	t.Helper()
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "eventfd")
	t.Cleanup(func() { f.Close() })
	return f
}

// newDriver connects a driver to a new server, without the handshake.
func newDriver(t *testing.T, opt Options) *driver {
	t.Helper()
	opt.GuestCID = testCID
	opt.Logf = t.Logf
	srv, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	a, b, err := connPair()
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.MemfdCreate("guest", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	d := &driver{t: t, srv: srv, conn: a.(*net.UnixConn), file: os.NewFile(uintptr(fd), "guest"), served: make(chan error, 1)}
	if err := d.file.Truncate(fileSize); err != nil {
		t.Fatal(err)
	}
	if d.mem, err = unix.Mmap(fd, 0, fileSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		t.Fatal(err)
	}
	// Not t.Context: it ends before the cleanups that look at the end.
	ctx, cancel := context.WithCancel(context.Background())
	go func() { d.served <- srv.ServeConn(ctx, b.(*net.UnixConn)) }()
	t.Cleanup(func() {
		cancel()
		d.conn.Close()
		d.file.Close()
		unix.Munmap(d.mem)
	})
	return d
}

// send sends one vhost-user message.
func (d *driver) send(request, flags uint32, payload []byte, files ...*os.File) {
	d.t.Helper()
	le := binary.LittleEndian
	b := le.AppendUint32(nil, request)
	b = le.AppendUint32(b, flagVersion|flags)
	b = append(le.AppendUint32(b, uint32(len(payload))), payload...)
	var oob []byte
	if len(files) > 0 {
		var fds []int
		for _, f := range files {
			sc, err := f.SyscallConn()
			if err != nil {
				d.t.Fatal(err)
			}
			sc.Control(func(fd uintptr) { fds = append(fds, int(fd)) })
		}
		oob = unix.UnixRights(fds...)
	}
	if _, _, err := d.conn.WriteMsgUnix(b, oob, nil); err != nil {
		d.t.Fatal(err)
	}
}

// ask sends a message and returns its answer's payload; nil when the server
// hung up.
func (d *driver) ask(request, flags uint32, payload []byte, files ...*os.File) []byte {
	d.t.Helper()
	d.send(request, flags, payload, files...)
	var head [12]byte
	if _, err := io.ReadFull(d.conn, head[:]); err != nil {
		return nil
	}
	le := binary.LittleEndian
	if le.Uint32(head[:]) != request || le.Uint32(head[4:])&flagReply == 0 {
		d.t.Fatalf("answer % x to message %d", head, request)
	}
	b := make([]byte, le.Uint32(head[8:]))
	if _, err := io.ReadFull(d.conn, b); err != nil {
		return nil
	}
	return b
}

// must sends a message that has no answer of its own, and waits for it.
func (d *driver) must(request uint32, payload []byte, files ...*os.File) {
	d.t.Helper()
	if b := d.ask(request, flagNeedReply, payload, files...); len(b) != 8 {
		d.t.Fatalf("message %d was answered with %x", request, b)
	}
}

func u32s(v ...uint32) (b []byte) {
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, x)
	}
	return b
}

func u64s(v ...uint64) (b []byte) {
	for _, x := range v {
		b = binary.LittleEndian.AppendUint64(b, x)
	}
	return b
}

func memTable() []byte {
	return append(u32s(2, 0), u64s(0, splitAt, uvaLow, 0, gpaHigh, fileSize-splitAt, uvaHigh, splitAt)...)
}

// handshake starts the device as QEMU does, with n receive buffers.
func (d *driver) handshake(n int) {
	d.t.Helper()
	if b := d.ask(reqGetFeatures, 0, nil); binary.LittleEndian.Uint64(b) != features {
		d.t.Fatalf("features %x", b)
	}
	d.must(reqSetOwner, nil)
	d.must(reqSetProtocolFeatures, u64s(protocolFeatures))
	d.must(reqSetFeatures, u64s(features))
	d.must(reqSetMemTable, memTable(), d.file, d.file)
	d.startRings()
	d.give(n)
}

func (d *driver) startRings() {
	d.t.Helper()
	for i := range numRings {
		at := uint64(uvaLow + ringAt(i))
		clear(d.mem[ringAt(i) : ringAt(i)+8192])
		d.avail[i], d.used[i] = 0, 0
		d.kick[i], d.call[i] = eventfd(d.t), eventfd(d.t)
		d.must(reqSetVringNum, u32s(uint32(i), ringSize))
		d.must(reqSetVringBase, u32s(uint32(i), 0))
		d.must(reqSetVringAddr, append(u32s(uint32(i), 0), u64s(at, at+4096, at+2048, 0)...))
		d.must(reqSetVringKick, u64s(uint64(i)), d.kick[i])
		d.must(reqSetVringCall, u64s(uint64(i)), d.call[i])
		d.must(reqSetVringEnable, u32s(uint32(i), 1))
	}
}

// desc writes a descriptor.
func (d *driver) desc(ring, i int, addr uint64, n uint32, flags, next uint16) {
	b := d.mem[ringAt(ring)+16*i:]
	le := binary.LittleEndian
	le.PutUint64(b, addr)
	le.PutUint32(b[8:], n)
	le.PutUint16(b[12:], flags)
	le.PutUint16(b[14:], next)
}

// offer makes the chain at head available, without telling.
func (d *driver) offer(ring int, head uint16) {
	avail := d.mem[ringAt(ring)+2048:]
	le := binary.LittleEndian
	le.PutUint16(avail[4+2*int(d.avail[ring]%ringSize):], head)
	d.avail[ring]++
	d.setAvail(ring, d.avail[ring])
}

func (d *driver) setAvail(ring int, idx uint16) {
	w, _ := word(d.mem, ringAt(ring)+2048)
	storeWord(w, uint32(idx)<<16)
}

// give offers n receive buffers; buffer and descriptor i belong together.
func (d *driver) give(n int) {
	for range n {
		i := int(d.avail[rxRing] % ringSize)
		d.desc(rxRing, i, gpaHigh+uint64(rxBuffers+i*bufSize), bufSize, descWrite, 0)
		d.offer(rxRing, uint16(i))
	}
	notify(d.kick[rxRing])
}

// usedIndex is how many buffers of a ring came back.
func (d *driver) usedIndex(ring int) uint16 { return load16(d.mem, ringAt(ring)+4096+2) }

// wait waits until the device gave back another buffer of the ring.
func (d *driver) wait(ring int) {
	d.t.Helper()
	d.call[ring].SetReadDeadline(time.Now().Add(20 * time.Second))
	var b [8]byte
	for d.usedIndex(ring) == d.used[ring] {
		if _, err := d.call[ring].Read(b[:]); err != nil {
			d.t.Fatalf("ring %d: no notification: %v", ring, err)
		}
	}
}

// tx sends one packet in two descriptors and waits until it was taken.
func (d *driver) tx(h header, payload []byte) {
	d.t.Helper()
	d.queue(h, payload)
	notify(d.kick[txRing])
	d.wait(txRing)
	d.used[txRing]++
}

// queue offers one packet.
func (d *driver) queue(h header, payload []byte) {
	if h.srcCID == 0 {
		h.srcCID, h.dstCID = testCID, HostCID
	}
	if h.typ == 0 {
		h.typ = typeStream
	}
	h.length = uint32(len(payload))
	i := int(d.avail[txRing]%(ringSize/2)) * 2
	at := splitAt + txBuffers + i*bufSize/2
	copy(d.mem[at:], h.marshal())
	flags := uint16(0)
	if len(payload) > 0 {
		copy(d.mem[at+headerSize:], payload)
		flags = descNext
	}
	d.desc(txRing, i, gpaHigh+uint64(at-splitAt), headerSize, flags, uint16(i+1))
	d.desc(txRing, i+1, gpaHigh+uint64(at-splitAt+headerSize), uint32(len(payload)), 0, 0)
	d.offer(txRing, uint16(i))
}

// rx waits for the next packet to the guest and gives its buffer back.
func (d *driver) rx() (header, []byte) {
	d.t.Helper()
	d.wait(rxRing)
	le := binary.LittleEndian
	e := d.mem[ringAt(rxRing)+4096+4+8*int(d.used[rxRing]%ringSize):]
	id, n := int(le.Uint32(e)), int(le.Uint32(e[4:]))
	d.used[rxRing]++
	b := d.mem[splitAt+rxBuffers+id*bufSize:][:n]
	h, err := parseHeader(b[:headerSize])
	if err != nil {
		d.t.Fatal(err)
	}
	if h.srcCID != HostCID || h.dstCID != testCID || h.typ != typeStream || int(h.length) != n-headerSize {
		d.t.Fatalf("packet %+v in %d bytes", h, n)
	}
	payload := append([]byte(nil), b[headerSize:]...)
	d.give(1)
	return h, payload
}

// rxOp waits for a packet of this kind.
func (d *driver) rxOp(op uint16) (header, []byte) {
	d.t.Helper()
	h, p := d.rx()
	if h.op != op {
		d.t.Fatalf("packet %+v, want op %d", h, op)
	}
	return h, p
}

// connect opens a connection from the guest's port to the host's.
func (d *driver) connect(guest, host, alloc uint32) {
	d.t.Helper()
	d.tx(header{srcPort: guest, dstPort: host, op: opRequest, bufAlloc: alloc}, nil)
	h, _ := d.rxOp(opResponse)
	if h.srcPort != host || h.dstPort != guest || h.bufAlloc != bufAlloc {
		d.t.Fatalf("response %+v", h)
	}
}

// ended waits for the server to stop serving.
func (d *driver) ended() error {
	d.t.Helper()
	select {
	case err := <-d.served:
		return err
	case <-time.After(20 * time.Second):
		d.t.Fatal("the server goes on")
		return nil
	}
}

// pair is a Dial whose other ends come out of a channel.
func pair(t *testing.T) (dial func(context.Context, uint32) (net.Conn, error), hosts chan net.Conn) {
	hosts = make(chan net.Conn, 200)
	return func(_ context.Context, port uint32) (net.Conn, error) {
		if port == 1 {
			return nil, errors.New("nobody there")
		}
		a, b, err := connPair()
		if err != nil {
			return nil, err
		}
		t.Cleanup(func() { b.Close() })
		hosts <- b
		return a, nil
	}, hosts
}
