package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"attestbox/internal/code"
	"attestbox/internal/secret"
	"attestbox/internal/store"
	"attestbox/internal/strictjson"
	"attestbox/internal/wire"
)

// MaxGives bounds how often one boot gets its release, the first included.
const MaxGives = 5

// maxPast bounds the boots that are kept for people to look at.
const maxPast = 16

// Why a boot gets nothing, or its outcome no ack.
var (
	ErrSpent       = errors.New("this boot was released its secrets and reported that it opened, or another boot took over from it")
	ErrTooOften    = fmt.Errorf("this boot was released its secrets %d times", MaxGives)
	ErrQuarantined = errors.New("another boot of this instance is pending or alive, and the instance is to be quarantined then")
	ErrOutcome     = errors.New("the outcome does not belong to the current boot, or contradicts the one recorded")
)

// Boot is one boot of an instance: one REPORT_ID, one number.
type Boot struct {
	ReportID    wire.Hex32   `json:"report_id"`
	Number      uint64       `json:"number"` // B
	Gives       int          `json:"gives"`  // how often it was released
	Measurement string       `json:"measurement"`
	Exchange    string       `json:"exchange"` // of the latest release
	Started     int64        `json:"started"`  // Unix seconds
	Updated     int64        `json:"updated"`
	Result      string       `json:"result"` // "": pending; wire.ResultOpened, wire.ResultFailed
	Reason      code.Code    `json:"reason"`
	Headers     []wire.Hex32 `json:"headers"`
	Superseded  bool         `json:"superseded"` // another boot took over
}

// Unfinished says whether the boot never said how it ended.
func (b *Boot) Unfinished() bool { return b.Result == "" }

// Boots is the boot counter of one instance.
type Boots struct {
	Version   int    `json:"version"`
	Issued    uint64 `json:"issued"`    // the highest number given out
	Committed uint64 `json:"committed"` // C: the highest number acknowledged
	Takeovers uint64 `json:"takeovers"`
	Current   []Boot `json:"current"` // none or one
	Past      []Boot `json:"past"`    // latest first, at most maxPast
	// Rollbacks are the older disks that the owner accepted, latest first, at
	// most maxPast.
	Rollbacks []Rollback `json:"rollbacks,omitempty"`
}

// Rollback is the owner's word that an older disk may boot: C was lowered.
type Rollback struct {
	Time int64  `json:"time"` // Unix seconds
	From uint64 `json:"from"` // C before
	To   uint64 `json:"to"`   // C after
	// Boot is the first boot that was told so; 0: none yet. Its release carries
	// an alert, so that the server's logs and audit trail have it too.
	Boot uint64 `json:"boot"`
}

// Grant is what a boot may be given now.
type Grant struct {
	Number, Committed uint64
	OutcomeKey        *secret.Bytes // the caller zeroes it
	Again             bool          // the same release as before
	Alert             string        // not empty: somebody should look
}

// Boots reads the counter; an instance that never booted has a zero one.
func (st *State) Boots(ctx context.Context, id wire.Hex32) (*Boots, error) {
	b, _, err := st.boots(ctx, id)
	return b, err
}

func (st *State) boots(ctx context.Context, id wire.Hex32) (*Boots, []byte, error) {
	raw, v, err := st.s.Get(ctx, prefixBoots+id.String())
	if errors.Is(err, store.ErrNotFound) {
		return &Boots{Version: 1}, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("reading the boots of %s: %w", id, err)
	}
	var b Boots
	if err := strictjson.Unmarshal(raw, &b); err != nil || b.Version != 1 || len(b.Current) > 1 {
		return nil, nil, fmt.Errorf("reading the boots of %s: malformed (%v)", id, err)
	}
	return &b, v, nil
}

