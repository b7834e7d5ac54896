package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"attestbox/internal/appraise"
	"attestbox/internal/claim"
	"attestbox/internal/code"
	"attestbox/internal/wire"
)

// Appraiser judges evidence of one platform. It must not ask a network for
// anything on behalf of a chip that is neither allow-listed nor known.
type Appraiser interface {
	Appraise(ctx context.Context, e *Evidence) *Verdict
}

// Evidence is what is judged, and against what.
type Evidence struct {
	Report       []byte
	Endorsements []wire.Endorsement
	ReportData   [64]byte            // what this exchange must have put into the report
	HostData     [32]byte            // the instance ID that begin named
	FromImage    bool                // the image brings it, and HOST_DATA must be zeros
	Measurements [][48]byte          // what this instance may be, and
	Identities   []appraise.Identity // by whose word; both empty refuses
	Now          time.Time
}

// Verdict is an appraiser's answer. Only with Accepted are the fields of the
// report to be believed.
type Verdict struct {
	Accepted    bool
	Missing     bool // nothing wrong, but a certificate is not at hand: later
	Findings    []Finding
	Checked     int
	Root        string // with NOT AMD HARDWARE where that is so
	Chip        string
	ReportID    wire.Hex32
	Measurement [48]byte
	Launched    claim.Launched // the same, with what the ID block says
	By          string         // the identity that admitted it; empty where the digest is listed
}

// admittedBy says why a launch digest that is not on the list counts.
func (v *Verdict) admittedBy() string {
	if v.By == "" {
		return ""
	}
	return "admitted by " + v.By
}

// opens says whether a begin, of whichever protocol, may be answered; if not, it
// was refused.
func (s *Server) opens(x *exchange, d *Decision, version int, id wire.Hex32, suite string, key []byte) bool {
	if !s.opensID(x, d, version, id) {
		return false
	}
	if suite != wire.SuiteHex() {
		s.refuse(x, d, code.LaunchVersion, code.LaunchVersion, fmt.Sprintf("suite %.32q, want %q", suite, wire.SuiteHex()))
		return false
	}
	if err := wire.CheckKey(key); err != nil {
		s.broken(x, err)
		return false
	}
	return true
}

// opensID is opens for a protocol whose answer is not sealed.
func (s *Server) opensID(x *exchange, d *Decision, version int, id wire.Hex32) bool {
	switch {
	case version != wire.Version:
		s.refuse(x, d, code.LaunchVersion, code.LaunchVersion, fmt.Sprintf("protocol version %d, want %d", version, wire.Version))
		return false
	case id.IsZero():
		s.refuse(x, d, code.IDZero, code.IDZero, "begin names no instance ID")
		return false
	}
	return true
}

// launch answers begin: challenge, evidence, then release, refused or later,
// and then the outcome if it comes on this connection.
func (s *Server) launch(ctx context.Context, x *exchange, begin *wire.Begin) {
	d := &Decision{Exchange: x.id.String(), Protocol: x.protocol, Peer: x.peer, ID: begin.ID.String()}
	if !s.opens(x, d, begin.Version, begin.ID, begin.Suite, begin.Key) {
		return
	}
	t := &wire.Transcript{Version: wire.Version, ID: begin.ID, Suite: wire.SuiteID(), Key: begin.Key}
	ev, ok := s.challenge(x, t)
	if !ok {
		return
	}
	if sent := s.decide(ctx, x, t, ev, d); !sent {
		return
	}
	x.conn.SetDeadline(time.Now().Add(s.Timeouts.Outcome))
	o, err := wire.Expect[*wire.Outcome](x.conn)
	if err != nil {
		s.broken(x, err) // it may report on a later connection
		return
	}
	s.outcome(ctx, x, o)
}

// decide appraises and answers; it says whether a release was sent.
func (s *Server) decide(ctx context.Context, x *exchange, t *wire.Transcript, ev *wire.Evidence, d *Decision) (released bool) {
	refuse := func(c code.Code, reason string) bool {
		s.refuse(x, d, c, code.LaunchRefused, reason)
		return false
	}
	now := s.Now()
	inst, v, ok := s.vet(ctx, x, d, &vetting{id: t.ID, reportData: t.ReportData(), evidence: ev, sent: code.LaunchRefused, limit: t.ID.String(), now: now})
	if !ok {
		return false
	}
	if err := s.checkBundle(ctx, inst, v.ReportID, d); err != nil {
		s.noBundle(x, d, err, code.LaunchRefused)
		return false
	}
	g, err := s.State.Grant(ctx, inst, v.ReportID, d.Measurement, x.id.String(), now)
	switch {
	case errors.Is(err, ErrSpent):
		return refuse(code.BootSpent, err.Error())
	case errors.Is(err, ErrTooOften):
		return refuse(code.BootTooOften, err.Error())
	case errors.Is(err, ErrQuarantined):
		d.Alert = err.Error()
		return refuse(code.BootQuarantined, err.Error())
	case err != nil:
		return s.fault(x, d, err)
	}
	defer g.OutcomeKey.Zero()
	d.Boot, d.Alert = g.Number, g.Alert
	d.Decision, d.Reason = Released, v.admittedBy()
	if g.Again {
		d.Reason = joinAlerts("the same release again", d.Reason)
	}
	if err := s.release(ctx, x, t, inst, g, now); err != nil {
		return s.fault(x, d, err)
	}
	s.record(x, d)
	return true
}

