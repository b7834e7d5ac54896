package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"attestbox/internal/claim"
	"attestbox/internal/code"
	"attestbox/internal/secret"
	"attestbox/internal/wire"
)

// serveMaintain answers maintain-begin: challenge, evidence, the instance's
// state, and then requests. It serves the boot that is current and reported
// that it opened its disk, and nobody else; whoever fails before is told
// code.MaintainRefused and nothing else.
func (s *Server) serveMaintain(ctx context.Context, x *exchange, begin *wire.MaintainBegin) {
	d := &Decision{Exchange: x.id.String(), Protocol: x.protocol, Peer: x.peer, ID: begin.ID.String(), Op: begin.Purpose}
	if !s.opens(x, d, begin.Version, begin.ID, begin.Suite, begin.Key) {
		return
	}
	t := &wire.MaintainTranscript{Version: wire.Version, ID: begin.ID, Purpose: begin.Purpose, Suite: wire.SuiteID(), Key: begin.Key}
	ev, ok := s.challenge(x, t)
	if !ok {
		return
	}
	inst, v, ok := s.vet(ctx, x, d, &vetting{id: t.ID, reportData: t.ReportData(), evidence: ev,
		sent: code.MaintainRefused, limit: "maintain " + t.ID.String(), now: s.Now()})
	if !ok {
		return
	}
	m := &maintaining{s: s, x: x, t: t, reportID: v.ReportID, measurement: d.Measurement, launched: v.Launched}
	boot, err := m.current(ctx)
	switch {
	case errors.Is(err, errNotCurrent):
		s.refuse(x, d, code.BootNotCurrent, code.MaintainRefused, err.Error())
		return
	case err != nil:
		s.fault(x, d, err)
		return
	}
	d.Boot, d.Decision = boot.Number, Served
	if err := s.record(x, d); err != nil {
		s.fault(x, d, err)
		return
	}
	if !m.sendState(ctx, d, inst) {
		return
	}
	for range wire.MaxRequests {
		x.conn.SetDeadline(time.Now().Add(s.Timeouts.Outcome))
		request, err := wire.Read(x.conn)
		if err != nil {
			s.broken(x, err)
			return
		}
		if !m.request(ctx, request) {
			return
		}
	}
	// Whoever needs more proves itself again.
}

// maintaining is one exchange whose evidence was accepted.
type maintaining struct {
	s           *Server
	x           *exchange
	t           *wire.MaintainTranscript
	reportID    wire.Hex32
	measurement string
	launched    claim.Launched
}

// errNotCurrent is a boot that may maintain nothing.
var errNotCurrent = errors.New("this boot is not the current one, or did not report that it opened its disk")

// current is the boot that asks, if it is the instance's current one and
// reported opened.
func (m *maintaining) current(ctx context.Context) (*Boot, error) {
	b, err := m.s.State.Boots(ctx, m.t.ID)
	if err != nil {
		return nil, err
	}
	if len(b.Current) != 1 || b.Current[0].ReportID != m.reportID || b.Current[0].Result != wire.ResultOpened || b.Current[0].Superseded {
		return nil, errNotCurrent
	}
	return &b.Current[0], nil
}

