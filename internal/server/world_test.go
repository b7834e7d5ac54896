package server

import (
	"context"
	"crypto/hpke"
	"crypto/tls"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"

	"attestbox/internal/appraise"
	"attestbox/internal/client"
	"attestbox/internal/code"
	"attestbox/internal/platform"
	"attestbox/internal/secret"
	"attestbox/internal/snp"
	"attestbox/internal/snpsim"
	"attestbox/internal/snpsim/snpsimtest"
	"attestbox/internal/store"
	"attestbox/internal/store/bolt"
	"attestbox/internal/store/sealed"
	"attestbox/internal/wire"
)

// world is a verifier over real TLS on loopback, and a simulated chip that it
// trusts.
type world struct {
	t         testing.TB
	dir       string
	psp       *snpsim.PSP
	raw       store.Store
	state     *State
	server    *Server
	decisions string
	addr      string
	stop      func()
	log       *lockedBuffer
}

var digest = [48]byte{0xd1, 0x9e, 0x57}

func noAMD() (*appraise.Roots, error) { return appraise.NewRoots() }

func simConfig(t testing.TB, psp *snpsim.PSP) Config {
	t.Helper()
	policy, err := MarshalPolicy(&appraise.Policy{Products: map[snp.Product]appraise.ProductPolicy{psp.Product(): {}}})
	if err != nil {
		t.Fatal(err)
	}
	return Config{Roots: []Root{{Product: string(psp.Product()), ARK: psp.ARK(), Intermediates: [][]byte{}}}, Policy: policy}
}

