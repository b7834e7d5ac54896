package initramfs

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode"

	"attestbox/initramfs/config"
)

// console writes whole lines, each in one write, so that the kernel's own
// lines do not fall into the middle of ours more than they must.
type console struct {
	mu     sync.Mutex
	w      io.Writer
	level  string
	uptime func() time.Duration
}

// step is a line of the timeline: seconds since the kernel's start, the step's
// name, and what it did.
func (c *console) step(name, format string, args ...any) {
	if c.level == config.LogError {
		return
	}
	c.line("[%8.3f] %s: %s", c.uptime().Seconds(), name, fmt.Sprintf(format, args...))
}

// debug is step for what only attestbox.loglevel=debug shows.
func (c *console) debug(name, format string, args ...any) {
	if c.level == config.LogDebug {
		c.step(name, format, args...)
	}
}

// line always prints. Whatever came from the host is made printable, so that
// it can neither forge another line nor drive a terminal.
func (c *console) line(format string, args ...any) {
	text := strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, fmt.Sprintf(format, args...))
	c.mu.Lock()
	defer c.mu.Unlock()
	io.WriteString(c.w, "attestbox: "+text+"\n")
}
