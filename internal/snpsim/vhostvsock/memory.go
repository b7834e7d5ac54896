package vhostvsock

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrGuest says that the guest's driver broke the rules of its rings; the
// device has stopped.
var ErrGuest = errors.New("the guest's vsock driver misbehaved")

func guestError(format string, a ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrGuest}, a...)...)
}

// maxRegion bounds one region of guest memory.
const maxRegion = 1 << 42

// region is a piece of the guest's memory: where the guest sees it, where QEMU
// sees it, and our mapping of it.
type region struct {
	gpa, uva, size uint64
	mem            []byte // size bytes
	mapped         []byte // what munmap takes
}

type memory []region

// mapRegion maps one region of SET_MEM_TABLE. The file must hold all of it:
// touching a page beyond its end would kill the process.
func mapRegion(r memRegion, fd int) (region, error) {
	if r.size == 0 || r.size > maxRegion || r.offset > maxRegion || r.gpa+r.size < r.gpa || r.uva+r.size < r.uva {
		return region{}, fmt.Errorf("memory region of %#x bytes at %#x, offset %#x, is impossible", r.size, r.gpa, r.offset)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return region{}, fmt.Errorf("mapping guest memory: %w", err)
	}
	if uint64(st.Size) < r.offset+r.size {
		return region{}, fmt.Errorf("memory region ends at %#x of a file of %#x bytes", r.offset+r.size, st.Size)
	}
	lead := r.offset % uint64(os.Getpagesize())
	m, err := unix.Mmap(fd, int64(r.offset-lead), int(r.size+lead), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return region{}, fmt.Errorf("mapping guest memory: %w", err)
	}
	return region{gpa: r.gpa, uva: r.uva, size: r.size, mem: m[lead:], mapped: m}, nil
}

func (m memory) unmap() {
	for _, r := range m {
		_ = unix.Munmap(r.mapped)
	}
}

// physical is n bytes of guest memory at a guest-physical address; nil if they
// are not all within one region.
func (m memory) physical(gpa, n uint64) []byte {
	for _, r := range m {
		if off := gpa - r.gpa; gpa >= r.gpa && off < r.size && n <= r.size-off {
			return r.mem[off : off+n : off+n]
		}
	}
	return nil
}

// virtual is the same for an address in QEMU's address space.
func (m memory) virtual(uva, n uint64) []byte {
	for _, r := range m {
		if off := uva - r.uva; uva >= r.uva && off < r.size && n <= r.size-off {
			return r.mem[off : off+n : off+n]
		}
	}
	return nil
}

// word is the aligned 32-bit word that holds b[off], for atomic access. The
// mapping begins on a page, so the word is within it.
func word(b []byte, off int) (w *uint32, shift uint) {
	p := unsafe.Pointer(&b[off])
	low := uintptr(p) & 3
	return (*uint32)(unsafe.Add(p, -int(low))), uint(low) * 8
}

// load16 reads a 16-bit number at an even address that the guest may be
// writing, ordered before all later reads.
func load16(b []byte, off int) uint16 {
	w, shift := word(b, off)
	return uint16(atomic.LoadUint32(w) >> shift)
}

func aligned(b []byte, n uintptr) bool { return uintptr(unsafe.Pointer(&b[0]))%n == 0 }
