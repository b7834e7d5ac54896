// Package tunnel carries the byte streams of unmodified programs between two
// members of a security domain: plain on one side, on the other TLS 1.3 with
// admission certificates on both ends (package admission; ALPN
// wire.ALPNTunnel), one TLS connection for each stream.
//
// Each end of a stream is closed by itself, so that a program that says "that
// was all" still gets its answer; a stream that was cut is not passed on as one
// that ended (TCP sees a reset). A stream ends when the other end's certificate
// does, by time or because the policy version that it was made under counts no
// longer. The number of streams is bounded, and so are those that have not shown
// a certificate yet. A slow reader holds up its own stream alone: nothing is
// buffered here beyond one block per direction.
//
// It does not check who uses the plain side: whoever may open the local socket
// speaks as this machine.
package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"attestbox/internal/admission"
	"attestbox/internal/code"
	"attestbox/internal/wire"
)

// Modes: which side is the plain one.
const (
	Client = "client" // accepts plain streams, connects to a member
	Server = "server" // accepts streams of members, connects plain
)

// Defaults of Config.
const (
	DefaultMaxStreams = 256
	DefaultHandshake  = 10 * time.Second
	DefaultCheck      = 15 * time.Second

	maxHandshakes = 64
)

// Config is one tunnel.
type Config struct {
	Mode     string
	Listener net.Listener // Serve closes it
	Dial     func(context.Context) (net.Conn, error)

	// Peers is who the other end may be; nobody if it is empty.
	Peers []Peer
	// Trust and Certificate are asked for each stream; Trust also again and
	// again while it lasts.
	Trust       func() (*admission.Trust, error)
	Certificate func() (*tls.Certificate, error)
	Now         func() time.Time // time.Now if nil; see client.Config.Now

	MaxStreams int           // at once; DefaultMaxStreams if 0
	Handshake  time.Duration // to connect and to show certificates; DefaultHandshake if 0
	Check      time.Duration // between two looks at the other end's certificate; DefaultCheck if 0

	Logf func(format string, args ...any)
}

// Serve accepts streams until ctx ends (nil) or the listener fails.
func Serve(ctx context.Context, cfg Config) error {
	if cfg.Mode != Client && cfg.Mode != Server {
		return fmt.Errorf("mode %q is neither %s nor %s", cfg.Mode, Client, Server)
	}
	if len(cfg.Peers) == 0 {
		return errors.New("no peer is allowed, so no stream could be carried")
	}
	t := &server{Config: cfg}
	t.defaults()
	return t.serve(ctx)
}

type server struct {
	Config
	streams chan struct{} // a place for each stream
	shaking chan struct{} // a place for each handshake, mode Server
}

func (t *server) defaults() {
	if t.Now == nil {
		t.Now = time.Now
	}
	if t.MaxStreams <= 0 {
		t.MaxStreams = DefaultMaxStreams
	}
	if t.Handshake <= 0 {
		t.Handshake = DefaultHandshake
	}
	if t.Check <= 0 {
		t.Check = DefaultCheck
	}
	if t.Logf == nil {
		t.Logf = func(string, ...any) {}
	}
	t.streams = make(chan struct{}, t.MaxStreams)
	t.shaking = make(chan struct{}, maxHandshakes)
}

func (t *server) serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { t.Listener.Close() })
	defer stop()
	defer t.Listener.Close()
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel() // before the wait
	pause := time.Duration(0)
	for {
		// A place first: who finds none waits in the kernel's queue. Members
		// and strangers have different queues to fill.
		place := t.streams
		if t.Mode == Server {
			place = t.shaking
		}
		select {
		case place <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		conn, err := t.Listener.Accept()
		if err != nil {
			<-place
			if ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("accepting: %w", err)
			}
			// Out of descriptors, most likely: streams that end give them back.
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			t.Logf("accepting: %v", err)
			select {
			case <-time.After(pause):
			case <-ctx.Done():
				return nil
			}
			continue
		}
		pause = 0
		all.Go(func() {
			var err error
			if t.Mode == Client {
				defer func() { <-place }()
				err = t.outgoing(ctx, conn)
			} else {
				err = t.incoming(ctx, conn, func() { <-place })
			}
			if err != nil && ctx.Err() == nil {
				t.Logf("%s", describe(conn.RemoteAddr(), err))
			}
		})
	}
}

