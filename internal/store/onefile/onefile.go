// Package onefile is the store driver over a single file: a whole new file is
// written for every change, synced and renamed over the old one. A lock file
// beside it orders writers of any number of processes. For small states, such
// as a cryptstore that lies on a VM's disk.
//
// File, integers little-endian:
//
//	offset  size  field
//	0       16    magic "attestbox-file1\n"
//	16      4     number of values
//	        2+n   key      } of each value, in ascending
//	        4+n   value    } order of keys
//
// A file that was cut or has something behind the last value is refused. It is
// not authenticated: who can write it can change it (see package cryptstore).
package onefile

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"attestbox/internal/store"
)

const magic = "attestbox-file1\n"

// MaxFile bounds the file, in bytes.
const MaxFile = 64 << 20

// ErrFormat is a file that is not a store, or was cut.
var ErrFormat = errors.New("not a store file, or it was cut")

// Store is an open file.
type Store struct {
	mu     sync.Mutex // flock orders processes, mu orders this one
	path   string
	lock   *os.File
	before func(step string) error
}

var _ store.Store = (*Store)(nil)

// Option changes Open.
type Option func(*Store)

// Before has f called in front of each step of a write ("create", "write",
// "write-half", "sync", "rename", "sync-dir"), and the write ends there if f
// fails: for tests of what a crash leaves.
func Before(f func(step string) error) Option { return func(s *Store) { s.before = f } }

// Open opens the store in a file, which the first write makes, mode 0600. A
// file that others may read is refused, as is one that is not a store.
func Open(path string, opts ...Option) (*Store, error) {
	s := &Store{path: path, before: func(string) error { return nil }}
	for _, o := range opts {
		o(s)
	}
	if st, err := os.Stat(path); err == nil {
		switch {
		case !st.Mode().IsRegular():
			return nil, fmt.Errorf("opening store %q: not a regular file", path)
		case st.Mode().Perm()&0o077 != 0:
			return nil, fmt.Errorf("opening store %q: mode %04o lets others in, want 0600", path, st.Mode().Perm())
		}
	}
	if _, err := s.read(); err != nil {
		return nil, fmt.Errorf("opening store %q: %w", path, err)
	}
	dir, base := filepath.Split(path)
	lock, err := os.OpenFile(filepath.Join(dir, "."+base+".lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening store %q: %w", path, err)
	}
	s.lock = lock
	return s, nil
}

// Close gives the file back.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lock.Close()
}

type value struct {
	key string
	val []byte
}

// values are in ascending order of keys.
type values []value

func (v values) find(key string) (int, bool) {
	return slices.BinarySearchFunc(v, key, func(e value, key string) int { return strings.Compare(e.key, key) })
}

