package tunnel

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"attestbox/internal/admission"
	"attestbox/internal/client/domaintest"
	"attestbox/internal/wire"
)

// pair is a tunnel's two ends on loopback, with a plain server behind it.
type pair struct {
	t      *testing.T
	domain *domaintest.Domain
	front  string // plain address of the client end
	back   string // TLS address of the server end

	mu   sync.Mutex
	logs []string
}

// side is what one end is and trusts.
type side struct {
	cert  *tls.Certificate
	trust func() (*admission.Trust, error)
	peers []Peer
	now   func() time.Time
}

func (p *pair) logf(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.logs = append(p.logs, fmt.Sprintf(format, args...))
}

// said waits until an end has logged a text.
func (p *pair) said(text string) {
	p.t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		p.mu.Lock()
		all := strings.Join(p.logs, "\n")
		p.mu.Unlock()
		if strings.Contains(all, text) {
			return
		}
	}
	p.t.Errorf("nobody said %q: %q", text, p.logs)
}

func listen(t *testing.T, serve func(net.Conn)) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serve(c)
		}
	}()
	return l.Addr().String()
}

// echo answers each stream with what it got, once that has ended.
func echo(c net.Conn) {
	defer c.Close()
	b, err := io.ReadAll(c)
	if err == nil {
		c.Write(append([]byte("echo "), b...))
	}
}

func newPair(t *testing.T, plain func(net.Conn), change func(p *pair, front, back *side), tune ...func(*Config)) *pair {
	now := time.Now()
	p := &pair{t: t, domain: domaintest.New(t, "a.example", now)}
	any := []Peer{{any: true}}
	trust := func() (*admission.Trust, error) { return p.domain.Trust(), nil }
	front := &side{p.domain.Member(t, p.domain.Identity(1, 1), now, time.Hour), trust, any, nil}
	back := &side{p.domain.Member(t, p.domain.Identity(2, 2), now, time.Hour), trust, any, nil}
	if change != nil {
		change(p, front, back)
	}
	target := listen(t, plain)
	p.back = p.end(Server, *back, target, tune...)
	p.front = p.end(Client, *front, p.back, tune...)
	return p
}

func (p *pair) end(mode string, s side, target string, tune ...func(*Config)) string {
	l, err := Addr{Net: mustAddr(p.t, "127.0.0.1:0").Net}.Listen(p.t.Context(), 0)
	if err != nil {
		p.t.Fatal(err)
	}
	to := mustAddr(p.t, target)
	cfg := Config{Mode: mode, Listener: l, Dial: to.Dial, Peers: s.peers, Trust: s.trust, Now: s.now,
		Certificate: func() (*tls.Certificate, error) { return s.cert, nil }, Logf: p.logf, Check: 20 * time.Millisecond}
	for _, f := range tune {
		f(&cfg)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, cfg) }()
	p.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			p.t.Error(err)
		}
	})
	return l.Addr().String()
}

func mustAddr(t *testing.T, s string) Addr {
	a, err := ParseAddr(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (p *pair) connect() *net.TCPConn {
	c, err := p.dial()
	if err != nil {
		p.t.Fatal(err)
	}
	return c
}

func (p *pair) dial() (*net.TCPConn, error) {
	c, err := net.Dial("tcp", p.front)
	if err != nil {
		return nil, err
	}
	p.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c.(*net.TCPConn), nil
}

// ask sends a request, closes its half, and reads the answer.
func (p *pair) ask(text string) (string, error) {
	c, err := p.dial()
	if err != nil {
		return "", err // a reset may come before connect returns
	}
	defer c.Close()
	if _, err := io.WriteString(c, text); err != nil {
		return "", err
	}
	if err := c.CloseWrite(); err != nil && !isNotConnected(err) {
		return "", err
	}
	b, err := io.ReadAll(c)
	return string(b), err
}

func TestStreamsAndHalfClose(t *testing.T) {
	p := newPair(t, echo, nil)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			text := strings.Repeat(fmt.Sprint(i), 100_000)
			if got, err := p.ask(text); err != nil || got != "echo "+text {
				t.Errorf("stream %d: %d bytes, %v", i, len(got), err)
			}
		})
	}
	wg.Wait()
}

