package qemu

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"
)

// Bounds on what is kept of a console: the guest writes it.
const (
	maxConsoleLine = 16 << 10 // longer lines are cut into several
	maxConsoleKept = 8 << 20  // oldest lines are dropped beyond this
)

// ErrConsoleEnded is what WaitFor returns when the machine ended first.
var ErrConsoleEnded = errors.New("the console ended")

// Console is the machine's first serial port.
type Console struct {
	conn  net.Conn
	start time.Time
	out   io.Writer
	stamp bool

	mu      sync.Mutex
	lines   []string
	dropped int // lines dropped in front of lines
	kept    int // bytes in lines
	partial string
	change  chan struct{} // closed and renewed at each change
	ended   bool
}

func newConsole(conn net.Conn, start time.Time, out io.Writer, stamp bool) *Console {
	return &Console{conn: conn, start: start, out: out, stamp: stamp, change: make(chan struct{})}
}

// read collects the console until QEMU closes it.
func (c *Console) read() {
	r := bufio.NewReaderSize(c.conn, 4096)
	buf := make([]byte, 4096)
	var line []byte
	for {
		n, err := r.Read(buf)
		for _, b := range buf[:n] {
			if b == '\n' || len(line) == maxConsoleLine {
				c.line(line)
				line = line[:0]
				if b == '\n' {
					continue
				}
			}
			line = append(line, b)
		}
		c.setPartial(line)
		if err != nil {
			break
		}
	}
	if len(line) > 0 {
		c.line(line)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended, c.partial = true, ""
	c.signal()
}

func (c *Console) line(raw []byte) {
	s := printable(raw)
	if c.out != nil {
		if c.stamp {
			fmt.Fprintf(c.out, "[%8.3f] %s\n", time.Since(c.start).Seconds(), s)
		} else {
			fmt.Fprintln(c.out, s)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lines = append(c.lines, s)
	c.kept += len(s) + 1
	for c.kept > maxConsoleKept {
		c.kept -= len(c.lines[0]) + 1
		c.lines = c.lines[1:]
		c.dropped++
	}
	c.partial = ""
	c.signal()
}

func (c *Console) setPartial(raw []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.partial = printable(raw)
	c.signal()
}

func (c *Console) signal() {
	close(c.change)
	c.change = make(chan struct{})
}

// printable replaces what could drive the reader's terminal.
func printable(raw []byte) string {
	s := strings.ToValidUTF8(strings.TrimRight(string(raw), "\r"), "?")
	return strings.Map(func(r rune) rune {
		if r == '\t' || r >= ' ' && r != 0x7F && (r < 0x80 || r > 0x9F) {
			return r
		}
		return -1
	}, s)
}

// String is everything that was kept.
func (c *Console) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(append(c.lines[:len(c.lines):len(c.lines)], c.partial), "\n")
}

// Lines are the whole lines so far.
func (c *Console) Lines() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.lines...)
}

// WaitFor returns the first line, past or future, that contains text; a line
// that has not ended yet (a prompt) counts. ErrConsoleEnded, or ctx's error,
// when there is none.
func (c *Console) WaitFor(ctx context.Context, text string) (string, error) {
	return c.WaitForFunc(ctx, func(line string) bool { return strings.Contains(line, text) })
}

// WaitForFunc is WaitFor with a condition of the caller's.
func (c *Console) WaitForFunc(ctx context.Context, match func(line string) bool) (string, error) {
	next := 0
	for {
		c.mu.Lock()
		lines, first, partial, ended, change := c.lines, c.dropped, c.partial, c.ended, c.change
		c.mu.Unlock()
		for next = max(next, first); next-first < len(lines); next++ {
			if match(lines[next-first]) {
				return lines[next-first], nil
			}
		}
		switch {
		case partial != "" && match(partial):
			return partial, nil
		case ended:
			return "", ErrConsoleEnded
		}
		select {
		case <-change:
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}
}

// Write types into the console.
func (c *Console) Write(p []byte) (int, error) { return c.conn.Write(p) }
