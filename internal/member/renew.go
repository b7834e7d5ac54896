package member

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"attestbox/internal/client"
)

// Pauses between attempts to renew that failed: longer after a refusal, which
// only a new policy mends.
const (
	retryUnreachable = 30 * time.Second
	retryRefused     = 5 * time.Minute
	attemptTimeout   = 2 * time.Minute
	// look is how often the certificate is looked at in between: another
	// program may have learned of a policy by which it counts no longer.
	look = 20 * time.Second
)

// KeepCertified renews the certificate at two thirds of its life, with jitter,
// or when policy has moved on, until ctx ends (nil). It returns an error only when the certificate has ended
// and the server refuses another one. done, if set, is called after each
// renewal.
func (m *Member) KeepCertified(ctx context.Context, req Request, done func(*Result)) error {
	for {
		pause := rand.N(time.Second)
		id, err := m.Identity(ctx)
		if err == nil {
			// Up to a tenth of what is left, so that a rack of guests that were
			// certified together does not come back together.
			due := Renew(id)
			pause = due.Sub(m.Clock()) + rand.N(id.NotAfter.Sub(due)/10+1)
		}
		for failed := false; ; {
			if err := m.sleep(ctx, pause, !failed); err != nil {
				return nil
			}
			req.Force = !failed // after a failure another process may have been faster
			actx, cancel := context.WithTimeout(ctx, attemptTimeout)
			res, err := m.Recertify(actx, req)
			cancel()
			if err == nil {
				if done != nil {
					done(res)
				}
				break
			}
			if ctx.Err() != nil {
				return nil
			}
			failed = true
			m.Logf("renewing: %v", err)
			still, valid := errors.AsType[*StillValid](err)
			if pause = retryUnreachable; errors.Is(err, client.ErrRefused) {
				if !valid {
					return err
				}
				// Not beyond the end, at which the answer becomes final.
				pause = min(retryRefused, max(time.Second, still.Identity.NotAfter.Sub(m.Clock())+time.Second))
			}
			pause += rand.N(pause/10 + 1)
		}
	}
}

// sleep waits, and with wake only as long as the certificate counts.
func (m *Member) sleep(ctx context.Context, d time.Duration, wake bool) error {
	for end := time.Now().Add(d); ; {
		timer := time.NewTimer(max(0, min(time.Until(end), look)))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
		if !time.Now().Before(end) {
			return nil
		}
		if wake {
			if _, err := m.Identity(ctx); err != nil {
				m.Logf("the present certificate: %v", err)
				return nil
			}
		}
	}
}
