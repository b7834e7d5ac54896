package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"attestbox/internal/code"
	"attestbox/internal/store"
	"attestbox/internal/strictjson"
	"attestbox/internal/wire"
)

const prefixApproved = "approved/"

// Why no bundle is approved, or none was for a boot.
var (
	errNoFloor      = errors.New("the instance has no bundle floor: its launch digests are not those of a stage 1 (verifier instance bundle-floor)")
	errSecondBundle = errors.New("another bundle was approved for this REPORT_ID: a stage 1 starts one, and once")
	errUnapproved   = errors.New("the instance starts from bundles, and none was approved for this REPORT_ID")
)

// errBelowFloor is a bundle older than the instance's floor.
type errBelowFloor struct{ version, floor uint64 }

func (e *errBelowFloor) Error() string {
	return fmt.Sprintf("bundle version %d is below the instance's floor, %d", e.version, e.floor)
}

// Approval is the bundle that one launch of a VM was allowed to start.
type Approval struct {
	Bundle   wire.Hex32 `json:"bundle"`
	Version  uint64     `json:"version"`
	Exchange string     `json:"exchange"`
	Time     int64      `json:"time"` // Unix seconds
}

// Lowered is the owner's word that older bundles may start again.
type Lowered struct {
	Time int64  `json:"time"` // Unix seconds
	From uint64 `json:"from"`
	To   uint64 `json:"to"`
}

// maxLowered bounds those that are kept.
const maxLowered = 8

// checkFloor refuses a bundle version below the instance's floor.
func (i *Instance) checkFloor(version uint64) error {
	if version < i.BundleFloor {
		return &errBelowFloor{version, i.BundleFloor}
	}
	return nil
}

// lowered is the alert about a bundle that a former floor would have refused.
func (i *Instance) lowered(version uint64) string {
	for _, l := range i.BundleLowered {
		if version < l.From {
			return fmt.Sprintf("bundle version %d: the owner lowered the floor from %d to %d at %s", version, l.From, l.To, time.Unix(l.Time, 0).UTC().Format(time.RFC3339))
		}
	}
	return ""
}

func approvedKey(id, reportID wire.Hex32) string {
	return prefixApproved + id.String() + "/" + reportID.String()
}

// Approval is what was approved for a REPORT_ID; nil if nothing was.
func (st *State) Approval(ctx context.Context, id, reportID wire.Hex32) (*Approval, error) {
	raw, _, err := st.s.Get(ctx, approvedKey(id, reportID))
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the bundle of %s: %w", id, err)
	}
	var a Approval
	if err := strictjson.Unmarshal(raw, &a); err != nil {
		return nil, fmt.Errorf("reading the bundle of %s: %w", id, err)
	}
	return &a, nil
}

// Approve durably records the bundle that a launch may start. The first one is
// final for a REPORT_ID: whoever runs behind it cannot name another. The same
// again is fine, for a stage 1 that lost the answer.
func (st *State) Approve(ctx context.Context, i *Instance, reportID wire.Hex32, a *Approval) (again bool, err error) {
	if i.BundleFloor == 0 {
		return false, errNoFloor
	}
	if err := i.checkFloor(a.Version); err != nil {
		return false, err
	}
	raw, err := json.Marshal(a)
	if err != nil {
		return false, err
	}
	err = st.s.Create(ctx, approvedKey(i.ID, reportID), raw)
	if !errors.Is(err, store.ErrExists) {
		return false, err
	}
	have, err := st.Approval(ctx, i.ID, reportID)
	switch {
	case err != nil:
		return false, err
	case have == nil || have.Bundle != a.Bundle || have.Version != a.Version:
		return false, errSecondBundle
	}
	return true, nil
}

// SetBundleFloor sets the version below which no bundle of the instance starts.
// Without lower it only rises.
func (st *State) SetBundleFloor(ctx context.Context, id wire.Hex32, floor uint64, lower bool, now time.Time) (was uint64, err error) {
	err = st.UpdateInstance(ctx, id, func(i *Instance) error {
		was = i.BundleFloor
		if floor < was {
			if !lower {
				return fmt.Errorf("the floor is %d and rises only", was)
			}
			i.BundleLowered = append([]Lowered{{Time: now.Unix(), From: was, To: floor}}, i.BundleLowered...)
			i.BundleLowered = i.BundleLowered[:min(len(i.BundleLowered), maxLowered)]
		}
		i.BundleFloor = floor
		return nil
	})
	return was, err
}

