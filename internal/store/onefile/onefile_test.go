package onefile

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"attestbox/internal/store"
	"attestbox/internal/store/storetest"
)

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T, dir string) store.Store {
		s, err := Open(filepath.Join(dir, "state"))
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}

func TestTwoHandles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	open := func() store.Store {
		s, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	}
	storetest.Race(t, open(), open())
}

// Whatever step a write ends before, the old or the new state is there.
func TestEveryStep(t *testing.T) {
	boom := errors.New("boom")
	for _, stop := range []string{"create", "write", "write-half", "sync", "rename", "sync-dir"} {
		path := filepath.Join(t.TempDir(), "state")
		at := ""
		s, err := Open(path, Before(func(step string) error {
			if step == at {
				return boom
			}
			return nil
		}))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Create(t.Context(), "a", []byte("old")); err != nil {
			t.Fatal(err)
		}
		at = stop
		if err := s.Replace(t.Context(), "a", []byte("old"), []byte("new, and longer")); !errors.Is(err, boom) {
			t.Fatalf("%s: %v", stop, err)
		}
		s.Close()
		if s, err = Open(path); err != nil {
			t.Fatalf("%s: %v", stop, err)
		}
		want := "old"
		if stop == "sync-dir" {
			want = "new, and longer"
		}
		if v, err := s.Get(t.Context(), "a"); err != nil || string(v) != want {
			t.Errorf("%s: %q, %v", stop, v, err)
		}
		if err := s.Create(t.Context(), "b", []byte("x")); err != nil {
			t.Errorf("%s: the next write: %v", stop, err)
		}
		s.Close()
	}
}

func TestRefusals(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state")
	if err := os.WriteFile(path, []byte("something else"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); !errors.Is(err, ErrFormat) {
		t.Errorf("a foreign file: %v", err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); err == nil {
		t.Error("a file that others may read was opened")
	}
	if _, err := Open(dir); err == nil {
		t.Error("a folder was opened")
	}
	good := values{{"a", []byte("1")}, {"b", []byte("22")}}.marshal()
	for n := range good {
		if _, err := parse(good[:n]); err == nil {
			t.Errorf("cut to %d bytes: accepted", n)
		}
	}
	for name, v := range map[string]values{
		"order": {{"b", []byte("1")}, {"a", []byte("1")}},
		"twice": {{"a", []byte("1")}, {"a", []byte("1")}},
		"key":   {{"A", []byte("1")}},
		"empty": {{"a", nil}},
	} {
		if _, err := parse(v.marshal()); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(values{}.marshal())
	f.Add(values{{"a", []byte("1")}, {"cryptstore/x/head", []byte("22")}}.marshal())
	f.Add(append([]byte(magic), 0xff, 0xff, 0xff, 0xff))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := parse(b)
		if err == nil && !bytes.Equal(v.marshal(), b) {
			t.Error("accepted, and marshals to something else")
		}
	})
}
