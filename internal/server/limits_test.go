package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mdlayher/vsock"

	"attestbox/internal/code"
	"attestbox/internal/secret"
	"attestbox/internal/store/file"
	"attestbox/internal/store/sealed"
	"attestbox/internal/wire"
)

func TestBuckets(t *testing.T) {
	now := time.Unix(1000, 0)
	b := newBuckets(1, 3, 2)
	for i := range 3 {
		if !b.take("a", now) {
			t.Errorf("token %d of a burst of 3 refused", i+1)
		}
	}
	if b.take("a", now) {
		t.Error("a fourth token of 3")
	}
	if !b.take("b", now) {
		t.Error("b pays for a")
	}
	// The table is full: newcomers share a bucket, those known keep theirs.
	later := now.Add(500 * time.Millisecond)
	for _, k := range []string{"c", "d", "e"} {
		if !b.take(k, later) {
			t.Errorf("%s refused although the shared bucket is full", k)
		}
	}
	if b.take("f", later) || len(b.m) != 2 {
		t.Errorf("the shared bucket has no end, or the table grew to %d", len(b.m))
	}
	if !b.take("b", later) {
		t.Error("b suffers from newcomers")
	}
	if !b.take("a", now.Add(time.Second)) || b.take("a", now.Add(time.Second)) {
		t.Error("one second gives one token")
	}
	// Whoever was quiet is forgotten, and newcomers get buckets of their own.
	if !b.take("f", now.Add(time.Hour)) || len(b.m) != 1 {
		t.Errorf("after an hour the table has %d entries", len(b.m))
	}
	// A peer that holds a connection is not forgotten.
	leave, ok := b.enter("g", 1, now.Add(time.Hour))
	if !ok {
		t.Fatal("g refused")
	}
	if _, ok := b.enter("g", 1, now.Add(time.Hour)); ok {
		t.Error("a second place of one")
	}
	for i := range 10 {
		b.take(fmt.Sprint("x", i), now.Add(2*time.Hour+time.Duration(i)*time.Minute))
	}
	if b.m["g"] == nil {
		t.Error("g was forgotten with a connection open")
	}
	leave()
	if _, ok := b.enter("g", 1, now.Add(3*time.Hour)); !ok {
		t.Error("the place was not given back")
	}
}

func TestPeers(t *testing.T) {
	for want, a := range map[string]net.Addr{
		"192.0.2.7":         &net.TCPAddr{IP: net.ParseIP("192.0.2.7"), Port: 1},
		"2001:db8:1:2::/64": &net.TCPAddr{IP: net.ParseIP("2001:db8:1:2:3:4:5:6"), Port: 1},
		"fe80::/64":         &net.TCPAddr{IP: net.ParseIP("fe80::1"), Zone: "eth0"},
		"cid 42":            &vsock.Addr{ContextID: 42, Port: 9},
		"other":             &net.UnixAddr{Name: "x"},
	} {
		if got := peerOf(a); got != want {
			t.Errorf("%v: %q, want %q", a, got, want)
		}
	}
}

// A flood in the name of somebody else's ID, with everything that can be had
// without being that instance, does not lock it out.
func TestFloodDoesNotLockOut(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Limits.IDBurst, o.Limits.IDRate = 1, 1e-9 })
	id := newID()
	w.add(id, Takeover)
	g := w.guest(id, nil)
	captured := w.begin(id).evidence(g) // genuine, and stale on any other connection
	for i := range 30 {
		c := w.begin(id)
		switch i % 3 {
		case 0:
			c.send(captured)
		case 1: // the attacker's own machine of the same kind, launched with this ID
			evil := w.guest(id, nil).Config
			evil.Measurement[0] ^= 0xff
			c.send(c.evidence(w.psp.Launch(evil)))
		default:
			c.conn.Close()
			continue
		}
		if _, err := c.release(); err == nil {
			t.Fatal("the flood was released something")
		}
	}
	_, p, err := w.get(g)
	if err != nil {
		t.Fatalf("locked out: %v", err)
	}
	p.Zero()
	// The limit is there all the same, for the instance itself.
	_, _, err = w.get(g)
	if ans, ok := err.(*wire.AnswerError); !ok || ans.Code != code.VerifierBusy || ans.Seconds == 0 {
		t.Errorf("beyond its own limit: %v, want later with %s", err, code.VerifierBusy)
	}
}

