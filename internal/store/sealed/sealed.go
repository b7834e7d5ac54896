// Package sealed encrypts the values of a store, so that a copy of the state
// alone opens nothing.
//
//	seal key (file, passphrase or platform) --KDF--> key-encryption key
//	key-encryption key --AES-256-GCM--> master key, in the value "meta/seal"
//	master key --HKDF-SHA-256, info = domain string and key name--> value key
//	value key --AES-256-GCM, random nonce, associated data = key name--> value
//
// A sealed value is nonce (12 bytes), ciphertext, tag (16 bytes). Since both
// the value key and the associated data name the store's key, a value opens
// under its own name alone and cannot be moved to another.
//
// What it does not do: detect that the whole state, or one value of it, was
// set back to an older version of itself; hide names, sizes and the number of
// values; protect a running process.
package sealed

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"

	"attestbox/internal/secret"
	"attestbox/internal/store"
)

const (
	domainValue = "attestbox/state/value/1/"
	nonceSize   = 12
	tagSize     = 16
)

// ErrSealKey is a seal key that does not open this state.
var ErrSealKey = store.ErrSealKey

// ErrTampered is a value that was changed or moved from another name.
var ErrTampered = errors.New("value does not open: it was changed, or moved here from another name")

// Store is a store whose values are sealed. Names are as in store.
type Store struct {
	raw    store.Store
	master *secret.Bytes // owned; zeroed by Close
}

// Version is the sealed form of the value that was read; Replace and Delete
// compare with it. Every write makes another one, even of the same value.
type Version []byte

// Close wipes the master key and closes the store below.
func (s *Store) Close() error {
	s.master.Zero()
	return s.raw.Close()
}

func (s *Store) aead(key string) (cipher.AEAD, error) {
	if s.master.Len() != masterSize {
		return nil, errors.New("the sealed state is closed")
	}
	k, err := hkdf.Key(sha256.New, s.master.Bytes(), nil, domainValue+key, 32)
	if err != nil {
		return nil, err
	}
	defer clear(k)
	// The cipher's key schedule stays on the heap until it is collected.
	block, err := aes.NewCipher(k)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

func (s *Store) seal(key string, plain []byte) ([]byte, error) {
	if len(plain) > store.MaxValue-nonceSize-tagSize {
		return nil, fmt.Errorf("%w: value of %q has %d bytes, at most %d", store.ErrInvalid, key, len(plain), store.MaxValue-nonceSize-tagSize)
	}
	aead, err := s.aead(key)
	if err != nil {
		return nil, err
	}
	out := make([]byte, nonceSize, nonceSize+len(plain)+tagSize)
	rand.Read(out)
	return aead.Seal(out, out, plain, []byte(key)), nil
}

// Get opens a value that is not secret.
func (s *Store) Get(ctx context.Context, key string) ([]byte, Version, error) {
	return s.get(ctx, key, func(int) []byte { return nil })
}

// GetSecret opens a value straight into a secret, which the caller zeroes.
func (s *Store) GetSecret(ctx context.Context, key string) (*secret.Bytes, Version, error) {
	var out *secret.Bytes
	_, v, err := s.get(ctx, key, func(n int) []byte {
		out = secret.New(n)
		return out.Bytes()[:0]
	})
	if err != nil {
		out.Zero()
		return nil, nil, err
	}
	return out, v, nil
}

func (s *Store) get(ctx context.Context, key string, dst func(int) []byte) ([]byte, Version, error) {
	raw, err := s.raw.Get(ctx, key)
	if err != nil {
		return nil, nil, err
	}
	if len(raw) < nonceSize+tagSize {
		return nil, nil, fmt.Errorf("%q: %w", key, ErrTampered)
	}
	aead, err := s.aead(key)
	if err != nil {
		return nil, nil, err
	}
	plain, err := aead.Open(dst(len(raw)-nonceSize-tagSize), raw[:nonceSize], raw[nonceSize:], []byte(key))
	if err != nil {
		return nil, nil, fmt.Errorf("%q: %w", key, ErrTampered)
	}
	return plain, raw, nil
}

// Create seals a new value: store.ErrExists.
func (s *Store) Create(ctx context.Context, key string, plain []byte) error {
	b, err := s.seal(key, plain)
	if err != nil {
		return err
	}
	return s.raw.Create(ctx, key, b)
}

// Replace seals a value over the version that was read: store.ErrConflict.
func (s *Store) Replace(ctx context.Context, key string, old Version, plain []byte) error {
	b, err := s.seal(key, plain)
	if err != nil {
		return err
	}
	return s.raw.Replace(ctx, key, old, b)
}

// Delete removes the version that was read: store.ErrConflict.
func (s *Store) Delete(ctx context.Context, key string, old Version) error {
	return s.raw.Delete(ctx, key, old)
}

// All walks the names with a prefix.
func (s *Store) All(ctx context.Context, prefix string, f func(key string) error) error {
	return store.All(ctx, s.raw, prefix, f)
}

// List is store.Store's: names are not sealed.
func (s *Store) List(ctx context.Context, prefix, after string, limit int) ([]string, error) {
	return s.raw.List(ctx, prefix, after, limit)
}
