package fraud

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"
)

// errAnswered is an answer that asking again would not change.
var errAnswered = errors.New("the analysis refused the cases")

// Submit is a bank's program: it sends the bank's cases to the analysis and
// waits for the trend.
//
//	submit -data FILE [-to SOCKET] [-out FILE] [-timeout DURATION]
//
// The trend goes to FILE, or to stdout.
func Submit(ctx context.Context, bank string, stdout, talk io.Writer, args []string) error {
	fs := flag.NewFlagSet("submit", flag.ContinueOnError)
	fs.SetOutput(talk)
	to := fs.String("to", "/run/analysis.sock", "the tunnel to the analysis is at `SOCKET`")
	data := fs.String("data", "", "the bank's cases are in `FILE`")
	out := fs.String("out", "", "write the trend to `FILE` (default: stdout)")
	timeout := fs.Duration("timeout", 10*time.Minute, "give up after `DURATION`")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() > 0 || *data == "" {
		return errors.New("want -data, and no arguments")
	}
	cases, err := os.ReadFile(*data)
	if err != nil {
		return err
	}
	if _, err := ParseCases(cases); err != nil {
		return fmt.Errorf("%s: %w", *data, err)
	}
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	var trend []byte
	for {
		trend, err = submit(ctx, *to, cases)
		if err == nil || errors.Is(err, errAnswered) {
			break
		}
		// Nobody is there yet, or the tunnel was refused.
		select {
		case <-ctx.Done():
			return fmt.Errorf("no answer in time, at last: %w", err)
		case <-time.After(time.Second):
		}
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(talk, "%s: the trend has %d rows, sha256 %x\n", bank, bytes.Count(trend, []byte("\n"))-1, sha256.Sum256(trend))
	if *out == "" {
		_, err = stdout.Write(trend)
		return err
	}
	return os.WriteFile(*out, trend, 0o600)
}

func submit(ctx context.Context, socket string, cases []byte) ([]byte, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	if _, err := c.Write(mark(cases)); err != nil {
		return nil, err
	}
	if err := c.(*net.UnixConn).CloseWrite(); err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(c, MaxBytes))
	if err != nil {
		return nil, err
	}
	verdict, trend, ok := bytes.Cut(b, []byte("\n"))
	switch {
	case !ok:
		return nil, errCut
	case string(verdict) == "ok":
		return whole(trend)
	}
	return nil, fmt.Errorf("%w: %.200q", errAnswered, strings.TrimPrefix(string(verdict), "error: "))
}
