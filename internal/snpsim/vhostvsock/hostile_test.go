package vhostvsock

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"testing"
)

// A driver that breaks the rules of its rings ends the device, and nothing else.
func TestHostileRings(t *testing.T) {
	at := uint64(gpaHigh + txBuffers)
	for name, act := range map[string]func(d *driver){
		"avail index ahead":        func(d *driver) { d.setAvail(txRing, ringSize+1) },
		"avail index back":         func(d *driver) { d.setAvail(txRing, 0xFFFF) },
		"head outside":             func(d *driver) { d.offer(txRing, ringSize) },
		"next outside":             func(d *driver) { d.desc(txRing, 0, at, 44, descNext, ringSize); d.offer(txRing, 0) },
		"chain without end":        func(d *driver) { d.desc(txRing, 0, at, 44, descNext, 0); d.offer(txRing, 0) },
		"indirect":                 func(d *driver) { d.desc(txRing, 0, at, 64, descIndirect, 0); d.offer(txRing, 0) },
		"address outside":          func(d *driver) { d.desc(txRing, 0, 1<<40, 44, 0, 0); d.offer(txRing, 0) },
		"address between regions":  func(d *driver) { d.desc(txRing, 0, splitAt-4, 44, 0, 0); d.offer(txRing, 0) },
		"address wraps":            func(d *driver) { d.desc(txRing, 0, ^uint64(0)-10, 44, 0, 0); d.offer(txRing, 0) },
		"length beyond the region": func(d *driver) { d.desc(txRing, 0, at, ^uint32(0), 0, 0); d.offer(txRing, 0) },
		"writable packet":          func(d *driver) { d.desc(txRing, 0, at, 44, descWrite, 0); d.offer(txRing, 0) },
		"readable after writable": func(d *driver) {
			d.desc(txRing, 0, at, 44, descWrite|descNext, 1)
			d.desc(txRing, 1, at, 44, 0, 0)
			d.offer(txRing, 0)
		},
		"short packet": func(d *driver) { d.desc(txRing, 0, at, 43, 0, 0); d.offer(txRing, 0) },
		"empty packet": func(d *driver) { d.desc(txRing, 0, at, 0, 0, 0); d.offer(txRing, 0) },
		"length that is not there": func(d *driver) {
			binary.LittleEndian.PutUint32(d.mem[splitAt+txBuffers+24:], 1)
			d.desc(txRing, 0, at, 44, 0, 0)
			d.offer(txRing, 0)
		},
		"huge length": func(d *driver) {
			binary.LittleEndian.PutUint32(d.mem[splitAt+txBuffers+24:], maxPayload+1)
			d.desc(txRing, 0, at, 44+maxPayload+1, 0, 0)
			d.offer(txRing, 0)
		},
		"small receive buffer": func(d *driver) {
			d.desc(rxRing, 0, gpaHigh, 44, descWrite, 0)
			d.offer(rxRing, 0)
			d.queue(header{srcPort: 1, dstPort: 5, op: opRW}, nil)
		},
		"readable receive buffer": func(d *driver) {
			d.desc(rxRing, 0, gpaHigh, 4096, 0, 0)
			d.offer(rxRing, 0)
			d.queue(header{srcPort: 1, dstPort: 5, op: opRW}, nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dial, _ := pair(t)
			d := newDriver(t, Options{Dial: dial})
			d.handshake(0)
			act(d)
			notify(d.kick[txRing])
			if err := d.ended(); !errors.Is(err, ErrGuest) {
				t.Errorf("ended with %v", err)
			}
		})
	}
}

