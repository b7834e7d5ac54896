package server

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"

	"attestbox/internal/secret"
	"attestbox/internal/store"
)

// keyIssuer is the server's own issuer key, an Ed25519 seed.
const keyIssuer = "server/issuer-key"

// IssuerKey is the key that signs admission certificates, made at first use. A
// domain's policy delegates to it by claim.
func (st *State) IssuerKey(ctx context.Context) (crypto.Signer, error) {
	for range maxSwaps {
		seed, _, err := st.s.GetSecret(ctx, keyIssuer)
		if err == nil {
			defer seed.Zero()
			if seed.Len() != ed25519.SeedSize {
				return nil, errors.New("reading the issuer's key: malformed")
			}
			return ed25519.NewKeyFromSeed(seed.Bytes()), nil
		}
		if !errors.Is(err, store.ErrNotFound) {
			return nil, fmt.Errorf("reading the issuer's key: %w", err)
		}
		fresh := secret.Random(ed25519.SeedSize)
		err = st.s.Create(ctx, keyIssuer, fresh.Bytes())
		fresh.Zero()
		if err != nil && !errors.Is(err, store.ErrExists) {
			return nil, fmt.Errorf("making the issuer's key: %w", err)
		}
	}
	return nil, errBusy
}
