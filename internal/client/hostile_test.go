package client

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"attestbox/internal/code"
	"attestbox/internal/dial"
	"attestbox/internal/platform"
	"attestbox/internal/wire"
)

// A host that lets nothing through in time: before, in and after TLS. Every
// exchange ends by itself, and the launch ends with its context.
func TestSlowPeers(t *testing.T) {
	for name, serve := range map[string]func(p *peer, raw net.Conn){
		"accepts and says nothing": func(_ *peer, raw net.Conn) {
			buf := make([]byte, 4096)
			for {
				if _, err := raw.Read(buf); err != nil {
					return
				}
			}
		},
		"no challenge": func(p *peer, raw net.Conn) {
			conn := tls.Server(raw, wire.ServerTLS(p.cert))
			for {
				if _, err := wire.Read(conn); err != nil {
					return
				}
			}
		},
		"a byte a second": func(p *peer, raw net.Conn) {
			conn := tls.Server(raw, wire.ServerTLS(p.cert))
			if _, err := wire.Read(conn); err != nil {
				return
			}
			for _, b := range []byte("\x00\x00\xff\xff" + `{"type":"challenge","exchange":"`) {
				if _, err := conn.Write([]byte{b}); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeer(t)
				var mu sync.Mutex
				var ends []time.Duration
				cfg := config(p)
				cfg.Dial = func(context.Context, dial.Addr) (net.Conn, error) {
					mine, theirs := net.Pipe()
					p.conns.Add(1)
					go func() {
						begin := time.Now()
						serve(p, mine)
						mu.Lock()
						ends = append(ends, time.Since(begin))
						mu.Unlock()
						mine.Close()
					}()
					return theirs, nil
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				begin := time.Now()
				_, err := Launch(ctx, cfg)
				if !errors.Is(err, ErrUnreachable) {
					t.Errorf("%v", err)
				}
				if took := time.Since(begin); took > 61*time.Second {
					t.Errorf("gave up after %s", took)
				}
				time.Sleep(2 * time.Second) // the slowest of them notices with its next byte
				synctest.Wait()
				mu.Lock()
				defer mu.Unlock()
				if n := int(p.conns.Load()); n < 3 || len(ends) != n {
					t.Errorf("%d connections, %d ended", n, len(ends))
				}
				for _, d := range ends {
					if d > wire.ExchangeTimeout+2*time.Second {
						t.Errorf("a connection was kept for %s", d)
					}
				}
			})
		})
	}
}

// Frames that a verifier with the right key sends by mistake or malice: too
// long, cut, no JSON, another message. None ends the launch as refused, none
// is taken for a release.
func TestMalformedAnswers(t *testing.T) {
	for name, answer := range map[string]string{
		"frame too large": "\xff\xff\xff\xff",
		"empty frame":     "\x00\x00\x00\x00",
		"cut frame":       "\x00\x00\x10\x00{",
		"no JSON":         "\x00\x00\x00\x04junk",
		"unknown field":   "\x00\x00\x00\x35" + `{"type":"release","sealed":"AAAA","shell":"/bin/sh"}.`,
		"wrong message":   "\x00\x00\x00\x12" + `{"type":"release"}`,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeer(t)
				cfg := config(p)
				cfg.Dial = func(context.Context, dial.Addr) (net.Conn, error) {
					mine, theirs := net.Pipe()
					p.conns.Add(1)
					go func() {
						defer mine.Close()
						conn := tls.Server(mine, wire.ServerTLS(p.cert))
						if _, err := wire.Read(conn); err != nil {
							return
						}
						conn.Write([]byte(answer))
						if name == "cut frame" {
							conn.CloseWrite()
						}
						wire.Read(conn) // until the guest hangs up
					}()
					return theirs, nil
				}
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				_, err := Launch(ctx, cfg)
				if c, _ := code.Of(err); !errors.Is(err, ErrUnreachable) || c != code.LaunchMalformed || p.conns.Load() < 2 {
					t.Errorf("%v (%s) after %d connections", err, c, p.conns.Load())
				}
				synctest.Wait()
			})
		})
	}
}

// hung is a secure processor that answers the first n requests and no more.
type hung struct {
	psp
	n       atomic.Int32
	release chan struct{}
}

func (h *hung) Report(ctx context.Context, data [64]byte) (*platform.Evidence, error) {
	if h.n.Add(-1) < 0 {
		<-h.release // a system call knows no context
		return nil, errors.New("too late")
	}
	return h.psp.Report(ctx, data)
}

// The host answers for the secure processor's mailbox, and may let it hang.
func TestHungSecureProcessor(t *testing.T) {
	for _, answers := range []int32{0, 1} {
		synctest.Test(t, func(t *testing.T) {
			p := newPeer(t)
			cfg := config(p)
			h := &hung{psp: psp{7}, release: make(chan struct{})}
			h.n.Store(answers)
			defer close(h.release)
			cfg.Platform = h
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			begin := time.Now()
			if rel, err := Launch(ctx, cfg); err == nil {
				rel.Close()
				t.Error("launched")
			}
			if took := time.Since(begin); took > 31*time.Second {
				t.Errorf("gave up after %s", took)
			}
		})
	}
}

// After its time nothing is reported: the caller has announced a failure.
func TestReportAfterTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		rel, err := Launch(t.Context(), config(p))
		if err != nil {
			t.Fatal(err)
		}
		defer rel.Close()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if ack, err := rel.Report(ctx, wire.ResultOpened, "", nil); err == nil {
			t.Errorf("acknowledged: %+v", ack)
		}
		rel.Close()
		synctest.Wait()
		if len(p.outcomes) != 0 {
			t.Errorf("%d outcomes were sent", len(p.outcomes))
		}
	})
}