// describe is one line about a stream that failed, with its code.
func describe(from net.Addr, err error) string {
	s := err.Error()
	if from.Network() != "unix" { // a local program has no name there
		s = from.String() + ": " + s
	}
	if c, ok := code.Of(err); ok {
		s += " [" + string(c) + "]"
	}
	return s
}

// outgoing carries a plain stream to a member.
func (t *server) outgoing(ctx context.Context, plain net.Conn) error {
	defer plain.Close()
	hctx, cancel := context.WithTimeout(ctx, t.Handshake)
	defer cancel()
	trust, own, err := t.credentials()
	if err != nil {
		reset(plain)
		return err
	}
	raw, err := t.Dial(hctx)
	if err != nil {
		reset(plain)
		return fmt.Errorf("connecting: %w", err)
	}
	defer raw.Close()
	conn := tls.Client(strict{raw}, t.onlyPeers(trust, admission.ClientTLS(trust, *own, t.Now, wire.ALPNTunnel, "")))
	id, err := t.handshake(hctx, conn, raw, trust)
	if err != nil {
		reset(plain)
		return err
	}
	return t.carry(ctx, plain, conn, raw, id)
}

// incoming carries a member's stream to a plain end. left gives the place among
// the handshakes back.
func (t *server) incoming(ctx context.Context, raw net.Conn, left func()) error {
	defer raw.Close()
	leave := sync.OnceFunc(left)
	defer leave()
	trust, own, err := t.credentials()
	if err != nil {
		return err
	}
	hctx, cancel := context.WithTimeout(ctx, t.Handshake)
	defer cancel()
	conn := tls.Server(strict{raw}, t.onlyPeers(trust, admission.ServerTLS(trust, func() (*tls.Certificate, error) { return own, nil }, t.Now, wire.ALPNTunnel)))
	id, err := t.handshake(hctx, conn, raw, trust)
	if err != nil {
		return err
	}
	select {
	case t.streams <- struct{}{}:
		defer func() { <-t.streams }()
	default:
		return fmt.Errorf("all %d streams are in use", t.MaxStreams)
	}
	leave()
	plain, err := t.Dial(hctx)
	if err != nil {
		return fmt.Errorf("connecting: %w", err)
	}
	defer plain.Close()
	return t.carry(ctx, plain, conn, raw, id)
}

// credentials are what counts for one stream. An own certificate that has ended
// is not shown: the other end would refuse it, and say less.
func (t *server) credentials() (*admission.Trust, *tls.Certificate, error) {
	trust, err := t.Trust()
	if err != nil {
		return nil, nil, err
	}
	own, err := t.Certificate()
	if err != nil {
		return nil, nil, err
	}
	if _, err := trust.Verify(own.Certificate, t.Now()); err != nil {
		return nil, nil, fmt.Errorf("this machine's own certificate: %w", err)
	}
	return trust, own, nil
}

func (t *server) handshake(ctx context.Context, conn *tls.Conn, raw net.Conn, trust *admission.Trust) (*admission.Identity, error) {
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	cs := conn.ConnectionState()
	return trust.IdentityOf(&cs, t.Now())
}

// onlyPeers makes the handshake itself refuse who is no peer, so that the other
// end learns of it by an alert.
func (t *server) onlyPeers(trust *admission.Trust, cfg *tls.Config) *tls.Config {
	member := cfg.VerifyConnection
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		if err := member(cs); err != nil {
			return err
		}
		id, err := trust.IdentityOf(&cs, t.Now())
		if err != nil {
			return err
		}
		return allow(t.Peers, id)
	}
	return cfg
}

// stillPeer asks whether the other end's certificate counts now.
func (t *server) stillPeer(cs *tls.ConnectionState) error {
	trust, err := t.Trust()
	if err != nil {
		return err
	}
	id, err := trust.IdentityOf(cs, t.Now())
	if err != nil {
		return err
	}
	return allow(t.Peers, id)
}
