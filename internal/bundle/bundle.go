// Package bundle is the signed bundle that a stage-1 image starts: kernel,
// initramfs and command line behind one header, signed by the owner's bundle
// key. docs/bundle.md is the format:
//
//	offset  size  field
//	0       8     magic "ATBUNDLE"
//	8       4     format, 1
//	12      4     n, length of the JSON: at most 4096
//	16      n     JSON: name, version, dates, kernel release, size and SHA-256 of each part
//	16+n    64    Ed25519 signature
//	80+n          kernel, initramfs, command line, one behind the other
//
// Numbers are little-endian. A file is filled up with zeros to 4096 bytes,
// which nobody reads: a disk has whole sectors.
//
// The package is pure and reads its source once, from front to end: what was
// hashed is what was handed on, whatever the source says the next time. It does
// not judge dates, versions or names: the caller has the limits.
package bundle

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"attestbox/internal/form"
	"attestbox/internal/strictjson"
	"attestbox/internal/wire"
)

const (
	magic     = "ATBUNDLE"
	format    = 1
	prefixLen = 16
	maxJSON   = 4096
	// Align is what a file's length is a multiple of.
	Align = 4096
)

// Bounds of the parts, in bytes.
const (
	MaxKernel  = 256 << 20
	MaxInitrd  = 1 << 30
	MaxCmdline = 2047 // x86's COMMAND_LINE_SIZE less the NUL
)

// Errors of reading a bundle.
var (
	ErrFormat    = errors.New("not a bundle of this format")
	ErrSignature = errors.New("the signature is not the owner's")
	ErrContent   = errors.New("the content is not what was signed")
)

// Part is one of the three files.
type Part struct {
	Size   int64      `json:"size"`
	SHA256 wire.Hex32 `json:"sha256"`
}

// PartOf describes a file.
func PartOf(b []byte) Part { return Part{int64(len(b)), sha256.Sum256(b)} }

// Header is what the owner signs.
type Header struct {
	Name    string `json:"name"`
	Version uint64 `json:"version"` // only ever rises, see wire.ValidBundleVersion
	// NotBefore and NotAfter bound its use, Unix seconds; 0: no bound.
	NotBefore int64 `json:"not_before"`
	NotAfter  int64 `json:"not_after"`
	// KernelRelease is for people; nothing is decided by it.
	KernelRelease string `json:"kernel_release"`
	Kernel        Part   `json:"kernel"`
	Initrd        Part   `json:"initrd"`
	Cmdline       Part   `json:"cmdline"`
}

// ValidName says whether a bundle can have this name: a lower-case letter, then
// letters, digits, - and _, 32 in all.
func ValidName(s string) bool {
	return len(s) <= 32 && form.Word(s, form.Chars("a-z"), form.Chars("a-z0-9_-"))
}

func (h *Header) check() error {
	switch {
	case !ValidName(h.Name):
		return fmt.Errorf("name %.40q: want a lower-case letter, then letters, digits, - and _, 32 in all", h.Name)
	case !wire.ValidBundleVersion(h.Version):
		return fmt.Errorf("version %d, want 1 to %d", h.Version, uint64(wire.MaxBundleVersion))
	case h.NotBefore < 0 || h.NotAfter < 0 || h.NotAfter != 0 && h.NotAfter <= h.NotBefore:
		return fmt.Errorf("not before %d, not after %d", h.NotBefore, h.NotAfter)
	case len(h.KernelRelease) > 128 || !release.All(h.KernelRelease):
		return fmt.Errorf("kernel release %.140q", h.KernelRelease)
	}
	for _, p := range []struct {
		what string
		Part
		max int64
	}{{"kernel", h.Kernel, MaxKernel}, {"initramfs", h.Initrd, MaxInitrd}, {"command line", h.Cmdline, MaxCmdline}} {
		if p.Size < 1 || p.Size > p.max {
			return fmt.Errorf("%s of %d bytes, want 1 to %d", p.what, p.Size, p.max)
		}
	}
	return nil
}

var release = form.Chars("A-Za-z0-9.+~_-")

// marshal is the header as it is signed, from the magic on.
func (h *Header) marshal() ([]byte, error) {
	if err := h.check(); err != nil {
		return nil, err
	}
	text, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	if len(text) > maxJSON {
		return nil, fmt.Errorf("header of %d bytes, at most %d", len(text), maxJSON)
	}
	b := binary.LittleEndian.AppendUint32([]byte(magic), format)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(text)))
	return append(b, text...), nil
}

// prefix checks the first bytes and returns the JSON's length.
func prefix(b []byte) (int, error) {
	n := binary.LittleEndian.Uint32(b[12:])
	switch {
	case string(b[:8]) != magic:
		return 0, fmt.Errorf("%w: no bundle begins here", ErrFormat)
	case binary.LittleEndian.Uint32(b[8:]) != format:
		return 0, fmt.Errorf("%w: format %d, want %d", ErrFormat, binary.LittleEndian.Uint32(b[8:]), format)
	case n < 2 || n > maxJSON:
		return 0, fmt.Errorf("%w: header of %d bytes, at most %d", ErrFormat, n, maxJSON)
	}
	return int(n), nil
}

// parse reads a whole header, in the one form that marshal writes.
func parse(b []byte) (*Header, error) {
	h := &Header{}
	if err := strictjson.Unmarshal(b[prefixLen:], h); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	again, err := h.marshal()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if !bytes.Equal(again, b) {
		return nil, fmt.Errorf("%w: the header is not in its canonical form", ErrFormat)
	}
	return h, nil
}

// Sign is the beginning of a bundle, up to its parts.
func Sign(key ed25519.PrivateKey, h *Header) ([]byte, error) {
	b, err := h.marshal()
	if err != nil {
		return nil, err
	}
	return append(b, ed25519.Sign(key, wire.BundleMessage(wire.BundleDigest(b)))...), nil
}
