// Package store is the contract between servers and whatever keeps their
// state: named values with compare-and-swap. Drivers lie in folders below it
// and pass one conformance test (storetest); servers know this package alone.
//
// A write that returned nil is durable. Values are opaque here: secrecy and
// integrity are the caller's (see package sealed).
package store

import (
	"context"
	"errors"
	"fmt"

	"attestbox/internal/form"
)

// Limits that every driver enforces.
const (
	// MaxKey bounds a key, in bytes.
	MaxKey = 200
	// MaxValue bounds a value, in bytes.
	MaxValue = 256 << 10
	// MaxList bounds one answer of List.
	MaxList = 1000
)

// Sentinels, wrapped with the key by drivers.
var (
	ErrNotFound = errors.New("not found")
	ErrExists   = errors.New("exists already")
	ErrConflict = errors.New("was changed by somebody else")
	ErrInvalid  = errors.New("key or value outside the limits")
	ErrLocked   = errors.New("in use by another process")
)

// Store keeps named values. All methods may be called concurrently.
// ErrSealKey is a seal key that does not open a sealed store (package sealed).
// It stands here for the platforms that derive such keys.
var ErrSealKey = errors.New("the seal key does not open this state")

type Store interface {
	// Get returns a copy of the value: ErrNotFound without one.
	Get(ctx context.Context, key string) ([]byte, error)
	// Create writes a value that must not exist: ErrExists.
	Create(ctx context.Context, key string, value []byte) error
	// Replace writes value if the present one equals old, byte for byte:
	// ErrConflict if it differs, ErrNotFound if there is none.
	Replace(ctx context.Context, key string, old, value []byte) error
	// Delete removes the value if it equals old; errors as of Replace.
	Delete(ctx context.Context, key string, old []byte) error
	// List returns up to limit keys (at most MaxList) that begin with prefix
	// and sort after the key after, in order. "" means all, from the start.
	List(ctx context.Context, prefix, after string, limit int) ([]string, error)
	// Close gives the state back. Further calls fail.
	Close() error
}

var keyFirst, keyRest = form.Chars("a-z0-9"), form.Chars("a-z0-9._-")

// CheckKey says whether key is a valid name: segments of lower-case letters,
// digits, dot, underscore and hyphen, separated by slashes, each beginning
// with a letter or digit.
func CheckKey(key string) error {
	if len(key) > MaxKey || !form.Words(key, "/", keyFirst, keyRest) {
		return fmt.Errorf("%w: key %.80q", ErrInvalid, key)
	}
	return nil
}

// Check is CheckKey and the limit on values; an empty value is not one.
func Check(key string, value []byte) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	if len(value) == 0 || len(value) > MaxValue {
		return fmt.Errorf("%w: value of %q has %d bytes, allowed are 1 to %d", ErrInvalid, key, len(value), MaxValue)
	}
	return nil
}

// Limit is the number of keys that List may return for limit.
func Limit(limit int) int {
	if limit <= 0 || limit > MaxList {
		return MaxList
	}
	return limit
}

// All walks every key with the prefix, page by page, until f fails.
func All(ctx context.Context, s Store, prefix string, f func(key string) error) error {
	after := ""
	for {
		keys, err := s.List(ctx, prefix, after, MaxList)
		if err != nil {
			return err
		}
		for _, k := range keys {
			if err := f(k); err != nil {
				return err
			}
			after = k
		}
		if len(keys) < MaxList {
			return nil
		}
	}
}
