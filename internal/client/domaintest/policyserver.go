package domaintest

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"sync"
	"testing"
	"time"

	"attestbox/internal/admission"
	"attestbox/internal/dial"
	"attestbox/internal/secret"
	"attestbox/internal/wire"
)

// PolicyServer answers certify for a domain. Its methods and fields may be used
// while no exchange runs.
type PolicyServer struct {
	T      testing.TB
	Domain *Domain
	Cert   tls.Certificate

	Share    []byte        // the store secret that it gives
	Epoch    uint64        // the highest store epoch it was told
	Validity time.Duration // of certificates; default admission.DefaultValidity
	Now      func() time.Time

	// Answer gives the reply to evidence on the n-th connection (from 1); nil
	// means an admission. Change may spoil that admission.
	Answer func(n int) wire.Message
	Change func(*wire.Admission, *wire.CertifyTranscript)

	mu    sync.Mutex
	conns int
	Begun []*wire.CertifyBegin
}

// NewPolicyServer makes one with a self-signed certificate, to be pinned.
func (d *Domain) NewPolicyServer(t testing.TB) *PolicyServer {
	t.Helper()
	key := Key()
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(nil, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &PolicyServer{T: t, Domain: d, Share: newShare(), Validity: admission.DefaultValidity, Now: time.Now,
		Cert: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}}
}

// Pin is the server's.
func (p *PolicyServer) Pin() wire.Pin { return wire.PinOf(p.Cert.Leaf) }

// Conns is the number of connections so far.
func (p *PolicyServer) Conns() int { p.mu.Lock(); defer p.mu.Unlock(); return p.conns }

// SetAnswer changes Answer while the server runs.
func (p *PolicyServer) SetAnswer(f func(int) wire.Message) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.Answer = f
}

// Dial connects to the server in memory.
func (p *PolicyServer) Dial(context.Context, dial.Addr) (net.Conn, error) {
	mine, theirs := Pipe()
	go p.Serve(theirs)
	return mine, nil
}

// Listen serves on a TCP port of the loopback interface until the test ends.
func (p *PolicyServer) Listen() string { return listen(p.T, p.Serve) }

func listen(t testing.TB, serve func(net.Conn)) string {
	t.Helper()
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
	return "tcp://" + l.Addr().String()
}

// Serve answers one connection.
func (p *PolicyServer) Serve(raw net.Conn) {
	p.mu.Lock()
	p.conns++
	n := p.conns
	p.mu.Unlock()
	defer raw.Close()
	cfg := &tls.Config{MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true, NextProtos: []string{wire.ALPNCertify}, Certificates: []tls.Certificate{p.Cert}}
	conn := tls.Server(raw, cfg)
	begin, err := wire.Expect[*wire.CertifyBegin](conn)
	if err != nil {
		return
	}
	ch := &wire.Challenge{Exchange: wire.ExchangeID{byte(n)}, Nonce: wire.Hex32{byte(n)}}
	if wire.Write(conn, ch) != nil {
		return
	}
	ev, err := wire.Expect[*wire.Evidence](conn)
	if err != nil {
		return
	}
	t := &wire.CertifyTranscript{Version: 1, Nonce: ch.Nonce, Domain: begin.Domain, Role: begin.Role, CSR: begin.CSR, Suite: wire.SuiteID(), Key: begin.Key, StoreEpoch: begin.StoreEpoch}
	cs := conn.ConnectionState()
	if err := t.FillChannel(&cs, p.Pin()); err != nil {
		p.T.Error(err)
		return
	}
	id := p.Domain.Identity(1, 1)
	if ev.Platform == id.Platform {
		if len(ev.Report) != 1184 || [64]byte(ev.Report[0x50:0x90]) != t.ReportData() {
			p.T.Error("the report does not bind this exchange")
			return
		}
		id.Measurement = ev.Report[0x90:0xC0]
		copy(id.Instance[:], ev.Report[0xC0:])
		copy(id.ReportID[:], ev.Report[0x140:])
	}
	p.mu.Lock()
	say := p.Answer
	p.mu.Unlock()
	if say != nil {
		if m := say(n); m != nil {
			wire.Write(conn, m)
			return
		}
	}
	if begin.Role != wire.RoleClient {
		id.Roles = []string{begin.Role}
	}
	pub, err := admission.KeyFromCSR(begin.CSR)
	if err != nil {
		p.T.Error(err)
		return
	}
	p.mu.Lock()
	p.Begun = append(p.Begun, begin)
	p.Epoch = max(p.Epoch, begin.StoreEpoch)
	epoch := p.Epoch
	p.mu.Unlock()
	leaf, err := admission.Issue(p.Domain.Issuer, p.Domain.IssuerKey, pub, id, p.Now(), p.Validity)
	if err != nil {
		p.T.Error(err)
		return
	}
	answer := &wire.Admission{Exchange: ch.Exchange, Chain: [][]byte{leaf, p.Domain.Issuer.Raw}, Proof: "1. because the script says so\n", Time: p.Now().Unix(), MinPolicyVersion: p.Domain.Version}
	answer.Sealed, err = wire.SealCertify(t, &wire.Payload{DiskKey: secret.Copy(p.Share), OutcomeKey: secret.Random(wire.OutcomeKeySize), Boot: epoch})
	if err != nil {
		p.T.Error(err)
		return
	}
	if p.Change != nil {
		p.Change(answer, t)
	}
	wire.Write(conn, answer)
}

func newShare() []byte {
	b := make([]byte, 32)
	rand.Read(b)
	return b
}
