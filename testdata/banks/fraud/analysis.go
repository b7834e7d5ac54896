package fraud

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// Banks are the banks that agreed.
func Banks() []string { return []string{"bank-a", "bank-b", "bank-c"} }

const (
	receiveTime = 30 * time.Second
	sendTime    = 10 * time.Second
)

// Analyse is the program of the analysis: it waits for the cases of every bank,
// each at its own socket, and gives the trend to those that sent them. talk gets
// what may be known to everybody.
//
//	analyse [-dir DIR] [-timeout DURATION]
func Analyse(ctx context.Context, talk io.Writer, args []string) error {
	fs := flag.NewFlagSet("analyse", flag.ContinueOnError)
	fs.SetOutput(talk)
	dir := fs.String("dir", "/run", "the sockets bank-a.sock, bank-b.sock and bank-c.sock are in `DIR`")
	timeout := fs.Duration("timeout", 10*time.Minute, "give up after `DURATION`")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	a := &analysis{talk: talk, in: map[string]*submission{}, complete: make(chan struct{})}
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	for _, bank := range Banks() {
		l, err := listen(*dir + "/" + bank + ".sock")
		if err != nil {
			return err
		}
		defer context.AfterFunc(ctx, func() { l.Close() })()
		defer l.Close()
		all.Go(func() { a.serve(ctx, l, bank) })
	}
	a.say("waiting for %d banks", len(Banks()))
	select {
	case <-a.complete:
	case <-ctx.Done():
		return errors.New("not every bank has sent its cases in time; nothing was released")
	}
	return a.release()
}

type analysis struct {
	mu       sync.Mutex
	talk     io.Writer
	in       map[string]*submission
	complete chan struct{}
	done     bool
}

type submission struct {
	conn  *net.UnixConn
	cases []Case
}

func (a *analysis) say(format string, args ...any) {
	fmt.Fprintf(a.talk, "analysis: "+format+"\n", args...)
}

func listen(path string) (*net.UnixListener, error) {
	if st, err := os.Lstat(path); err == nil && st.Mode().Type() == os.ModeSocket {
		os.Remove(path) // of a run before this one
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listening: %w", err)
	}
	return l, os.Chmod(path, 0o600)
}

// serve takes a bank's cases, one stream after the other. What was sent last
// counts.
func (a *analysis) serve(ctx context.Context, l *net.UnixListener, bank string) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return
		}
		c.SetReadDeadline(time.Now().Add(receiveTime))
		stop := context.AfterFunc(ctx, func() { c.Close() })
		b, err := io.ReadAll(io.LimitReader(c, MaxBytes+64))
		stop()
		var cases []Case
		if err == nil {
			b, err = whole(b)
		}
		if err == nil {
			cases, err = ParseCases(b)
		}
		if err != nil {
			answer(c, []byte("error: "+reason(err)+"\n"))
			continue
		}
		a.take(bank, &submission{c, cases})
	}
}

// reason does not tell of this side's files and addresses.
func reason(err error) string {
	if _, ok := errors.AsType[*net.OpError](err); ok {
		return errCut.Error()
	}
	return err.Error()
}

func (a *analysis) take(bank string, s *submission) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.done {
		answer(s.conn, []byte("error: the analysis is over\n"))
		return
	}
	if old := a.in[bank]; old != nil {
		answer(old.conn, []byte("error: cases that were sent later count\n"))
	}
	a.in[bank] = s
	a.say("%s has sent its cases", bank)
	if len(a.in) == len(Banks()) {
		a.done = true
		close(a.complete)
	}
}

// release gives the trend to the banks, and to nobody else.
func (a *analysis) release() error {
	cases := map[string][]Case{}
	for bank, s := range a.in {
		cases[bank] = s.cases
	}
	rows := Trend(cases)
	text := append([]byte("ok\n"), mark(Format(rows))...)
	var all sync.WaitGroup
	errs := make([]error, len(Banks()))
	for i, bank := range Banks() {
		all.Go(func() {
			if err := answer(a.in[bank].conn, text); err != nil {
				errs[i] = fmt.Errorf("%s did not get the trend: %w", bank, err)
			}
		})
	}
	all.Wait()
	a.say("%d rows were released to %d banks", len(rows), len(Banks()))
	return errors.Join(errs...)
}

// answer sends an answer and ends the stream.
func answer(c *net.UnixConn, text []byte) error {
	defer c.Close()
	c.SetWriteDeadline(time.Now().Add(sendTime))
	_, err := c.Write(text)
	return err
}
