package server

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"attestbox/internal/code"
	"attestbox/internal/wire"
)

// Timeouts of one connection. The zero value of a field means its default.
type Timeouts struct {
	Handshake time.Duration // accept to the end of the TLS handshake: 5 s
	Exchange  time.Duration // end of the handshake to release: wire.ExchangeTimeout
	Outcome   time.Duration // release to outcome and ack: wire.OutcomeTimeout
	KeysIdle  time.Duration // between two requests of keys: 5 min
	KeysWrite time.Duration // one answer of keys: 10 s
	Drain     time.Duration // for running exchanges at shutdown: 10 s
}

func (t Timeouts) withDefaults() Timeouts {
	def := func(v *time.Duration, d time.Duration) {
		if *v <= 0 {
			*v = d
		}
	}
	def(&t.Handshake, 5*time.Second)
	def(&t.Exchange, wire.ExchangeTimeout)
	def(&t.Outcome, wire.OutcomeTimeout)
	def(&t.KeysIdle, 5*time.Minute)
	def(&t.KeysWrite, 10*time.Second)
	def(&t.Drain, 10*time.Second)
	return t
}

// Options of a Server.
type Options struct {
	State     *State
	Appraiser Appraiser        // of instances that belong to no domain
	Domains   []*Domain        // needed for certify and keys; see OpenDomain
	Roles     []string         // RoleLaunch, RoleCertify, RoleKeys; nil: RoleLaunch
	Decisions *DecisionLog     // nil: only the log has them
	Audit     *Auditor         // needed for certify and keys
	Metrics   *Metrics         // nil: nobody counts
	Log       *slog.Logger     // nil: silent
	Now       func() time.Time // nil: time.Now
	Limits    Limits
	Timeouts  Timeouts
}

// Server answers guests and members of domains, on one listener with one key;
// ALPN chooses the protocol.
type Server struct {
	Options
	roles   map[string]bool // by ALPN
	pinned  tls.Certificate // with no claim: for clients that pin the key
	pin     wire.Pin
	peers   *buckets
	ids     *buckets
	members *buckets
	places  chan struct{}
	kept    chan struct{} // places of members on keys
	turned  atomic.Uint64 // connections turned away before TLS
	// stopping ends when Serve begins to: members who only wait are let go at
	// once, and running requests finish.
	stopping context.Context
	stop     context.CancelFunc
}

// New makes a server from its state.
func New(ctx context.Context, o Options) (*Server, error) {
	if o.State == nil {
		return nil, errors.New("a server needs a state")
	}
	cert, pin, err := o.State.Certificate(ctx)
	if err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	o.Limits, o.Timeouts = o.Limits.withDefaults(), o.Timeouts.withDefaults()
	s := &Server{
		Options: o, pinned: cert, pin: pin, roles: map[string]bool{},
		peers:   newBuckets(o.Limits.PeerRate, o.Limits.PeerBurst, o.Limits.TableSize),
		ids:     newBuckets(o.Limits.IDRate, o.Limits.IDBurst, o.Limits.TableSize),
		members: newBuckets(o.Limits.KeyRate, o.Limits.KeyBurst, o.Limits.TableSize),
		places:  make(chan struct{}, o.Limits.Conns),
		kept:    make(chan struct{}, o.Limits.KeyConns),
	}
	if err := s.checkRoles(); err != nil {
		return nil, err
	}
	s.stopping, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	return s, nil
}

// Pin is what images pin of this server.
func (s *Server) Pin() wire.Pin { return s.pin }

// Serve answers on all listeners until ctx ends or a listener fails; then it
// takes no more connections, lets running exchanges finish for Timeouts.Drain
// and cuts those that have not. It closes the listeners.
func (s *Server) Serve(ctx context.Context, listeners ...net.Listener) error {
	var conns sync.WaitGroup
	accept, stop := context.WithCancel(ctx)
	defer stop()
	// Handlers outlive ctx until the drain is over.
	work, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	failed := make(chan error, len(listeners))
	var accepting sync.WaitGroup
	for _, l := range listeners {
		accepting.Go(func() {
			failed <- s.accept(accept, work, l, &conns)
			stop()
		})
	}
	<-accept.Done()
	s.stop()
	for _, l := range listeners {
		l.Close()
	}
	accepting.Wait()
	done := make(chan struct{})
	go func() { conns.Wait(); close(done) }()
	drain := time.NewTimer(s.Timeouts.Drain)
	defer drain.Stop()
	select {
	case <-done:
	case <-drain.C:
		s.Log.Warn("cutting exchanges that did not finish", "after", s.Timeouts.Drain)
		cut()
		<-done
	}
	var errs error
	for range listeners {
		errs = errors.Join(errs, <-failed)
	}
	return errs
}

