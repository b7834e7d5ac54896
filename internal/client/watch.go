package client

import (
	"bytes"
	"context"
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
// If Certificate then gives no valid one for a minute, Watch ends with
// ErrCertificate.
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
		answered := false
		if err == nil {
			answered, err = k.watch(ctx, name, deliver)
			k.Close()
		} else if !errors.Is(err, ErrCertificate) {
			return err
		}
		if u, ok := errors.AsType[*useError](err); ok {
			return u.err
		}
		if ourCertificate(err) {
			s.logf("%v; waiting for another certificate", err)
			if !cfg.replaced(ctx, k) {
				return err
			}
			continue
		}
		if errors.Is(err, ErrRefused) {
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

// certificateGrace is how long a watch waits for a new certificate of this
// machine when the one that it has counts no longer: certify -renew notices a
// policy that moved on a little later than the key server.
const certificateGrace = time.Minute

// ourCertificate says that another certificate may mend err.
func ourCertificate(err error) bool {
	c, _ := code.Of(err)
	return errors.Is(err, ErrCertificate) || errors.Is(err, ErrRefused) && c == code.AdmissionRefused
}

// replaced waits for a valid certificate, another than the one of connection k,
// if there was one.
func (c *KeysConfig) replaced(ctx context.Context, k *KeyClient) bool {
	for end := time.Now().Add(certificateGrace); time.Now().Before(end); {
		timer := time.NewTimer(time.Second)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return false
		}
		now, _, err := c.own()
		if err == nil && (k == nil || !bytes.Equal(now.Certificate[0], k.own.Certificate[0])) {
			return true
		}
	}
	return false
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
