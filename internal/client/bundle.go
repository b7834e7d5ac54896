package client

import (
	"context"
	"crypto/tls"
	"fmt"
	"time"

	"attestbox/internal/code"
	"attestbox/internal/dial"
	"attestbox/internal/wire"
)

// Approval is a verifier's go for one bundle, in this launch of the VM.
type Approval struct {
	Exchange         wire.ExchangeID
	Server           string // the address that answered
	Time             time.Time
	MinPolicyVersion uint64
}

// Approve asks whether this VM may start a bundle. Errors are ErrRefused
// (final), ErrLater or ErrUnreachable, and carry a code. Without an approval
// the caller must not start it.
func Approve(ctx context.Context, cfg Config, bundle wire.Hex32, version uint64) (*Approval, error) {
	return asVM(ctx, cfg, wire.ALPNBundle, func(s *session, conn *tls.Conn, a dial.Addr, me identity) (*Approval, error) {
		return s.approve(ctx, conn, a, &wire.BundleTranscript{Version: wire.Version, ID: me.id, Bundle: bundle, BundleVersion: version})
	})
}

func (s *session) approve(ctx context.Context, conn *tls.Conn, a dial.Addr, t *wire.BundleTranscript) (*Approval, error) {
	defer conn.NetConn().Close()
	begin := &wire.BundleBegin{Version: t.Version, ID: t.ID, Bundle: t.Bundle, BundleVersion: t.BundleVersion}
	exchange, err := s.prove(ctx, conn, a, begin, t)
	if err != nil {
		return nil, err
	}
	m, err := wire.Expect[*wire.BundleApproved](conn)
	if err != nil {
		return nil, fmt.Errorf("%s, waiting for the approval: %w", a, err)
	}
	if m.Bundle != t.Bundle || m.BundleVersion != t.BundleVersion || m.Exchange != exchange {
		return nil, code.Wrap(code.LaunchMalformed, fmt.Errorf("%s: %w: it approves another bundle than the one asked about", a, wire.ErrMalformed))
	}
	return &Approval{Exchange: exchange, Server: a.String(), Time: time.Unix(m.Time, 0), MinPolicyVersion: m.MinPolicyVersion}, nil
}
