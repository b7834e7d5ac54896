package image

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/u-root/u-root/pkg/cpio"
)

// File types and bits of st_mode as newc stores them (stat(2)).
const (
	TypeMask    = 0o170000
	TypeRegular = 0o100000
	TypeDir     = 0o040000
	TypeSymlink = 0o120000
	TypeChar    = 0o020000
)

// Limits of an archive, for writing and for reading.
const (
	MaxEntries  = 1 << 16
	MaxPath     = 1024
	MaxContents = 1 << 30 // bytes of all files together
)

// ErrDuplicate is a path that is added twice.
var ErrDuplicate = errors.New("the path is in the image already")

// Entry is one file of an archive.
type Entry struct {
	Path         string // relative, clean, without a leading slash
	Mode         uint32 // type and permissions as in st_mode
	Data         []byte // contents, or a symlink's target
	Major, Minor uint32 // of a character device
}

// Archive collects entries; Write puts them out in path order.
type Archive struct {
	// MTime is the modification time of every entry, in seconds since 1970.
	MTime   uint32
	entries map[string]Entry
}

// CleanPath turns an absolute or relative image path into the archive's form,
// and refuses one that would name something else after cleaning.
func CleanPath(p string) (string, error) {
	rel := strings.TrimPrefix(p, "/")
	switch {
	case rel == "" || rel == "." || rel != path.Clean(rel) || rel == ".." || strings.HasPrefix(rel, "../") || strings.HasPrefix(rel, "/"):
		return "", fmt.Errorf("image path %q is not a plain path", p)
	case len(rel) > MaxPath:
		return "", fmt.Errorf("image path %.40q... is longer than %d bytes", p, MaxPath)
	case strings.ContainsFunc(rel, isControl) || !utf8.ValidString(rel):
		return "", fmt.Errorf("image path %q holds control characters or is not UTF-8", p)
	case rel == cpio.Trailer:
		return "", fmt.Errorf("image path %q ends a cpio archive", p)
	}
	return rel, nil
}

func isControl(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 }

// Add adds one entry; a path that is there already is ErrDuplicate.
func (a *Archive) Add(e Entry) error {
	rel, err := CleanPath(e.Path)
	if err != nil {
		return err
	}
	e.Path = rel
	if err := e.check(); err != nil {
		return err
	}
	if _, ok := a.entries[rel]; ok {
		return fmt.Errorf("adding %q: %w", "/"+rel, ErrDuplicate)
	}
	if a.entries == nil {
		a.entries = map[string]Entry{}
	}
	a.entries[rel] = e
	return nil
}

func (e Entry) check() error {
	var bad string
	switch e.Mode & TypeMask {
	case TypeRegular:
	case TypeDir:
		if len(e.Data) != 0 {
			bad = "a folder with contents"
		}
	case TypeSymlink:
		if len(e.Data) == 0 || len(e.Data) > MaxPath || bytes.ContainsFunc(e.Data, isControl) || !utf8.Valid(e.Data) {
			bad = "a symlink with an unusable target"
		} else if e.Mode != TypeSymlink|0o777 {
			bad = "a symlink whose mode is not 0777"
		}
	case TypeChar:
		if len(e.Data) != 0 {
			bad = "a device with contents"
		}
	default:
		bad = fmt.Sprintf("file type %#o", e.Mode&TypeMask)
	}
	switch {
	case bad != "":
	case e.Mode&^(TypeMask|0o7777) != 0:
		bad = fmt.Sprintf("mode %#o", e.Mode)
	case e.Mode&TypeMask != TypeChar && (e.Major != 0 || e.Minor != 0):
		bad = "a device number on something that is no device"
	case e.Major > 0xfff || e.Minor > 0xfffff:
		bad = "a device number out of range"
	}
	if bad != "" {
		return fmt.Errorf("image path %q: %s is not possible", "/"+e.Path, bad)
	}
	return nil
}

// AddFile, AddDir, AddSymlink and AddChar add one entry of that type.
func (a *Archive) AddFile(p string, perm uint32, data []byte) error {
	return a.Add(Entry{Path: p, Mode: TypeRegular | perm, Data: data})
}

// AddDir adds a folder.
func (a *Archive) AddDir(p string, perm uint32) error {
	return a.Add(Entry{Path: p, Mode: TypeDir | perm})
}

// AddSymlink adds a symlink at p that points to target.
func (a *Archive) AddSymlink(p, target string) error {
	return a.Add(Entry{Path: p, Mode: TypeSymlink | 0o777, Data: []byte(target)})
}

// AddChar adds a character device.
func (a *Archive) AddChar(p string, perm, major, minor uint32) error {
	return a.Add(Entry{Path: p, Mode: TypeChar | perm, Major: major, Minor: minor})
}

// Get returns the entry at p.
func (a *Archive) Get(p string) (Entry, bool) {
	e, ok := a.entries[strings.TrimPrefix(p, "/")]
	return e, ok
}

// Entries lists the archive in path order, which puts a folder before what is
// in it. Folders that nobody added are there with mode 0755.
func (a *Archive) Entries() ([]Entry, error) {
	all := make(map[string]Entry, len(a.entries))
	total := 0
	for p, e := range a.entries {
		all[p] = e
		total += len(e.Data)
		for dir := path.Dir(p); dir != "."; dir = path.Dir(dir) {
			parent, ok := a.entries[dir]
			if !ok {
				all[dir] = Entry{Path: dir, Mode: TypeDir | 0o755}
			} else if parent.Mode&TypeMask != TypeDir {
				return nil, fmt.Errorf("image path %q lies below %q, which is no folder", "/"+p, "/"+dir)
			}
		}
	}
	if len(all) > MaxEntries || total > MaxContents {
		return nil, fmt.Errorf("image has %d entries and %d bytes, more than %d or %d", len(all), total, MaxEntries, MaxContents)
	}
	list := make([]Entry, 0, len(all))
	for _, e := range all {
		list = append(list, e)
	}
	slices.SortFunc(list, func(x, y Entry) int { return strings.Compare(x.Path, y.Path) })
	return list, nil
}

// Write puts out the archive in newc form, with its trailer.
func (a *Archive) Write(w io.Writer) error {
	list, err := a.Entries()
	if err != nil {
		return err
	}
	out := cpio.Newc.Writer(w)
	for i, e := range list {
		info := cpio.Info{
			// An inode number of its own and a link count of 1: the kernel joins
			// files of equal number, and takes the content of only one of them.
			Ino: uint64(i + 1), NLink: 1,
			Mode: uint64(e.Mode), MTime: uint64(a.MTime), Name: e.Path,
			Rmajor: uint64(e.Major), Rminor: uint64(e.Minor),
		}
		rec := cpio.Record{Info: info}
		if len(e.Data) > 0 {
			rec = cpio.StaticRecord(e.Data, info)
		}
		if err := out.WriteRecord(rec); err != nil {
			return fmt.Errorf("writing %q: %w", "/"+e.Path, err)
		}
	}
	// One link, so that the trailer, too, is no candidate for joining.
	return out.WriteRecord(cpio.StaticRecord(nil, cpio.Info{Name: cpio.Trailer, NLink: 1}))
}
