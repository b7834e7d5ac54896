package client

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"attestbox/internal/code"
	"attestbox/internal/dial"
	"attestbox/internal/platform"
	"attestbox/internal/secret"
	"attestbox/internal/wire"
)

// peer is a verifier of a few lines: it checks the transcript and answers as
// its script says. The real one is tested with this client in internal/server.
type peer struct {
	t     *testing.T
	cert  tls.Certificate
	conns atomic.Int32
	// answer gives the reply to evidence on the n-th connection (from 1);
	// nil means the release. dropOutcome cuts the connection instead of an ack.
	answer      func(n int32) wire.Message
	dropOutcome func(n int32) bool
	tamper      func(*wire.Transcript)
	outcomes    []*wire.Outcome
}

func newPeer(t *testing.T) *peer {
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(nil, tmpl, tmpl, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, _ := x509.ParseCertificate(der)
	return &peer{t: t, cert: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}}
}

func (p *peer) pin() wire.Pin { return wire.PinOf(p.cert.Leaf) }

func (p *peer) dial(context.Context, dial.Addr) (net.Conn, error) {
	mine, theirs := net.Pipe()
	n := p.conns.Add(1)
	go p.serve(mine, n)
	return theirs, nil
}

var outcomeKey = []byte("0123456789abcdef0123456789abcdef")

func (p *peer) serve(raw net.Conn, n int32) {
	conn := tls.Server(raw, wire.ServerTLS(p.cert))
	defer raw.Close()
	m, err := wire.Read(conn)
	if err != nil {
		return
	}
	if o, ok := m.(*wire.Outcome); ok {
		p.outcome(conn, o, n)
		return
	}
	begin := m.(*wire.Begin)
	ch := &wire.Challenge{Exchange: wire.ExchangeID{byte(n)}, Nonce: wire.Hex32{byte(n)}}
	if wire.Write(conn, ch) != nil {
		return
	}
	ev, err := wire.Expect[*wire.Evidence](conn)
	if err != nil {
		return
	}
	t := &wire.Transcript{Version: 1, Nonce: ch.Nonce, ID: begin.ID, Suite: wire.SuiteID(), Key: begin.Key}
	cs := conn.ConnectionState()
	if err := t.FillChannel(&cs, p.pin()); err != nil {
		p.t.Error(err)
	}
	if [64]byte(ev.Report[0x50:0x90]) != t.ReportData() {
		p.t.Error("the report does not bind this exchange")
	}
	if p.answer != nil {
		if m := p.answer(n); m != nil {
			wire.Write(conn, m)
			return
		}
	}
	if p.tamper != nil {
		p.tamper(t)
	}
	sealed, err := wire.Seal(t, &wire.Payload{DiskKey: secret.Copy([]byte("disk key")), OutcomeKey: secret.Copy(outcomeKey), Boot: 5})
	if err != nil {
		p.t.Error(err)
		return
	}
	wire.Write(conn, &wire.Release{Sealed: sealed})
	if o, err := wire.Expect[*wire.Outcome](conn); err == nil {
		p.outcome(conn, o, n)
	}
}

func (p *peer) outcome(conn net.Conn, o *wire.Outcome, n int32) {
	if !wire.VerifyOutcome(secret.Copy(outcomeKey), o) {
		p.t.Error("the outcome's MAC is wrong")
	}
	if p.dropOutcome != nil && p.dropOutcome(n) {
		return
	}
	p.outcomes = append(p.outcomes, o)
	wire.Write(conn, &wire.Ack{Boot: o.Boot})
}

// psp makes unsigned reports: this client does not look at signatures.
type psp struct{ id byte }

func (psp) Name() string { return platform.AMDSEVSNP }
func (psp) Close() error { return nil }
func (p psp) Report(_ context.Context, data [64]byte) (*platform.Evidence, error) {
	r := make([]byte, 1184)
	copy(r[0x50:], data[:])
	r[0xC0], r[0x140] = p.id, 9
	return &platform.Evidence{Platform: platform.AMDSEVSNP, Report: r}, nil
}

func config(p *peer) Config {
	return Config{Servers: []string{"tcp://a:1"}, Pins: []wire.Pin{p.pin()}, Platform: psp{7}, Dial: p.dial}
}

func TestLaunchAndOutcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		rel, err := Launch(t.Context(), config(p))
		if err != nil {
			t.Fatal(err)
		}
		defer rel.Close()
		if string(rel.Payload.DiskKey.Bytes()) != "disk key" || rel.ID[0] != 7 || rel.ReportID[0] != 9 {
			t.Errorf("released %q to %s", rel.Payload.DiskKey.Bytes(), rel.ID)
		}
		ack, err := rel.Report(t.Context(), wire.ResultOpened, "", nil)
		if err != nil || ack.Boot != 5 || p.conns.Load() != 1 {
			t.Errorf("ack %+v, %v on %d connections", ack, err, p.conns.Load())
		}
		rel.Close()
		if rel.Payload.DiskKey.Len() != 0 {
			t.Error("Close left the key")
		}
	})
}

