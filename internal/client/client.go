// Package client is the guest's end of the protocols launch, certify and keys
// (DESIGN section 5; package wire has the messages).
//
// Launch learns the instance ID from a report that it asked for itself, opens a
// TLS 1.3 channel to a server that the image trusts, binds nonce, ID and
// channel into a second report and opens the sealed release. Certify has the
// same shape; its answer is an admission certificate. DialKeys and Watch ask a
// key server, with admission certificates on both ends. All retry what a retry
// can mend, with jittered backoff, until their context ends; a refusal is final.
//
// It does not check its own report: the verifier does. It does not use the key.
package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"time"

	"attestbox/internal/admission"
	"attestbox/internal/code"
	"attestbox/internal/dial"
	"attestbox/internal/platform"
	"attestbox/internal/wire"
)

// What a failed launch is, for errors.Is.
var (
	ErrRefused     = errors.New("refused")
	ErrLater       = errors.New("not now")
	ErrUnreachable = errors.New("no server reached")
	// ErrCertificate is final for this run; certifying mends it.
	ErrCertificate = errors.New("no valid admission certificate of this machine")
)

// Config says whom to ask and with what. A server is trusted for a pinned key,
// or for a claim of the policy key that travels in its certificate; at least
// one of Pins and Policy is needed.
type Config struct {
	Servers  []string // in order of preference: see package dial
	Pins     []wire.Pin
	Policy   *x509.Certificate // the domain's, pinned by the image
	Platform platform.Platform
	// Instance is the ID that the measured image brings; HOST_DATA must then be
	// zeros. Zeros here: the ID is HOST_DATA.
	Instance wire.Hex32
	Logf     func(format string, args ...any) // progress; may be nil

	// Now is the clock that dates are judged by, never below the floor that
	// earlier authenticated answers have set; nil means time.Now. Pins, nonces
	// and deadlines do not depend on it.
	Now func() time.Time

	// Backoff between rounds; zero means 1 s to 30 s.
	MinBackoff, MaxBackoff time.Duration
	// Dial replaces dial.Dial in tests.
	Dial func(context.Context, dial.Addr) (net.Conn, error)
}

func (c *Config) logf(format string, args ...any) {
	if c.Logf != nil {
		c.Logf(format, args...)
	}
}

func (c *Config) now() time.Time {
	if c.Now != nil {
		return c.Now()
	}
	return time.Now()
}

// session is a checked Config for one protocol.
type session struct {
	Config
	addrs []dial.Addr
	tls   func() (*tls.Config, error) // for each connection: certificates change
}

// newSession is for the protocols whose server is trusted by pin or by claim.
func newSession(c Config, alpn, role string) (*session, error) {
	trust, err := c.serverTrust(role)
	if err != nil {
		return nil, code.Wrap(code.ConfigBad, err)
	}
	cfg := wire.ChannelTLS(alpn, trust)
	if c.Policy != nil {
		// A server of several domains shows the claim of the one that is named.
		if cfg.ServerName, err = admission.DomainOf(c.Policy); err != nil {
			return nil, code.Wrap(code.ConfigBad, err)
		}
	}
	return sessionWith(c, func() (*tls.Config, error) { return cfg, nil })
}

func sessionWith(c Config, tlsConfig func() (*tls.Config, error)) (*session, error) {
	s := &session{Config: c, tls: tlsConfig}
	if len(c.Servers) == 0 {
		return nil, code.Wrap(code.ConfigBad, errors.New("no server address is configured"))
	}
	for _, server := range c.Servers {
		a, err := dial.Parse(server)
		if err != nil {
			return nil, code.Wrap(code.ConfigBad, err)
		}
		s.addrs = append(s.addrs, a)
	}
	if s.Dial == nil {
		s.Dial = dial.Dial
	}
	if s.MinBackoff <= 0 {
		s.MinBackoff = time.Second
	}
	if s.MaxBackoff < s.MinBackoff {
		s.MaxBackoff = max(30*time.Second, s.MinBackoff)
	}
	return s, nil
}

// connect opens the channel; the deadline of the exchange is set on it
// before the handshake.
func (s *session) connect(ctx context.Context, a dial.Addr, limit time.Duration) (*tls.Conn, error) {
	cfg, err := s.tls()
	if err != nil {
		return nil, err
	}
	deadline := time.Now().Add(limit)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	dctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	raw, err := s.Dial(dctx, a)
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", a, err)
	}
	raw.SetDeadline(deadline)
	conn := tls.Client(raw, cfg)
	if err := conn.HandshakeContext(dctx); err != nil {
		raw.Close()
		err = fmt.Errorf("TLS handshake with %s: %w", a, err)
		switch {
		case errors.Is(err, wire.ErrPin):
			err = code.Wrap(code.PinMismatch, err)
		case errors.Is(err, wire.ErrUntrusted):
			err = code.Wrap(code.ServerUntrusted, err)
		}
		return nil, err
	}
	return conn, nil
}

// try runs once over all servers in order, until one gives a final answer, and
// again after a backoff, until ctx ends. A refusal of one server is final, and
// so is it when every server has a foreign key.
func (s *session) try(ctx context.Context, attempt func(dial.Addr) error) error {
	backoff := s.MinBackoff
	var last error
	for {
		foreign, wait := 0, time.Duration(0)
		for _, a := range s.addrs {
			err := attempt(a)
			if err == nil || errors.Is(err, ErrRefused) || errors.Is(err, ErrCertificate) {
				return err
			}
			if ended(ctx) && last != nil {
				return s.gaveUp(last, context.DeadlineExceeded) // the earlier error says more
			}
			last = err
			s.logf("%v", err)
			if errors.Is(err, wire.ErrPin) || errors.Is(err, wire.ErrUntrusted) {
				foreign++
			}
			if ans, ok := errors.AsType[*wire.AnswerError](err); ok && ans.Seconds > 0 {
				wait = max(wait, time.Duration(ans.Seconds)*time.Second)
			}
		}
		if foreign == len(s.addrs) {
			return fmt.Errorf("%w: %w", ErrRefused, last)
		}
		// Full jitter on top of half the backoff, so that a rack of guests
		// that lost power together does not come back together.
		pause := max(backoff/2+rand.N(backoff/2+1), wait)
		backoff = min(2*backoff, s.MaxBackoff)
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return s.gaveUp(last, ctx.Err())
		}
	}
}

// ended says whether ctx is over, or would be if its timer were as prompt as
// the clock: a connection's deadline may fire first.
func ended(ctx context.Context) bool {
	d, ok := ctx.Deadline()
	return ctx.Err() != nil || ok && !time.Now().Before(d)
}

func (s *session) gaveUp(last, ctxErr error) error {
	kind, c := ErrUnreachable, code.Unreachable
	if ans, ok := errors.AsType[*wire.AnswerError](last); ok && ans.Seconds > 0 {
		kind, c = ErrLater, code.LaunchLater
	}
	if last == nil {
		last = ctxErr
	}
	return code.Wrap(c, fmt.Errorf("%w in the time allowed: %w", kind, last))
}
