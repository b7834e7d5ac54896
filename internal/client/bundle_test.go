package client

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"testing"
	"time"

	"attestbox/internal/code"
	"attestbox/internal/dial"
	"attestbox/internal/wire"
)

// Only the answer to this question, in this exchange, is a go.
func TestApprovalIsChecked(t *testing.T) {
	bundle, exchange := wire.Hex32{7}, wire.ExchangeID{3}
	for _, tc := range []struct {
		name   string
		answer wire.Message
		want   code.Code
	}{
		{"approved", &wire.BundleApproved{Exchange: exchange, Bundle: bundle, BundleVersion: 4, Time: 9}, ""},
		{"another bundle", &wire.BundleApproved{Exchange: exchange, Bundle: wire.Hex32{8}, BundleVersion: 4}, code.LaunchMalformed},
		{"another version", &wire.BundleApproved{Exchange: exchange, Bundle: bundle, BundleVersion: 5}, code.LaunchMalformed},
		{"another exchange", &wire.BundleApproved{Bundle: bundle, BundleVersion: 4}, code.LaunchMalformed},
		{"an answer of launch", &wire.Ack{Boot: 4}, code.LaunchMalformed},
		{"refused", &wire.Refused{Exchange: exchange, Code: code.BundleRefused}, code.BundleRefused},
		{"none", nil, code.Unreachable},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newPeer(t)
			cfg := config(p)
			cfg.Dial = func(context.Context, dial.Addr) (net.Conn, error) {
				mine, theirs := net.Pipe()
				go func() {
					defer mine.Close()
					conn := tls.Server(mine, wire.ServerTLSFor(wire.ALPNBundle, p.cert))
					begin, err := wire.Expect[*wire.BundleBegin](conn)
					if err != nil {
						return
					}
					tr := &wire.BundleTranscript{Version: 1, Nonce: wire.Hex32{5}, ID: begin.ID, Bundle: bundle, BundleVersion: 4}
					cs := conn.ConnectionState()
					if err := tr.FillChannel(&cs, p.pin()); err != nil {
						t.Error(err)
					}
					wire.Write(conn, &wire.Challenge{Exchange: exchange, Nonce: tr.Nonce})
					ev, err := wire.Expect[*wire.Evidence](conn)
					if err != nil {
						return
					}
					if [64]byte(ev.Report[0x50:0x90]) != tr.ReportData() {
						t.Error("the report does not bind this exchange and bundle")
					}
					if tc.answer != nil {
						wire.Write(conn, tc.answer)
					}
				}()
				return theirs, nil
			}
			// What a retry could mend is tried until the time is over.
			limit := 300 * time.Millisecond
			if tc.want == "" || tc.want == code.BundleRefused {
				limit = 30 * time.Second
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			a, err := Approve(ctx, cfg, bundle, 4)
			c, _ := code.Of(err)
			switch {
			case tc.want == "" && (err != nil || a.Exchange != exchange || a.Time.Unix() != 9):
				t.Errorf("%+v, %v", a, err)
			case tc.want != "" && (err == nil || c != tc.want && c != code.Unreachable):
				t.Errorf("%v, want %q", err, tc.want)
			case tc.want == code.BundleRefused && !errors.Is(err, ErrRefused):
				t.Errorf("%v is no refusal", err)
			}
		})
	}
}
