package client

import (
	"context"
	"crypto/tls"
	"fmt"

	"attestbox/internal/dial"
	"attestbox/internal/wire"
)

// prove is the step that launch, certify and maintain share: begin, challenge,
// evidence. begin is what the transcript t says; t is complete afterwards.
func (s *session) prove(ctx context.Context, conn *tls.Conn, a dial.Addr, begin wire.Message, t wire.Bound) (wire.ExchangeID, error) {
	var none wire.ExchangeID
	cs := conn.ConnectionState()
	if err := t.FillChannel(&cs, wire.PinOf(cs.PeerCertificates[0])); err != nil {
		return none, err
	}
	if err := wire.Write(conn, begin); err != nil {
		return none, fmt.Errorf("sending begin to %s: %w", a, err)
	}
	challenge, err := wire.Expect[*wire.Challenge](conn)
	if err != nil {
		return none, fmt.Errorf("%s, waiting for the challenge: %w", a, err)
	}
	t.SetNonce(challenge.Nonce)
	rctx, cancel := context.WithTimeout(ctx, wire.ExchangeTimeout)
	defer cancel()
	ev, err := askReport(rctx, s.Platform, t.ReportData())
	if err != nil {
		return none, fmt.Errorf("asking the secure processor for a report: %w", err)
	}
	if err := wire.Write(conn, &wire.Evidence{Platform: ev.Platform, Report: ev.Report, Endorsements: ev.Endorsements}); err != nil {
		return none, fmt.Errorf("sending evidence to %s: %w", a, err)
	}
	return challenge.Exchange, nil
}
