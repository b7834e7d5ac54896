package server

import (
	"context"
	"crypto/hpke"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"attestbox/internal/code"
	"attestbox/internal/platform"
	"attestbox/internal/recipient"
	"attestbox/internal/seal"
	"attestbox/internal/secret"
	"attestbox/internal/store"
	"attestbox/internal/wire"
)

// suffixEscrow is the domain's escrow key: an HPKE private key (package
// recipient) as its suite encodes it.
const suffixEscrow = "/escrow-key"

// escrowKey reads the domain's escrow key, made at first use.
func (st *State) escrowKey(ctx context.Context, domain string) (hpke.PrivateKey, error) {
	key := domainKey(domain, suffixEscrow)
	for range maxSwaps {
		b, _, err := st.s.GetSecret(ctx, key)
		if err == nil {
			defer b.Zero()
			return hpke.MLKEM768X25519().NewPrivateKey(b.Bytes())
		}
		if !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
		fresh, err := recipient.NewKey()
		if err != nil {
			return nil, err
		}
		raw, err := fresh.Bytes()
		if err != nil {
			return nil, err
		}
		s := secret.Take(raw)
		err = st.s.Create(ctx, key, s.Bytes())
		s.Zero()
		if err != nil && !errors.Is(err, store.ErrExists) {
			return nil, err
		}
	}
	return nil, errBusy
}

// rewrap gives a member the key of a store that it, or an image that it may
// succeed, sealed elsewhere (DESIGN section 7). The request's value is the
// escrow copy, its key the HPKE public key that the answer is wrapped to, with
// an empty transcript: the channel shows who both are. The answer's version is the
// highest epoch that the store has proved.
func (mem *member) rewrap(ctx context.Context, req *wire.KeyRequest, now time.Time) (*wire.KeyReply, error) {
	to, err := recipient.ParsePublicBytes(req.Key)
	if err != nil {
		return nil, invalid("HPKE public key: %v", err)
	}
	dom, id := mem.dom, mem.id
	hostData := id.Instance
	if id.Platform == platform.SimulatedEnclave {
		hostData = [32]byte{} // it has none; seals say so
	}
	auth := dom.current.Load().auth
	var recordErr error
	box, err := seal.Rewrap(seal.RewrapRequest{
		Escrow: req.Value, Key: dom.escrow, To: to,
		Share: func(e *seal.Escrow) (*secret.Bytes, error) {
			return dom.share(e.Platform, id.Instance, e.Measurement)
		},
		Domain: dom.name, Platform: id.Platform, HostData: hostData, Measurement: id.Measurement,
		MaySucceed: func(next, old []byte) bool {
			if hex.EncodeToString(next) == hex.EncodeToString(old) {
				// The same image on another chip: that it is trusted is enough.
				_, ok := auth.Trusted(mem.m, now)
				return ok
			}
			// Whose the store was: its measurement, and what the server saw of
			// its launch when that was admitted.
			before, err := dom.st.launchedBefore(ctx, dom.name, id.Instance, old)
			if err != nil {
				recordErr = err
				return false
			}
			_, ok := auth.MaySucceed(mem.m, before, now)
			return ok
		},
	})
	if recordErr != nil {
		return nil, recordErr
	}
	if errors.Is(err, seal.ErrMayNotSucceed) || errors.Is(err, seal.ErrEscrow) {
		return nil, code.Wrap(code.SecretRefused, fmt.Errorf("recovery: %v", err))
	}
	if err != nil {
		return nil, err
	}
	// An image update must not be the moment at which the host gives back an
	// older store: the epoch is kept by measurement, and this VM has another.
	e, err := seal.ParseEscrow(req.Value)
	if err != nil {
		return nil, err
	}
	epoch, err := dom.st.raiseEpoch(ctx, dom.name, epochKey(id.Instance, e.Measurement), 0)
	if err != nil {
		return nil, err
	}
	return &wire.KeyReply{Name: req.Name, Value: box, Version: epoch}, nil
}
