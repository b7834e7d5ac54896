// Package storetest is the conformance test that every store driver passes.
package storetest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"attestbox/internal/store"
)

// Run tests the driver that open opens on a folder. Opening the same folder
// again after Close must find the same state.
func Run(t *testing.T, open func(t *testing.T, dir string) store.Store) {
	t.Run("values", func(t *testing.T) {
		dir := t.TempDir()
		s := open(t, dir)
		values(t, s)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = open(t, dir)
		defer s.Close()
		if v, err := s.Get(t.Context(), "kept"); err != nil || string(v) != "2" {
			t.Errorf("after reopening: %q, %v", v, err)
		}
		if _, err := s.Get(t.Context(), "gone"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("a deleted value came back: %v", err)
		}
	})
	t.Run("limits", func(t *testing.T) {
		s := open(t, t.TempDir())
		defer s.Close()
		limits(t, s)
	})
	t.Run("list", func(t *testing.T) {
		s := open(t, t.TempDir())
		defer s.Close()
		list(t, s)
	})
	t.Run("race", func(t *testing.T) {
		s := open(t, t.TempDir())
		defer s.Close()
		Race(t, s, s)
	})
}

func want(t *testing.T, what string, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Errorf("%s: %v, want %v", what, err, target)
	}
}

func values(t *testing.T, s store.Store) {
	ctx := t.Context()
	_, err := s.Get(ctx, "kept")
	want(t, "get of nothing", err, store.ErrNotFound)
	want(t, "replace of nothing", s.Replace(ctx, "kept", nil, []byte("1")), store.ErrNotFound)
	want(t, "delete of nothing", s.Delete(ctx, "kept", nil), store.ErrNotFound)
	v := []byte("1")
	want(t, "create", s.Create(ctx, "kept", v), nil)
	v[0] = 'x' // the store must not keep the caller's slice
	want(t, "create again", s.Create(ctx, "kept", []byte("9")), store.ErrExists)
	got, err := s.Get(ctx, "kept")
	if err != nil || string(got) != "1" {
		t.Errorf("get: %q, %v", got, err)
	}
	if len(got) > 0 {
		got[0] = 'x' // nor give out its own
	}
	want(t, "replace of another value", s.Replace(ctx, "kept", []byte("0"), []byte("9")), store.ErrConflict)
	want(t, "replace of a prefix", s.Replace(ctx, "kept", []byte{}, []byte("9")), store.ErrConflict)
	want(t, "delete of another value", s.Delete(ctx, "kept", []byte("0")), store.ErrConflict)
	want(t, "replace", s.Replace(ctx, "kept", []byte("1"), []byte("2")), nil)
	want(t, "create", s.Create(ctx, "gone", []byte("1")), nil)
	want(t, "delete", s.Delete(ctx, "gone", []byte("1")), nil)
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if s.Create(cancelled, "late", []byte("1")) == nil {
		t.Error("a cancelled create succeeded")
	}
}

func limits(t *testing.T, s store.Store) {
	ctx := t.Context()
	big := bytes.Repeat([]byte{0xa5}, store.MaxValue)
	long := "k/" + strings.Repeat("a", store.MaxKey-2)
	want(t, "largest value", s.Create(ctx, long, big), nil)
	if v, err := s.Get(ctx, long); err != nil || !bytes.Equal(v, big) {
		t.Errorf("largest value came back as %d bytes, %v", len(v), err)
	}
	want(t, "too large", s.Create(ctx, "big", append(big, 0)), store.ErrInvalid)
	want(t, "too large", s.Replace(ctx, long, big, append(big, 0)), store.ErrInvalid)
	want(t, "empty", s.Create(ctx, "empty", nil), store.ErrInvalid)
	for _, k := range []string{"", "/", "a/", "/a", "a//b", "../a", "a/..", ".a", "A", "a=b", "a b", "a\x00", "é", long + "a"} {
		want(t, fmt.Sprintf("key %.20q", k), s.Create(ctx, k, []byte("1")), store.ErrInvalid)
		_, err := s.Get(ctx, k)
		want(t, fmt.Sprintf("key %.20q", k), err, store.ErrInvalid)
	}
}

func list(t *testing.T, s store.Store) {
	ctx := t.Context()
	all := []string{"a/1", "a/2", "a/3", "ab", "b/1"}
	for _, k := range []string{"b/1", "a/2", "ab", "a/3", "a/1"} {
		want(t, "create", s.Create(ctx, k, []byte("v")), nil)
	}
	for _, c := range []struct {
		prefix, after string
		limit         int
		want          []string
	}{
		{"", "", 0, all},
		{"a/", "", 0, all[:3]},
		{"a", "", 0, all[:4]},
		{"a/", "a/1", 1, all[1:2]},
		{"a/", "a/3", 0, nil},
		{"a/", "b", 0, nil},
		{"b/", "a/1", 0, all[4:]},
		{"c", "", 0, nil},
		{"", "a/2", 2, all[2:4]},
	} {
		got, err := s.List(ctx, c.prefix, c.after, c.limit)
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("list %q after %q limit %d: %q, %v; want %q", c.prefix, c.after, c.limit, got, err, c.want)
		}
	}
	var walked []string
	if err := store.All(ctx, s, "a/", func(k string) error { walked = append(walked, k); return nil }); err != nil || !slices.Equal(walked, all[:3]) {
		t.Errorf("all: %q, %v", walked, err)
	}
}

// Race has many writers raise one number by compare-and-swap over two handles
// of one state: no raise may be lost, and of many creates one wins.
func Race(t *testing.T, a, b store.Store) {
	ctx := t.Context()
	const writers, raises = 8, 10
	number := func(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
	want(t, "create", a.Create(ctx, "number", number(0)), nil)
	var wg sync.WaitGroup
	var mu sync.Mutex
	created, seen := 0, map[uint64]bool{}
	for i := range writers {
		s := a
		if i%2 == 1 {
			s = b
		}
		wg.Go(func() {
			switch err := s.Create(ctx, "one", []byte{byte(i + 1)}); {
			case err == nil:
				mu.Lock()
				created++
				mu.Unlock()
			case !errors.Is(err, store.ErrExists):
				t.Errorf("create: %v", err)
			}
			for done := 0; done < raises; {
				old, err := s.Get(ctx, "number")
				if err != nil {
					t.Errorf("get: %v", err)
					return
				}
				n := binary.BigEndian.Uint64(old) + 1
				switch err := s.Replace(ctx, "number", old, number(n)); {
				case err == nil:
					done++
					mu.Lock()
					if seen[n] {
						t.Errorf("two writers raised to %d", n)
					}
					seen[n] = true
					mu.Unlock()
				case !errors.Is(err, store.ErrConflict):
					t.Errorf("replace: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	if created != 1 {
		t.Errorf("%d creates of one key succeeded", created)
	}
	if v, err := a.Get(ctx, "number"); err != nil || binary.BigEndian.Uint64(v) != writers*raises {
		t.Errorf("number is %x, %v; want %d", v, err, writers*raises)
	}
}
