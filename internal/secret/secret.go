// Package secret holds bytes that zero themselves and never print.
//
// A Bytes lives in anonymous memory of its own, outside the garbage-collected
// heap, so that no collector, stack growth or append leaves a copy behind. The
// pages are locked against swap where the process may lock memory, and left
// out of core dumps. Formatting, logging and JSON print "[redacted]".
//
// It does not protect against somebody who can read the process's memory while
// the secret is in use, nor against copies that a caller makes of Bytes().
package secret

import (
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

const redacted = "[redacted]"

// ErrTooLong is returned by ReadAll for more input than the caller allows.
var ErrTooLong = errors.New("secret is longer than allowed")

// Bytes is a secret of fixed length. It has one owner, who calls Zero.
// The zero value is an empty secret.
type Bytes struct {
	mu  sync.Mutex
	mem []byte // whole pages
	b   []byte // the secret, a prefix of mem
}

// New returns n zero bytes (n >= 0).
func New(n int) *Bytes {
	s := &Bytes{}
	if n <= 0 {
		return s
	}
	page := unix.Getpagesize()
	size := (n + page - 1) / page * page
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		// Out of memory: what Go's own allocator does is to abort as well.
		panic(fmt.Sprintf("secret: mapping %d bytes: %v", size, err))
	}
	// Best effort: RLIMIT_MEMLOCK may be exhausted, and an initramfs has no swap.
	_ = unix.Mlock(mem)
	_ = unix.Madvise(mem, unix.MADV_DONTDUMP)
	s.mem, s.b = mem, mem[:n:n]
	runtime.SetFinalizer(s, (*Bytes).Zero)
	return s
}

// Take moves b into a secret and zeroes b.
func Take(b []byte) *Bytes {
	s := Copy(b)
	clear(b)
	return s
}

// Copy returns a secret with the content of b.
func Copy(b []byte) *Bytes {
	s := New(len(b))
	copy(s.b, b)
	return s
}

// Random returns n bytes from the kernel's generator.
func Random(n int) *Bytes {
	s := New(n)
	rand.Read(s.b) // never fails: crypto/rand aborts the program instead
	return s
}

// ReadAll reads r to its end into a secret of at most max bytes. More input is
// ErrTooLong. Whatever was read is zeroed on error.
func ReadAll(r io.Reader, max int) (*Bytes, error) {
	buf := New(max + 1)
	defer buf.Zero()
	n, err := io.ReadFull(r, buf.b)
	switch {
	case err == nil:
		return nil, ErrTooLong
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return Copy(buf.b[:n]), nil
	default:
		return nil, err
	}
}

// Bytes gives the secret itself, valid until Zero and while s is in use: a
// secret that nothing refers to any more is wiped. The owner's deferred Zero
// keeps it. Do not keep or grow it.
func (s *Bytes) Bytes() []byte {
	if s == nil {
		return nil
	}
	return s.b
}

// Len is the number of bytes; 0 after Zero.
func (s *Bytes) Len() int {
	if s == nil {
		return 0
	}
	return len(s.b)
}

// Zero overwrites the secret and gives its memory back. It may be called
// more than once and on nil.
func (s *Bytes) Zero() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mem == nil {
		return
	}
	clear(s.mem)
	runtime.KeepAlive(s.mem)
	_ = unix.Munmap(s.mem)
	s.mem, s.b = nil, nil
	runtime.SetFinalizer(s, nil)
}

// Equal compares in constant time. Two empty secrets are not equal: an absent
// secret never matches.
func (s *Bytes) Equal(o *Bytes) bool {
	if s.Len() == 0 || o.Len() == 0 {
		return false
	}
	return subtle.ConstantTimeCompare(s.b, o.b) == 1
}

func (s *Bytes) String() string   { return redacted }
func (s *Bytes) GoString() string { return redacted }

// Format prints "[redacted]" for every verb.
func (s *Bytes) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// LogValue prints "[redacted]" in slog.
func (s *Bytes) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON prints "[redacted]".
func (s *Bytes) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// MarshalText prints "[redacted]".
func (s *Bytes) MarshalText() ([]byte, error) { return []byte(redacted), nil }
