package vhostvsock

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

func storeWord(w *uint32, v uint32) { atomic.StoreUint32(w, v) }

func TestStream(t *testing.T) {
	dial, hosts := pair(t)
	d := newDriver(t, Options{Dial: dial})
	d.handshake(32)
	d.connect(1000, 5, 1<<20)
	host := <-hosts

	// Guest to host, then the host's answer.
	d.tx(header{srcPort: 1000, dstPort: 5, op: opRW, bufAlloc: 1 << 20}, []byte("hello"))
	got := make([]byte, 5)
	if _, err := io.ReadFull(host, got); err != nil || string(got) != "hello" {
		t.Fatalf("%q, %v", got, err)
	}
	host.Write([]byte("welcome"))
	if _, p := d.rxOp(opRW); string(p) != "welcome" {
		t.Errorf("the guest got %q", p)
	}

	// A credit request is answered with what was taken: the host's end may have
	// read the bytes a moment before the device counts them.
	for end := time.Now().Add(time.Minute); ; {
		d.tx(header{srcPort: 1000, dstPort: 5, op: opCreditRequest, bufAlloc: 1 << 20, fwdCnt: 7}, nil)
		h, _ := d.rxOp(opCreditUpdate)
		if h.bufAlloc == bufAlloc && h.fwdCnt == 5 {
			break
		}
		if h.bufAlloc != bufAlloc || h.fwdCnt != 0 || time.Now().After(end) {
			t.Fatalf("credit %+v", h)
		}
	}

	// The guest closes its half; the host still sends, and closes.
	d.tx(header{srcPort: 1000, dstPort: 5, op: opShutdown, flags: shutdownSend, bufAlloc: 1 << 20, fwdCnt: 7}, nil)
	if n, err := host.Read(got); err != io.EOF {
		t.Errorf("after the guest closed its half: %d, %v", n, err)
	}
	host.Write([]byte("last"))
	host.(*net.UnixConn).CloseWrite()
	if _, p := d.rxOp(opRW); string(p) != "last" {
		t.Errorf("the guest got %q", p)
	}
	if h, _ := d.rxOp(opShutdown); h.flags != shutdownSend {
		t.Errorf("shutdown flags %d", h.flags)
	}
	d.tx(header{srcPort: 1000, dstPort: 5, op: opShutdown, flags: shutdownSend | shutdownReceive}, nil)
	d.rxOp(opRST)

	// The same ports can be used again, and bytes sent before a full shutdown
	// still arrive.
	d.connect(1000, 5, 1<<20)
	host = <-hosts
	d.queue(header{srcPort: 1000, dstPort: 5, op: opRW, bufAlloc: 1 << 20}, []byte("bye"))
	d.tx(header{srcPort: 1000, dstPort: 5, op: opShutdown, flags: 3}, nil)
	d.used[txRing]++
	if b, err := io.ReadAll(host); err != nil || string(b) != "bye" {
		t.Errorf("the host got %q, %v", b, err)
	}
	d.rxOp(opRST)
}

// The device never sends more than the guest's credit, and asks for more.
func TestCreditOfTheGuest(t *testing.T) {
	dial, hosts := pair(t)
	d := newDriver(t, Options{Dial: dial})
	d.handshake(32)
	d.connect(1000, 5, 10)
	host := <-hosts
	host.Write([]byte("0123456789abcdefghijKL"))
	taken := uint32(0)
	for _, want := range []string{"0123456789", "abcdefghij", "KL"} {
		if _, p := d.rxOp(opRW); string(p) != want {
			t.Fatalf("got %q, want %q", p, want)
		}
		if taken += uint32(len(want)); taken > 20 {
			break
		}
		d.rxOp(opCreditRequest)
		d.tx(header{srcPort: 1000, dstPort: 5, op: opCreditUpdate, bufAlloc: 10, fwdCnt: taken}, nil)
	}
	// A guest that claims to have taken more than it got stalls itself only.
	d.tx(header{srcPort: 1000, dstPort: 5, op: opCreditUpdate, bufAlloc: 10, fwdCnt: taken + 1000}, nil)
	host.Write([]byte("never"))
	if h, _ := d.rx(); h.op != opCreditRequest {
		t.Errorf("packet %+v beyond the credit", h)
	}
}

