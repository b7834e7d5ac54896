package cryptstore

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"attestbox/internal/secret"
	"attestbox/internal/store"
)

// Reseal wraps the same store key by another sealer, or by the same one with
// its present parameters: after recovery, or when firmware is newer. Whoever
// could unseal an older head still has the store key: see Rekey.
func (s *Store) Reseal(ctx context.Context, by Sealer) error {
	s.write.Lock()
	defer s.write.Unlock()
	return s.update(ctx, func(t *tx) error { return sealHeader(ctx, &t.header, by, s.key) })
}

// Rekey makes a new store key, seals it and encrypts every value anew. An
// older copy of the state still opens with the older seal.
func (s *Store) Rekey(ctx context.Context, by Sealer) error {
	s.write.Lock()
	defer s.write.Unlock()
	s.keep.Lock() // readers wait: head and key change together
	defer s.keep.Unlock()
	key := secret.Random(KeySize)
	err := s.updateKept(ctx, func(t *tx) error {
		h := &head{Header: &t.header}
		old := t.index
		t.key = key
		t.index = nil
		for _, r := range old {
			if r.deleted {
				t.index = append(t.index, r)
				continue
			}
			v, err := s.value(ctx, h, r)
			if err != nil {
				return err
			}
			err = t.put(r.Entry, v)
			v.Zero()
			if err != nil {
				return err
			}
			t.dropped = append(t.dropped, r.id)
		}
		return sealHeader(ctx, &t.header, by, key)
	})
	if err != nil {
		key.Zero()
		return err
	}
	s.key.Zero()
	s.key = key
	return nil
}

// Report is what Check found.
type Report struct {
	Entries int
	Bytes   int // of all values
	Orphans int // values that no entry names: left by a write that was cut off
}

// Check opens every value. The first that is missing, damaged or malformed is
// an error.
func (s *Store) Check(ctx context.Context) (Report, error) {
	s.write.Lock() // no removal by this process in between
	defer s.write.Unlock()
	s.keep.RLock()
	defer s.keep.RUnlock()
	var rep Report
	h, err := s.load(ctx)
	if err != nil {
		return rep, coded(err)
	}
	for _, r := range h.index {
		if r.deleted {
			continue
		}
		v, err := s.value(ctx, h, r)
		if err != nil {
			return rep, coded(err)
		}
		err = CheckValue(r.Type, v)
		v.Zero()
		if err != nil {
			return rep, coded(fmt.Errorf("%w: %s: %v", ErrTampered, r.Entry, err))
		}
		rep.Entries++
		rep.Bytes += r.Size
	}
	orphans, err := s.orphans(ctx, h.index)
	rep.Orphans = len(orphans)
	return rep, err
}

// orphans lists the keys of values that the index does not name.
func (s *Store) orphans(ctx context.Context, x index) ([]string, error) {
	named := map[string]bool{}
	for _, r := range x {
		named[valueKey(s.prefix, r.id)] = true
	}
	var out []string
	err := store.All(ctx, s.raw, s.prefix+"v/", func(key string) error {
		id := strings.TrimPrefix(key, s.prefix+"v/")
		if b, err := hex.DecodeString(id); err == nil && len(b) == 16 && !named[key] {
			out = append(out, key)
		}
		return nil
	})
	return out, err
}

// Collect removes values that no entry names, left by writes that were cut
// off, and says how many. It raises the epoch first: a write of another
// process that has put its value and not yet named it begins anew.
func (s *Store) Collect(ctx context.Context) (int, error) {
	s.write.Lock()
	defer s.write.Unlock()
	var old []string
	err := s.update(ctx, func(t *tx) (err error) {
		old, err = s.orphans(ctx, t.index)
		if err == nil && len(old) == 0 {
			return errNothing
		}
		return err
	})
	if errors.Is(err, errNothing) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	n := 0
	for _, key := range old {
		b, err := s.raw.Get(ctx, key)
		if err == nil {
			err = s.raw.Delete(ctx, key, b)
		}
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return n, err
		}
		n++
	}
	return n, nil
}

var errNothing = errors.New("nothing to do")

// maxAside bounds the number of stores that were set aside under one name.
const maxAside = 1000

// SetAside moves a store that does not open out of the way, to the number that
// it returns: Options.Aside opens it. Nothing is overwritten. Cut off, the
// store is still in its place or already aside, or both; a second call ends it.
func SetAside(ctx context.Context, raw store.Store, name string) (int, error) {
	if err := CheckName(name); err != nil {
		return 0, err
	}
	fail := func(err error) (int, error) { return 0, fmt.Errorf("setting cryptstore %q aside: %w", name, err) }
	from := prefixOf(name, 0)
	head, err := raw.Get(ctx, from+"head")
	if err != nil {
		return fail(err)
	}
	n := 1
	for ; ; n++ {
		if n > maxAside {
			return fail(fmt.Errorf("%d of its kind are there already", maxAside))
		}
		taken, err := raw.List(ctx, prefixOf(name, n), "", 1)
		if err != nil {
			return fail(err)
		}
		if len(taken) == 0 {
			break
		}
	}
	to := prefixOf(name, n)
	var values []string
	if err := store.All(ctx, raw, from+"v/", func(key string) error { values = append(values, key); return nil }); err != nil {
		return fail(err)
	}
	for _, key := range values { // the head last: it makes the copy a store
		b, err := raw.Get(ctx, key)
		if err == nil {
			err = raw.Create(ctx, to+strings.TrimPrefix(key, from), b)
		}
		if err != nil {
			return fail(err)
		}
	}
	if err := raw.Create(ctx, to+"head", head); err != nil {
		return fail(err)
	}
	if err := raw.Delete(ctx, from+"head", head); err != nil { // from here on it is aside
		return fail(err)
	}
	for _, key := range values {
		if b, err := raw.Get(ctx, key); err == nil {
			_ = raw.Delete(ctx, key, b)
		}
	}
	return n, nil
}
