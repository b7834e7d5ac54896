package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"attestbox/internal/code"
	"attestbox/internal/dial"
	"attestbox/internal/wire"
)

// watchTurn is how long a watch stays on one connection. It is opened anew
// then, so that a server that went away without a word is noticed.
const watchTurn = 15 * time.Minute

// Watch calls use with the latest version of a secret, now and whenever it
// changes, until ctx ends, the server refuses, or use fails. It reconnects with
// backoff. use owns nothing: the value is wiped when it returns.
//
// A connection ends with the server's certificate or with this machine's own.
// If Certificate then gives no valid one, Watch ends with ErrCertificate.
func Watch(ctx context.Context, cfg KeysConfig, name string, use func(*Secret) error) error {
	s, err := cfg.session()
	if err != nil {
		return err
	}
	var seen uint64
	deliver := func(v *Secret) error {
		defer v.Value.Zero()
		if v.Version == seen {
			return nil // said again on a new connection
		}
		if err := use(v); err != nil {
			return &useError{err}
		}
		seen = v.Version
		return nil
	}
	backoff := s.MinBackoff
	for {
		var k *KeyClient
		err := s.try(ctx, func(a dial.Addr) (err error) {
			k, err = cfg.dial(ctx, s, a)
			return err
		})
		if err != nil {
			return err
		}
		answered, err := k.watch(ctx, name, deliver)
		k.Close()
		if u, ok := errors.AsType[*useError](err); ok {
			return u.err
		}
		if errors.Is(err, ErrRefused) {
			return err
		}
		if errors.Is(err, ErrCertificate) && !cfg.replaced(k.own) {
			return err
		}
		wait := rand.N(backoff) + backoff/2
		if ans, ok := errors.AsType[*wire.AnswerError](err); ok {
			wait = max(wait, time.Duration(ans.Seconds)*time.Second)
		}
		s.logf("watch on %s ended: %v", k.Server, err)
		if backoff = min(2*backoff, s.MaxBackoff); answered {
			backoff = s.MinBackoff
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return code.Wrap(code.Unreachable, fmt.Errorf("%w: %w", ErrUnreachable, ctx.Err()))
		}
	}
}

// replaced says whether there is another certificate by now.
func (c *KeysConfig) replaced(old *tls.Certificate) bool {
	now, _, err := c.own()
	return err == nil && !bytes.Equal(now.Certificate[0], old.Certificate[0])
}

type useError struct{ err error }

func (e *useError) Error() string { return e.err.Error() }
func (e *useError) Unwrap() error { return e.err }

// watch is one connection's life. answered says that the server answered once.
func (k *KeyClient) watch(ctx context.Context, name string, use func(*Secret) error) (answered bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	defer k.guard(ctx)()
	end := k.deadline(watchTurn)
	req := &wire.KeyRequest{Op: wire.OpWatch, Name: name}
	k.conn.SetDeadline(k.deadline(wire.ExchangeTimeout))
	if err := wire.Write(k.conn, req); err != nil {
		return false, fmt.Errorf("asking %s: %w", k.Server, err)
	}
	for {
		r, err := k.read(req)
		if err != nil {
			return answered, err
		}
		v, err := value(req, r)
		if err != nil {
			return answered, err
		}
		answered = true
		if err := use(v); err != nil {
			return true, err
		}
		k.conn.SetDeadline(end)
	}
}