// Connections beyond a peer's limits are closed before TLS.
func TestPeerLimitBeforeTLS(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Limits.ConnsByPeer = 2 })
	var held []net.Conn
	for range 2 {
		c, err := net.Dial("tcp", w.addr[len("tcp://"):])
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		held = append(held, c)
	}
	c, err := net.Dial("tcp", w.addr[len("tcp://"):])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	if n, err := c.Read(make([]byte, 1)); err == nil {
		t.Errorf("a third connection was answered with %d bytes", n)
	}
	if !strings.Contains(w.log.String(), "turned a connection away") {
		t.Errorf("the log does not say so:\n%s", w.log)
	}
	for _, h := range held {
		h.Close()
	}
}

// pipes is a listener over net.Pipe, so that a synctest bubble owns its clock.
type pipes struct {
	c      chan net.Conn
	closed chan struct{}
}

func newPipes() *pipes { return &pipes{make(chan net.Conn), make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.c:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error {
	select {
	case <-p.closed:
	default:
		close(p.closed)
	}
	return nil
}
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }
func (p *pipes) dial() net.Conn {
	a, b := net.Pipe()
	p.c <- b
	return a
}

type refuseAll struct{}

func (refuseAll) Appraise(context.Context, *Evidence) *Verdict { return &Verdict{} }

// Who sends nothing, or a byte at a time, is cut off at the deadline of each
// stage, and a shutdown cuts what does not end within the drain.
func TestSlowPeers(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "s")
	synctest.Test(t, func(t *testing.T) {
		raw, err := file.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		st, err := CreateState(t.Context(), raw, sealed.Key{File: secret.Random(32)}, Config{}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		defer st.Close()
		srv, err := New(t.Context(), Options{State: st, Appraiser: refuseAll{}, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		l := newPipes()
		done := make(chan error, 1)
		go func() { done <- srv.Serve(ctx, l) }()

		ended := func(c net.Conn, start time.Time) time.Duration {
			t.Helper()
			if _, err := io.Copy(io.Discard, c); err != nil && !errors.Is(err, io.ErrClosedPipe) {
				t.Error(err)
			}
			return time.Since(start)
		}
		start := time.Now()
		if d := ended(l.dial(), start); d != 5*time.Second {
			t.Errorf("a silent connection lived %v, want 5 s", d)
		}

		cfg, err := wire.ClientTLS([]wire.Pin{srv.Pin()})
		if err != nil {
			t.Fatal(err)
		}
		conn := tlsClient(t, l.dial(), cfg)
		start = time.Now()
		go func() { // one byte of a begin every second: each read makes progress
			for {
				if _, err := conn.Write([]byte{0}); err != nil {
					return
				}
				time.Sleep(time.Second)
				if _, err := conn.Write([]byte{0}); err != nil {
					return
				}
			}
		}()
		if _, err := io.Copy(io.Discard, conn); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.ErrClosedPipe) {
			t.Log(err)
		}
		if d := time.Since(start); d > wire.ExchangeTimeout+6*time.Second {
			t.Errorf("a dripping connection lived %v, want about %v", d, wire.ExchangeTimeout)
		}
		conn.Close()

		// A shutdown while a peer idles after the handshake.
		idle := tlsClient(t, l.dial(), cfg)
		synctest.Wait()
		srv.Timeouts.Exchange = time.Hour
		start = time.Now()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
		if d := time.Since(start); d > srv.Timeouts.Drain+6*time.Second {
			t.Errorf("the shutdown took %v", d)
		}
		idle.Close()
	})
	if err := os.RemoveAll(dir); err != nil {
		t.Error(err)
	}
}
