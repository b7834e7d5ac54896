package initramfs

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"testing"

	"attestbox/initramfs/config"
	"attestbox/internal/code"
	"attestbox/internal/platform"
	"attestbox/internal/secret"
	"attestbox/internal/wire"
)

// TestMain lets the test binary itself be /init of a VM: the real steps on a
// real kernel, with the secure processor and the verifier played by a file.
func TestMain(m *testing.M) {
	if os.Getpid() == 1 {
		guestMain()
	}
	os.Exit(m.Run())
}

// fakeVerifier is the file /verifier.json of such a VM.
type fakeVerifier struct {
	Key     []byte             `json:"key"`
	Record  *wire.HeaderRecord `json:"record"`
	Secrets map[string]string  `json:"secrets"`
	Refuse  bool               `json:"refuse"`
	NoAck   bool               `json:"no_ack"`
	Time    int64              `json:"time"`
	// Committed is C; the boot is always number 3.
	Committed uint64 `json:"committed"`
}

func guestMain() {
	os.Clearenv()
	in := &Init{sys: linux{}, deps: realDeps()}
	in.log = &console{w: os.Stderr, level: config.LogInfo, uptime: in.sys.Uptime}
	if b, err := os.ReadFile("/verifier.json"); err == nil {
		in.deps.Open = func() (platform.Platform, error) { return noPlatform{}, nil }
		in.deps.Launch = func(context.Context, *Init, platform.Platform) (*release, error) { return fakeLaunch(b, in.log) }
	}
	in.main()
}

type noPlatform struct{ platform.Platform }

func (noPlatform) Close() error { return nil }

func fakeLaunch(b []byte, log *console) (*release, error) {
	var f fakeVerifier
	if err := json.Unmarshal(b, &f); err != nil {
		return nil, err
	}
	if f.Refuse {
		return nil, code.Wrap(code.LaunchRefused, &wire.AnswerError{Exchange: wire.ExchangeID{0xab}, Code: code.LaunchRefused})
	}
	p := &wire.Payload{Boot: 3, Committed: f.Committed, Time: f.Time, MinPolicyVersion: 5, DiskKey: secret.Take(f.Key), OutcomeKey: secret.Random(32)}
	if f.Record != nil {
		p.Headers = []wire.HeaderRecord{*f.Record}
	}
	for name, value := range f.Secrets {
		p.Secrets = append(p.Secrets, wire.NamedSecret{Name: name, Value: secret.Take([]byte(value))})
	}
	report := func(_ context.Context, result string, reason code.Code, headers []wire.Hex32) (*wire.Ack, error) {
		log.line("fake verifier: outcome %q %q, %d headers", result, reason, len(headers))
		if f.NoAck {
			return nil, fmt.Errorf("no acknowledgement")
		}
		return &wire.Ack{Boot: 3, Time: f.Time + 1, MinPolicyVersion: 6}, nil
	}
	return &release{payload: p, exchange: "feed", from: "fake", report: report, close: p.Zero}, nil
}
