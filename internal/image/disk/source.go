package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"attestbox/internal/bootcount"
)

// entry is one inode of the image by path ("/" for the root).
type entry struct {
	path     string
	mode     fs.FileMode
	uid, gid int
	mtime    time.Time
	create   debugfsCommand // empty if staged as a file
	xattrs   []xattr        // only what is not on the staged file
}

// debugfsCommand makes an inode: what stands before its name and after it,
// "mknod" and "c 1 3".
type debugfsCommand struct{ before, after string }

type xattr struct{ name, file string }

// source is a folder for mke2fs -d and what debugfs has to set afterwards.
type source struct {
	dir     string
	entries []entry // parents before children; a hard link only once
	close   func()
}

// ownFolder is where attestbox keeps what it needs to know about a volume.
const ownFolder = "/" + bootcount.Dir

// addInstance adds the file that names the volume's instance, which init
// compares with its own.
func (s *source) addInstance(o *Options, mtime time.Time) error {
	for i := range s.entries {
		// A counter that some other volume had would stop the first boot.
		if s.entries[i].path == ownFolder {
			return fmt.Errorf("%w: it has a folder %s, which another volume's boots wrote; remove it there", ErrSource, ownFolder)
		}
	}
	if o.Instance == nil {
		return nil
	}
	f, err := os.CreateTemp("", "attestbox-instance-")
	if err != nil {
		return fmt.Errorf("naming the instance: %w", err)
	}
	after := s.close
	s.close = func() { os.Remove(f.Name()); after() }
	_, err = f.Write(bootcount.MarshalID(*o.Instance))
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("naming the instance: %w", err)
	}
	name, err := quote(f.Name())
	if err != nil {
		return err
	}
	s.entries = append(s.entries,
		entry{path: ownFolder, mode: fs.ModeDir | 0o700, mtime: mtime, create: debugfsCommand{before: "mkdir"}},
		entry{path: ownFolder + "/" + bootcount.InstanceFile, mode: 0o400, mtime: mtime, create: debugfsCommand{before: "write " + name}})
	return nil
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
