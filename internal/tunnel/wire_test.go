package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"attestbox/internal/admission"
)

func TestUnixSocket(t *testing.T) {
	p := newPair(t, echo, nil)
	path := filepath.Join(t.TempDir(), "a.sock")
	a := mustAddr(t, "unix:"+path)
	l, err := a.Listen(t.Context(), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Listen(t.Context(), 0o600); err == nil || !strings.Contains(err.Error(), "another program serves it") {
		t.Errorf("a served socket was taken over: %v", err)
	}
	cert := p.domain.Member(t, p.domain.Identity(1, 1), time.Now(), time.Hour)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		done <- Serve(ctx, Config{Mode: Client, Listener: l, Dial: mustAddr(t, p.back).Dial, Peers: []Peer{{any: true}},
			Trust: func() (*admission.Trust, error) { return p.domain.Trust(), nil }, Certificate: func() (*tls.Certificate, error) { return cert, nil }})
	}()
	c, err := a.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(c, "by socket")
	c.(*net.UnixConn).CloseWrite()
	if b, err := io.ReadAll(c); err != nil || string(b) != "echo by socket" {
		t.Errorf("%q, %v", b, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	// What a killed tunnel leaves is replaced; a file is not.
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	if l, err = a.Listen(t.Context(), 0o660); err != nil {
		t.Fatal(err)
	}
	l.Close()
	if _, err := mustAddr(t, "unix:/etc/passwd").Listen(t.Context(), 0o600); err == nil {
		t.Error("a file was replaced by a socket")
	}
}

// The host cuts the wire between two records: neither program may take that for
// the end of the stream.
func TestWireIsCut(t *testing.T) {
	var back atomic.Value
	var mu sync.Mutex
	var wires []net.Conn
	relay := listen(t, func(c net.Conn) {
		to, err := net.Dial("tcp", back.Load().(string))
		if err != nil {
			t.Error(err)
			return
		}
		mu.Lock()
		wires = append(wires, c, to)
		mu.Unlock()
		go io.Copy(to, c)
		io.Copy(c, to)
	})
	cut := make(chan error, 1)
	p := newPair(t, func(c net.Conn) {
		io.WriteString(c, "hello")
		_, err := io.Copy(io.Discard, c)
		cut <- err
	}, nil)
	back.Store(p.back)
	cert := p.domain.Member(t, p.domain.Identity(1, 1), time.Now(), time.Hour)
	p.front = p.end(Client, side{cert, func() (*admission.Trust, error) { return p.domain.Trust(), nil }, []Peer{{any: true}}, nil}, relay)
	c := p.connect()
	if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	for _, w := range wires {
		w.(*net.TCPConn).CloseWrite() // FIN, politely
	}
	mu.Unlock()
	if n, err := c.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the client read %d, %v", n, err)
	}
	if err := <-cut; !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the server saw %v", err)
	}
}
