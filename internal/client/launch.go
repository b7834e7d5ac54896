package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"time"

	"attestbox/internal/code"
	"attestbox/internal/dial"
	"attestbox/internal/platform"
	"attestbox/internal/wire"
)

// Offsets into an SNP report (AMD 56860, table "ATTESTATION_REPORT").
const (
	snpReportSize  = 1184
	offHostData    = 0xC0
	offReportID    = 0x140
	offReportData  = 0x50
	sizeReportData = 64
)

// Release is what the verifier gave. Its owner calls Close.
type Release struct {
	Payload  *wire.Payload
	ID       wire.Hex32 // the instance ID, from HOST_DATA or the image
	ReportID wire.Hex32 // REPORT_ID of this VM's life
	Exchange wire.ExchangeID
	Server   string // the address that answered

	s    *session
	mu   sync.Mutex
	conn *tls.Conn // for the outcome; nil once it is gone
}

// Close wipes the payload and ends the connection.
func (r *Release) Close() {
	if r == nil {
		return
	}
	r.Payload.Zero()
	r.drop()
}

func (r *Release) drop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conn != nil {
		r.conn.Close()
		r.conn = nil
	}
}

// identity is what a guest learns about itself from its own report.
type identity struct{ id, reportID wire.Hex32 }

// learn asks the platform for a report of no use to anybody else and reads
// HOST_DATA and REPORT_ID from it. The ID is HOST_DATA, or the image's where it
// brings one; never both. The report is not verified: a host that fakes it
// gains a refusal, because the verifier compares with a signed one.
func learn(ctx context.Context, cfg *Config) (identity, error) {
	var me identity
	p := cfg.Platform
	data := wire.LearnIDReportData()
	ev, err := askReport(ctx, p, data)
	if err != nil {
		return me, code.Wrap(code.PlatformNone, fmt.Errorf("asking the secure processor for a report: %w", err))
	}
	if ev.Platform != platform.AMDSEVSNP || len(ev.Report) != snpReportSize {
		return me, code.Wrap(code.PlatformNone, fmt.Errorf("platform %q gave a report of %d bytes, want %s and %d", ev.Platform, len(ev.Report), platform.AMDSEVSNP, snpReportSize))
	}
	if [sizeReportData]byte(ev.Report[offReportData:offReportData+sizeReportData]) != data {
		return me, code.Wrap(code.PlatformNone, errors.New("the report does not hold the REPORT_DATA that was asked for"))
	}
	copy(me.id[:], ev.Report[offHostData:])
	copy(me.reportID[:], ev.Report[offReportID:])
	switch {
	case cfg.Instance.IsZero():
	case !me.id.IsZero():
		return me, code.Wrap(code.HostDataSet, fmt.Errorf("%w: HOST_DATA is %s, and this image brings its instance ID, %s", ErrRefused, me.id, cfg.Instance))
	default:
		me.id = cfg.Instance
	}
	if me.id.IsZero() {
		return me, code.Wrap(code.IDZero, fmt.Errorf("%w: HOST_DATA is all zeros, so this VM has no instance ID", ErrRefused))
	}
	return me, nil
}

// askReport is p.Report, given up when ctx ends: the host answers for the
// secure processor's mailbox, and a driver in the kernel waits for it without
// asking anybody.
func askReport(ctx context.Context, p platform.Platform, data [64]byte) (*platform.Evidence, error) {
	type answer struct {
		ev  *platform.Evidence
		err error
	}
	done := make(chan answer, 1)
	go func() {
		ev, err := p.Report(ctx, data)
		done <- answer{ev, err}
	}()
	select {
	case a := <-done:
		return a.ev, a.err
	case <-ctx.Done():
		return nil, fmt.Errorf("no answer in time: %w", ctx.Err())
	}
}

// Launch runs the protocol until the release is open. Errors are ErrRefused
// (final), ErrLater or ErrUnreachable, and carry a code.
func Launch(ctx context.Context, cfg Config) (*Release, error) {
	return asVM(ctx, cfg, wire.ALPNLaunch, func(s *session, conn *tls.Conn, a dial.Addr, me identity) (*Release, error) {
		return s.exchange(ctx, conn, a, me)
	})
}

