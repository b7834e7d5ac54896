package client

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"attestbox/internal/code"
	"attestbox/internal/dial"
	"attestbox/internal/secret"
	"attestbox/internal/wire"
)

// maintainer plays the verifier's end of one exchange: the state, then one
// answer to each request.
func maintainer(t *testing.T, p *peer, answer func(tr *wire.MaintainTranscript, m wire.Message) wire.Message) Config {
	cfg := config(p)
	cfg.Dial = func(context.Context, dial.Addr) (net.Conn, error) {
		mine, theirs := net.Pipe()
		go func() {
			defer mine.Close()
			conn := tls.Server(mine, wire.ServerTLSFor(wire.ALPNMaintain, p.cert))
			begin, err := wire.Expect[*wire.MaintainBegin](conn)
			if err != nil {
				return
			}
			tr := &wire.MaintainTranscript{Version: 1, Nonce: wire.Hex32{5}, ID: begin.ID, Purpose: begin.Purpose, Suite: wire.SuiteID(), Key: begin.Key}
			cs := conn.ConnectionState()
			if err := tr.FillChannel(&cs, p.pin()); err != nil {
				t.Error(err)
			}
			wire.Write(conn, &wire.Challenge{Nonce: tr.Nonce})
			ev, err := wire.Expect[*wire.Evidence](conn)
			if err != nil {
				return
			}
			if [64]byte(ev.Report[0x50:0x90]) != tr.ReportData() {
				t.Error("the report does not bind this exchange")
			}
			wire.Write(conn, &wire.MaintainState{})
			for {
				m, err := wire.Read(conn)
				if err != nil {
					return
				}
				wire.Write(conn, answer(tr, m))
			}
		}()
		return theirs, nil
	}
	return cfg
}

// What a verifier answers is compared with what was asked: a VM writes to its
// disk only after its records are kept, and believes no end that is none.
func TestMaintainAnswerIsChecked(t *testing.T) {
	digest := strings.Repeat("ab", 48)
	keys := func(tr *wire.MaintainTranscript) wire.Message {
		sealed, err := wire.SealMaintain(tr, &wire.Payload{DiskKey: secret.Random(32), PreviousDiskKey: secret.Random(32), OutcomeKey: secret.New(32)})
		if err != nil {
			t.Error(err)
		}
		return &wire.Release{Sealed: sealed}
	}
	record := wire.HeaderRecord{Digest: strings.Repeat("cd", 32)}
	ask := map[string]func(ctx context.Context, m *Maintenance) error{
		"register": func(ctx context.Context, m *Maintenance) error {
			return m.RegisterHeaders(ctx, []wire.HeaderRecord{record}, nil)
		},
		"rotate": func(ctx context.Context, m *Maintenance) error {
			p, err := m.Rotate(ctx)
			p.Zero()
			return err
		},
		"end": func(ctx context.Context, m *Maintenance) error {
			return m.EndRotation(ctx, wire.Hex32{1}, secret.Random(32))
		},
		"nominate": func(ctx context.Context, m *Maintenance) error {
			_, err := m.Nominate(ctx, &wire.Nominate{Digest: digest, Kernel: wire.Hex32{1}, Initrd: wire.Hex32{1}, Cmdline: wire.Hex32{1}, Source: "x"})
			return err
		},
	}
	for _, tc := range []struct {
		name, ask string
		answer    func(*wire.MaintainTranscript, wire.Message) wire.Message
		ok        bool
		want      code.Code
	}{
		{"kept", "register", func(*wire.MaintainTranscript, wire.Message) wire.Message {
			return &wire.MaintainState{Headers: []wire.HeaderRecord{record}}
		}, true, ""},
		{"not kept", "register", func(*wire.MaintainTranscript, wire.Message) wire.Message { return &wire.MaintainState{} }, false, code.LaunchMalformed},
		{"keys for a state", "register", func(tr *wire.MaintainTranscript, _ wire.Message) wire.Message { return keys(tr) }, false, code.LaunchMalformed},
		{"keys", "rotate", func(tr *wire.MaintainTranscript, _ wire.Message) wire.Message { return keys(tr) }, true, ""},
		{"keys sealed for another exchange", "rotate", func(tr *wire.MaintainTranscript, _ wire.Message) wire.Message {
			o := *tr
			o.Nonce[0] ^= 1
			return keys(&o)
		}, false, ""},
		{"keys sealed for another purpose", "rotate", func(tr *wire.MaintainTranscript, _ wire.Message) wire.Message {
			o := *tr
			o.Purpose = wire.PurposeHeaders
			return keys(&o)
		}, false, ""},
		{"a state for keys", "rotate", func(*wire.MaintainTranscript, wire.Message) wire.Message { return &wire.MaintainState{} }, false, code.LaunchMalformed},
		{"refused", "rotate", func(*wire.MaintainTranscript, wire.Message) wire.Message {
			return &wire.Refused{Code: code.MaintainRotation}
		}, false, code.MaintainRotation},
		{"ended", "end", func(*wire.MaintainTranscript, wire.Message) wire.Message { return &wire.MaintainState{} }, true, ""},
		{"open still", "end", func(*wire.MaintainTranscript, wire.Message) wire.Message {
			return &wire.MaintainState{Rotation: wire.RotationRotate}
		}, false, code.LaunchMalformed},
		{"waits", "nominate", func(*wire.MaintainTranscript, wire.Message) wire.Message {
			return &wire.MaintainState{Nominations: []string{digest}}
		}, true, ""},
		{"neither", "nominate", func(*wire.MaintainTranscript, wire.Message) wire.Message { return &wire.MaintainState{} }, false, code.LaunchMalformed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			m, err := Maintain(ctx, maintainer(t, newPeer(t), tc.answer), wire.PurposeRotate)
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			err = ask[tc.ask](ctx, m)
			if c, _ := code.Of(err); (err == nil) != tc.ok || c != tc.want {
				t.Errorf("%v, want %q", err, tc.want)
			}
			if tc.want == code.MaintainRotation && !errors.Is(err, ErrRefused) {
				t.Errorf("%v is no refusal", err)
			}
		})
	}
}
