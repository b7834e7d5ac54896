package seal

import (
	"context"
	"crypto/hpke"
	"errors"
	"fmt"

	"attestbox/internal/code"
	"attestbox/internal/cryptstore"
	"attestbox/internal/recipient"
	"attestbox/internal/store"
)

// Recovery is the server's answer, as Rewrap made it, and what the VM needs to
// open it.
type Recovery struct {
	Box  []byte
	Key  hpke.PrivateKey // made for this exchange: recipient.NewKey
	Info []byte          // transcript of this exchange
	// MinEpoch is the highest epoch that the server knows of the store from
	// those who sealed it: without it, an update would be the moment at which a
	// host gives back an older copy.
	MinEpoch uint64
}

// OpenWithRecovery opens a store with the store key that the server gave, makes
// a new store key, and seals that for this VM, so that what sealed the store
// before opens nothing that is written from now on. The epoch counts as it does
// for cryptstore.Open.
func OpenWithRecovery(ctx context.Context, raw store.Store, name string, r Recovery, by *Sealer, o cryptstore.Options) (*cryptstore.Store, error) {
	o.MinEpoch = max(o.MinEpoch, r.MinEpoch)
	h, err := cryptstore.Inspect(ctx, raw, name, o)
	if err != nil {
		return nil, err
	}
	key, err := recipient.Open(r.Key, rewrapInfo(h.Binding, r.Info), r.Box)
	if err != nil {
		return nil, code.Wrap(code.CryptstoreRecovery, fmt.Errorf("opening the recovered key of cryptstore %q: %w", name, err))
	}
	s, err := cryptstore.OpenWithKey(ctx, raw, name, key, o)
	if err != nil {
		return nil, err
	}
	if err := s.Rekey(ctx, by); err != nil {
		return nil, fmt.Errorf("sealing cryptstore %q anew: %w", name, err)
	}
	return s, nil
}

// Outcome is how OpenOrCreate came to its store.
type Outcome struct {
	Opened    bool
	Recovered bool
	Created   bool // cold: there was none, or it was set aside
	Aside     int  // number that the old store was set aside to; 0 if none was
	// Sealed is why the store did not open by its seal.
	Sealed error
}

// Recover asks the server to re-wrap the escrow copy of a header. A refusal,
// which asking again does not change, wraps ErrMayNotSucceed or ErrEscrow.
type Recover func(ctx context.Context, h *cryptstore.Header) (Recovery, error)

// OpenOrCreate opens a store for this VM: by its seal, else by recovery, else,
// if recovery is refused or there is none, it sets the old store aside and
// makes an empty one. Nothing is overwritten. Only a seal that does not fit
// leads there: a store that was damaged or set back, a platform that does not
// answer and a server that cannot be reached are errors.
func OpenOrCreate(ctx context.Context, raw store.Store, name string, by *Sealer, ask Recover, o cryptstore.Options) (*cryptstore.Store, Outcome, error) {
	s, err := cryptstore.Open(ctx, raw, name, by, o)
	switch {
	case err == nil:
		return s, Outcome{Opened: true}, nil
	case errors.Is(err, store.ErrNotFound):
		s, err = cryptstore.Create(ctx, raw, name, by, o)
		return s, Outcome{Created: err == nil}, err
	case !errors.Is(err, cryptstore.ErrSealed):
		return nil, Outcome{}, err
	}
	out := Outcome{Sealed: err}
	h, err := cryptstore.Inspect(ctx, raw, name, o)
	if err != nil {
		return nil, out, err
	}
	if ask != nil && len(h.Escrow) > 0 {
		r, err := ask(ctx, h)
		if err == nil {
			s, err = OpenWithRecovery(ctx, raw, name, r, by, o)
			out.Recovered = err == nil
			return s, out, err
		}
		if !errors.Is(err, ErrMayNotSucceed) && !errors.Is(err, ErrEscrow) {
			return nil, out, fmt.Errorf("recovering cryptstore %q: %w", name, err)
		}
		out.Sealed = errors.Join(out.Sealed, err)
	}
	if out.Aside, err = cryptstore.SetAside(ctx, raw, name); err != nil {
		return nil, out, err
	}
	s, err = cryptstore.Create(ctx, raw, name, by, o)
	out.Created = err == nil
	return s, out, err
}
