// Package bolt is the store driver over bbolt: one file, one process, every
// write synced to disk before it returns. The file is locked while open, so
// that two servers cannot work on one state.
//
// What it does not do: erase. Deleted and replaced values stay in free pages
// of the file until these are used again; whoever seals values need not care.
package bolt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"attestbox/internal/store"
)

var bucket = []byte("attestbox/1")

// Store is an open bbolt file.
type Store struct{ db *bbolt.DB }

var _ store.Store = (*Store)(nil)

// Open opens or makes the file, mode 0600. A file that another process holds
// is store.ErrLocked after a second.
func Open(path string) (*Store, error) {
	if st, err := os.Stat(path); err == nil && st.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("opening state %q: mode %04o lets others read it, want 0600", path, st.Mode().Perm())
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second})
	if errors.Is(err, berrors.ErrTimeout) {
		return nil, fmt.Errorf("opening state %q: %w", path, store.ErrLocked)
	}
	if err != nil {
		return nil, fmt.Errorf("opening state %q: %w", path, err)
	}
	// Concurrent releases share one sync; a lone one waits this long for company.
	db.MaxBatchDelay = time.Millisecond
	if err := db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(bucket)
		return err
	}); err != nil {
		db.Close()
		return nil, fmt.Errorf("preparing state %q: %w", path, err)
	}
	return &Store{db}, nil
}

// Close closes the file and gives the lock back.
func (s *Store) Close() error { return s.db.Close() }

func (s *Store) Get(ctx context.Context, key string) (value []byte, err error) {
	if err := first(ctx.Err(), store.CheckKey(key)); err != nil {
		return nil, err
	}
	err = s.db.View(func(tx *bbolt.Tx) error {
		v := tx.Bucket(bucket).Get([]byte(key))
		if v == nil {
			return fmt.Errorf("%q: %w", key, store.ErrNotFound)
		}
		value = bytes.Clone(v)
		return nil
	})
	return value, err
}

func (s *Store) Create(ctx context.Context, key string, value []byte) error {
	if err := first(ctx.Err(), store.Check(key, value)); err != nil {
		return err
	}
	return s.db.Batch(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucket)
		if b.Get([]byte(key)) != nil {
			return fmt.Errorf("%q: %w", key, store.ErrExists)
		}
		return b.Put([]byte(key), value)
	})
}

func (s *Store) Replace(ctx context.Context, key string, old, value []byte) error {
	if err := first(ctx.Err(), store.Check(key, value)); err != nil {
		return err
	}
	return s.swap(key, old, func(b *bbolt.Bucket) error { return b.Put([]byte(key), value) })
}

func (s *Store) Delete(ctx context.Context, key string, old []byte) error {
	if err := first(ctx.Err(), store.CheckKey(key)); err != nil {
		return err
	}
	return s.swap(key, old, func(b *bbolt.Bucket) error { return b.Delete([]byte(key)) })
}

func (s *Store) swap(key string, old []byte, f func(*bbolt.Bucket) error) error {
	return s.db.Batch(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucket)
		switch v := b.Get([]byte(key)); {
		case v == nil:
			return fmt.Errorf("%q: %w", key, store.ErrNotFound)
		case !bytes.Equal(v, old):
			return fmt.Errorf("%q: %w", key, store.ErrConflict)
		}
		return f(b)
	})
}

func (s *Store) List(ctx context.Context, prefix, after string, limit int) (keys []string, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	limit = store.Limit(limit)
	err = s.db.View(func(tx *bbolt.Tx) error {
		c := tx.Bucket(bucket).Cursor()
		for k, _ := c.Seek([]byte(max(prefix, after))); k != nil && len(keys) < limit; k, _ = c.Next() {
			key := string(k)
			if !strings.HasPrefix(key, prefix) {
				if key > prefix {
					break
				}
				continue
			}
			if key > after {
				keys = append(keys, key)
			}
		}
		return nil
	})
	return keys, err
}

func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
