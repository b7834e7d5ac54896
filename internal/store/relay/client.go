package relay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"attestbox/internal/store"
)

// Store asks the process behind a socket.
type Store struct {
	mu     sync.Mutex
	conn   net.Conn
	broken error
}

var _ store.Store = (*Store)(nil)

// Dial connects to the process that holds the state.
func Dial(ctx context.Context, path string) (*Store, error) {
	p, dir, err := short(path)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", p)
	if err != nil {
		return nil, fmt.Errorf("connecting to %q: %w", path, err)
	}
	return &Store{conn: conn}, nil
}

// Close closes the connection; the state stays with its process.
func (s *Store) Close() error { return s.conn.Close() }

func (s *Store) ask(ctx context.Context, q *request) (*response, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken != nil {
		return nil, s.broken
	}
	deadline := time.Now().Add(idle)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	s.conn.SetDeadline(deadline)
	q.normal()
	var a response
	err := writeFrame(s.conn, q)
	if err == nil {
		err = readFrame(s.conn, &a)
	}
	if err != nil {
		// Whether a write took place is not known, and the stream is out of step.
		s.broken = fmt.Errorf("asking the running server: %w", err)
		s.conn.Close()
		return nil, s.broken
	}
	switch target, ok := kinds[a.Error]; {
	case a.Error == "":
		return &a, nil
	case ok:
		return nil, fmt.Errorf("%q: %w", q.Key, target)
	}
	return nil, errors.New("the running server says: " + a.Text)
}

func (s *Store) Get(ctx context.Context, key string) ([]byte, error) {
	if err := store.CheckKey(key); err != nil {
		return nil, err
	}
	a, err := s.ask(ctx, &request{Op: "get", Key: key})
	if err != nil {
		return nil, err
	}
	return a.Value, nil
}

func (s *Store) Create(ctx context.Context, key string, value []byte) error {
	if err := store.Check(key, value); err != nil {
		return err
	}
	_, err := s.ask(ctx, &request{Op: "create", Key: key, Value: value})
	return err
}

func (s *Store) Replace(ctx context.Context, key string, old, value []byte) error {
	if err := store.Check(key, value); err != nil {
		return err
	}
	_, err := s.ask(ctx, &request{Op: "replace", Key: key, Old: old, Value: value})
	return err
}

func (s *Store) Delete(ctx context.Context, key string, old []byte) error {
	if err := store.CheckKey(key); err != nil {
		return err
	}
	_, err := s.ask(ctx, &request{Op: "delete", Key: key, Old: old})
	return err
}

func (s *Store) List(ctx context.Context, prefix, after string, limit int) ([]string, error) {
	a, err := s.ask(ctx, &request{Op: "list", Key: prefix, After: after, Limit: limit})
	if err != nil {
		return nil, err
	}
	return a.Keys, nil
}