func (s *Server) release(ctx context.Context, x *exchange, t *wire.Transcript, inst *Instance, g *Grant, now time.Time) error {
	cfg, err := s.State.Config(ctx)
	if err != nil {
		return err
	}
	sec, err := s.State.secrets(ctx, inst.ID)
	if err != nil {
		return err
	}
	defer sec.Zero()
	p := sec.payload(inst)
	p.Boot, p.Committed, p.OutcomeKey = g.Number, g.Committed, g.OutcomeKey
	p.Time, p.MinPolicyVersion = now.Unix(), s.policyFloor(inst, cfg)
	sealedPayload, err := wire.Seal(t, p)
	if err != nil {
		return err
	}
	return wire.Write(x.conn, &wire.Release{Sealed: sealedPayload})
}

// outcome answers an outcome, on the connection of its release or a later one.
func (s *Server) outcome(ctx context.Context, x *exchange, o *wire.Outcome) {
	d := &Decision{Exchange: x.id.String(), Protocol: x.protocol, Peer: x.peer, ID: o.ID.String(), ReportID: o.ReportID.String(), Boot: o.Boot, Outcome: o.Result}
	if o.Reason != "" {
		d.Outcome += ": " + string(o.Reason)
	}
	now := s.Now()
	switch ok, err := s.State.CheckOutcome(o); {
	case err != nil:
		s.fault(x, d, err)
		return
	case !ok:
		s.refuse(x, d, code.BootOutcome, code.LaunchRefused, "the outcome's MAC is wrong")
		return
	}
	inst, err := s.State.Instance(ctx, o.ID)
	switch {
	case errors.Is(err, ErrUnknownInstance):
		s.refuse(x, d, code.InstanceUnknown, code.LaunchRefused, "the ID is not registered")
		return
	case err != nil:
		s.fault(x, d, err)
		return
	case inst.Decommissioned != 0:
		s.refuse(x, d, code.InstanceDecommissioned, code.LaunchRefused, "the instance was decommissioned")
		return
	}
	booted := ""
	if b, err := s.State.Boots(ctx, o.ID); err != nil {
		s.fault(x, d, err)
		return
	} else if len(b.Current) == 1 {
		booted = b.Current[0].Measurement
	}
	if err := s.State.RecordOutcome(ctx, inst, o, now); errors.Is(err, ErrOutcome) {
		s.refuse(x, d, code.BootOutcome, code.LaunchRefused, err.Error())
		return
	} else if err != nil {
		s.fault(x, d, err)
		return
	}
	cfg, err := s.State.Config(ctx)
	if err != nil {
		s.fault(x, d, err)
		return
	}
	d.Decision = Recorded
	n := &narrowing{}
	if o.Result != wire.ResultOpened {
		d.Alert = "the guest could not use its release"
	} else if n, err = s.narrows(ctx, inst, booted, o, d, now); err != nil {
		s.fault(x, d, err)
		return
	}
	if err := s.record(x, d); err != nil && n.any() {
		s.fault(x, d, err) // not on record: it comes again
		return
	}
	if err := s.narrow(ctx, n, o, now); err != nil {
		s.fault(x, d, err)
		return
	}
	s.answer(x, &wire.Ack{Exchange: x.id, Boot: o.Boot, Time: now.Unix(), MinPolicyVersion: s.policyFloor(inst, cfg)})
}

// narrowing is what an instance may not do any more, because a boot of it
// reported that it opened its disk.
type narrowing struct {
	promoted string // the launch digest that the others are dropped for
	floor    uint64 // of bundles; 0: it stays
	dom      *Domain
	renewed  []renewal
}

func (n *narrowing) any() bool { return n.promoted != "" || n.floor > 0 || len(n.renewed) > 0 }

