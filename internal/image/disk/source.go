package disk

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// entry is one inode of the image by path ("/" for the root).
type entry struct {
	path     string
	mode     fs.FileMode
	uid, gid int
	mtime    time.Time
	device   string  // for debugfs's mknod: "c 1 3", "p"; empty if staged as a file
	xattrs   []xattr // only what is not on the staged file
}

type xattr struct{ name, file string }

// source is a folder for mke2fs -d and what debugfs has to set afterwards.
type source struct {
	dir     string
	entries []entry // parents before children; a hard link only once
	close   func()
}

// openSource takes a folder as it is and unpacks a tarball, of which at most
// size bytes go to memory.
func openSource(o *Options, size int64) (*source, error) {
	if o.From == "" && o.Empty {
		return emptySource()
	}
	from, temp := o.From, o.TempDir
	st, err := os.Stat(from)
	if err != nil {
		return nil, fmt.Errorf("reading source: %w", err)
	}
	if !st.IsDir() {
		return openTar(from, temp, size)
	}
	if from, err = filepath.EvalSymlinks(from); err != nil { // WalkDir does not follow
		return nil, fmt.Errorf("reading source: %w", err)
	}
	s := &source{dir: from, close: func() {}}
	// A user's own files have the user's owner; in the image they are root's.
	keep := os.Geteuid() == 0
	type inode struct{ dev, ino uint64 }
	seen := map[inode]bool{}
	err = filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		sys := fi.Sys().(*syscall.Stat_t)
		if fi.Mode()&fs.ModeSocket != 0 {
			return nil // mke2fs leaves sockets out
		}
		if !fi.IsDir() && sys.Nlink > 1 {
			i := inode{uint64(sys.Dev), sys.Ino}
			if seen[i] {
				return nil
			}
			seen[i] = true
		}
		rel, err := filepath.Rel(from, p)
		if err != nil {
			return err
		}
		e := entry{path: filepath.Join("/", rel), mode: fi.Mode(), mtime: fi.ModTime().Truncate(time.Second)}
		if keep {
			e.uid, e.gid = int(sys.Uid), int(sys.Gid)
		}
		s.entries = append(s.entries, e)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading source: %w", err)
	}
	if len(s.entries) == 1 {
		return nil, fmt.Errorf("%w: %q %w", ErrSource, from, errEmpty)
	}
	return s, nil
}

// emptySource is a file system with nothing in it, as old as the epoch.
func emptySource() (*source, error) {
	dir, err := os.MkdirTemp("", "attestbox-empty-")
	if err != nil {
		return nil, fmt.Errorf("making an empty source: %w", err)
	}
	return &source{dir: dir, entries: []entry{{path: "/", mode: fs.ModeDir | 0o755}}, close: func() { os.Remove(dir) }}, nil
}