// updateBoots runs f on the counter until its result could be swapped in.
func (st *State) updateBoots(ctx context.Context, id wire.Hex32, f func(*Boots) error) error {
	for range maxSwaps {
		b, v, err := st.boots(ctx, id)
		if err != nil {
			return err
		}
		if err := f(b); err != nil {
			return err
		}
		if b.Current == nil {
			b.Current = []Boot{}
		}
		if b.Past == nil {
			b.Past = []Boot{}
		}
		raw, err := json.Marshal(b)
		if err != nil {
			return err
		}
		if v == nil {
			err = st.s.Create(ctx, prefixBoots+id.String(), raw)
		} else {
			err = st.s.Replace(ctx, prefixBoots+id.String(), v, raw)
		}
		if err == nil || (!errors.Is(err, store.ErrConflict) && !errors.Is(err, store.ErrExists)) {
			return err
		}
	}
	return errBusy
}

func spentKey(id, reportID wire.Hex32) string {
	return prefixSpent + id.String() + "/" + reportID.String()
}

// Grant durably records that the boot (id, reportID) is released its secrets,
// before anything is sealed (DESIGN section 5). A crash after it costs one of
// the boot's gives and nothing else.
func (st *State) Grant(ctx context.Context, i *Instance, reportID wire.Hex32, measurement, exchange string, now time.Time) (*Grant, error) {
	var g Grant
	err := st.updateBoots(ctx, i.ID, func(b *Boots) error {
		g = Grant{}
		if len(b.Current) == 1 && b.Current[0].ReportID == reportID {
			cur := &b.Current[0]
			switch {
			case cur.Result == wire.ResultOpened:
				return ErrSpent
			case cur.Gives >= MaxGives:
				return ErrTooOften
			}
			cur.Gives++
			cur.Updated, cur.Exchange = now.Unix(), exchange
			g.Number, g.Committed, g.Again = cur.Number, b.Committed, true
			return nil
		}
		if _, _, err := st.s.Get(ctx, spentKey(i.ID, reportID)); err == nil {
			return ErrSpent
		} else if !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if len(b.Current) == 1 {
			cur := b.Current[0]
			if cur.Result != wire.ResultFailed {
				if i.OnSecond == Quarantine {
					return ErrQuarantined
				}
				cur.Superseded = true
				b.Takeovers++
				g.Alert = fmt.Sprintf("takeover: boot %d (REPORT_ID %s) was %s when another REPORT_ID asked",
					cur.Number, cur.ReportID, map[bool]string{true: "pending", false: "opened"}[cur.Unfinished()])
			}
			// Before the swap: once replaced, that REPORT_ID must never count as new.
			if err := st.spend(ctx, i.ID, &cur); err != nil {
				return err
			}
			b.retire(cur)
		}
		b.Issued++
		for n := range b.Rollbacks {
			if r := &b.Rollbacks[n]; r.Boot == 0 {
				r.Boot = b.Issued
				g.Alert = joinAlerts(g.Alert, fmt.Sprintf("rollback accepted by the owner at %s: a disk as old as boot %d may boot, though boot %d was acknowledged",
					time.Unix(r.Time, 0).UTC().Format(time.RFC3339), r.To, r.From))
			}
		}
		b.Current = []Boot{{ReportID: reportID, Number: b.Issued, Gives: 1, Measurement: measurement, Exchange: exchange,
			Started: now.Unix(), Updated: now.Unix(), Headers: []wire.Hex32{}}}
		g.Number, g.Committed = b.Issued, b.Committed
		return nil
	})
	if err != nil {
		return nil, err
	}
	if g.OutcomeKey, err = st.outcomeKey(i.ID, reportID, g.Number); err != nil {
		return nil, err
	}
	return &g, nil
}

func (st *State) spend(ctx context.Context, id wire.Hex32, b *Boot) error {
	err := st.s.Create(ctx, spentKey(id, b.ReportID), fmt.Appendf(nil, "%d", b.Number))
	if errors.Is(err, store.ErrExists) {
		return nil
	}
	return err
}

func (b *Boots) retire(old Boot) {
	b.Past = append([]Boot{old}, b.Past...)
	if len(b.Past) > maxPast {
		b.Past = b.Past[:maxPast]
	}
}

