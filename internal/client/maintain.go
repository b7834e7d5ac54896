package client

import (
	"context"
	"crypto/hpke"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"attestbox/internal/code"
	"attestbox/internal/dial"
	"attestbox/internal/secret"
	"attestbox/internal/wire"
)

// Maintenance is an open exchange of maintain: the verifier knows which boot
// asks. Its owner calls Close. The verifier waits wire.OutcomeTimeout for each
// request, so long work belongs between two exchanges, not into one.
type Maintenance struct {
	ID       wire.Hex32
	Exchange wire.ExchangeID
	Server   string // the address that answered

	mu    sync.Mutex
	state *wire.MaintainState
	conn  *tls.Conn
	key   hpke.PrivateKey
	t     *wire.MaintainTranscript
}

// Maintain proves this boot for one of wire.Purpose* and gives the channel for
// its requests. Errors are ErrRefused (final), ErrLater or ErrUnreachable, and
// carry a code.
func Maintain(ctx context.Context, cfg Config, purpose string) (*Maintenance, error) {
	return asVM(ctx, cfg, wire.ALPNMaintain, func(s *session, conn *tls.Conn, a dial.Addr, me identity) (*Maintenance, error) {
		return s.maintain(ctx, conn, a, me, purpose)
	})
}

func (s *session) maintain(ctx context.Context, conn *tls.Conn, a dial.Addr, me identity, purpose string) (*Maintenance, error) {
	key, err := wire.NewKey()
	if err != nil {
		return nil, fmt.Errorf("making the HPKE key: %w", err)
	}
	t := &wire.MaintainTranscript{Version: wire.Version, ID: me.id, Purpose: purpose, Suite: wire.SuiteID(), Key: key.PublicKey().Bytes()}
	begin := &wire.MaintainBegin{Version: t.Version, ID: t.ID, Purpose: t.Purpose, Suite: wire.SuiteHex(), Key: t.Key}
	exchange, err := s.prove(ctx, conn, a, begin, t)
	if err != nil {
		return nil, err
	}
	state, err := wire.Expect[*wire.MaintainState](conn)
	if err != nil {
		return nil, fmt.Errorf("%s, waiting for the instance's state: %w", a, err)
	}
	return &Maintenance{ID: me.id, Exchange: exchange, Server: a.String(), state: state, conn: conn, key: key, t: t}, nil
}

// State is what the verifier last said is on record. It is not to be changed.
func (m *Maintenance) State() *wire.MaintainState {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state
}

// Close ends the exchange.
func (m *Maintenance) Close() {
	if m != nil {
		m.conn.NetConn().Close()
	}
}

// RegisterHeaders adds records and drops those with the given digests. It is on
// durable record when it returns.
func (m *Maintenance) RegisterHeaders(ctx context.Context, add []wire.HeaderRecord, drop []wire.Hex32) error {
	if err := m.ask(ctx, &wire.RegisterHeaders{Add: add, Drop: drop}); err != nil {
		return fmt.Errorf("registering header records: %w", err)
	}
	have := map[string]bool{}
	for _, h := range m.State().Headers {
		have[h.Digest] = true
	}
	for _, h := range add {
		if !have[h.Digest] {
			return code.Wrap(code.LaunchMalformed, fmt.Errorf("registering header records: the verifier did not keep %s", h.Digest))
		}
	}
	return nil
}

// Rotate opens a rotation or goes on with the open one: DiskKey of the answer
// is the new key, PreviousDiskKey the one before, empty for an enrolment. Both
// are on durable record when it returns. The caller zeroes the payload.
func (m *Maintenance) Rotate(ctx context.Context) (p *wire.Payload, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	err = m.exchange(ctx, &wire.Rotate{}, func() error {
		answer, err := wire.Expect[*wire.Release](m.conn)
		if err != nil {
			return err
		}
		p, err = wire.OpenMaintain(m.key, m.t, answer.Sealed)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("asking for the disk's keys: %w", err)
	}
	return p, nil
}

// EndRotation keeps one record and the key that opens it.
func (m *Maintenance) EndRotation(ctx context.Context, keep wire.Hex32, key *secret.Bytes) error {
	if err := m.ask(ctx, &wire.RotateEnd{Keep: keep, MAC: wire.KeepMAC(key, m.ID, keep)}); err != nil {
		return fmt.Errorf("ending the rotation: %w", err)
	}
	if r := m.State().Rotation; r != wire.RotationNone {
		return code.Wrap(code.LaunchMalformed, fmt.Errorf("ending the rotation: the verifier says that %q is open", r))
	}
	return nil
}

// Nominate names a successor of the launch digest. allowed says that it may be
// booted now; else it waits for the owner.
func (m *Maintenance) Nominate(ctx context.Context, n *wire.Nominate) (allowed bool, err error) {
	if err := m.ask(ctx, n); err != nil {
		return false, fmt.Errorf("nominating %.16s...: %w", n.Digest, err)
	}
	s := m.State()
	if slices.Contains(s.Allowed, n.Digest) {
		return true, nil
	}
	if !slices.Contains(s.Nominations, n.Digest) {
		return false, code.Wrap(code.LaunchMalformed, errors.New("nominating: the verifier neither allows the digest nor keeps it"))
	}
	return false, nil
}

// ask sends a request that the instance's state answers.
func (m *Maintenance) ask(ctx context.Context, request wire.Message) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.exchange(ctx, request, func() error {
		state, err := wire.Expect[*wire.MaintainState](m.conn)
		if err == nil {
			m.state = state
		}
		return err
	})
}

func (m *Maintenance) exchange(ctx context.Context, request wire.Message, answer func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { m.conn.NetConn().Close() })
	defer stop()
	m.conn.SetDeadline(time.Now().Add(wire.ExchangeTimeout))
	if err := wire.Write(m.conn, request); err != nil {
		return err
	}
	return classify(answer())
}