// request answers one request; it says whether the exchange goes on. What the
// owner or another boot changed since the evidence counts.
func (m *maintaining) request(ctx context.Context, request wire.Message) (more bool) {
	s, x := m.s, m.x
	x.started = time.Now()
	d := &Decision{Exchange: x.id.String(), Protocol: x.protocol, Peer: x.peer, ID: m.t.ID.String(), ReportID: m.reportID.String(), Measurement: m.measurement, Op: m.t.Purpose}
	if !m.belongs(request) {
		s.broken(x, fmt.Errorf("%w: a request that is not one of %s", wire.ErrMalformed, m.t.Purpose))
		return false
	}
	inst, err := s.State.Instance(ctx, m.t.ID)
	if err != nil {
		return s.fault(x, d, err)
	}
	boot, err := m.current(ctx)
	switch {
	case errors.Is(err, errNotCurrent):
		s.refuse(x, d, code.BootNotCurrent, code.MaintainRefused, err.Error())
		return false
	case err != nil:
		return s.fault(x, d, err)
	case inst.Decommissioned != 0:
		s.refuse(x, d, code.InstanceDecommissioned, code.MaintainRefused, "the instance is decommissioned")
		return false
	}
	d.Boot, d.Decision = boot.Number, Served
	var keys *Secrets
	switch r := request.(type) {
	case *wire.RegisterHeaders:
		d.Op = "register-headers"
		d.Reason = fmt.Sprintf("%d added, %d dropped", len(r.Add), len(r.Drop))
		err = s.State.RegisterHeaders(ctx, m.t.ID, boot, r.Add, r.Drop, m.t.Purpose == wire.PurposeRotate)
	case *wire.Rotate:
		d.Op = "rotate"
		d.Alert = "the running VM was given its disk's keys, to change them"
		keys, err = s.State.OpenRotation(ctx, m.t.ID, false)
		defer keys.Zero()
	case *wire.RotateEnd:
		d.Op = "rotate-end"
		var back bool
		if back, err = s.State.EndRotation(ctx, m.t.ID, r); back {
			d.Reason = "the key before stays"
		}
	case *wire.Nominate:
		d.Op, d.Reason = "nominate", fmt.Sprintf("%s: %s", r.Digest, r.Source)
		var allowed bool
		if allowed, err = s.State.Nominate(ctx, m.t.ID, r, m.measurement, s.mayNominate(inst, m.launched), s.Now()); err == nil && !allowed {
			d.Alert = "a nominated launch digest waits for verifier instance approve"
		}
	}
	if err != nil {
		return m.failed(d, err)
	}
	if err := s.record(x, d); err != nil {
		return s.fault(x, d, err) // not on record: not given
	}
	if inst, err = s.State.Instance(ctx, m.t.ID); err != nil {
		return s.fault(x, d, err)
	}
	if keys != nil {
		return m.sendKeys(d, inst, keys)
	}
	return m.sendState(ctx, d, inst)
}

func (m *maintaining) belongs(request wire.Message) bool {
	for _, p := range wire.PurposeOf(request) {
		if p == m.t.Purpose {
			return true
		}
	}
	return false
}

// failed answers a request that could not be served. The guest proved which
// boot it is, so it learns which kind of request was refused; the reason is in
// the decision.
func (m *maintaining) failed(d *Decision, err error) bool {
	refusal, ok := errors.AsType[*requestError](err)
	if !ok {
		return m.s.fault(m.x, d, err)
	}
	d.Alert = ""
	m.s.refuse(m.x, d, refusal.code, refusal.code, refusal.Error())
	return false
}

// requestError is a request that was refused for what it asks.
type requestError struct {
	code code.Code
	text string
}

func (e *requestError) Error() string { return e.text }

func refusal(c code.Code, format string, a ...any) error {
	return code.Wrap(c, &requestError{c, fmt.Sprintf(format, a...)})
}

func (m *maintaining) sendState(ctx context.Context, d *Decision, inst *Instance) bool {
	cfg, err := m.s.State.Config(ctx)
	if err != nil {
		return m.s.fault(m.x, d, err)
	}
	rotation, err := m.s.State.Rotation(ctx, inst)
	if err != nil {
		return m.s.fault(m.x, d, err)
	}
	st := &wire.MaintainState{Exchange: m.x.id, Headers: inst.Headers, HasKey: inst.HasDiskKey, Rotation: rotation,
		Time: m.s.Now().Unix(), MinPolicyVersion: m.s.policyFloor(inst, cfg)}
	for _, a := range inst.Measurements {
		st.Allowed = append(st.Allowed, a.Digest)
	}
	for _, n := range inst.Nominations {
		st.Nominations = append(st.Nominations, n.Digest)
	}
	return m.s.answer(m.x, st)
}

func (m *maintaining) sendKeys(d *Decision, inst *Instance, keys *Secrets) bool {
	p := &wire.Payload{DiskKey: keys.DiskKey, PreviousDiskKey: keys.PreviousDiskKey, Headers: inst.Headers, OutcomeKey: secret.New(wire.OutcomeKeySize), Time: m.s.Now().Unix()}
	defer p.OutcomeKey.Zero()
	sealed, err := wire.SealMaintain(m.t, p)
	if err != nil {
		return m.s.fault(m.x, d, err)
	}
	return m.s.answer(m.x, &wire.Release{Sealed: sealed})
}