// A guest that sends more than it may is reset; nothing beyond the credit is
// kept, though the host's side reads nothing.
func TestCreditOfTheHost(t *testing.T) {
	stuck, other := net.Pipe() // unbuffered, never read
	defer other.Close()
	d := newDriver(t, Options{Dial: func(context.Context, uint32) (net.Conn, error) { return stuck, nil }})
	d.handshake(32)
	d.connect(1000, 5, 1<<20)
	full := make([]byte, 4096)
	for range bufAlloc / 4096 {
		d.tx(header{srcPort: 1000, dstPort: 5, op: opRW}, full)
	}
	d.srv.mu.Lock()
	dev := d.srv.dev
	d.srv.mu.Unlock()
	dev.mu.Lock()
	c := dev.conns[key{1000, 5}]
	if c == nil || c.rx != bufAlloc || cap(c.in) > 2*bufAlloc {
		t.Errorf("connection %+v", c)
	}
	dev.mu.Unlock()
	d.tx(header{srcPort: 1000, dstPort: 5, op: opRW}, []byte("x"))
	d.rxOp(opRST)
}

func TestRefusedPackets(t *testing.T) {
	dial, _ := pair(t)
	for name, tc := range map[string]struct {
		h    header
		want uint16 // 0: no answer
	}{
		"data without connection":  {header{srcPort: 9, dstPort: 5, op: opRW}, opRST},
		"unknown operation":        {header{srcPort: 9, dstPort: 5, op: 77}, opRST},
		"operation zero":           {header{srcPort: 1000, dstPort: 5}, opRST},
		"response without request": {header{srcPort: 1000, dstPort: 5, op: opResponse}, opRST},
		"second request":           {header{srcPort: 1000, dstPort: 5, op: opRequest}, opRST},
		"unknown shutdown flags":   {header{srcPort: 1000, dstPort: 5, op: opShutdown, flags: 4}, opRST},
		"seqpacket":                {header{srcPort: 9, dstPort: 5, op: opRequest, typ: 2}, opRST},
		"nobody there":             {header{srcPort: 9, dstPort: 1, op: opRequest}, opRST},
		"reset without connection": {header{srcPort: 9, dstPort: 5, op: opRST}, 0},
		"seqpacket reset":          {header{srcPort: 9, dstPort: 5, op: opRST, typ: 2}, 0},
		"another sender":           {header{srcPort: 9, dstPort: 5, op: opRequest, srcCID: 8, dstCID: HostCID}, 0},
		"another receiver":         {header{srcPort: 9, dstPort: 5, op: opRequest, srcCID: testCID, dstCID: 8}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDriver(t, Options{Dial: dial})
			d.handshake(32)
			d.connect(1000, 5, 1<<20)
			d.tx(tc.h, nil)
			if tc.want != 0 {
				if h, _ := d.rxOp(tc.want); h.srcPort != tc.h.dstPort || h.dstPort != tc.h.srcPort {
					t.Errorf("answer %+v", h)
				}
			}
			// The device goes on: the next answer is to the next packet.
			d.tx(header{srcPort: 4242, dstPort: 5, op: opRW}, nil)
			if h, _ := d.rxOp(opRST); h.dstPort != 4242 {
				t.Errorf("answer %+v", h)
			}
		})
	}
}

func TestTooManyConnections(t *testing.T) {
	dial, hosts := pair(t)
	d := newDriver(t, Options{Dial: dial, MaxConns: 2})
	d.handshake(32)
	d.connect(1000, 5, 1)
	d.connect(1001, 5, 1)
	d.tx(header{srcPort: 1002, dstPort: 5, op: opRequest}, nil)
	d.rxOp(opRST)
	// Once one has ended on both sides there is room again.
	d.tx(header{srcPort: 1000, dstPort: 5, op: opShutdown, flags: 3}, nil)
	d.rxOp(opRST)
	if _, err := io.ReadAll(<-hosts); err != nil {
		t.Error(err)
	}
	for port := uint32(2000); ; port++ { // the last goroutine may still be on its way out
		d.tx(header{srcPort: port, dstPort: 5, op: opRequest}, nil)
		if h, _ := d.rx(); h.op == opResponse {
			break
		} else if port == 4000 {
			t.Fatal("no room for a connection")
		}
	}
}

