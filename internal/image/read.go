package image

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/u-root/u-root/pkg/cpio"
)

// Byte layout of a newc header: 6 bytes of magic, then 13 numbers of 8 hex
// digits each (upper case here), then the name with its NUL, padded to 4, then
// the contents, padded to 4.
const (
	newcMagic  = "070701"
	newcHeader = 110
)

// ErrForeign is an archive that Archive.Write did not make.
var ErrForeign = errors.New("not an archive as mkimage writes it")

// ReadArchive reads what Archive.Write wrote and nothing else: an accepted
// archive gives the same bytes when it is written again. Contents share memory
// with data. Memory is bounded by the input and MaxEntries.
func ReadArchive(data []byte) (*Archive, error) {
	a, n, err := readArchive(data)
	if err == nil && n != len(data) {
		err = fmt.Errorf("%w: %d bytes after the trailer", ErrForeign, len(data)-n)
	}
	if err != nil {
		return nil, err
	}
	return a, nil
}

// readArchive also says where the archive ends.
func readArchive(data []byte) (*Archive, int, error) {
	a := &Archive{entries: map[string]Entry{}}
	last := ""
	for pos, n := 0, 0; ; n++ {
		if n > MaxEntries {
			return nil, 0, fmt.Errorf("%w: more than %d entries", ErrForeign, MaxEntries)
		}
		h, name, body, next, err := readRecord(data, pos)
		if err != nil {
			return nil, 0, fmt.Errorf("%w: record %d at byte %d: %w", ErrForeign, n+1, pos, err)
		}
		pos = next
		if name == cpio.Trailer {
			if h != (newcFields{nlink: 1, namesize: h.namesize}) {
				return nil, 0, fmt.Errorf("%w: the trailer has fields set", ErrForeign)
			}
			return a, pos, a.checkParents()
		}
		if n == 0 {
			a.MTime = h.mtime
		}
		e := Entry{Path: name, Mode: h.mode, Data: body, Major: h.rmajor, Minor: h.rminor}
		rel, err := CleanPath(name)
		switch {
		case err != nil:
		case rel != name || name <= last:
			err = fmt.Errorf("path %q is absolute or out of order", name)
		case h.ino != uint32(n+1) || h.nlink != 1 || h.uid != 0 || h.gid != 0 || h.mtime != a.MTime || h.major != 0 || h.minor != 0 || h.check != 0:
			err = fmt.Errorf("%q: inode, links, owner, time, device or check field", name)
		default:
			err = e.check()
		}
		if err != nil {
			return nil, 0, fmt.Errorf("%w: %w", ErrForeign, err)
		}
		last = name
		a.entries[name] = e
	}
}

// checkParents finds entries whose folder is not in the archive: the kernel
// would leave them out.
func (a *Archive) checkParents() error {
	list, err := a.Entries()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrForeign, err)
	}
	if len(list) != len(a.entries) {
		return fmt.Errorf("%w: an entry's folder is missing", ErrForeign)
	}
	return nil
}

type newcFields struct {
	ino, mode, uid, gid, nlink, mtime, filesize, major, minor, rmajor, rminor, namesize, check uint32
}

func readRecord(data []byte, pos int) (h newcFields, name string, body []byte, next int, err error) {
	if len(data)-pos < newcHeader {
		return h, "", nil, 0, errors.New("header cut short")
	}
	raw := data[pos : pos+newcHeader]
	if string(raw[:6]) != newcMagic {
		return h, "", nil, 0, fmt.Errorf("magic is %q, want %q", raw[:6], newcMagic)
	}
	for _, c := range raw[6:] {
		if c >= 'a' && c <= 'f' {
			return h, "", nil, 0, errors.New("hex digits in lower case")
		}
	}
	var bin [52]byte
	if _, err := hex.Decode(bin[:], raw[6:]); err != nil {
		return h, "", nil, 0, err
	}
	for i, f := range []*uint32{&h.ino, &h.mode, &h.uid, &h.gid, &h.nlink, &h.mtime, &h.filesize,
		&h.major, &h.minor, &h.rmajor, &h.rminor, &h.namesize, &h.check} {
		*f = binary.BigEndian.Uint32(bin[4*i:])
	}
	rest := len(data) - pos - newcHeader
	if h.namesize < 2 || h.namesize > MaxPath+1 || int(h.namesize) > rest {
		return h, "", nil, 0, fmt.Errorf("name of %d bytes", h.namesize)
	}
	nameAt := pos + newcHeader
	end := nameAt + int(h.namesize)
	if data[end-1] != 0 {
		return h, "", nil, 0, errors.New("name without its NUL")
	}
	name = string(data[nameAt : end-1])
	bodyAt, err := skipPad(data, end)
	if err != nil {
		return h, "", nil, 0, err
	}
	if uint64(h.filesize) > uint64(len(data)-bodyAt) {
		return h, "", nil, 0, fmt.Errorf("%q: contents of %d bytes cut short", name, h.filesize)
	}
	bodyEnd := bodyAt + int(h.filesize)
	if h.filesize > 0 {
		body = data[bodyAt:bodyEnd:bodyEnd]
	}
	next, err = skipPad(data, bodyEnd)
	return h, name, body, next, err
}

// skipPad skips zero bytes up to the next multiple of 4.
func skipPad(data []byte, pos int) (int, error) {
	for ; pos%4 != 0; pos++ {
		if pos >= len(data) {
			return 0, errors.New("padding cut short")
		}
		if data[pos] != 0 {
			return 0, errors.New("padding is not zero")
		}
	}
	return pos, nil
}