// ratchet says to what a boot that reported opened raises the floor, where the
// instance's record says that it does: to its bundle's version. 0: it stays.
func (st *State) ratchet(ctx context.Context, i *Instance, reportID wire.Hex32) (uint64, error) {
	if !i.BundleRatchet || i.BundleFloor == 0 {
		return 0, nil
	}
	a, err := st.Approval(ctx, i.ID, reportID)
	if err != nil || a == nil || a.Version <= i.BundleFloor {
		return 0, err
	}
	return a.Version, nil
}

// raiseFloor is what ratchet said, unless the owner has ended it since.
func (st *State) raiseFloor(ctx context.Context, id wire.Hex32, floor uint64) error {
	return st.UpdateInstance(ctx, id, func(i *Instance) error {
		if i.BundleRatchet && i.BundleFloor > 0 {
			i.BundleFloor = max(i.BundleFloor, floor)
		}
		return nil
	})
}

// serveBundle answers bundle-begin: challenge, evidence, and then whether this
// launch may start that bundle. Whoever fails is told code.BundleRefused and
// nothing else.
func (s *Server) serveBundle(ctx context.Context, x *exchange, begin *wire.BundleBegin) {
	d := &Decision{Exchange: x.id.String(), Protocol: x.protocol, Peer: x.peer, ID: begin.ID.String(), Bundle: begin.Bundle.String(), BundleVersion: begin.BundleVersion}
	if !s.opensID(x, d, begin.Version, begin.ID) {
		return
	}
	t := &wire.BundleTranscript{Version: wire.Version, ID: begin.ID, Bundle: begin.Bundle, BundleVersion: begin.BundleVersion}
	ev, ok := s.challenge(x, t)
	if !ok {
		return
	}
	now := s.Now()
	inst, v, ok := s.vet(ctx, x, d, &vetting{id: t.ID, reportData: t.ReportData(), evidence: ev,
		sent: code.BundleRefused, limit: "bundle " + t.ID.String(), now: now})
	if !ok {
		return
	}
	again, err := s.State.Approve(ctx, inst, v.ReportID, &Approval{Bundle: begin.Bundle, Version: begin.BundleVersion, Exchange: x.id.String(), Time: now.Unix()})
	if err != nil {
		s.noBundle(x, d, err, code.BundleRefused)
		return
	}
	cfg, err := s.State.Config(ctx)
	if err != nil {
		s.fault(x, d, err)
		return
	}
	d.Decision, d.Alert = Approved, inst.lowered(begin.BundleVersion)
	if again {
		d.Reason = "the same approval again"
	}
	if err := s.record(x, d); err != nil {
		s.fault(x, d, err) // not on record: not given
		return
	}
	s.answer(x, &wire.BundleApproved{Exchange: x.id, Bundle: begin.Bundle, BundleVersion: begin.BundleVersion,
		Time: now.Unix(), MinPolicyVersion: s.policyFloor(inst, cfg)})
}

// noBundle refuses with the code that err stands for; sent is all that the
// guest learns.
func (s *Server) noBundle(x *exchange, d *Decision, err error, sent code.Code) {
	_, below := errors.AsType[*errBelowFloor](err)
	switch {
	case below:
		s.refuse(x, d, code.BundleFloor, sent, err.Error())
	case errors.Is(err, errNoFloor):
		s.refuse(x, d, code.BundleUnexpected, sent, err.Error())
	case errors.Is(err, errSecondBundle):
		s.refuse(x, d, code.BundleSecond, sent, err.Error())
	case errors.Is(err, errUnapproved):
		s.refuse(x, d, code.BundleUnapproved, sent, err.Error())
	default:
		s.fault(x, d, err)
	}
}

// checkBundle says whether a launch may be released its secrets as far as its
// bundle goes: where the instance has a floor, the bundle approved for this
// REPORT_ID must be at it or above it now.
func (s *Server) checkBundle(ctx context.Context, inst *Instance, reportID wire.Hex32, d *Decision) error {
	if inst.BundleFloor == 0 {
		return nil
	}
	a, err := s.State.Approval(ctx, inst.ID, reportID)
	if err != nil {
		return err
	}
	if a == nil {
		return errUnapproved
	}
	d.Bundle, d.BundleVersion = a.Bundle.String(), a.Version
	return inst.checkFloor(a.Version)
}
