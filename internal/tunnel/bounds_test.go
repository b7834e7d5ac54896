package tunnel

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Who connects and says nothing, and who reads nothing, disturbs nobody.
func TestSilentAndSlowPeers(t *testing.T) {
	release := make(chan struct{})
	p := newPair(t, func(c net.Conn) {
		defer c.Close()
		first := make([]byte, 1)
		io.ReadFull(c, first)
		if first[0] == 'f' { // a flood that nobody reads
			for range 1000 {
				if _, err := c.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
			return
		}
		echo(c)
	}, nil, func(c *Config) { c.Handshake = 2 * time.Second })
	defer close(release)
	for range 50 { // silent, on the TLS side
		c, err := net.Dial("tcp", p.back)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	slow := p.connect()
	io.WriteString(slow, "f")
	for range 5 {
		if got, err := p.ask("xyz"); err != nil || got != "echo yz" {
			t.Fatalf("%q, %v", got, err)
		}
	}
	// Backpressure: the flood of 64 MB waits in the sockets, and comes whole.
	n, err := io.Copy(io.Discard, slow)
	if err != nil || n != 1000*64<<10 {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// More streams than there are places wait, and get their turn.
func TestBoundedStreams(t *testing.T) {
	var open, most atomic.Int32
	p := newPair(t, func(c net.Conn) {
		if n := open.Add(1); n > most.Load() {
			most.Store(n)
		}
		defer open.Add(-1)
		echo(c)
	}, nil, func(c *Config) {
		if c.Mode == Client {
			c.MaxStreams = 3
		}
	})
	var wg sync.WaitGroup
	for range 30 {
		wg.Go(func() {
			if got, err := p.ask("x"); err != nil || got != "echo x" {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
	wg.Wait()
	if most.Load() > 3+1 { // one may still be leaving behind the tunnel
		t.Errorf("%d streams at once", most.Load())
	}
}
