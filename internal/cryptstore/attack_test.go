package cryptstore

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"attestbox/internal/secret"
	"attestbox/internal/store"
	"attestbox/internal/store/onefile"
)

// set writes a value over whatever is there.
func set(t *testing.T, raw store.Store, key string, value []byte) {
	t.Helper()
	old, err := raw.Get(t.Context(), key)
	if err == nil {
		err = raw.Replace(t.Context(), key, old, value)
	} else {
		err = raw.Create(t.Context(), key, value)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func contents(t *testing.T, raw store.Store) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	if err := store.All(t.Context(), raw, "", func(key string) error {
		b, err := raw.Get(t.Context(), key)
		out[key] = b
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// memory is a store in memory, for tests with thousands of openings.
type memory map[string][]byte

func (m memory) Get(_ context.Context, key string) ([]byte, error) {
	if b, ok := m[key]; ok {
		return bytes.Clone(b), nil
	}
	return nil, store.ErrNotFound
}
func (m memory) Create(_ context.Context, key string, v []byte) error {
	if _, ok := m[key]; ok {
		return store.ErrExists
	}
	m[key] = bytes.Clone(v)
	return nil
}
func (m memory) Replace(_ context.Context, key string, old, v []byte) error {
	if !bytes.Equal(m[key], old) {
		return store.ErrConflict
	}
	m[key] = bytes.Clone(v)
	return nil
}
func (m memory) Delete(_ context.Context, key string, old []byte) error {
	if !bytes.Equal(m[key], old) {
		return store.ErrConflict
	}
	delete(m, key)
	return nil
}
func (m memory) List(_ context.Context, prefix, after string, limit int) (keys []string, err error) {
	for k := range m {
		if strings.HasPrefix(k, prefix) && k > after {
			keys = append(keys, k)
		}
	}
	return keys, nil
}
func (memory) Close() error { return nil }

// Any changed byte of head or value, and any cut, is noticed.
func TestTampering(t *testing.T) {
	by := keyFile(t)
	raw := memory{}
	s, err := Create(t.Context(), raw, "main", by, options())
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, "a", "a value")
	broken := func() error {
		s, err := Open(t.Context(), raw, "main", by, options())
		if err != nil {
			return err
		}
		_, err = s.Check(t.Context())
		return err
	}
	if err := broken(); err != nil {
		t.Fatal(err)
	}
	refused := func(err error) bool { return errors.Is(err, ErrTampered) || errors.Is(err, ErrSealed) }
	for key, good := range contents(t, raw) {
		for i := range good {
			for _, bit := range []byte{1, 0x80} {
				bad := bytes.Clone(good)
				bad[i] ^= bit
				raw[key] = bad
				if err := broken(); !refused(err) {
					t.Fatalf("%s: byte %d changed: %v", key, i, err)
				}
			}
			raw[key] = good[:i]
			if err := broken(); !refused(err) {
				t.Fatalf("%s: cut to %d bytes: %v", key, i, err)
			}
		}
		raw[key] = append(bytes.Clone(good), 0)
		if err := broken(); !refused(err) {
			t.Fatalf("%s: a byte more: %v", key, err)
		}
		delete(raw, key)
		if err := broken(); err == nil {
			t.Fatalf("%s: gone, and nobody noticed", key)
		}
		raw[key] = good
	}
}

// Values of one store under each other's names, and whole heads and values of
// another store with the same key, are noticed.
func TestSwapping(t *testing.T) {
	by := keyFile(t)
	raw := memory{}
	s, err := Create(t.Context(), raw, "main", by, options())
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, "a", "value a")
	put(t, s, "b", "value b")
	var keys []string
	for k := range raw {
		if strings.Contains(k, "/v/") {
			keys = append(keys, k)
		}
	}
	raw[keys[0]], raw[keys[1]] = raw[keys[1]], raw[keys[0]]
	for _, tag := range []string{"a", "b"} {
		if _, _, err := s.Get(t.Context(), tag, Blob, 0); !errors.Is(err, ErrTampered) {
			t.Errorf("swapped value of %s: %v", tag, err)
		}
	}
	if _, err := Create(t.Context(), raw, "other", by, options()); err != nil {
		t.Fatal(err)
	}
	raw["cryptstore/main/head"] = raw["cryptstore/other/head"]
	if _, err := Open(t.Context(), raw, "main", by, options()); !errors.Is(err, ErrTampered) {
		t.Errorf("another store's head: %v", err)
	}
	// Renamed inside, too, it is not that store: the wrapped key binds the name.
	raw["cryptstore/main/head"] = bytes.Replace(raw["cryptstore/other/head"], []byte("\x05other"), []byte("\x04main"), 1)
	if _, err := Open(t.Context(), raw, "main", by, options()); !errors.Is(err, ErrSealed) {
		t.Errorf("another store's head under this name: %v", err)
	}
}

func TestRollback(t *testing.T) {
	s, raw, by := fresh(t)
	put(t, s, "a", "1")
	old := contents(t, raw)
	put(t, s, "a", "2")
	h, err := s.Header(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for key, b := range old {
		set(t, raw, key, b)
	}
	if _, _, err := s.Get(t.Context(), "a", Blob, 0); !errors.Is(err, ErrRollback) {
		t.Errorf("an open store did not notice: %v", err)
	}
	if _, err := Open(t.Context(), raw, "main", by, Options{MinEpoch: h.Epoch}); !errors.Is(err, ErrRollback) {
		t.Errorf("opened below the least epoch: %v", err)
	}
	if _, err := Open(t.Context(), raw, "main", by, Options{MinEpoch: h.Epoch - 1}); err != nil {
		t.Errorf("the least epoch itself: %v", err)
	}
}

func TestSetAside(t *testing.T) {
	s, raw, by := fresh(t)
	put(t, s, "a", "1")
	for n := 1; n <= 2; n++ {
		got, err := SetAside(t.Context(), raw, "main")
		if err != nil || got != n {
			t.Fatalf("set aside to %d, %v", got, err)
		}
		if _, err := Open(t.Context(), raw, "main", by, options()); !errors.Is(err, store.ErrNotFound) {
			t.Fatalf("still there: %v", err)
		}
		for key := range contents(t, raw) {
			if strings.HasPrefix(key, "cryptstore/main/") {
				t.Errorf("%s was left behind", key)
			}
		}
		cold, err := Create(t.Context(), raw, "main", by, options())
		if err != nil {
			t.Fatal(err)
		}
		put(t, cold, "a", "cold")
	}
	first, err := Open(t.Context(), raw, "main", by, Options{Aside: 1})
	if err != nil {
		t.Fatal(err)
	}
	want(t, first, "a", 1, "1")
	if _, err := SetAside(t.Context(), raw, "nothing"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("set nothing aside: %v", err)
	}
}

// failing ends every call from the nth write on, before or after it is done.
type failing struct {
	store.Store
	left  int
	after bool
}

var errCut = errors.New("power cut")

func (f *failing) do(op func() error) error {
	f.left--
	if f.left > 0 {
		return op()
	}
	if f.left == 0 && f.after {
		if err := op(); err != nil {
			return err
		}
	}
	return errCut
}
func (f *failing) Create(ctx context.Context, key string, v []byte) error {
	return f.do(func() error { return f.Store.Create(ctx, key, v) })
}
func (f *failing) Replace(ctx context.Context, key string, old, v []byte) error {
	return f.do(func() error { return f.Store.Replace(ctx, key, old, v) })
}
func (f *failing) Delete(ctx context.Context, key string, old []byte) error {
	return f.do(func() error { return f.Store.Delete(ctx, key, old) })
}

// change is one write of each kind; old and new say what may be there after it
// was cut off.
type change struct {
	name     string
	do       func(ctx context.Context, s *Store, by Sealer) error
	old, new string
}

func changes() []change {
	blob := func(tag string) Item { return Item{Tag: tag, Type: Blob, Value: secret.Copy([]byte("new"))} }
	return []change{
		{"put", func(ctx context.Context, s *Store, _ Sealer) error { _, err := s.Put(ctx, blob("a")); return err },
			"a1=1 a2=2 b1=3", "a1=1 a2=2 a3=new b1=3"},
		{"delete", func(ctx context.Context, s *Store, _ Sealer) error { return s.Delete(ctx, "a", Blob, 2) },
			"a1=1 a2=2 b1=3", "a1=1 b1=3"},
		{"delete all", func(ctx context.Context, s *Store, _ Sealer) error { return s.DeleteAll(ctx, "a", Blob) },
			"a1=1 a2=2 b1=3", "b1=3"},
		{"rekey", func(ctx context.Context, s *Store, by Sealer) error { return s.Rekey(ctx, by) },
			"a1=1 a2=2 b1=3", "a1=1 a2=2 b1=3"},
		{"reseal", func(ctx context.Context, s *Store, by Sealer) error { return s.Reseal(ctx, by) },
			"a1=1 a2=2 b1=3", "a1=1 a2=2 b1=3"},
	}
}

func fill(t *testing.T, raw store.Store, by Sealer) {
	t.Helper()
	s, err := Create(t.Context(), raw, "main", by, options())
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, "a", "1")
	put(t, s, "a", "2")
	put(t, s, "b", "3")
}

func state(t *testing.T, raw store.Store, by Sealer) string {
	t.Helper()
	s, err := Open(t.Context(), raw, "main", by, options())
	if err != nil {
		t.Fatalf("after the cut: %v", err)
	}
	if _, err := s.Check(t.Context()); err != nil {
		t.Fatalf("after the cut: %v", err)
	}
	list, err := s.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range list {
		v, _, err := s.Get(t.Context(), e.Tag, e.Type, e.Version)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, fmt.Sprintf("%s%d=%s", e.Tag, e.Version, v.Bytes()))
		v.Zero()
	}
	if _, err := s.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if rep, err := s.Check(t.Context()); err != nil || rep.Orphans != 0 {
		t.Fatalf("after collecting: %+v, %v", rep, err)
	}
	return strings.Join(out, " ")
}

// The power fails in front of, or right behind, every write of every change:
// the old or the new state is there, and both occur.
func TestPowerCutAtEveryWrite(t *testing.T) {
	for _, c := range changes() {
		seen := map[string]bool{}
		for n := 1; ; n++ {
			done := false
			for _, after := range []bool{false, true} {
				raw, by := memory{}, keyFile(t)
				fill(t, raw, by)
				f := &failing{Store: raw, left: n, after: after}
				s, err := Open(t.Context(), f, "main", by, options())
				if err != nil {
					t.Fatal(err)
				}
				err = c.do(t.Context(), s, by)
				got := state(t, raw, by)
				seen[got] = true
				if got != c.old && got != c.new {
					t.Fatalf("%s cut at write %d (after %v): %s", c.name, n, after, got)
				}
				if err == nil && got != c.new {
					t.Fatalf("%s succeeded, and left %s", c.name, got)
				}
				done = f.left > 0
			}
			if done {
				break
			}
		}
		if !seen[c.old] || !seen[c.new] {
			t.Errorf("%s: only %v were seen", c.name, seen)
		}
	}
}

func TestPowerCutWhileSettingAside(t *testing.T) {
	for n := 1; ; n++ {
		raw, by := memory{}, keyFile(t)
		fill(t, raw, by)
		f := &failing{Store: raw, left: n}
		_, err := SetAside(t.Context(), f, "main")
		if _, gerr := raw.Get(t.Context(), "cryptstore/main/head"); gerr == nil {
			if got := state(t, raw, by); got != "a1=1 a2=2 b1=3" {
				t.Fatalf("cut at write %d: in its place %s", n, got)
			}
			if _, err := SetAside(t.Context(), raw, "main"); err != nil {
				t.Fatalf("cut at write %d, again: %v", n, err)
			}
		} else if err == nil && f.left > 0 {
			break
		}
		whole := false
		for i := 1; i <= 2; i++ {
			s, err := Open(t.Context(), raw, "main", by, Options{Aside: i})
			if err != nil {
				continue
			}
			if rep, err := s.Check(t.Context()); err == nil && rep.Entries == 3 {
				whole = true
			}
		}
		if !whole {
			t.Fatalf("cut at write %d: nothing whole is aside", n)
		}
	}
}

// This test binary, called with a step, is a process that is killed there.
func TestMain(m *testing.M) {
	if at := os.Getenv("CRYPTSTORE_TEST_KILL"); at != "" {
		os.Exit(victim(at))
	}
	os.Exit(m.Run())
}

func victim(at string) int {
	n, _ := strconv.Atoi(at)
	which, _ := strconv.Atoi(os.Getenv("CRYPTSTORE_TEST_CHANGE"))
	key, err := hex.DecodeString(os.Getenv("CRYPTSTORE_TEST_KEY")) // a test's key, not a secret
	if err != nil {
		return 1
	}
	by := KeyFile{secret.Take(key)}
	raw, err := onefile.Open(os.Getenv("CRYPTSTORE_TEST_FILE"), onefile.Before(func(string) error {
		if n--; n == 0 {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // until it arrives
		}
		return nil
	}))
	if err != nil {
		return 1
	}
	s, err := Open(context.Background(), raw, "main", by, options())
	if err != nil {
		return 1
	}
	if changes()[which].do(context.Background(), s, by) != nil {
		return 1
	}
	return 0
}

// A process is killed in front of every step that a write takes on the file
// system: the next one finds the old or the new state.
func TestKilledAtEveryStep(t *testing.T) {
	key := secret.Random(32)
	defer key.Zero()
	for which, c := range changes() {
		seen := map[string]bool{}
		for n := 1; ; n++ {
			path := filepath.Join(t.TempDir(), "s")
			fill(t, rawFile(t, path), KeyFile{key})
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), "CRYPTSTORE_TEST_KILL="+strconv.Itoa(n), "CRYPTSTORE_TEST_CHANGE="+strconv.Itoa(which),
				"CRYPTSTORE_TEST_FILE="+path, "CRYPTSTORE_TEST_KEY="+hex.EncodeToString(key.Bytes()))
			err := cmd.Run()
			if err != nil && cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Fatalf("%s, step %d: %v", c.name, n, err)
			}
			got := state(t, rawFile(t, path), KeyFile{key})
			seen[got] = true
			if got != c.old && got != c.new {
				t.Fatalf("%s killed at step %d: %s", c.name, n, got)
			}
			if err == nil {
				break
			}
		}
		if !seen[c.old] || !seen[c.new] {
			t.Errorf("%s: only %v were seen", c.name, seen)
		}
	}
}
