package cryptstore

import (
	"context"
	"errors"
	"fmt"

	"attestbox/internal/secret"
)

// Item is what Put writes.
type Item struct {
	Tag  string
	Type Type
	// Version 0 is the next one; another must be above every earlier one.
	Version    int
	Exportable bool
	Value      *secret.Bytes // stays the caller's
}

// Put writes a new version of an entry: ErrExists for a version that exists,
// ErrVersion for one below the highest that ever was.
func (s *Store) Put(ctx context.Context, it Item) (Entry, error) {
	return s.put(ctx, it, "")
}

func (s *Store) put(ctx context.Context, it Item, alg Alg) (e Entry, err error) {
	if err := CheckTag(it.Tag); err != nil {
		return e, err
	}
	if err := CheckValue(it.Type, it.Value); err != nil {
		return e, fmt.Errorf("%s %s: %w", it.Type, it.Tag, err)
	}
	s.write.Lock()
	defer s.write.Unlock()
	err = s.update(ctx, func(t *tx) error {
		highest := t.index.highest(it.Tag, it.Type)
		version := it.Version
		if version == 0 {
			version = highest + 1
		}
		e = Entry{Tag: it.Tag, Type: it.Type, Version: version, Time: t.now, Exportable: it.Exportable, Alg: alg, Size: it.Value.Len()}
		if version < 1 || version > MaxVersion {
			return fmt.Errorf("%w: version %d", ErrInvalid, version)
		}
		if version <= highest {
			if _, err := t.index.find(it.Tag, it.Type, version); err == nil {
				return fmt.Errorf("%s: %w", e, ErrExists)
			}
			return fmt.Errorf("%s: %w, and %d was used already", e, ErrVersion, highest)
		}
		return t.put(e, it.Value)
	})
	return e, err
}

// Get opens one version of an entry, 0 for the latest: ErrNotFound. The caller
// zeroes the value. A private key that is not exportable is ErrNotExportable:
// use Signer.
func (s *Store) Get(ctx context.Context, tag string, t Type, version int) (*secret.Bytes, Entry, error) {
	return s.get(ctx, tag, t, version, func(e Entry) error {
		if e.Type == PrivateKey && !e.Exportable {
			return fmt.Errorf("%s: %w: it signs here and is not given out", e, ErrNotExportable)
		}
		return nil
	})
}

func (s *Store) get(ctx context.Context, tag string, typ Type, version int, allow func(Entry) error) (*secret.Bytes, Entry, error) {
	s.keep.RLock()
	defer s.keep.RUnlock()
	for {
		h, err := s.load(ctx)
		if err != nil {
			return nil, Entry{}, coded(err)
		}
		r, err := h.index.find(tag, typ, version)
		if err != nil {
			return nil, Entry{}, coded(err)
		}
		if err := allow(r.Entry); err != nil {
			return nil, Entry{}, coded(err)
		}
		v, err := s.value(ctx, h, r)
		if errors.Is(err, ErrTampered) {
			// A writer may have removed the value meanwhile: then there is
			// another head.
			if now, lerr := s.load(ctx); lerr != nil || now.Epoch != h.Epoch {
				if lerr == nil {
					continue
				}
				err = lerr
			}
		}
		return v, r.Entry, coded(err)
	}
}

// List gives all entries in order of tag, type and version.
func (s *Store) List(ctx context.Context) ([]Entry, error) {
	s.keep.RLock()
	defer s.keep.RUnlock()
	h, err := s.load(ctx)
	if err != nil {
		return nil, coded(err)
	}
	var out []Entry
	for _, r := range h.index {
		if !r.deleted {
			out = append(out, r.Entry)
		}
	}
	return out, nil
}

// Versions gives the earliest and the latest version: ErrNotFound without one.
func (s *Store) Versions(ctx context.Context, tag string, t Type) (earliest, latest int, err error) {
	s.keep.RLock()
	defer s.keep.RUnlock()
	h, err := s.load(ctx)
	if err != nil {
		return 0, 0, coded(err)
	}
	for _, r := range h.index.of(tag, t) {
		if r.deleted {
			continue
		}
		if earliest == 0 {
			earliest = r.Version
		}
		latest = r.Version
	}
	if latest == 0 {
		return 0, 0, coded(fmt.Errorf("%s %s: %w", t, tag, ErrNotFound))
	}
	return earliest, latest, nil
}

// Delete removes one version. Its number is not used again.
func (s *Store) Delete(ctx context.Context, tag string, typ Type, version int) error {
	if version < 1 {
		return fmt.Errorf("%w: deleting wants a version above 0", ErrInvalid)
	}
	s.write.Lock()
	defer s.write.Unlock()
	return s.update(ctx, func(t *tx) error {
		r, err := t.index.find(tag, typ, version)
		if err != nil {
			return err
		}
		t.drop(r)
		return nil
	})
}

// DeleteAll removes every version of an entry.
func (s *Store) DeleteAll(ctx context.Context, tag string, typ Type) error {
	s.write.Lock()
	defer s.write.Unlock()
	return s.update(ctx, func(t *tx) error {
		found := false
		for _, r := range t.index.of(tag, typ) {
			if !r.deleted {
				found = true
				t.drop(r)
			}
		}
		if !found {
			return fmt.Errorf("%s %s: %w", typ, tag, ErrNotFound)
		}
		return nil
	})
}
