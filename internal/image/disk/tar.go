package disk

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"attestbox/internal/applet"
)

// openTar unpacks a tarball below a tmpfs folder; only names and contents go
// there, owners, modes and devices are set by debugfs.
func openTar(from, temp string, size int64) (_ *source, err error) {
	if temp == "" {
		temp = "/dev/shm"
	}
	if err := applet.CheckTmpfs(temp); err != nil {
		return nil, applet.WithHint(fmt.Errorf("unpacking %q: %w", from, err), "name a tmpfs folder with -tmp")
	}
	f, err := os.Open(from)
	if err != nil {
		return nil, fmt.Errorf("reading source: %w", err)
	}
	defer f.Close()
	r, err := decompress(f)
	if err != nil {
		return nil, fmt.Errorf("reading %q: %w", from, err)
	}
	defer r.Close()
	top, err := os.MkdirTemp(temp, "attestbox-disk-") // mode 0700
	if err != nil {
		return nil, fmt.Errorf("unpacking %q: %w", from, err)
	}
	s := &source{dir: filepath.Join(top, "root"), close: func() { os.RemoveAll(top) }}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if err := os.Mkdir(s.dir, 0o700); err != nil {
		return nil, fmt.Errorf("unpacking %q: %w", from, err)
	}
	root, err := os.OpenRoot(s.dir) // no name and no link leads out of it
	if err != nil {
		return nil, fmt.Errorf("unpacking %q: %w", from, err)
	}
	defer root.Close()
	u := &unpacker{root: root, top: top, left: size, entries: map[string]*entry{}}
	u.entries["/"] = &entry{path: "/", mode: fs.ModeDir | 0o755}
	if err := u.all(tar.NewReader(r)); err != nil {
		return nil, fmt.Errorf("unpacking %q: %w", from, err)
	}
	if len(u.entries) == 1 {
		return nil, fmt.Errorf("%w: %q %w", ErrSource, from, errEmpty)
	}
	for _, e := range u.entries {
		s.entries = append(s.entries, *e)
	}
	sort.Slice(s.entries, func(i, j int) bool { return s.entries[i].path < s.entries[j].path })
	return s, nil
}

// decompress finds gzip and zstd by their magic.
func decompress(f io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(f, 1<<16)
	magic, err := b.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case strings.HasPrefix(string(magic), "\x1f\x8b"):
		return gzip.NewReader(b)
	case string(magic) == "\x28\xb5\x2f\xfd":
		z, err := zstd.NewReader(b)
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	}
	return io.NopCloser(b), nil
}

type unpacker struct {
	root    *os.Root
	top     string
	entries map[string]*entry // one per inode: hard links are their target's
	xattrs  int
	left    int64 // bytes of the image that are not spoken for
}

// What one entry takes at least, in bytes: its inode; and the longest path
// that Linux takes.
const (
	perEntry = 256
	maxPath  = 4096
)

// take counts bytes against the image's size. A few bytes of a compressed
// tarball, or a sparse file, can stand for more than there is memory.
func (u *unpacker) take(n int64) error {
	if n > u.left {
		return fmt.Errorf("%w: the contents up to here do not fit in the image", ErrSource)
	}
	u.left -= n
	return nil
}

func (u *unpacker) all(t *tar.Reader) error {
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := u.one(t, h); err != nil {
			return fmt.Errorf("%q: %w", h.Name, err)
		}
	}
}

// clean is the entry's path from the image's root, refusing "..".
func clean(name string) (string, error) {
	if len(name) > maxPath {
		return "", fmt.Errorf("%w: name of %d bytes", ErrSource, len(name))
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", fmt.Errorf("%w: name leads upwards", ErrSource)
		}
	}
	return path.Join("/", name), nil
}