// The other direction ends first, and the first one goes on.
func TestServerEndsItsHalfFirst(t *testing.T) {
	got := make(chan string, 1)
	p := newPair(t, func(c net.Conn) {
		defer c.Close()
		io.WriteString(c, "greeting")
		c.(*net.TCPConn).CloseWrite()
		b, _ := io.ReadAll(c)
		got <- string(b)
	}, nil)
	c := p.connect()
	if b, err := io.ReadAll(c); err != nil || string(b) != "greeting" {
		t.Fatalf("%q, %v", b, err)
	}
	io.WriteString(c, "and an answer")
	c.CloseWrite()
	if s := <-got; s != "and an answer" {
		t.Errorf("%q", s)
	}
}

func TestWhoMayNot(t *testing.T) {
	now := time.Now()
	other := domaintest.New(t, "b.example", now)
	twin := domaintest.New(t, "a.example", now)
	for name, tt := range map[string]struct {
		change func(p *pair, front, back *side)
		said   string
	}{
		"client of another domain": {func(p *pair, f, b *side) {
			f.cert = other.Member(t, other.Identity(1, 1), now, time.Hour)
			f.trust = func() (*admission.Trust, error) { return other.Trust(), nil }
		}, "not an admission certificate of this domain"},
		"client under another policy key of the same name": {func(p *pair, f, b *side) {
			f.cert = twin.Member(t, twin.Identity(1, 1), now, time.Hour)
			f.trust = func() (*admission.Trust, error) { return twin.Trust(), nil }
		}, "not an admission certificate of this domain"},
		"server of another domain": {func(p *pair, f, b *side) {
			b.cert = other.Member(t, other.Identity(2, 2), now, time.Hour)
			b.trust = func() (*admission.Trust, error) { return other.Trust(), nil }
		}, "not an admission certificate of this domain"},
		"client with another measurement": {func(p *pair, f, b *side) { b.peers = []Peer{{measurement: bytes.Repeat([]byte{3}, 48)}} }, "not one that -peer allows"},
		"server with another measurement": {func(p *pair, f, b *side) { f.peers = []Peer{{measurement: bytes.Repeat([]byte{3}, 48)}} }, "not one that -peer allows"},
		"server without the role":         {func(p *pair, f, b *side) { f.peers = []Peer{{role: wire.RoleKeyServer}} }, "not one that -peer allows"},
		"client's certificate has ended": {func(p *pair, f, b *side) {
			f.cert = p.domain.Member(t, p.domain.Identity(1, 1), now.Add(-2*time.Hour), time.Hour)
		}, "this machine's own certificate"},
		"client's certificate has ended, its clock is set back": {func(p *pair, f, b *side) {
			f.cert = p.domain.Member(t, p.domain.Identity(1, 1), now.Add(-2*time.Hour), time.Hour)
			f.now = func() time.Time { return now.Add(-90 * time.Minute) }
			b.cert = p.domain.Member(t, p.domain.Identity(2, 2), now.Add(-2*time.Hour), 4*time.Hour)
		}, "not valid at this time"},
		"client under an old policy": {func(p *pair, f, b *side) {
			b.cert = func() *tls.Certificate {
				id := p.domain.Identity(2, 2)
				id.PolicyVersion = 2
				return p.domain.Member(t, id, now, time.Hour)
			}()
			b.trust = func() (*admission.Trust, error) {
				tr := p.domain.Trust()
				tr.MinPolicyVersion = 2
				return tr, nil
			}
		}, "policy that is no longer accepted"},
		"no trust to be had": {func(p *pair, f, b *side) {
			b.trust = func() (*admission.Trust, error) { return nil, errors.New("the floor cannot be read") }
		}, "the floor cannot be read"},
	} {
		t.Run(name, func(t *testing.T) {
			reached := atomic.Bool{}
			p := newPair(t, func(c net.Conn) { reached.Store(true); echo(c) }, tt.change)
			if got, err := p.ask("secret"); err == nil && got != "" {
				t.Errorf("answered %q", got)
			} else if err == nil {
				t.Error("the program was told of a proper end")
			}
			p.said(tt.said)
			if reached.Load() {
				t.Error("the program behind the tunnel was reached")
			}
		})
	}
}