// narrows says what follows from a boot, and puts that into its decision.
func (s *Server) narrows(ctx context.Context, inst *Instance, booted string, o *wire.Outcome, d *Decision, now time.Time) (*narrowing, error) {
	n := &narrowing{}
	var err error
	if n.floor, err = s.State.ratchet(ctx, inst, o.ReportID); err != nil {
		return nil, err
	}
	if n.floor > 0 {
		d.Reason = fmt.Sprintf("the bundle floor rose to %d", n.floor)
	}
	if inst.nominated(booted) {
		n.promoted = booted
		d.Alert = fmt.Sprintf("launch digest %s has booted: those before it are dropped", booted)
	}
	if n.dom = s.domain(inst.Domain); n.dom != nil && inst.Domain != "" {
		n.renewed = n.dom.renewalsBy(o.ID, booted, now)
		d.Alert = joinAlerts(d.Alert, renewalAlert(n.renewed))
	}
	return n, nil
}

// narrow does it, once it is on record and before the boot is acknowledged: the
// outcome comes again if this fails.
func (s *Server) narrow(ctx context.Context, n *narrowing, o *wire.Outcome, now time.Time) error {
	if n.promoted != "" {
		if err := s.State.promote(ctx, o.ID, n.promoted, o.Boot, now); err != nil {
			return err
		}
	}
	if n.floor > 0 {
		if err := s.State.raiseFloor(ctx, o.ID, n.floor); err != nil {
			return err
		}
	}
	if len(n.renewed) > 0 {
		return n.dom.keepRenewals(ctx, n.renewed)
	}
	return nil
}

// refuse records a refusal, then answers it. sent is all that the guest learns.
func (s *Server) refuse(x *exchange, d *Decision, own, sent code.Code, reason string) {
	d.Decision, d.Code, d.Sent, d.Reason = Refused, own, sent, reason
	s.record(x, d)
	s.answer(x, &wire.Refused{Exchange: x.id, Code: sent})
}

func (s *Server) later(x *exchange, d *Decision, c code.Code, seconds int, reason string) {
	d.Decision, d.Code, d.Sent, d.Reason = Later, c, c, reason
	s.record(x, d)
	s.answer(x, &wire.Later{Exchange: x.id, Code: c, Seconds: seconds})
}

// fault is the server's own trouble: the guest may come back.
func (s *Server) fault(x *exchange, d *Decision, err error) bool {
	s.Log.Error("exchange failed", "exchange", x.id.String(), "error", err)
	s.later(x, d, code.VerifierBusy, 10, err.Error())
	return false
}

// record logs a decision everywhere. The error is the audit log's: whatever
// needs to be on record there must not happen.
func (s *Server) record(x *exchange, d *Decision) error {
	d.Time = s.Now().UTC().Format(time.RFC3339Nano)
	d.Millis = float64(time.Since(x.started).Microseconds()) / 1000
	level := slog.LevelInfo
	if d.Alert != "" {
		level = slog.LevelWarn
	}
	attrs := []slog.Attr{
		slog.String("exchange", d.Exchange), slog.String("peer", d.Peer), slog.String("id", d.ID),
		slog.String("decision", d.Decision), slog.Float64("ms", d.Millis),
	}
	for _, a := range []slog.Attr{
		slog.String("protocol", d.Protocol), slog.String("domain", d.Domain), slog.String("op", d.Op), slog.String("secret", d.Secret),
		slog.String("code", string(d.Code)), slog.String("reason", d.Reason), slog.String("root", d.Root),
		slog.String("outcome", d.Outcome), slog.String("alert", d.Alert),
	} {
		if a.Value.String() != "" {
			attrs = append(attrs, a)
		}
	}
	if d.Boot != 0 {
		attrs = append(attrs, slog.Uint64("boot", d.Boot))
	}
	if d.BundleVersion != 0 {
		attrs = append(attrs, slog.Uint64("bundle_version", d.BundleVersion))
	}
	for _, f := range d.Findings {
		attrs = append(attrs, slog.Group(f.Field, slog.String("found", cut(f.Found)), slog.String("want", cut(f.Want))))
	}
	s.Metrics.decided(d, time.Since(x.started))
	s.Log.LogAttrs(context.Background(), level, "decision", attrs...)
	if err := s.Decisions.Record(d); err != nil {
		s.Log.Error("recording a decision", "exchange", d.Exchange, "error", err)
	}
	if err := s.Audit.Record(d, s.Now()); err != nil {
		s.Log.Error("recording a decision in the audit log", "exchange", d.Exchange, "error", err)
		return fmt.Errorf("the audit log: %w", err)
	}
	return nil
}
