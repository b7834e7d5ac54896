package seal

import (
	"context"
	"errors"
	"fmt"

	"attestbox/internal/cryptstore"
	"attestbox/internal/platform"
	"attestbox/internal/secret"
	"attestbox/internal/snp"
	"attestbox/internal/store"
)

// No security domain and no cryptstore has these names, so that the key of a
// state is that of nothing else.
const (
	stateDomain = "attestbox/state/1"
	stateName   = "state"
)

// StateKey is the key of a server's state, derived by the platform that the server
// runs on: offline sealing, for there is no other server yet that could keep a
// share. What that gives up is in the package's comment. The state opens on the
// same chip alone, under the same measurement and guest policy; a new image or
// another machine gets it through a backup.
type StateKey struct {
	// Open finds the platform; each use closes it.
	Open func() (platform.Platform, error)
}

// ErrDebug is a VM that the host can read: what it seals is not sealed.
var ErrDebug = errors.New("the host can read this VM: its guest policy allows debugging or a migration agent")

func (k StateKey) sealer(ctx context.Context) (*Sealer, func(), error) {
	p, err := k.Open()
	if err != nil {
		return nil, nil, fmt.Errorf("sealing by the platform: %w", err)
	}
	s, err := New(ctx, Config{Platform: p, Domain: stateDomain, Offline: true})
	if err != nil {
		p.Close()
		return nil, nil, fmt.Errorf("sealing by the platform: %w", err)
	}
	return s, func() { p.Close() }, nil
}

func stateBinding(id [16]byte) cryptstore.Binding { return cryptstore.Binding{Name: stateName, ID: id} }

// Seal is sealed.Platform's: ErrDebug.
func (k StateKey) Seal(ctx context.Context, id [16]byte) (string, []byte, *secret.Bytes, error) {
	s, done, err := k.sealer(ctx)
	if err != nil {
		return "", nil, nil, err
	}
	defer done()
	if p := snp.GuestPolicy(s.state.Policy); s.c.Platform.Name() == platform.AMDSEVSNP && (p.Debug() || p.MigrateMA()) {
		return "", nil, nil, ErrDebug
	}
	return s.Seal(ctx, stateBinding(id))
}

// Unseal is sealed.Platform's.
func (k StateKey) Unseal(ctx context.Context, id [16]byte, kind string, params []byte) (*secret.Bytes, error) {
	s, done, err := k.sealer(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	key, err := s.Unseal(ctx, stateBinding(id), kind, params)
	if errors.Is(err, cryptstore.ErrSealed) {
		return nil, fmt.Errorf("%w: %w", store.ErrSealKey, err)
	}
	return key, err
}