func (u *unpacker) one(r io.Reader, h *tar.Header) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	p, err := clean(h.Name)
	if err != nil {
		return err
	}
	if err := u.take(perEntry + h.Size); err != nil {
		return err
	}
	const maxID = 1<<32 - 2
	if h.Uid < 0 || h.Gid < 0 || h.Uid > maxID || h.Gid > maxID {
		return fmt.Errorf("%w: owner %d:%d", ErrSource, h.Uid, h.Gid)
	}
	rel := strings.TrimPrefix(p, "/")
	if rel == "" {
		rel = "."
	}
	mode := h.FileInfo().Mode()
	e := &entry{path: p, mode: mode, uid: h.Uid, gid: h.Gid, mtime: h.ModTime.Truncate(time.Second)}
	if err := u.parents(path.Dir(p), e.mtime); err != nil {
		return err
	}
	if old := u.entries[p]; old != nil && !(old.mode.IsDir() && mode.IsDir()) {
		return fmt.Errorf("%w: it is in the tarball twice", ErrSource)
	}
	switch h.Typeflag {
	case tar.TypeDir:
		if err := u.root.Mkdir(rel, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	case tar.TypeReg, tar.TypeGNUSparse:
		f, err := u.root.OpenFile(rel, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		if _, err := io.Copy(f, r); err != nil {
			f.Close()
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	case tar.TypeSymlink:
		if err := u.root.Symlink(h.Linkname, rel); err != nil {
			return err
		}
	case tar.TypeLink:
		target, err := clean(h.Linkname)
		if err != nil {
			return err
		}
		if t := u.entries[target]; t == nil || !t.mode.IsRegular() {
			return fmt.Errorf("%w: hard link to %q, which is no earlier file", ErrSource, h.Linkname)
		}
		return u.root.Link(strings.TrimPrefix(target, "/"), rel)
	case tar.TypeChar:
		e.create = debugfsCommand{"mknod", fmt.Sprintf("c %d %d", h.Devmajor, h.Devminor)}
	case tar.TypeBlock:
		e.create = debugfsCommand{"mknod", fmt.Sprintf("b %d %d", h.Devmajor, h.Devminor)}
	case tar.TypeFifo:
		e.create = debugfsCommand{"mknod", "p"}
	default:
		return fmt.Errorf("%w: entry of type %q", ErrSource, h.Typeflag)
	}
	if err := u.xattr(e, h.PAXRecords); err != nil {
		return err
	}
	u.entries[p] = e
	return nil
}

// parents makes folders that the tarball does not name; they are root's, 0755.
func (u *unpacker) parents(dir string, mtime time.Time) error {
	if e := u.entries[dir]; e != nil {
		if !e.mode.IsDir() {
			return fmt.Errorf("%w: %q is no folder", ErrSource, dir)
		}
		return nil
	}
	if err := u.parents(path.Dir(dir), mtime); err != nil {
		return err
	}
	if err := u.take(perEntry); err != nil {
		return err
	}
	u.entries[dir] = &entry{path: dir, mode: fs.ModeDir | 0o755, mtime: mtime}
	return u.root.Mkdir(strings.TrimPrefix(dir, "/"), 0o700)
}

// xattr keeps extended attributes (file capabilities, mostly) for debugfs,
// which takes their values from files.
func (u *unpacker) xattr(e *entry, pax map[string]string) error {
	const prefix = "SCHILY.xattr."
	var names []string
	for k := range pax {
		if strings.HasPrefix(k, prefix) {
			names = append(names, k)
		}
	}
	sort.Strings(names)
	for _, k := range names {
		name := strings.TrimPrefix(k, prefix)
		if strings.ContainsFunc(name, func(r rune) bool { return r <= 0x20 || r >= 0x7f || r == '"' }) {
			return fmt.Errorf("%w: extended attribute %q", ErrSource, name)
		}
		file := filepath.Join(u.top, "xattr"+strconv.Itoa(u.xattrs))
		u.xattrs++
		if err := u.take(int64(len(pax[k]))); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(pax[k]), 0o600); err != nil {
			return err
		}
		e.xattrs = append(e.xattrs, xattr{name, file})
	}
	return nil
}