// A front end that is not QEMU gets an error, not a crash.
func TestHostileFrontend(t *testing.T) {
	addr := func(desc, used, avail uint64) []byte { return append(u32s(0, 0), u64s(desc, used, avail, 0)...) }
	region := func(gpa, size, uva, off uint64) []byte { return append(u32s(1, 0), u64s(gpa, size, uva, off)...) }
	for name, tc := range map[string]struct {
		request uint32
		payload []byte
		files   int
	}{
		"unknown request":     {99, nil, 0},
		"features":            {reqSetFeatures, u64s(1 << 29), 0},
		"protocol features":   {reqSetProtocolFeatures, u64s(1), 0},
		"short features":      {reqSetFeatures, []byte{1}, 0},
		"oversized":           {reqSetConfig, make([]byte, maxMessage+1), 0},
		"ring index":          {reqSetVringNum, u32s(2, 64), 0},
		"running ring's size": {reqSetVringNum, u32s(0, 128), 0},
		"ring base":           {reqSetVringBase, u32s(0, 1<<16), 0},
		"ring address index":  {reqSetVringAddr, append(u32s(7, 0), u64s(0, 0, 0, 0)...), 0},
		"ring log flag":       {reqSetVringAddr, append(u32s(0, 1), u64s(uvaLow, uvaLow, uvaLow, 0)...), 0},
		"ring outside":        {reqSetVringAddr, addr(uvaLow+splitAt-8, uvaLow, uvaLow), 0},
		"ring not aligned":    {reqSetVringAddr, addr(uvaLow+8, uvaLow, uvaLow), 0},
		"used not aligned":    {reqSetVringAddr, addr(uvaLow, uvaLow+2, uvaLow), 0},
		"avail not aligned":   {reqSetVringAddr, addr(uvaLow, uvaLow, uvaLow+1), 0},
		"kick without fd":     {reqSetVringKick, u64s(0), 0},
		"polled ring":         {reqSetVringKick, u64s(vringNoFD), 0},
		"kick of ring 9":      {reqSetVringKick, u64s(9), 1},
		"config range":        {reqGetConfig, u32s(4, 8, 0), 0},
		"config overflow":     {reqGetConfig, u32s(8, 0xFFFFFFFF, 0), 0},
		"config short":        {reqGetConfig, u32s(0), 0},
		"no regions":          {reqSetMemTable, u32s(0, 0), 0},
		"many regions":        {reqSetMemTable, append(u32s(9, 0), make([]byte, 9*32)...), 8},
		"regions without fds": {reqSetMemTable, region(0, 4096, uvaLow, 0), 0},
		"region of nothing":   {reqSetMemTable, region(0, 0, uvaLow, 0), 1},
		"region past the end": {reqSetMemTable, region(0, fileSize, uvaLow, 4096), 1},
		"region wraps":        {reqSetMemTable, region(^uint64(0)-4095, 8192, uvaLow, 0), 1},
		"offset overflows":    {reqSetMemTable, region(0, 4096, uvaLow, ^uint64(0)-4095), 1},
		"rings lost":          {reqSetMemTable, region(1<<40, 4096, 1<<40, 0), 1},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDriver(t, Options{})
			d.handshake(0)
			var files []*os.File
			for range tc.files {
				files = append(files, d.file)
			}
			if b := d.ask(tc.request, flagNeedReply, tc.payload, files...); b != nil {
				t.Errorf("answered %x", b)
			}
			if err := d.ended(); err == nil {
				t.Error("ended without an error")
			}
		})
	}
}

func TestConfig(t *testing.T) {
	d := newDriver(t, Options{})
	if b := d.ask(reqGetConfig, 0, append(u32s(0, 8, 0), make([]byte, 8)...)); !bytes.Equal(b[12:], u64s(testCID)) {
		t.Errorf("configuration %x", b)
	}
	d.conn.Write([]byte{1, 2, 3}) // half a header, then the end
	d.conn.Close()
	if err := d.ended(); err == nil {
		t.Error("half a message ended without an error")
	}
}

// sink is a connection that takes everything and never sends.
type sink struct{ net.Conn }

func (s sink) Write(b []byte) (int, error) { return len(b), nil }

