package link

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// ErrRefused is what a client gets for a frame that the other end does not
// know.
var ErrRefused = errors.New("the simulated secure processor refused the frame")

// Port is the guest's end of the line: a virtio-serial port, or a connection
// in tests. Where it has deadlines (os.File on a port, net.Conn), they bound
// every exchange.
type Port interface {
	io.Reader
	io.Writer
}

type deadliner interface{ SetDeadline(time.Time) error }

// Client asks over the line, one question at a time.
type Client struct {
	mu     sync.Mutex
	port   Port
	in     *Reader
	synced bool
}

// NewClient makes a client. The port stays the caller's.
func NewClient(p Port) *Client {
	return &Client{port: p, in: NewResponseReader(eofRetry{p})}
}

// eofRetry turns the 0 bytes that a port gives while its host side is not
// connected into a wait.
type eofRetry struct{ r io.Reader }

func (e eofRetry) Read(b []byte) (int, error) {
	n, err := e.r.Read(b)
	if n == 0 && errors.Is(err, io.EOF) {
		if _, isFile := e.r.(*os.File); isFile {
			return 0, errNotConnected
		}
	}
	return n, err
}

var errNotConnected = errors.New("nobody is connected to the port's other end")

// Do sends one request and waits for its answer, until ctx or 10 seconds are
// over.
func (c *Client) Do(ctx context.Context, kind byte, body []byte) (*Answer, error) {
	if err := CheckRequest(kind, body); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	deadline := time.Now().Add(10 * time.Second)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if d, ok := c.port.(deadliner); ok {
		// A file that cannot poll has no deadlines; then reads block.
		_ = d.SetDeadline(deadline)
		stop := context.AfterFunc(ctx, func() { _ = d.SetDeadline(time.Unix(1, 0)) })
		defer stop()
	}
	if !c.synced {
		if _, err := c.port.Write(make([]byte, MaxRequest)); err != nil {
			return nil, fmt.Errorf("writing to the simulated secure processor: %w", err)
		}
		c.synced = true
	}
	var tag [8]byte
	rand.Read(tag[:])
	f := &Frame{Kind: kind, Tag: binary.LittleEndian.Uint64(tag[:]), Body: body}
	if _, err := c.port.Write(f.Marshal()); err != nil {
		c.synced = false
		return nil, fmt.Errorf("writing to the simulated secure processor: %w", err)
	}
	for {
		got, err := c.in.Next()
		switch {
		case errors.Is(err, errNotConnected) && time.Now().Before(deadline) && ctx.Err() == nil:
			time.Sleep(20 * time.Millisecond) // the port has no event for it
			continue
		case err != nil:
			c.synced = false
			return nil, fmt.Errorf("reading from the simulated secure processor: %w", err)
		case got.Tag != f.Tag:
			continue // the answer to a question that was given up
		case got.Kind == KindRefused:
			return nil, ErrRefused
		case got.Kind != kind|KindAnswer:
			return nil, fmt.Errorf("answer of kind %#x to a request of kind %#x", got.Kind, kind)
		}
		return ParseAnswer(kind, got.Body)
	}
}
