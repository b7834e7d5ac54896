package server

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"attestbox/internal/audit"
)

// Refusals cost whoever sends them nothing, so at most so many per second go
// into the audit log one by one; the rest are counted there.
const (
	refusalRate  = 20
	refusalBurst = 200
)

// maxAuditProof bounds a proof in the audit log, so that its line fits: one
// claim may have 64 KiB. Its digest stands beside it.
const maxAuditProof = 160 << 10

// Auditor writes decisions into the audit log and keeps its head in the state.
type Auditor struct {
	st  *State
	log *audit.Log

	mu         sync.Mutex
	tokens     float64
	at         time.Time
	suppressed int
}

// OpenAudit opens the audit log in dir with the head that the state keeps.
// With restart a log that is broken is put aside, by its owner's word.
func OpenAudit(ctx context.Context, st *State, dir string, restart bool, now time.Time) (*Auditor, error) {
	head, err := st.AuditHead(ctx)
	if err != nil {
		return nil, err
	}
	open := audit.Open
	if restart {
		open = audit.Restart
	}
	l, err := open(dir, head, now)
	if err != nil {
		return nil, err
	}
	a := &Auditor{st: st, log: l, tokens: refusalBurst}
	if err := a.Sync(ctx); err != nil {
		l.Close()
		return nil, err
	}
	return a, nil
}

// auditEvent is a decision as the audit log keeps it.
type auditEvent struct {
	*Decision
	Proof string `json:"proof,omitempty"`
}

// Record appends a decision. An error means that it is not on record, and so
// must not be acted on.
func (a *Auditor) Record(d *Decision, now time.Time) error {
	if a == nil {
		return nil
	}
	if d.Decision == Refused || d.Decision == Later {
		if n, ok := a.take(now); !ok {
			return nil
		} else if n > 0 {
			if err := a.log.Append("refusals-not-listed", map[string]int{"count": n}, now); err != nil {
				return err
			}
		}
	}
	return a.log.Append("decision", auditEvent{d.bounded(), cutTo(d.Proof, maxAuditProof)}, now)
}

// take says whether a refusal may be listed, and how many were not since the
// last that was.
func (a *Auditor) take(now time.Time) (suppressed int, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if d := now.Sub(a.at); d > 0 {
		a.tokens, a.at = min(refusalBurst, a.tokens+d.Seconds()*refusalRate), now
	}
	if a.tokens < 1 {
		a.suppressed++
		return 0, false
	}
	a.tokens--
	suppressed, a.suppressed = a.suppressed, 0
	return suppressed, true
}

// Note appends what is no decision: a policy that came into force, a start.
func (a *Auditor) Note(kind string, data any, now time.Time) error {
	if a == nil {
		return nil
	}
	return a.log.Append(kind, data, now)
}

// Head is the last line of the log.
func (a *Auditor) Head() audit.Head { return a.log.Head() }

// Sync puts the log on the disk, then its head into the state: in this order,
// so that a crash never leaves a head whose line is missing.
func (a *Auditor) Sync(ctx context.Context) error {
	head, changed, err := a.log.Sync()
	if err != nil || !changed {
		return err
	}
	if err := a.st.setAuditHead(ctx, head); err != nil {
		return fmt.Errorf("keeping the head of the audit log: %w", err)
	}
	return nil
}

// Run syncs every second until ctx ends, and once more then.
func (a *Auditor) Run(ctx context.Context, log *slog.Logger) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			if err := a.Sync(context.WithoutCancel(ctx)); err != nil {
				log.Error("audit log", "error", err)
			}
			return
		}
		if err := a.Sync(ctx); err != nil {
			log.Error("audit log", "error", err)
		}
	}
}

// Close syncs and closes the log.
func (a *Auditor) Close() error {
	if a == nil {
		return nil
	}
	err := a.Sync(context.Background())
	if cerr := a.log.Close(); err == nil {
		err = cerr
	}
	return err
}
