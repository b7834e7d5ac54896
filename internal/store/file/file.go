// Package file is the store driver over a folder: one file per key, written
// to a temporary name, synced and renamed. A lock file orders writers of any
// number of processes. For small states that people want to look into.
package file

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"attestbox/internal/store"
)

// Store is an open folder.
type Store struct {
	mu   sync.Mutex // flock orders processes, mu orders this one
	dir  string
	lock *os.File
}

var _ store.Store = (*Store)(nil)

const lockName = ".lock" // no key begins with a dot

// Open opens or makes the folder, mode 0700.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("opening state %q: %w", dir, err)
	}
	st, err := os.Stat(dir)
	if err != nil {
		return nil, fmt.Errorf("opening state %q: %w", dir, err)
	}
	if st.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("opening state %q: mode %04o lets others in, want 0700", dir, st.Mode().Perm())
	}
	lock, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening state %q: %w", dir, err)
	}
	return &Store{dir: dir, lock: lock}, nil
}

// Close gives the folder back.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lock.Close()
}

// A slash in a key is "=" in the file's name, which no key contains.
func (s *Store) path(key string) string {
	return filepath.Join(s.dir, strings.ReplaceAll(key, "/", "="))
}

// locked runs f alone among all writers of the folder.
func (s *Store) locked(ctx context.Context, f func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := unix.Flock(int(s.lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("locking state %q: %w", s.dir, err)
	}
	defer unix.Flock(int(s.lock.Fd()), unix.LOCK_UN)
	return f()
}

func (s *Store) read(key string) ([]byte, error) {
	f, err := os.Open(s.path(key))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%q: %w", key, store.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, store.MaxValue+1))
	if err != nil {
		return nil, fmt.Errorf("reading %q: %w", key, err)
	}
	return b, store.Check(key, b)
}

func (s *Store) Get(ctx context.Context, key string) ([]byte, error) {
	if err := store.CheckKey(key); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return s.read(key) // rename is atomic: no lock needed
}

func (s *Store) Create(ctx context.Context, key string, value []byte) error {
	if err := store.Check(key, value); err != nil {
		return err
	}
	return s.locked(ctx, func() error {
		if _, err := os.Lstat(s.path(key)); err == nil {
			return fmt.Errorf("%q: %w", key, store.ErrExists)
		}
		return s.write(key, value)
	})
}

func (s *Store) Replace(ctx context.Context, key string, old, value []byte) error {
	if err := store.Check(key, value); err != nil {
		return err
	}
	return s.locked(ctx, func() error {
		if err := s.compare(key, old); err != nil {
			return err
		}
		return s.write(key, value)
	})
}

func (s *Store) Delete(ctx context.Context, key string, old []byte) error {
	if err := store.CheckKey(key); err != nil {
		return err
	}
	return s.locked(ctx, func() error {
		if err := s.compare(key, old); err != nil {
			return err
		}
		if err := os.Remove(s.path(key)); err != nil {
			return fmt.Errorf("deleting %q: %w", key, err)
		}
		return s.sync()
	})
}

func (s *Store) compare(key string, old []byte) error {
	v, err := s.read(key)
	if err != nil {
		return err
	}
	if !bytes.Equal(v, old) {
		return fmt.Errorf("%q: %w", key, store.ErrConflict)
	}
	return nil
}

func (s *Store) write(key string, value []byte) error {
	f, err := renameio.NewPendingFile(s.path(key), renameio.WithPermissions(0o600), renameio.WithTempDir(s.dir), renameio.IgnoreUmask())
	if err != nil {
		return fmt.Errorf("writing %q: %w", key, err)
	}
	defer f.Cleanup()
	if _, err := f.Write(value); err != nil {
		return fmt.Errorf("writing %q: %w", key, err)
	}
	if err := f.CloseAtomicallyReplace(); err != nil { // syncs the file
		return fmt.Errorf("writing %q: %w", key, err)
	}
	return s.sync()
}

// sync makes the rename itself durable.
func (s *Store) sync() error {
	d, err := os.Open(s.dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func (s *Store) List(ctx context.Context, prefix, after string, limit int) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("listing state %q: %w", s.dir, err)
	}
	var keys []string
	for _, e := range entries {
		key := strings.ReplaceAll(e.Name(), "=", "/")
		if store.CheckKey(key) == nil && strings.HasPrefix(key, prefix) && key > after {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys[:min(len(keys), store.Limit(limit))], nil
}
