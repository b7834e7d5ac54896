package server

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"attestbox/internal/code"
	"attestbox/internal/platform"
	"attestbox/internal/wire"
)

// challenge is the step that launch, certify and maintain share: a nonce goes
// out, evidence comes back, and the transcript is complete. Without ok the
// exchange is over.
func (s *Server) challenge(x *exchange, t wire.Bound) (ev *wire.Evidence, ok bool) {
	var nonce wire.Hex32
	rand.Read(nonce[:]) // lives in this frame alone, so it serves once
	t.SetNonce(nonce)
	cs := x.conn.ConnectionState()
	if err := t.FillChannel(&cs, s.pin); err != nil {
		s.broken(x, err)
		return nil, false
	}
	if !s.answer(x, &wire.Challenge{Exchange: x.id, Nonce: nonce}) {
		return nil, false
	}
	ev, err := wire.Expect[*wire.Evidence](x.conn)
	if err != nil {
		s.broken(x, err)
		return nil, false
	}
	return ev, true
}

// vetting is the question whether evidence is a registered instance's own.
type vetting struct {
	id         wire.Hex32
	reportData [64]byte
	evidence   *wire.Evidence
	sent       code.Code // all that a refused guest is told
	limit      string    // which bucket of the instance's is asked
	now        time.Time
}

// vet appraises an instance's evidence, and answers for itself unless ok.
// Whoever fails is told q.sent and nothing else, and an ID that is not
// registered is appraised all the same, against no measurement.
func (s *Server) vet(ctx context.Context, x *exchange, d *Decision, q *vetting) (_ *Instance, _ *Verdict, ok bool) {
	refuse := func(c code.Code, reason string) (*Instance, *Verdict, bool) {
		s.refuse(x, d, c, q.sent, reason)
		return nil, nil, false
	}
	fault := func(err error) (*Instance, *Verdict, bool) { return nil, nil, s.fault(x, d, err) }
	if q.evidence.Platform != platform.AMDSEVSNP {
		return refuse(code.PlatformRefused, fmt.Sprintf("platform %.64q", q.evidence.Platform))
	}
	inst, instErr := s.State.Instance(ctx, q.id)
	if instErr != nil && !errors.Is(instErr, ErrUnknownInstance) {
		return fault(instErr)
	}
	e := &Evidence{Report: q.evidence.Report, Endorsements: q.evidence.Endorsements, ReportData: q.reportData, HostData: q.id, Now: q.now}
	if inst != nil && inst.Decommissioned == 0 {
		e.FromImage = inst.FromImage()
		var err error
		if e.Measurements, err = inst.Digests(); err != nil {
			return fault(err)
		}
		e.Identities = inst.Identities
	}
	// An appraiser may have to fetch a certificate; half of the time is its.
	actx, cancel := context.WithTimeout(ctx, s.Timeouts.Exchange/2)
	v := s.appraiserOf(inst, d).Appraise(actx, e)
	cancel()
	d.Root, d.Chip, d.Checked, d.Findings = v.Root, v.Chip, v.Checked, v.Findings
	if v.Missing {
		s.later(x, d, code.CollateralMissing, 30, "no certificate at hand for the key that signed the report")
		return nil, nil, false
	}
	switch {
	case instErr != nil:
		return refuse(code.InstanceUnknown, "the ID is not registered")
	case inst.Decommissioned != 0:
		return refuse(code.InstanceDecommissioned, "the instance is decommissioned")
	case !v.Accepted:
		c := q.sent
		if len(v.Findings) > 0 {
			c = v.Findings[0].Code
		}
		return refuse(c, "the evidence was refused")
	}
	switch err := s.State.checkIDSource(ctx, inst, hex.EncodeToString(v.Measurement[:])); {
	case errors.Is(err, errWrongSource):
		return refuse(code.InstanceSource, err.Error())
	case err != nil:
		return fault(err)
	}
	d.ReportID, d.Measurement = v.ReportID.String(), hex.EncodeToString(v.Measurement[:])
	// Only now: the evidence is genuine, fresh and this instance's own, so that
	// nobody can use up the limit of an ID that he has merely learned.
	if !s.ids.take(q.limit, time.Now()) {
		s.later(x, d, code.VerifierBusy, 15, "this instance asks too often")
		return nil, nil, false
	}
	// The appraisal may have taken seconds, with the fetch of a certificate in it;
	// what the owner decided meanwhile counts.
	switch now, err := s.State.Instance(ctx, q.id); {
	case err != nil:
		return fault(err)
	case now.Decommissioned != 0:
		return refuse(code.InstanceDecommissioned, "the instance is decommissioned")
	case !slices.Equal(now.Measurements, inst.Measurements) || !slices.Equal(now.Identities, inst.Identities):
		s.later(x, d, code.VerifierBusy, 1, "the instance's launch digests were changed during the exchange")
		return nil, nil, false
	default:
		return now, v, true
	}
}