// A dropped outcome is sent again on later connections, until it is acknowledged.
func TestDroppedOutcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		p.dropOutcome = func(n int32) bool { return n < 4 }
		rel, err := Launch(t.Context(), config(p))
		if err != nil {
			t.Fatal(err)
		}
		defer rel.Close()
		if _, err := rel.Report(t.Context(), wire.ResultFailed, "luks-header-digest", nil); err != nil {
			t.Fatal(err)
		}
		if len(p.outcomes) != 1 || p.outcomes[0].Reason != "luks-header-digest" || p.conns.Load() != 4 {
			t.Errorf("%d outcomes on %d connections", len(p.outcomes), p.conns.Load())
		}
	})
}

// Without an acknowledgement Report fails when its time is over.
func TestNoAcknowledgement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		p.dropOutcome = func(int32) bool { return true }
		rel, err := Launch(t.Context(), config(p))
		if err != nil {
			t.Fatal(err)
		}
		defer rel.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := rel.Report(ctx, wire.ResultOpened, "", nil); !errors.Is(err, ErrUnreachable) {
			t.Errorf("%v", err)
		}
	})
}

func TestRefusedIsFinal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		p.answer = func(int32) wire.Message { return &wire.Refused{Exchange: wire.ExchangeID{1}, Code: code.LaunchRefused} }
		_, err := Launch(t.Context(), config(p))
		if c, _ := code.Of(err); !errors.Is(err, ErrRefused) || c != code.LaunchRefused || p.conns.Load() != 1 {
			t.Errorf("%v (%s) after %d connections", err, c, p.conns.Load())
		}
		if !strings.Contains(err.Error(), "exchange 0100") {
			t.Errorf("%v does not name the exchange", err)
		}
	})
}

func TestLaterIsRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		p.answer = func(n int32) wire.Message {
			if n < 3 {
				return &wire.Later{Code: code.LaunchLater, Seconds: 40}
			}
			return nil
		}
		begin := time.Now()
		rel, err := Launch(t.Context(), config(p))
		if err != nil {
			t.Fatal(err)
		}
		rel.Close()
		if waited := time.Since(begin); waited < 80*time.Second || waited > 100*time.Second {
			t.Errorf("waited %v for two times 40 s", waited)
		}
		p.answer = func(int32) wire.Message { return &wire.Later{Code: code.LaunchLater, Seconds: 5} }
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		_, err = Launch(ctx, config(p))
		if c, _ := code.Of(err); !errors.Is(err, ErrLater) || c != code.LaunchLater {
			t.Errorf("%v (%s)", err, c)
		}
	})
}

func TestUnreachableIsRetriedWithBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		cfg, dials := config(p), 0
		cfg.Dial = func(context.Context, dial.Addr) (net.Conn, error) { dials++; return nil, errors.New("no route") }
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		_, err := Launch(ctx, cfg)
		if !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "no route") {
			t.Error(err)
		}
		if dials < 10 || dials > 30 {
			t.Errorf("%d attempts in 5 minutes", dials)
		}
	})
}

// A verifier with another key is refused before anything is sent to it; one
// further down the list with the right key is still asked.
func TestOtherVerifierKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		impostor, real := newPeer(t), newPeer(t)
		cfg := config(real)
		cfg.Dial = impostor.dial
		_, err := Launch(t.Context(), cfg)
		if c, _ := code.Of(err); !errors.Is(err, ErrRefused) || c != code.PinMismatch || impostor.conns.Load() != 1 {
			t.Errorf("%v (%s) after %d connections", err, c, impostor.conns.Load())
		}
		cfg.Servers = []string{"tcp://impostor:1", "tcp://real:1"}
		cfg.Dial = func(ctx context.Context, a dial.Addr) (net.Conn, error) {
			if a.Host == "impostor" {
				return impostor.dial(ctx, a)
			}
			return real.dial(ctx, a)
		}
		rel, err := Launch(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		rel.Close()
	})
}

// A release for another transcript does not open.
func TestForeignRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		p.tamper = func(tr *wire.Transcript) { tr.Nonce[0] ^= 1 }
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if rel, err := Launch(ctx, config(p)); err == nil {
			rel.Close()
			t.Error("a release for another nonce was opened")
		}
	})
}

func TestNoInstanceID(t *testing.T) {
	p := newPeer(t)
	cfg := config(p)
	cfg.Platform = psp{0}
	_, err := Launch(t.Context(), cfg)
	if c, _ := code.Of(err); c != code.IDZero || !errors.Is(err, ErrRefused) || p.conns.Load() != 0 {
		t.Errorf("%v (%s), %d connections", err, c, p.conns.Load())
	}
}

func TestNoPinNoServer(t *testing.T) {
	p := newPeer(t)
	for _, change := range []func(*Config){func(c *Config) { c.Pins = nil }, func(c *Config) { c.Servers = nil }, func(c *Config) { c.Servers = []string{"x"} }} {
		cfg := config(p)
		change(&cfg)
		if _, err := Launch(t.Context(), cfg); err == nil || p.conns.Load() != 0 {
			t.Errorf("launched: %v, %d connections", err, p.conns.Load())
		}
	}
}
