package domaintest

import (
	"context"
	"crypto/tls"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"attestbox/internal/admission"
	"attestbox/internal/dial"
	"attestbox/internal/wire"
)

// KeyServer answers keys for a domain, from a map.
type KeyServer struct {
	T      testing.TB
	Domain *Domain
	Cert   *tls.Certificate // with the role, unless a test wants another
	Now    func() time.Time

	// Answer replaces the answer to a request, if it gives one.
	Answer func(id *admission.Identity, req *wire.KeyRequest) *wire.KeyReply

	mu      sync.Mutex
	secrets map[string][][]byte // versions from 1
	changed chan struct{}
	conns   map[net.Conn]bool
	dialled int
}

// NewKeyServer makes one with a certificate of an hour.
func (d *Domain) NewKeyServer(t testing.TB, now time.Time) *KeyServer {
	t.Helper()
	return &KeyServer{T: t, Domain: d, Cert: d.Member(t, d.Identity(9, 9, wire.RoleKeyServer), now, time.Hour), Now: time.Now,
		secrets: map[string][][]byte{}, changed: make(chan struct{}), conns: map[net.Conn]bool{}}
}

// Put adds a version, waking every watch.
func (k *KeyServer) Put(name string, value []byte) uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.secrets[name] = append(k.secrets[name], slices.Clone(value))
	close(k.changed)
	k.changed = make(chan struct{})
	return uint64(len(k.secrets[name]))
}

// Dialled is the number of connections so far.
func (k *KeyServer) Dialled() int { k.mu.Lock(); defer k.mu.Unlock(); return k.dialled }

// Drop cuts every connection.
func (k *KeyServer) Drop() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for c := range k.conns {
		c.Close()
	}
}

// Dial connects to the server in memory.
func (k *KeyServer) Dial(context.Context, dial.Addr) (net.Conn, error) {
	mine, theirs := Pipe()
	go k.Serve(theirs)
	return mine, nil
}

// Listen serves on a TCP port of the loopback interface until the test ends.
func (k *KeyServer) Listen() string { return listen(k.T, k.Serve) }

// Serve answers one connection.
func (k *KeyServer) Serve(raw net.Conn) {
	k.mu.Lock()
	k.dialled++
	k.conns[raw] = true
	k.mu.Unlock()
	defer func() {
		raw.Close()
		k.mu.Lock()
		delete(k.conns, raw)
		k.mu.Unlock()
	}()
	trust := k.Domain.Trust()
	conn := tls.Server(raw, admission.ServerTLS(trust, func() (*tls.Certificate, error) { return k.Cert, nil }, k.Now, wire.ALPNKeys))
	if conn.Handshake() != nil {
		return
	}
	cs := conn.ConnectionState()
	id, err := trust.IdentityOf(&cs, k.Now())
	if err != nil {
		return
	}
	for {
		req, err := wire.Expect[*wire.KeyRequest](conn)
		if err != nil {
			return
		}
		if req.Op == wire.OpWatch {
			k.watch(conn, id, req)
			return
		}
		if wire.Write(conn, k.answer(id, req)) != nil {
			return
		}
	}
}

func (k *KeyServer) watch(conn *tls.Conn, id *admission.Identity, req *wire.KeyRequest) {
	gone := make(chan struct{})
	go func() { // the client says nothing more; a read ends with the connection
		conn.Read(make([]byte, 1))
		close(gone)
	}()
	for {
		k.mu.Lock()
		changed := k.changed
		k.mu.Unlock()
		r := k.answer(id, req)
		if wire.Write(conn, r) != nil || r.Code != "" {
			return
		}
		select {
		case <-changed:
		case <-gone:
			return
		}
	}
}

func (k *KeyServer) answer(id *admission.Identity, req *wire.KeyRequest) *wire.KeyReply {
	if k.Answer != nil {
		if r := k.Answer(id, req); r != nil {
			return r
		}
	}
	r := &wire.KeyReply{Exchange: wire.ExchangeID{7}, Name: req.Name, Kind: "blob", Time: k.Now().Unix(), MinPolicyVersion: k.Domain.Version}
	if req.Op == wire.OpPut || req.Op == wire.OpRotate {
		value := req.Value
		if req.Op == wire.OpRotate {
			value = []byte("rotated by the server")
		}
		r.Version = k.Put(req.Name, value)
		return r
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	versions := k.secrets[req.Name]
	switch req.Op {
	case wire.OpGet, wire.OpWatch:
		v := req.Version
		if v == 0 {
			v = uint64(len(versions))
		}
		if v == 0 || v > uint64(len(versions)) {
			return &wire.KeyReply{Exchange: r.Exchange, Code: "secret-unknown"}
		}
		r.Version, r.Value = v, slices.Clone(versions[v-1])
	case wire.OpList:
		for name, v := range k.secrets {
			r.Names = append(r.Names, wire.KeyName{Name: name, Version: uint64(len(v)), Kind: "blob"})
		}
	case wire.OpDelete:
		delete(k.secrets, req.Name)
	}
	return r
}