// exchange is one run over one connection, which stays open for the outcome.
func (s *session) exchange(ctx context.Context, conn *tls.Conn, a dial.Addr, me identity) (*Release, error) {
	key, err := wire.NewKey()
	if err != nil {
		return nil, fmt.Errorf("making the HPKE key: %w", err)
	}
	t := &wire.Transcript{Version: wire.Version, ID: me.id, Suite: wire.SuiteID(), Key: key.PublicKey().Bytes()}
	begin := &wire.Begin{Version: wire.Version, ID: me.id, Suite: wire.SuiteHex(), Key: t.Key}
	exchange, err := s.prove(ctx, conn, a, begin, t)
	if err != nil {
		return nil, err
	}
	answer, err := wire.Expect[*wire.Release](conn)
	if err != nil {
		return nil, fmt.Errorf("%s, waiting for the release: %w", a, err)
	}
	payload, err := wire.Open(key, t, answer.Sealed)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", a, err)
	}
	conn.SetDeadline(time.Time{})
	return &Release{Payload: payload, ID: me.id, ReportID: me.reportID, Exchange: exchange, Server: a.String(), s: s, conn: conn}, nil
}

// classify turns an answer into ErrRefused or ErrLater with the verifier's
// code, and a malformed message into its code.
func classify(err error) error {
	if ans, ok := errors.AsType[*wire.AnswerError](err); ok {
		kind := ErrRefused
		if ans.Seconds > 0 {
			kind = ErrLater
		}
		return code.Wrap(ans.Code, fmt.Errorf("%w: %w", kind, err))
	}
	if errors.Is(err, wire.ErrMalformed) {
		return code.Wrap(code.LaunchMalformed, err)
	}
	return err
}

// Outcome is what one release became, ready to be sent.
func (r *Release) Outcome(result string, reason code.Code, headers []wire.Hex32) *wire.Outcome {
	o := &wire.Outcome{ID: r.ID, ReportID: r.ReportID, Boot: r.Payload.Boot, Result: result, Reason: reason, Headers: headers}
	o.MAC = wire.OutcomeMAC(r.Payload.OutcomeKey, o)
	return o
}

// Report tells the verifier what became of the release and waits for its
// acknowledgement: on the connection of the release, or on later ones until
// ctx ends. Without an acknowledgement the caller must not go on.
func (r *Release) Report(ctx context.Context, result string, reason code.Code, headers []wire.Hex32) (*wire.Ack, error) {
	o := r.Outcome(result, reason, headers)
	r.mu.Lock()
	conn := r.conn
	r.mu.Unlock()
	if conn != nil {
		ack, err := send(ctx, conn, o)
		if err == nil || errors.Is(err, ErrRefused) {
			return ack, err
		}
		r.s.logf("reporting on the same connection: %v; trying a new one", err)
		r.drop()
	}
	return r.s.report(ctx, o)
}

// SendOutcome reports an authenticated outcome on a connection of its own,
// retrying until ctx ends: for a caller that no longer holds the release.
func SendOutcome(ctx context.Context, cfg Config, o *wire.Outcome) (*wire.Ack, error) {
	s, err := newSession(cfg, wire.ALPNLaunch, wire.RoleVerifier)
	if err != nil {
		return nil, err
	}
	return s.report(ctx, o)
}

func (s *session) report(ctx context.Context, o *wire.Outcome) (*wire.Ack, error) {
	var ack *wire.Ack
	err := s.try(ctx, func(a dial.Addr) error {
		conn, err := s.connect(ctx, a, wire.ExchangeTimeout)
		if err != nil {
			return err
		}
		defer conn.NetConn().Close()
		ack, err = send(ctx, conn, o)
		return err
	})
	return ack, err
}

func send(ctx context.Context, conn *tls.Conn, o *wire.Outcome) (*wire.Ack, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("sending the outcome: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { conn.NetConn().Close() })
	defer stop()
	conn.SetDeadline(time.Now().Add(wire.ExchangeTimeout))
	if err := wire.Write(conn, o); err != nil {
		return nil, fmt.Errorf("sending the outcome: %w", err)
	}
	ack, err := wire.Expect[*wire.Ack](conn)
	if err != nil {
		return nil, classify(fmt.Errorf("waiting for the acknowledgement: %w", err))
	}
	if ack.Boot != o.Boot {
		return nil, code.Wrap(code.LaunchMalformed, fmt.Errorf("%w: acknowledgement of boot %d, want %d", wire.ErrMalformed, ack.Boot, o.Boot))
	}
	return ack, nil
}
