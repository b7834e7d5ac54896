package client

import (
	"context"
	"crypto/tls"

	"attestbox/internal/dial"
	"attestbox/internal/wire"
)

// asVM runs one exchange of a protocol with the verifier for this VM, over each
// address in turn until one answers. The connection is run's, to keep or to
// close; it is closed here when run fails, or when ctx ends before run does.
func asVM[T any](ctx context.Context, cfg Config, alpn string, run func(*session, *tls.Conn, dial.Addr, identity) (*T, error)) (*T, error) {
	s, err := newSession(cfg, alpn, wire.RoleVerifier)
	if err != nil {
		return nil, err
	}
	me, err := learn(ctx, &cfg)
	if err != nil {
		return nil, err
	}
	s.logf("instance %s", me.id)
	var out *T
	err = s.try(ctx, func(a dial.Addr) error {
		conn, err := s.connect(ctx, a, wire.ExchangeTimeout)
		if err != nil {
			return err
		}
		defer context.AfterFunc(ctx, func() { conn.NetConn().Close() })()
		if out, err = run(s, conn, a, me); err != nil {
			conn.NetConn().Close()
			return classify(err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}