// Answers that the guest does not collect stop the device's reading.
func TestBackpressure(t *testing.T) {
	d := newDriver(t, Options{})
	d.handshake(0)
	d.srv.mu.Lock()
	dev := d.srv.dev
	d.srv.mu.Unlock()
	sent := 0
	for ; sent < maxResets; sent++ {
		d.tx(header{srcPort: uint32(sent), dstPort: 5, op: opRW}, nil)
	}
	for range ringSize / 2 {
		d.queue(header{srcPort: uint32(sent), dstPort: 5, op: opRW}, nil)
		sent++
	}
	dev.mu.Lock()
	more, err := dev.service() // as at a notification
	if more || err != nil || len(dev.resets) != maxResets {
		t.Errorf("more %v, %v, %d resets kept", more, err, len(dev.resets))
	}
	dev.mu.Unlock()
	if n := int(d.usedIndex(txRing)); n != maxResets {
		t.Fatalf("%d packets were taken, want %d", n, maxResets)
	}
	d.give(32)
	for i := range sent {
		if h, _ := d.rxOp(opRST); h.dstPort != uint32(i) {
			t.Fatalf("reset %d is %+v", i, h)
		}
	}
}

func TestDialGuest(t *testing.T) {
	d := newDriver(t, Options{})
	if _, err := d.srv.DialGuest(t.Context(), 80); !errors.Is(err, ErrNotReady) {
		t.Errorf("before the handshake: %v", err)
	}
	d.handshake(32)
	type result struct {
		c   net.Conn
		err error
	}
	results := make(chan result, 1)
	start := func(ctx context.Context) {
		go func() {
			c, err := d.srv.DialGuest(ctx, 80)
			results <- result{c, err}
		}()
	}
	start(t.Context())
	h, _ := d.rxOp(opRequest)
	d.tx(header{srcPort: 80, dstPort: h.srcPort, op: opResponse, bufAlloc: 100}, nil)
	r := <-results
	if r.err != nil {
		t.Fatal(r.err)
	}
	r.c.Write([]byte("hi"))
	if _, p := d.rxOp(opRW); string(p) != "hi" {
		t.Errorf("the guest got %q", p)
	}
	r.c.Close()
	d.rxOp(opShutdown)

	start(t.Context())
	h, _ = d.rxOp(opRequest)
	d.tx(header{srcPort: 80, dstPort: h.srcPort, op: opRST}, nil)
	if r := <-results; !errors.Is(r.err, syscall.ECONNREFUSED) {
		t.Errorf("refused: %v", r.err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	start(ctx)
	d.rxOp(opRequest)
	cancel()
	if r := <-results; !errors.Is(r.err, context.Canceled) {
		t.Errorf("cancelled: %v", r.err)
	}
	d.rxOp(opRST)
}

// Stopping a ring ends the connections; the device can be started again.
func TestRestart(t *testing.T) {
	dial, hosts := pair(t)
	d := newDriver(t, Options{Dial: dial})
	d.handshake(32)
	d.connect(1000, 5, 1<<20)
	host := <-hosts
	for i := range uint32(numRings) {
		if b := d.ask(reqGetVringBase, 0, u32s(i, 0)); len(b) != 8 || binary.LittleEndian.Uint32(b) != i {
			t.Fatalf("base of ring %d: %x", i, b)
		}
	}
	if _, err := io.ReadAll(host); err != nil {
		t.Errorf("the host's end after a stop: %v", err)
	}
	d.must(reqSetMemTable, memTable(), d.file, d.file)
	d.startRings()
	d.give(32)
	d.connect(1000, 5, 1<<20)
	d.conn.Close()
	if err := d.ended(); err != nil {
		t.Errorf("after QEMU hung up: %v", err)
	}
	if _, err := io.ReadAll(<-hosts); err != nil {
		t.Errorf("the host's end after QEMU hung up: %v", err)
	}
}

func TestNew(t *testing.T) {
	for _, cid := range []uint64{0, 1, 2, 1<<32 - 1, 1 << 32} {
		if _, err := New(Options{GuestCID: cid}); err == nil {
			t.Errorf("CID %d was accepted", cid)
		}
	}
}

func TestGatherScatter(t *testing.T) {
	c := &chain{read: [][]byte{[]byte("ab"), []byte("cde"), []byte("f")}, write: [][]byte{make([]byte, 2), make([]byte, 1), make([]byte, 4)}}
	for off, want := range []string{"abcd", "bcde", "cdef", "def", "ef", "f", "", ""} {
		b := make([]byte, 4)
		if n := c.gather(b, off); string(b[:n]) != want {
			t.Errorf("from %d: %q, want %q", off, b[:n], want)
		}
	}
	w := append([][]byte(nil), c.write...)
	if n := c.scatter([]byte("123"), nil, []byte("4567890")); n != 7 || string(bytes.Join(w, nil)) != "1234567" {
		t.Errorf("%d bytes: %q", n, w)
	}
}
