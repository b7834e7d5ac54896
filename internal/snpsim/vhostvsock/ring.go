package vhostvsock

import (
	"encoding/binary"
	"sync/atomic"
)

// maxRing is the largest number of descriptors in a ring; QEMU uses 128.
const maxRing = 1024

const (
	descNext     = 1
	descWrite    = 2
	descIndirect = 4

	availNoInterrupt = 1
)

// ring is a split virtqueue (VIRTIO 2.7), seen from the device.
type ring struct {
	num               uint32
	descAt            uint64 // addresses in QEMU's address space
	usedAt, availAt   uint64
	desc, avail, used []byte // in guest memory; nil while not set up

	nextAvail uint16 // next entry of avail that we take
	nextUsed  uint16 // next entry of used that we write
	enabled   bool
	started   bool
	pushed    bool // since the last notification
}

// resolve finds the ring's parts in guest memory.
func (r *ring) resolve(m memory) error {
	r.desc, r.avail, r.used = nil, nil, nil
	n := uint64(r.num)
	if n == 0 || n > maxRing || n&(n-1) != 0 {
		return guestError("a ring of %d entries", n)
	}
	desc, avail, used := m.virtual(r.descAt, 16*n), m.virtual(r.availAt, 4+2*n), m.virtual(r.usedAt, 4+8*n)
	if desc == nil || avail == nil || used == nil {
		return guestError("a ring outside of memory")
	}
	if r.descAt%16 != 0 || r.availAt%2 != 0 || r.usedAt%4 != 0 {
		return guestError("a ring that is not aligned")
	}
	if !aligned(used, 4) || !aligned(avail, 2) {
		return guestError("a ring that is not aligned")
	}
	r.desc, r.avail, r.used = desc, avail, used
	return nil
}

func (r *ring) ready() bool { return r.started && r.enabled && r.desc != nil }

// chain is one buffer that the driver made available.
type chain struct {
	head  uint16
	read  [][]byte // parts that the device reads, in guest memory
	write [][]byte // parts that it writes
	nread int
	nwrit int
}

// pop takes the next buffer; nil if there is none. The chain's descriptors were
// read once and lie in guest memory; their contents may change at any time.
func (r *ring) pop(m memory) (*chain, error) {
	idx := load16(r.avail, 2)
	waiting := idx - r.nextAvail
	switch {
	case waiting == 0:
		return nil, nil
	case uint32(waiting) > r.num:
		return nil, guestError("%d buffers available in a ring of %d", waiting, r.num)
	}
	le := binary.LittleEndian
	slot := int(uint32(r.nextAvail) & (r.num - 1))
	c := &chain{head: le.Uint16(r.avail[4+2*slot:])}
	i := uint32(c.head)
	for count := uint32(0); ; count++ {
		if i >= r.num {
			return nil, guestError("descriptor %d in a ring of %d", i, r.num)
		}
		if count == r.num {
			return nil, guestError("a chain of descriptors without end")
		}
		var d [16]byte
		copy(d[:], r.desc[16*i:])
		addr, n, flags, next := le.Uint64(d[:]), le.Uint32(d[8:]), le.Uint16(d[12:]), le.Uint16(d[14:])
		if flags&descIndirect != 0 {
			return nil, guestError("an indirect descriptor, which was not agreed upon")
		}
		if n > 0 {
			part := m.physical(addr, uint64(n))
			if part == nil {
				return nil, guestError("a buffer of %d bytes at %#x is outside of memory", n, addr)
			}
			if flags&descWrite != 0 {
				c.write, c.nwrit = append(c.write, part), c.nwrit+len(part)
			} else if len(c.write) > 0 {
				return nil, guestError("a readable part behind a writable one")
			} else {
				c.read, c.nread = append(c.read, part), c.nread+len(part)
			}
		}
		if flags&descNext == 0 {
			break
		}
		i = uint32(next)
	}
	r.nextAvail++
	return c, nil
}

// push gives a buffer back, with the number of bytes written into it.
func (r *ring) push(head uint16, written int) {
	slot := int(uint32(r.nextUsed) & (r.num - 1))
	binary.LittleEndian.PutUint32(r.used[4+8*slot:], uint32(head))
	binary.LittleEndian.PutUint32(r.used[8+8*slot:], uint32(written))
	r.nextUsed++
	// flags 0 (we always want notifications) and the index, in one word. The
	// atomic store is a full barrier: the entry before it, the flag after it.
	w, _ := word(r.used, 0)
	atomic.StoreUint32(w, uint32(r.nextUsed)<<16)
	r.pushed = true
}

// wantsCall says whether the driver is to be notified, and forgets the pushes.
func (r *ring) wantsCall() bool {
	if !r.pushed || r.avail == nil {
		return false
	}
	r.pushed = false
	return load16(r.avail, 0)&availNoInterrupt == 0
}

// gather copies up to len(dst) readable bytes of the chain, from offset off.
func (c *chain) gather(dst []byte, off int) int {
	n := 0
	for _, p := range c.read {
		if off >= len(p) {
			off -= len(p)
			continue
		}
		n += copy(dst[n:], p[off:])
		off = 0
		if n == len(dst) {
			break
		}
	}
	return n
}

// scatter copies parts into the chain's writable bytes and returns how many.
func (c *chain) scatter(parts ...[]byte) int {
	n := 0
	w := c.write
	for _, p := range parts {
		for len(p) > 0 && len(w) > 0 {
			k := copy(w[0], p)
			p, n = p[k:], n+k
			if w[0] = w[0][k:]; len(w[0]) == 0 {
				w = w[1:]
			}
		}
	}
	return n
}