// CheckOutcome verifies an outcome's MAC without touching the state.
func (st *State) CheckOutcome(o *wire.Outcome) (bool, error) {
	key, err := st.outcomeKey(o.ID, o.ReportID, o.Boot)
	if err != nil {
		return false, err
	}
	defer key.Zero()
	return wire.VerifyOutcome(key, o), nil
}

// RecordOutcome durably records an outcome whose MAC was verified. The same
// outcome again is fine; a boot that another took over from is ErrOutcome, and
// so never reaches switch_root. What follows from it is the caller's.
func (st *State) RecordOutcome(ctx context.Context, i *Instance, o *wire.Outcome, now time.Time) error {
	if o.Result == wire.ResultOpened {
		for _, h := range o.Headers {
			if !i.hasHeader(h) {
				return fmt.Errorf("%w: it opened header %s, which is not registered", ErrOutcome, h)
			}
		}
	}
	return st.updateBoots(ctx, o.ID, func(b *Boots) error {
		if len(b.Current) != 1 || b.Current[0].ReportID != o.ReportID || b.Current[0].Number != o.Boot {
			return ErrOutcome
		}
		cur := &b.Current[0]
		if cur.Result == wire.ResultOpened && o.Result != wire.ResultOpened {
			return ErrOutcome // opened is final
		}
		cur.Result, cur.Reason, cur.Updated = o.Result, o.Reason, now.Unix()
		cur.Headers = append([]wire.Hex32{}, o.Headers...)
		if o.Result == wire.ResultOpened {
			b.Committed = max(b.Committed, o.Boot)
		}
		return nil
	})
}

func (i *Instance) hasHeader(h wire.Hex32) bool {
	for _, r := range i.Headers {
		if r.Digest == h.String() {
			return true
		}
	}
	return false
}

func joinAlerts(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "; " + b
}

// AcceptRollback lowers C to the number of a disk that the owner restored from a
// backup, so that it may boot. The current boot is over: a copy of the VM that
// still runs cannot report any more, and so cannot raise C again.
func (st *State) AcceptRollback(ctx context.Context, id wire.Hex32, to uint64, now time.Time) (from uint64, err error) {
	i, err := st.Instance(ctx, id)
	if err != nil {
		return 0, err
	}
	if i.Decommissioned != 0 {
		return 0, ErrDecommissioned
	}
	err = st.updateBoots(ctx, id, func(b *Boots) error {
		from = b.Committed
		if to >= from {
			return fmt.Errorf("boot %d is not before boot %d, the last that was acknowledged: there is nothing to accept", to, from)
		}
		if len(b.Current) == 1 {
			if err := st.endCurrent(ctx, id, b); err != nil {
				return err
			}
		}
		b.Committed = to
		b.Rollbacks = append([]Rollback{{Time: now.Unix(), From: from, To: to}}, b.Rollbacks...)
		b.Rollbacks = b.Rollbacks[:min(len(b.Rollbacks), maxPast)]
		return nil
	})
	return from, err
}

// endCurrent retires the current boot: its REPORT_ID gets nothing more.
func (st *State) endCurrent(ctx context.Context, id wire.Hex32, b *Boots) error {
	cur := b.Current[0]
	cur.Superseded = true
	if err := st.spend(ctx, id, &cur); err != nil {
		return err
	}
	b.retire(cur)
	b.Current = []Boot{}
	return nil
}

// ClearBoot ends the current boot by the owner's word, so that a quarantined
// instance may boot again. Its REPORT_ID gets nothing more.
func (st *State) ClearBoot(ctx context.Context, id wire.Hex32) error {
	if _, err := st.Instance(ctx, id); err != nil {
		return err
	}
	return st.updateBoots(ctx, id, func(b *Boots) error {
		if len(b.Current) == 0 {
			return errors.New("no boot is pending or alive")
		}
		return st.endCurrent(ctx, id, b)
	})
}