// newWorld starts a server; edit may change its options.
func newWorld(t *testing.T, edit func(*Options)) *world {
	t.Helper()
	ctx := context.Background()
	w := &world{t: t, dir: t.TempDir(), psp: snpsimtest.PSP(t, snp.Milan), log: &lockedBuffer{}}
	raw, err := bolt.Open(filepath.Join(w.dir, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	w.raw = raw
	if w.state, err = CreateState(ctx, raw, sealed.Key{File: secret.Random(32)}, simConfig(t, w.psp), time.Now()); err != nil {
		t.Fatal(err)
	}
	appraiser, err := NewSNPAppraiser(ctx, w.state, noAMD, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.decisions = filepath.Join(w.dir, "decisions.jsonl")
	decisions, err := OpenDecisionLog(w.decisions)
	if err != nil {
		t.Fatal(err)
	}
	o := Options{
		State: w.state, Appraiser: appraiser, Decisions: decisions,
		Log:    slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Limits: Limits{PeerBurst: 1e6, PeerRate: 1e6, ConnsByPeer: 1000, IDBurst: 1000},
	}
	if edit != nil {
		edit(&o)
	}
	if w.server, err = New(ctx, o); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.addr = "tcp://" + l.Addr().String()
	sctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- w.server.Serve(sctx, l) }()
	stopped := false
	w.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	}
	t.Cleanup(func() {
		w.stop()
		decisions.Close()
		w.state.Close()
	})
	return w
}

func newID() (id wire.Hex32) {
	copy(id[:], secret.Random(32).Bytes())
	return id
}

// record is a header record that could be a disk's.
func record() wire.HeaderRecord {
	h := newID()
	return wire.HeaderRecord{Digest: h.String(), Size: 1 << 20, UUID: "0b0e1a6c-6a33-4f3c-9f53-3e2f3b1f2a10", SegmentOffset: 1 << 20, SectorSize: 4096, Cipher: "aes-xts-plain64", KeyBytes: 64, Integrity: "none"}
}

// add registers an instance and returns a copy of its disk key.
func (w *world) add(id wire.Hex32, onSecond string) (*Instance, *secret.Bytes) {
	w.t.Helper()
	key := secret.Random(32)
	inst := &Instance{
		ID: id, Measurements: []Measurement{{Digest: appraise.Hex48(digest).String(), Source: "test"}},
		Headers: []wire.HeaderRecord{record()}, OnSecond: onSecond, Created: time.Now().Unix(),
	}
	sec := &Secrets{DiskKey: key, Named: []wire.NamedSecret{{Name: "db.password", Value: secret.Copy([]byte("sesame, twice over"))}}}
	if err := w.state.AddInstance(context.Background(), inst, sec); err != nil {
		w.t.Fatal(err)
	}
	return inst, key
}

// guest launches a guest on the world's chip.
func (w *world) guest(id wire.Hex32, edit func(*snpsim.GuestConfig)) *snpsim.Guest {
	c := snpsim.GuestConfig{Measurement: digest, HostData: id}
	if edit != nil {
		edit(&c)
	}
	return w.psp.Launch(c)
}

func (w *world) client(p platform.Platform) client.Config {
	return client.Config{Servers: []string{w.addr}, Pins: []wire.Pin{w.server.Pin()}, Platform: p, MinBackoff: time.Millisecond, MaxBackoff: 5 * time.Millisecond}
}

func ctxFor(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// talk is one connection by hand, for what the real client would never do.
type talk struct {
	t    testing.TB
	conn *tls.Conn
	key  hpke.PrivateKey
	tr   *wire.Transcript
	x    wire.ExchangeID
}

func (w *world) dial() *talk { w.t.Helper(); return w.dialALPN(wire.ALPNLaunch) }

func (w *world) dialALPN(alpn string) *talk {
	w.t.Helper()
	cfg, err := wire.PinnedTLS(alpn, []wire.Pin{w.server.Pin()})
	if err != nil {
		w.t.Fatal(err)
	}
	conn, err := tls.Dial("tcp", w.addr[len("tcp://"):], cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	return &talk{t: w.t, conn: conn}
}

// begin sends begin and reads the challenge.
func (w *world) begin(id wire.Hex32) *talk {
	w.t.Helper()
	c := w.dial()
	var err error
	if c.key, err = wire.NewKey(); err != nil {
		w.t.Fatal(err)
	}
	c.tr = &wire.Transcript{Version: wire.Version, ID: id, Suite: wire.SuiteID(), Key: c.key.PublicKey().Bytes()}
	cs := c.conn.ConnectionState()
	if err := c.tr.FillChannel(&cs, w.server.Pin()); err != nil {
		w.t.Fatal(err)
	}
	c.send(&wire.Begin{Version: wire.Version, ID: id, Suite: wire.SuiteHex(), Key: c.tr.Key})
	ch, err := wire.Expect[*wire.Challenge](c.conn)
	if err != nil {
		w.t.Fatalf("challenge: %v", err)
	}
	c.tr.Nonce, c.x = ch.Nonce, ch.Exchange
	return c
}

func (c *talk) send(m wire.Message) {
	c.t.Helper()
	if err := wire.Write(c.conn, m); err != nil {
		c.t.Fatal(err)
	}
}

// evidence is what the guest would send for this connection.
func (c *talk) evidence(g *snpsim.Guest) *wire.Evidence {
	c.t.Helper()
	e, err := g.Platform().Report(context.Background(), c.tr.ReportData())
	if err != nil {
		c.t.Fatal(err)
	}
	return &wire.Evidence{Platform: e.Platform, Report: e.Report, Endorsements: e.Endorsements}
}

// release reads the release and opens it.
func (c *talk) release() (*wire.Payload, error) {
	r, err := wire.Expect[*wire.Release](c.conn)
	if err != nil {
		return nil, err
	}
	return wire.Open(c.key, c.tr, r.Sealed)
}

// outcome sends an outcome and reads the ack.
func (c *talk) outcome(o *wire.Outcome) (*wire.Ack, error) {
	c.send(o)
	return wire.Expect[*wire.Ack](c.conn)
}

func sign(key *secret.Bytes, o *wire.Outcome) *wire.Outcome {
	o.MAC = wire.OutcomeMAC(key, o)
	return o
}

// refused checks that err is a final refusal with code.LaunchRefused, and that
// the decision log names want as the reason.
func (w *world) refused(what string, err error, want code.Code) {
	w.t.Helper()
	ans, ok := err.(*wire.AnswerError)
	if !ok || ans.Seconds != 0 || ans.Code != code.LaunchRefused {
		w.t.Errorf("%s: %v, want refused with %s", what, err, code.LaunchRefused)
		return
	}
	found, ferr := FindDecisions(w.decisions, ans.Exchange)
	if ferr != nil || len(found) == 0 {
		w.t.Errorf("%s: no decision is recorded (%v)", what, ferr)
		return
	}
	if last := found[len(found)-1]; last.Code != want {
		w.t.Errorf("%s: refused for %q (%s %v), want %q", what, last.Code, last.Reason, last.Findings, want)
	}
}

func tlsClient(t *testing.T, raw net.Conn, cfg *tls.Config) *tls.Conn {
	t.Helper()
	c := tls.Client(raw, cfg)
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	return c
}
