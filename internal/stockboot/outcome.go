package stockboot

import (
	"context"
	"errors"
	"fmt"
	"os"

	"attestbox/internal/applet"
	"attestbox/internal/client"
	"attestbox/internal/code"
	"attestbox/internal/secret"
	"attestbox/internal/wire"
)

// SaveOutcome keeps what a later process needs to report the outcome of rel in
// a file on tmpfs: both possible outcomes, each already authenticated, as two
// protocol frames; opened are the header records that it is used for. The
// outcome key itself is not kept.
func SaveOutcome(path string, rel *client.Release, opened []wire.HeaderRecord) error {
	var headers []wire.Hex32
	for _, h := range opened {
		var d wire.Hex32
		if err := d.UnmarshalText([]byte(h.Digest)); err != nil {
			return fmt.Errorf("header digest in the release: %w", err)
		}
		headers = append(headers, d)
	}
	buf := new(frames)
	for _, o := range []*wire.Outcome{
		rel.Outcome(wire.ResultOpened, "", headers),
		rel.Outcome(wire.ResultFailed, code.Failed, nil),
	} {
		if err := wire.Write(buf, o); err != nil {
			return err
		}
	}
	token := secret.Take(*buf)
	defer token.Zero()
	return applet.CreateSecretFile(path, token)
}

type frames []byte

func (f *frames) Write(b []byte) (int, error) { *f = append(*f, b...); return len(b), nil }

// SendOutcome reports one of the two, wire.ResultOpened or wire.ResultFailed,
// waits for the acknowledgement and removes the file.
func SendOutcome(ctx context.Context, cfg client.Config, path, result string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("reading the outcome file: %w", err)
	}
	defer f.Close()
	var chosen *wire.Outcome
	for range 2 {
		m, err := wire.Read(f)
		if err != nil {
			return fmt.Errorf("outcome file %q: %w", path, err)
		}
		out, ok := m.(*wire.Outcome)
		if !ok {
			return fmt.Errorf("outcome file %q holds something else", path)
		}
		if out.Result == result {
			chosen = out
		}
	}
	if chosen == nil {
		return errors.New("the outcome file lacks this result")
	}
	if _, err := client.SendOutcome(ctx, cfg, chosen); err != nil {
		return err
	}
	return os.Remove(path)
}
