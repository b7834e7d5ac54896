package igvm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// ErrFile is wrapped by every error of this package.
var ErrFile = errors.New("IGVM file not usable")

// PageSize is the unit of GPAs and sizes; a large page has 512 of them.
const (
	PageSize  = 4096
	LargePage = 2 << 20
)

// Limits of what is read: a file of headers alone would ask for petabytes.
const (
	MaxPages   = 1 << 20 // loaded pages of one platform
	maxHeaders = 1 << 19
	maxGPA     = 1 << 52
)

// Platform is an isolation technology.
type Platform uint8

// The platforms.
const (
	Native Platform = 0
	VSM    Platform = 1
	SEVSNP Platform = 2
	TDX    Platform = 3
	SEV    Platform = 4
	SEVES  Platform = 5
)

// String is the usual name.
func (p Platform) String() string {
	names := []string{"native", "VSM", "SEV-SNP", "TDX", "SEV", "SEV-ES"}
	if int(p) < len(names) {
		return names[p]
	}
	return fmt.Sprintf("platform %d", uint8(p))
}

// Supported is one platform that a file can be loaded on.
type Supported struct {
	Platform   Platform
	Mask       uint32 // one bit, which headers for this platform have set
	HighestVTL uint8
	Version    uint16
	SharedGPA  uint64 // memory from here on is the host's too; 0 is none
}

// File is an IGVM file that was read.
type File struct {
	Version   uint32
	Platforms []Supported
	Headers   []Header // initialization and directives, in the file's order

	data    []byte // the whole file
	content uint32 // where file data begins
	areas   map[uint32]*area
	vps     map[uint16]uint32 // masks of the vCPU contexts
}

var le = binary.LittleEndian

func bad(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrFile, fmt.Sprintf(format, args...))
}

// Parse reads a file. The result keeps data, which must not be changed.
func Parse(data []byte) (*File, error) {
	f := &File{data: data, areas: make(map[uint32]*area), vps: make(map[uint16]uint32)}
	headers, err := f.fixed()
	if err != nil {
		return nil, err
	}
	if err := f.variable(headers); err != nil {
		return nil, err
	}
	if len(f.Platforms) == 0 {
		return nil, bad("it names no platform")
	}
	for _, p := range f.Platforms {
		if err := f.checkPages(p); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// fixed reads the fixed header and gives the variable ones.
func (f *File) fixed() ([]byte, error) {
	const v1Size, v2Size = 0x18, 0x20
	b := f.data
	if len(b) < v1Size || string(b[:4]) != "IGVM" {
		return nil, bad("it does not begin with an IGVM header")
	}
	f.Version = le.Uint32(b[4:])
	size := uint64(v1Size)
	switch f.Version {
	case 1:
	case 2:
		if size = v2Size; len(b) < v2Size {
			return nil, bad("it ends in its fixed header")
		}
		if arch, page := le.Uint32(b[0x18:]), le.Uint32(b[0x1c:]); arch != 0 || page != PageSize {
			return nil, bad("architecture %d with pages of %d bytes, want x86-64 (0) with 4096", arch, page)
		}
	default:
		return nil, bad("format version %d, want 1 or 2", f.Version)
	}
	at, n, total := uint64(le.Uint32(b[8:])), uint64(le.Uint32(b[12:])), uint64(le.Uint32(b[16:]))
	switch {
	case total != uint64(len(b)):
		return nil, bad("it has %d bytes and says %d", len(b), total)
	case at < size || at%8 != 0 || n%8 != 0 || at+n > total:
		return nil, bad("variable headers of %d bytes at %#x in a file of %d bytes", n, at, total)
	}
	headers := b[at : at+n]
	crc := crc32.Update(0, crc32.IEEETable, b[:20])
	crc = crc32.Update(crc, crc32.IEEETable, make([]byte, 4))
	crc = crc32.Update(crc, crc32.IEEETable, b[24:size])
	crc = crc32.Update(crc, crc32.IEEETable, headers)
	if want := le.Uint32(b[20:]); crc != want {
		return nil, bad("checksum %#x of its headers, and it says %#x", crc, want)
	}
	f.content = uint32(at + n)
	return headers, nil
}

// Sections of the variable headers.
const (
	sectionPlatform = iota
	sectionInit
	sectionDirective
)

func sectionOf(t Type) (int, bool) {
	switch n := uint32(t &^ Optional); {
	case n >= 0x1 && n <= 0x100:
		return sectionPlatform, true
	case n >= 0x101 && n <= 0x200:
		return sectionInit, true
	case n >= 0x301 && n <= 0x400:
		return sectionDirective, true
	}
	return 0, false
}

// variable reads the variable headers.
func (f *File) variable(b []byte) error {
	section := sectionPlatform
	for n, at := 0, 0; at < len(b); n++ {
		if n == maxHeaders {
			return bad("more than %d headers", maxHeaders)
		}
		t, size := Type(le.Uint32(b[at:])), uint64(le.Uint32(b[at+4:]))
		rest := b[at+8:]
		padded := (size + 7) &^ 7
		if padded > uint64(len(rest)) {
			return bad("header %d, %v, of %d bytes reaches behind the headers", n, t, size)
		}
		for _, c := range rest[size:padded] {
			if c != 0 {
				return bad("header %d, %v: padding is not zero", n, t)
			}
		}
		s, ok := sectionOf(t)
		if ok && s < section || !ok && t&Optional == 0 {
			return bad("header %d, %v, is not allowed at this place", n, t)
		}
		if ok {
			section = s
		}
		if err := f.header(t, rest[:size]); err != nil {
			return fmt.Errorf("header %d, %v: %w", n, t, err)
		}
		at += 8 + int(padded)
	}
	return nil
}

func (f *File) header(t Type, b []byte) error {
	if t == typePlatform {
		return f.platform(b)
	}
	h, err := f.parseHeader(t, b)
	if err != nil {
		return err
	}
	if err := f.checkHeader(&h); err != nil {
		return err
	}
	h.Index = len(f.Headers)
	f.Headers = append(f.Headers, h)
	return nil
}

func (f *File) platform(b []byte) error {
	if len(b) != 16 {
		return bad("%d bytes, want 16", len(b))
	}
	s := Supported{Mask: le.Uint32(b), HighestVTL: b[4], Platform: Platform(b[5]), Version: le.Uint16(b[6:]), SharedGPA: le.Uint64(b[8:])}
	switch {
	case s.Mask == 0 || s.Mask&(s.Mask-1) != 0:
		return bad("mask %#x has not one bit", s.Mask)
	case s.Platform > SEVES:
		return bad("%v is unknown", s.Platform)
	case s.Version != 1:
		return bad("version %d of %v, want 1", s.Version, s.Platform)
	}
	for _, o := range f.Platforms {
		if o.Mask == s.Mask || o.Platform == s.Platform {
			return bad("%v with mask %#x is there already", s.Platform, s.Mask)
		}
	}
	f.Platforms = append(f.Platforms, s)
	return nil
}

// Supports finds a platform.
func (f *File) Supports(p Platform) (Supported, bool) {
	for _, s := range f.Platforms {
		if s.Platform == p {
			return s, true
		}
	}
	return Supported{}, false
}

// For gives the headers for one platform, in the file's order.
func (f *File) For(p Supported) []*Header {
	var out []*Header
	for i := range f.Headers {
		if h := &f.Headers[i]; h.Mask&p.Mask != 0 {
			out = append(out, h)
		}
	}
	return out
}