func TestPeersThatMay(t *testing.T) {
	p := newPair(t, echo, func(p *pair, f, b *side) {
		b.cert = p.domain.Member(t, p.domain.Identity(2, 2, wire.RoleKeyServer), time.Now(), time.Hour)
		f.peers = []Peer{{measurement: bytes.Repeat([]byte{9}, 48)}, {role: wire.RoleKeyServer}}
		b.peers = []Peer{{measurement: bytes.Repeat([]byte{1}, 48)}}
	})
	if got, err := p.ask("x"); err != nil || got != "echo x" {
		t.Errorf("%q, %v", got, err)
	}
	if err := Serve(t.Context(), Config{Mode: Client}); err == nil {
		t.Error("a tunnel for nobody was opened")
	}
}

// An open stream ends when the other end's certificate does: by time, or
// because policy moved on. The plain side sees a cut, not an end.
func TestOpenStreamEnds(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(p *pair, f, b *side) func()
		said   string
	}{
		"expired": {func(p *pair, f, b *side) func() {
			var shift atomic.Int64
			b.now = func() time.Time { return time.Now().Add(time.Duration(shift.Load())) }
			return func() { shift.Store(int64(2 * time.Hour)) }
		}, "not valid at this time"},
		"policy moved on": {func(p *pair, f, b *side) func() {
			var version atomic.Uint64
			f.trust = func() (*admission.Trust, error) {
				tr := p.domain.Trust()
				tr.MinPolicyVersion = version.Load()
				return tr, nil
			}
			return func() { version.Store(7) }
		}, "no longer accepted"},
		"revoked": {func(p *pair, f, b *side) func() {
			var gone atomic.Bool
			b.trust = func() (*admission.Trust, error) {
				tr := p.domain.Trust()
				tr.Revoked = func(*admission.Identity) bool { return gone.Load() }
				return tr, nil
			}
			return func() { gone.Store(true) }
		}, "revoked"},
	} {
		t.Run(name, func(t *testing.T) {
			var end func()
			cut := make(chan error, 1)
			p := newPair(t, func(c net.Conn) {
				defer c.Close()
				io.WriteString(c, "hello")
				_, err := io.Copy(io.Discard, c)
				cut <- err
			}, func(p *pair, f, b *side) { end = tt.change(p, f, b) })
			c := p.connect()
			if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
				t.Fatal(err)
			}
			end()
			if n, err := c.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
				t.Errorf("the client read %d, %v", n, err)
			}
			if err := <-cut; !errors.Is(err, unix.ECONNRESET) {
				t.Errorf("the server saw %v", err)
			}
			p.said(tt.said)
		})
	}
}

// The program on either side dies: its peer sees a cut, and the tunnel serves
// the next.
func TestProgramDies(t *testing.T) {
	p := newPair(t, func(c net.Conn) {
		first := make([]byte, 1)
		io.ReadFull(c, first)
		if first[0] == 'd' {
			c.(*net.TCPConn).SetLinger(0)
			c.Close()
			return
		}
		echo(c)
	}, nil)
	if got, err := p.ask("d"); err == nil {
		t.Errorf("a cut stream ended properly with %q", got)
	}
	c := p.connect()
	io.WriteString(c, "x")
	c.SetLinger(0)
	c.Close() // and ours, in the middle
	if got, err := p.ask("xy"); err != nil || got != "echo y" {
		t.Errorf("%q, %v", got, err)
	}
}
