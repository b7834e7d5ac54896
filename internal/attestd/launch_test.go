package attestd_test

import (
	"context"
	"crypto/tls"
	"net"
	"path/filepath"
	"testing"
	"time"

	"attestbox/internal/appraise"
	"attestbox/internal/attestd"
	"attestbox/internal/code"
	"attestbox/internal/platform"
	"attestbox/internal/secret"
	"attestbox/internal/server"
	"attestbox/internal/snp"
	"attestbox/internal/snpsim"
	"attestbox/internal/snpsim/snpsimtest"
	"attestbox/internal/store/bolt"
	"attestbox/internal/store/sealed"
	"attestbox/internal/wire"
)

// A program in a VM that the verifier trusts plays the launch protocol, with
// the report that attestd gives it: the verifier refuses it for its REPORT_DATA
// alone, whatever the program asks attestd to put in.
func TestLaunchTranscriptRefused(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	psp := snpsimtest.PSP(t, snp.Milan)
	id, digest := wire.Hex32(secret.Random(32).Bytes()), [48]byte{0xd1, 0x9e, 0x57}
	v := newVerifier(t, ctx, psp, id, digest)
	guest := psp.Launch(snpsim.GuestConfig{Measurement: digest, HostData: id})
	c := newAttestd(t, ctx, guest.Platform())

	ask := func(data func(*wire.Transcript) []byte) func(*wire.Transcript) (*platform.Evidence, error) {
		return func(tr *wire.Transcript) (*platform.Evidence, error) {
			r, err := c.Attest(ctx, data(tr))
			if err != nil {
				return nil, err
			}
			want := attestd.ReportData(r.Program, data(tr))
			if rep, err := snp.Parse(r.Report); err != nil || rep.ReportData != want {
				t.Errorf("the report is not over program and data: %v", err)
			}
			return &platform.Evidence{Platform: r.Platform, Report: r.Report, Endorsements: r.Endorsements}, nil
		}
	}
	for name, report := range map[string]func(*wire.Transcript) (*platform.Evidence, error){
		"transcript": ask(func(tr *wire.Transcript) []byte { return tr.Bytes() }),
		"without the domain string": ask(func(tr *wire.Transcript) []byte {
			return tr.Bytes()[4+len("attestbox/launch/1"):]
		}),
		"its hash": ask(func(tr *wire.Transcript) []byte { h := tr.ReportData(); return h[:] }),
		"nothing":  ask(func(*wire.Transcript) []byte { return nil }),
	} {
		exchange, err := v.launch(ctx, id, report)
		if ans, ok := err.(*wire.AnswerError); !ok || ans.Code != code.LaunchRefused {
			t.Errorf("%s: %v, want refused", name, err)
		}
		found, err := server.FindDecisions(v.decisions, exchange)
		if err != nil || len(found) == 0 || found[len(found)-1].Code != code.ReportDataMismatch {
			t.Errorf("%s: the verifier's reason: %+v, %v; want %s", name, found, err, code.ReportDataMismatch)
		}
	}
	// The same by a report of the platform itself is released: nothing else was
	// wrong with the attacks.
	if _, err := v.launch(ctx, id, func(tr *wire.Transcript) (*platform.Evidence, error) {
		return guest.Platform().Report(ctx, tr.ReportData())
	}); err != nil {
		t.Errorf("the genuine launch: %v", err)
	}
}

func newAttestd(t *testing.T, ctx context.Context, p platform.Platform) *attestd.Client {
	s := attestd.New(attestd.Options{Platform: p})
	path := filepath.Join(t.TempDir(), "s")
	l, err := attestd.Listen(path, -1)
	if err != nil {
		t.Fatal(err)
	}
	sctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- s.Serve(sctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	c, err := attestd.Dial(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

type verifier struct {
	server          *server.Server
	addr, decisions string
}

func newVerifier(t *testing.T, ctx context.Context, psp *snpsim.PSP, id wire.Hex32, digest [48]byte) *verifier {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	raw, err := bolt.Open(filepath.Join(dir, "state.db"))
	must(err)
	policy, err := server.MarshalPolicy(&appraise.Policy{Products: map[snp.Product]appraise.ProductPolicy{psp.Product(): {}}})
	must(err)
	cfg := server.Config{Roots: []server.Root{{Product: string(psp.Product()), ARK: psp.ARK(), Intermediates: [][]byte{}}}, Policy: policy}
	st, err := server.CreateState(ctx, raw, sealed.Key{File: secret.Random(32)}, cfg, time.Now())
	must(err)
	appraiser, err := server.NewSNPAppraiser(ctx, st, func() (*appraise.Roots, error) { return appraise.NewRoots() }, nil)
	must(err)
	v := &verifier{decisions: filepath.Join(dir, "decisions.jsonl")}
	decisions, err := server.OpenDecisionLog(v.decisions)
	must(err)
	must(st.AddInstance(ctx, &server.Instance{
		ID: id, Measurements: []server.Measurement{{Digest: appraise.Hex48(digest).String(), Source: "test"}},
		Headers: []wire.HeaderRecord{{Digest: id.String(), Size: 1 << 20, UUID: "0b0e1a6c-6a33-4f3c-9f53-3e2f3b1f2a10", SegmentOffset: 1 << 20, SectorSize: 4096, Cipher: "aes-xts-plain64", KeyBytes: 64, Integrity: "none"}},
		Created: time.Now().Unix(), OnSecond: server.Takeover,
	}, &server.Secrets{DiskKey: secret.Random(32)}))
	v.server, err = server.New(ctx, server.Options{State: st, Appraiser: appraiser, Decisions: decisions})
	must(err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	v.addr = l.Addr().String()
	sctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- v.server.Serve(sctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		decisions.Close()
		st.Close()
	})
	return v
}

// launch plays the guest up to the answer.
func (v *verifier) launch(ctx context.Context, id wire.Hex32, report func(*wire.Transcript) (*platform.Evidence, error)) (wire.ExchangeID, error) {
	var none wire.ExchangeID
	cfg, err := wire.ClientTLS([]wire.Pin{v.server.Pin()})
	if err != nil {
		return none, err
	}
	raw, err := (&tls.Dialer{Config: cfg}).DialContext(ctx, "tcp", v.addr)
	if err != nil {
		return none, err
	}
	conn := raw.(*tls.Conn)
	defer conn.Close()
	key, err := wire.NewKey()
	if err != nil {
		return none, err
	}
	tr := &wire.Transcript{Version: wire.Version, ID: id, Suite: wire.SuiteID(), Key: key.PublicKey().Bytes()}
	cs := conn.ConnectionState()
	if err := tr.FillChannel(&cs, v.server.Pin()); err != nil {
		return none, err
	}
	if err := wire.Write(conn, &wire.Begin{Version: wire.Version, ID: id, Suite: wire.SuiteHex(), Key: tr.Key}); err != nil {
		return none, err
	}
	ch, err := wire.Expect[*wire.Challenge](conn)
	if err != nil {
		return none, err
	}
	tr.Nonce = ch.Nonce
	e, err := report(tr)
	if err != nil {
		return ch.Exchange, err
	}
	if err := wire.Write(conn, &wire.Evidence{Platform: e.Platform, Report: e.Report, Endorsements: e.Endorsements}); err != nil {
		return ch.Exchange, err
	}
	_, err = wire.Expect[*wire.Release](conn)
	return ch.Exchange, err
}