func (s *Server) accept(ctx, work context.Context, l net.Listener, conns *sync.WaitGroup) error {
	pause := 5 * time.Millisecond
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("listening on %s: %w", l.Addr(), err)
			}
			// Out of descriptors, or a peer that left before it was accepted.
			s.Log.Warn("accepting a connection", "listener", l.Addr().String(), "error", err)
			select {
			case <-time.After(pause):
			case <-ctx.Done():
				return nil
			}
			pause = min(2*pause, time.Second)
			continue
		}
		pause = 5 * time.Millisecond
		leave, ok := s.admit(conn)
		if !ok {
			conn.Close()
			continue
		}
		s.Metrics.connection()
		conns.Go(func() {
			defer leave()
			s.serveConn(work, conn, leave)
		})
	}
}

// admit counts a connection against its peer's limits and the server's, before
// a byte is read or any public-key work done.
func (s *Server) admit(conn net.Conn) (leave func(), ok bool) {
	peer := peerOf(conn.RemoteAddr())
	select {
	case s.places <- struct{}{}:
	default:
		s.turnAway(peer, "all places are taken")
		return nil, false
	}
	left, ok := s.peers.enter(peer, s.Limits.ConnsByPeer, time.Now())
	if !ok {
		<-s.places
		s.turnAway(peer, "this peer connects too often")
		return nil, false
	}
	return sync.OnceFunc(func() { left(); <-s.places }), true
}

// turnAway logs the 1st, 2nd, 4th, 8th... connection turned away: a flood
// must not fill the log.
func (s *Server) turnAway(peer, why string) {
	s.Metrics.turnedAway()
	if n := s.turned.Add(1); n&(n-1) == 0 {
		s.Log.Warn("turned a connection away", "peer", peer, "why", why, "so_far", n)
	}
}

// exchange is one connection's work.
type exchange struct {
	id       wire.ExchangeID
	protocol string // RoleLaunch, RoleCertify, RoleKeys, protocolMaintain, protocolBundle
	peer     string
	conn     *tls.Conn
	started  time.Time
}

// serveConn answers one connection; leave gives its place back before the end.
func (s *Server) serveConn(ctx context.Context, raw net.Conn, leave func()) {
	defer raw.Close()
	// When the drain is over, whatever blocks on the connection ends.
	defer context.AfterFunc(ctx, func() { raw.Close() })()
	x := &exchange{peer: peerOf(raw.RemoteAddr()), started: time.Now()}
	x.conn = tls.Server(raw, s.tlsConfig(x))
	rand.Read(x.id[:])
	raw.SetDeadline(time.Now().Add(s.Timeouts.Handshake))
	if err := x.conn.HandshakeContext(ctx); err != nil {
		s.Metrics.handshakeFailed()
		s.Log.Debug("TLS handshake failed", "peer", x.peer, "protocol", x.protocol, "error", err)
		return
	}
	defer x.conn.Close()
	raw.SetDeadline(time.Now().Add(s.Timeouts.Exchange))
	if x.protocol == RoleKeys {
		s.keys(ctx, x, leave)
		return
	}
	m, err := wire.Read(x.conn)
	switch m := m.(type) {
	case *wire.Begin:
		if x.protocol == RoleLaunch {
			s.launch(ctx, x, m)
			return
		}
	case *wire.Outcome:
		if x.protocol == RoleLaunch {
			s.outcome(ctx, x, m)
			return
		}
	case *wire.MaintainBegin:
		if x.protocol == protocolMaintain {
			s.serveMaintain(ctx, x, m)
			return
		}
	case *wire.BundleBegin:
		if x.protocol == protocolBundle {
			s.serveBundle(ctx, x, m)
			return
		}
	case *wire.CertifyBegin:
		if x.protocol == RoleCertify {
			s.certify(ctx, x, m)
			return
		}
	}
	if err == nil {
		err = fmt.Errorf("%w: an exchange of %s begins with another message", wire.ErrMalformed, x.protocol)
	}
	s.broken(x, err)
}

// broken ends an exchange whose messages make no sense or do not come.
func (s *Server) broken(x *exchange, err error) {
	if errors.Is(err, wire.ErrMalformed) {
		s.refuse(x, &Decision{Exchange: x.id.String(), Peer: x.peer, Protocol: x.protocol}, code.LaunchMalformed, code.LaunchMalformed, err.Error())
		return
	}
	if !errors.Is(err, io.EOF) {
		s.Log.Info("connection lost", "exchange", x.id.String(), "peer", x.peer, "error", err)
	}
}

func (s *Server) answer(x *exchange, m wire.Message) bool {
	if err := wire.Write(x.conn, m); err != nil {
		s.Log.Info("answer not delivered", "exchange", x.id.String(), "peer", x.peer, "error", err)
		// Half a record may have left: TLS's own goodbye behind it would look
		// like a forged one.
		x.conn.NetConn().Close()
		return false
	}
	return true
}