// FuzzRings lets the device loose on arbitrary memory.
func FuzzRings(f *testing.F) {
	seed := make([]byte, 4096)
	copy(seed[1024:], (&header{srcCID: testCID, dstCID: HostCID, srcPort: 1, dstPort: 2, typ: typeStream, op: opRequest}).marshal())
	le := binary.LittleEndian
	for i, flags := range []uint16{descWrite, 0} { // ring i at 512*i
		le.PutUint64(seed[512*i:], 1024+1024*uint64(1-i))
		le.PutUint32(seed[512*i+8:], 512)
		le.PutUint16(seed[512*i+12:], flags)
		le.PutUint16(seed[512*i+128+2:], 1)
	}
	f.Add(seed)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		mem := make([]byte, 4096)
		copy(mem, data)
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		d := newDevice(ctx, Options{GuestCID: testCID, MaxConns: 4})
		d.mu.Lock()
		defer d.mu.Unlock()
		d.mem = memory{{gpa: 0, uva: 0, size: 4096, mem: mem}}
		for i := range d.rings {
			r := &d.rings[i]
			*r = ring{num: 8, descAt: 512 * uint64(i), availAt: 512*uint64(i) + 128, usedAt: 512*uint64(i) + 256, enabled: true, started: true}
			if err := r.resolve(d.mem); err != nil {
				t.Fatal(err)
			}
		}
		for range 100 {
			more, err := d.service()
			if err != nil {
				if !errors.Is(err, ErrGuest) {
					t.Fatal(err)
				}
				break
			}
			if !more {
				break
			}
		}
		if len(d.resets) > maxResets || len(d.conns) > 4 {
			t.Fatalf("%d resets and %d connections are kept", len(d.resets), len(d.conns))
		}
	})
}

// FuzzPackets sends arbitrary packets; what the device keeps stays bounded.
func FuzzPackets(f *testing.F) {
	one := func(h header) []byte { h.typ = typeStream; h.srcCID, h.dstCID = testCID, HostCID; return h.marshal() }
	f.Add(append(one(header{srcPort: 1, dstPort: 2, op: opRequest}), one(header{srcPort: 1, dstPort: 2, op: opRW, length: 9})...))
	f.Add(append(one(header{srcPort: 1, dstPort: 2, op: opShutdown, flags: 3}), one(header{op: opCreditRequest})...))
	f.Fuzz(func(t *testing.T, data []byte) {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		d := newDevice(ctx, Options{GuestCID: testCID, MaxConns: 4, Dial: func(context.Context, uint32) (net.Conn, error) {
			a, b := net.Pipe()
			context.AfterFunc(ctx, func() { b.Close() })
			return sink{a}, nil
		}})
		defer d.close()
		for packets := 0; len(data) >= headerSize && packets < 100; packets++ {
			h, err := parseHeader(data[:headerSize])
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(h.marshal(), data[:headerSize]) {
				t.Fatal("the header does not marshal back")
			}
			data = data[headerSize:]
			payload := data[:min(len(data), int(h.length%256))]
			d.mu.Lock()
			d.handle(h, payload)
			for k, c := range d.conns {
				if c.key != k || len(c.in) > bufAlloc || c.dead {
					t.Fatalf("connection %+v at %+v", c, k)
				}
			}
			if d.live > 4 || len(d.conns) > d.live || len(d.resets) > packets+1 || len(d.ready) > 8 {
				t.Fatalf("live %d, conns %d, resets %d, ready %d", d.live, len(d.conns), len(d.resets), len(d.ready))
			}
			if d.pending() && packets%2 == 0 {
				c := &chain{write: [][]byte{make([]byte, 64)}, nwrit: 64}
				if n := d.fill(c, 64-headerSize); n < headerSize {
					t.Fatalf("a packet of %d bytes", n)
				}
			}
			d.mu.Unlock()
		}
	})
}

// FuzzMessages sends arbitrary vhost-user messages without descriptors.
func FuzzMessages(f *testing.F) {
	f.Add(uint32(reqSetMemTable), memTable())
	f.Add(uint32(reqSetVringAddr), append(u32s(1, 0), u64s(1, 2, 3, 4)...))
	f.Add(uint32(reqGetConfig), u32s(0, 8, 0))
	f.Add(uint32(reqSetVringNum), u32s(1, 64))
	f.Fuzz(func(t *testing.T, request uint32, payload []byte) {
		d := newDevice(context.Background(), Options{GuestCID: testCID, MaxConns: 1})
		defer d.close()
		if answer, err := d.message(&message{request: request, payload: payload}); err != nil && answer != nil {
			t.Fatalf("an answer and an error: %x, %v", answer, err)
		}
	})
}