func (s *Store) read() (values, error) {
	f, err := os.Open(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	if err != nil {
		return nil, err
	}
	return parse(b)
}

func parse(b []byte) (values, error) {
	if len(b) < len(magic)+4 || len(b) > MaxFile || string(b[:len(magic)]) != magic {
		return nil, ErrFormat
	}
	le := binary.LittleEndian
	n := le.Uint32(b[len(magic):])
	b = b[len(magic)+4:]
	if int64(n)*8 > int64(len(b)) { // the shortest value has a byte, as has its key
		return nil, ErrFormat
	}
	out := make(values, 0, n)
	for range n {
		if len(b) < 2 {
			return nil, ErrFormat
		}
		k := int(le.Uint16(b))
		if len(b) < 2+k+4 {
			return nil, ErrFormat
		}
		key := string(b[2 : 2+k])
		b = b[2+k:]
		size := le.Uint32(b)
		if b = b[4:]; uint64(size) > uint64(len(b)) {
			return nil, ErrFormat
		}
		val := b[:size:size]
		b = b[size:]
		if store.Check(key, val) != nil || len(out) > 0 && out[len(out)-1].key >= key {
			return nil, ErrFormat
		}
		out = append(out, value{key, val})
	}
	if len(b) > 0 {
		return nil, ErrFormat
	}
	return out, nil
}

func (v values) marshal() []byte {
	le := binary.LittleEndian
	b := le.AppendUint32([]byte(magic), uint32(len(v)))
	for _, e := range v {
		b = append(le.AppendUint16(b, uint16(len(e.key))), e.key...)
		b = append(le.AppendUint32(b, uint32(len(e.val))), e.val...)
	}
	return b
}

func (s *Store) Get(ctx context.Context, key string) ([]byte, error) {
	if err := store.CheckKey(key); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	v, err := s.read() // rename is atomic: no lock needed
	if err != nil {
		return nil, fmt.Errorf("reading %q: %w", s.path, err)
	}
	i, ok := v.find(key)
	if !ok {
		return nil, fmt.Errorf("%q: %w", key, store.ErrNotFound)
	}
	return bytes.Clone(v[i].val), nil
}

func (s *Store) Create(ctx context.Context, key string, val []byte) error {
	if err := store.Check(key, val); err != nil {
		return err
	}
	return s.change(ctx, func(v values) (values, error) {
		i, ok := v.find(key)
		if ok {
			return nil, fmt.Errorf("%q: %w", key, store.ErrExists)
		}
		return slices.Insert(v, i, value{key, val}), nil
	})
}

func (s *Store) Replace(ctx context.Context, key string, old, val []byte) error {
	if err := store.Check(key, val); err != nil {
		return err
	}
	return s.change(ctx, func(v values) (values, error) {
		i, err := v.compare(key, old)
		if err != nil {
			return nil, err
		}
		v[i].val = val
		return v, nil
	})
}

func (s *Store) Delete(ctx context.Context, key string, old []byte) error {
	if err := store.CheckKey(key); err != nil {
		return err
	}
	return s.change(ctx, func(v values) (values, error) {
		i, err := v.compare(key, old)
		if err != nil {
			return nil, err
		}
		return slices.Delete(v, i, i+1), nil
	})
}

func (v values) compare(key string, old []byte) (int, error) {
	i, ok := v.find(key)
	switch {
	case !ok:
		return 0, fmt.Errorf("%q: %w", key, store.ErrNotFound)
	case !bytes.Equal(v[i].val, old):
		return 0, fmt.Errorf("%q: %w", key, store.ErrConflict)
	}
	return i, nil
}

func (s *Store) List(ctx context.Context, prefix, after string, limit int) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	v, err := s.read()
	if err != nil {
		return nil, fmt.Errorf("reading %q: %w", s.path, err)
	}
	var keys []string
	for _, e := range v {
		if strings.HasPrefix(e.key, prefix) && e.key > after {
			keys = append(keys, e.key)
		}
	}
	return keys[:min(len(keys), store.Limit(limit))], nil
}

// change runs f alone among all writers and writes what it returns.
func (s *Store) change(ctx context.Context, f func(values) (values, error)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := unix.Flock(int(s.lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("locking store %q: %w", s.path, err)
	}
	defer unix.Flock(int(s.lock.Fd()), unix.LOCK_UN)
	v, err := s.read()
	if err != nil {
		return fmt.Errorf("reading %q: %w", s.path, err)
	}
	if v, err = f(v); err != nil {
		return err
	}
	if err := s.write(v.marshal()); err != nil {
		return fmt.Errorf("writing store %q: %w", s.path, err)
	}
	return nil
}

// tempName is one name, for the lock leaves one writer at a time: what a crash
// left is overwritten.
func (s *Store) tempName() string {
	dir, base := filepath.Split(s.path)
	return filepath.Join(dir, "."+base+".new")
}

func (s *Store) write(b []byte) error {
	if len(b) > MaxFile {
		return fmt.Errorf("%w: %d bytes, at most %d", store.ErrInvalid, len(b), MaxFile)
	}
	var f *os.File
	defer func() {
		if f != nil {
			f.Close()
		}
	}()
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"create", func() (err error) {
			if err := os.Remove(s.tempName()); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			f, err = os.OpenFile(s.tempName(), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			return err
		}},
		{"write", func() error { _, err := f.Write(b[:len(b)/2]); return err }},
		{"write-half", func() error { _, err := f.Write(b[len(b)/2:]); return err }},
		{"sync", func() error { return f.Sync() }},
		{"rename", func() error { return os.Rename(s.tempName(), s.path) }},
		{"sync-dir", func() error {
			d, err := os.Open(filepath.Dir(s.path))
			if err != nil {
				return err
			}
			defer d.Close()
			return d.Sync()
		}},
	} {
		if err := s.before(step.name); err != nil {
			return err
		}
		if err := step.do(); err != nil {
			return err
		}
	}
	return nil
}
