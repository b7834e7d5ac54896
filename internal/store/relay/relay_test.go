package relay

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"attestbox/internal/store"
	"attestbox/internal/store/bolt"
	"attestbox/internal/store/storetest"
)

// served is a relay over a bolt file in dir; closing it closes both.
type served struct {
	store.Store
	stop func()
}

func (s *served) Close() error {
	err := s.Store.Close()
	s.stop()
	return err
}

func open(t *testing.T, dir string) store.Store {
	t.Helper()
	db, err := bolt.Open(filepath.Join(dir, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "admin.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, db) }()
	c, err := Dial(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	return &served{c, func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
		db.Close()
	}}
}

func TestConformance(t *testing.T) { storetest.Run(t, open) }

func TestSocket(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 40))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir)
	defer s.Close()
	path := filepath.Join(dir, "admin.sock")
	st, err := os.Lstat(path)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v; want mode 0600", st, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(filepath.Join(dir, "file")); err == nil {
		t.Error("a file was replaced by a socket")
	}
}

// A client that talks nonsense loses its connection and harms nobody.
func TestNonsense(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	defer s.Close()
	for name, b := range map[string][]byte{
		"huge":     {0xff, 0xff, 0xff, 0xff},
		"not json": append([]byte{0, 0, 0, 4}, "nope"...),
		"unknown":  append([]byte{0, 0, 0, 9}, `{"x":"y"}`...),
	} {
		c, err := net.Dial("unix", filepath.Join(dir, "admin.sock"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(b); err != nil {
			t.Error(err)
		}
		if n, err := c.Read(make([]byte, 1)); err == nil {
			t.Errorf("%s: answered with %d bytes", name, n)
		}
		c.Close()
	}
	if err := s.Create(t.Context(), "a", []byte("1")); err != nil {
		t.Error(err)
	}
	if _, err := (s.(*served).Store.(*Store)).ask(t.Context(), &request{Op: "drop"}); err == nil {
		t.Error("an unknown operation was done")
	}
}

func FuzzRequest(f *testing.F) {
	f.Add([]byte(`{"op":"get","key":"a","old":"","value":"","after":"","limit":0}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<16 {
			return
		}
		frame := append([]byte{0, 0, byte(len(b) >> 8), byte(len(b))}, b...)
		var q request
		if readFrame(bytes.NewReader(frame), &q) != nil {
			return
		}
		q.normal()
		var out bytes.Buffer
		if err := writeFrame(&out, &q); err != nil {
			return
		}
		var again request
		if err := readFrame(&out, &again); err != nil || again.Op != q.Op || again.Key != q.Key || !bytes.Equal(again.Value, q.Value) {
			t.Errorf("%q does not survive: %v", b, err)
		}
	})
}
