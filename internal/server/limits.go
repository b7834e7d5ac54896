package server

import (
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/mdlayher/vsock"
)

// Limits bound what peers may use up. The zero value of a field means its default.
type Limits struct {
	Conns       int     // connections at once: 256
	ConnsByPeer int     // of one address or CID: 32
	PeerRate    float64 // new connections per second of one address or CID: 20
	PeerBurst   float64 // how many of them at once: 40
	IDRate      float64 // accepted evidence per second of one instance: 0.2
	IDBurst     float64 // how many of them at once: 10
	KeyConns    int     // connections of members on keys, beside Conns: 1024
	KeyConnsBy  int     // of one member: 16
	KeyRate     float64 // requests per second of one member: 500
	KeyBurst    float64 // how many of them at once: 1000
	TableSize   int     // addresses and instances remembered: 16384
}

func (l Limits) withDefaults() Limits {
	def := func(v *float64, d float64) {
		if *v <= 0 {
			*v = d
		}
	}
	defInt := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	defInt(&l.Conns, 256)
	defInt(&l.ConnsByPeer, 32)
	def(&l.PeerRate, 20)
	def(&l.PeerBurst, 40)
	def(&l.IDRate, 0.2)
	def(&l.IDBurst, 10)
	defInt(&l.KeyConns, 1024)
	defInt(&l.KeyConnsBy, 16)
	def(&l.KeyRate, 500)
	def(&l.KeyBurst, 1000)
	defInt(&l.TableSize, 16384)
	return l
}

// peerOf names whom a limit counts: an IPv4 address, an IPv6 /64, a CID.
func peerOf(a net.Addr) string {
	switch a := a.(type) {
	case *net.TCPAddr:
		ip, ok := netip.AddrFromSlice(a.IP)
		if !ok {
			return "tcp"
		}
		ip = ip.Unmap()
		if ip.Is6() {
			if p, err := ip.WithZone("").Prefix(64); err == nil {
				return p.String()
			}
		}
		return ip.String()
	case *vsock.Addr:
		return "cid " + strconv.FormatUint(uint64(a.ContextID), 10)
	}
	return "other"
}

// buckets is a bounded table of token buckets. When it is full, and no full
// bucket can be forgotten, newcomers share one bucket: they may suffer, those
// in the table do not, and memory stays bounded.
type buckets struct {
	mu          sync.Mutex
	rate, burst float64
	size        int
	m           map[string]*bucket
	shared      bucket
	swept       time.Time
}

type bucket struct {
	tokens float64
	at     time.Time
	held   int // connections open now
}

func newBuckets(rate, burst float64, size int) *buckets {
	return &buckets{rate: rate, burst: burst, size: size, m: map[string]*bucket{}, shared: bucket{tokens: burst}}
}

func (t *buckets) refill(b *bucket, now time.Time) {
	if d := now.Sub(b.at); d > 0 {
		b.tokens = min(t.burst, b.tokens+d.Seconds()*t.rate)
		b.at = now
	}
}

func (t *buckets) get(key string, now time.Time) *bucket {
	if b := t.m[key]; b != nil {
		t.refill(b, now)
		return b
	}
	if len(t.m) >= t.size {
		// At most one sweep a second, so that a flood of new names costs no more.
		if now.Sub(t.swept) >= time.Second {
			t.swept = now
			for k, b := range t.m {
				if t.refill(b, now); b.held == 0 && b.tokens >= t.burst {
					delete(t.m, k)
				}
			}
		}
		if len(t.m) >= t.size {
			t.refill(&t.shared, now)
			return &t.shared
		}
	}
	b := &bucket{tokens: t.burst, at: now}
	t.m[key] = b
	return b
}

// take takes one token.
func (t *buckets) take(key string, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.get(key, now)
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// enter takes one token and one of most places; leave gives the place back.
func (t *buckets) enter(key string, most int, now time.Time) (leave func(), ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.get(key, now)
	if b.tokens < 1 || b.held >= most {
		return nil, false
	}
	b.tokens--
	b.held++
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		b.held--
	}, true
}
