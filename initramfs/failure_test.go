package initramfs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"attestbox/initramfs/config"
	"attestbox/internal/code"
	"attestbox/internal/wire"
)

func fakeRelease(log *[]string, ackErr error) *release {
	return &release{
		payload: &wire.Payload{Boot: 1}, exchange: "abc",
		report: func(_ context.Context, result string, reason code.Code, headers []wire.Hex32) (*wire.Ack, error) {
			*log = append(*log, fmt.Sprintf("report %s %s %d", result, reason, len(headers)))
			return &wire.Ack{Boot: 1}, ackErr
		},
		close: func() { *log = append(*log, "wiped") },
	}
}

// How boots end: what is reported, that secrets are wiped before the machine
// goes down, and which way it goes.
func TestFinish(t *testing.T) {
	for _, tt := range []struct {
		name  string
		err   error
		setup func(in *Init)
		log   []string
		calls []string
		out   string
	}{
		{"stopped", errStopped, nil, []string{"wiped"}, []string{"sync", "poweroff"}, "stopped, powering off"},
		{"failed", code.Wrap(code.BootMount, errors.New("x\ny\x1b[2J")), nil, []string{"report failed boot-mount 0", "wiped"}, []string{"sync", "poweroff"},
			"attestbox: boot failed: x y [2J [boot-mount] (exchange abc)\n"},
		{"failed without a code", errors.New("x"), nil, []string{"report failed failed 0", "wiped"}, []string{"sync", "poweroff"}, "boot failed: x (exchange abc)\n"},
		{"failed after the outcome", errors.New("x"), func(in *Init) { in.reported = true }, []string{"wiped"}, []string{"sync", "poweroff"}, ""},
		{"stuck", errors.New("x"), func(in *Init) { in.stuck = true }, nil, []string{"sync", "poweroff"}, ""},
		{"reboot", errors.New("x"), func(in *Init) { in.cfg.OnFailure = config.OnFailure{Reboot: true, Delay: time.Minute} },
			[]string{"report failed failed 0", "wiped"}, []string{"sync", "pause 1m0s", "restart", "poweroff"}, "rebooting in 1m0s"},
		{"refused", code.Wrap(code.LaunchRefused, &wire.AnswerError{Exchange: wire.ExchangeID{1}, Code: code.LaunchRefused}), func(in *Init) { in.rel = nil },
			nil, []string{"sync", "poweroff"}, "boot failed: the verifier refused [launch-refused] (exchange 01000000000000000000000000000000)\n"},
		{"no configuration", errors.New("x"), func(in *Init) { in.cfg, in.rel = nil, nil }, nil, []string{"sync", "poweroff"}, "boot failed: x\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in, sys, out := fakeInit(t)
			var log []string
			in.cfg, in.rel = &config.Config{}, fakeRelease(&log, nil)
			if tt.setup != nil {
				tt.setup(in)
			}
			in.finish(tt.err)
			if !slices.Equal(log, tt.log) || !slices.Equal(sys.calls, tt.calls) || !strings.Contains(out.String(), tt.out) {
				t.Errorf("log %q, calls %q, out %q", log, sys.calls, out)
			}
			for line := range strings.Lines(out.String()) {
				if !strings.HasPrefix(line, "attestbox: ") {
					t.Errorf("foreign line %q", line)
				}
			}
		})
	}
}

func TestOutcomeOnce(t *testing.T) {
	in, _, _ := fakeInit(t)
	var log []string
	in.cfg, in.rel = &config.Config{}, fakeRelease(&log, errors.New("lost"))
	err := in.outcome(t.Context())
	wantCode(t, err, code.OutcomeUnsent)
	in.finish(err)
	if want := []string{"report opened  0", "wiped"}; !slices.Equal(log, want) {
		t.Errorf("reported %q", log)
	}
}
