package attestd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"attestbox/internal/code"
	"attestbox/internal/secret"
	"attestbox/internal/strictjson"
	"attestbox/internal/wire"
)

// DefaultSocket is where attestd listens.
const DefaultSocket = "/run/attestbox/attestd.sock"

// RemoteError is attestd's refusal; it carries attestd's code.
type RemoteError struct {
	Op   string
	Code code.Code
	Text string
}

func (e *RemoteError) Error() string { return fmt.Sprintf("attestd: %s: %s", e.Op, e.Text) }

// Client is one connection to attestd; not for use by several goroutines at a
// time. After an error other than a RemoteError it is of no more use.
type Client struct {
	c         *net.UnixConn
	challenge Challenge
}

// Dial connects and waits for the challenge, until ctx ends. What listens must
// run as root or as the caller's own user: else somebody else could have put
// his socket there.
func Dial(ctx context.Context, path string) (_ *Client, err error) {
	raw, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, code.Wrap(code.Unreachable, fmt.Errorf("connecting to attestd: %w", err))
	}
	c := &Client{c: raw.(*net.UnixConn)}
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	err = control(c.c, func(fd int) error {
		cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err == nil && cred.Uid != 0 && int(cred.Uid) != os.Geteuid() {
			err = code.Wrap(code.AttestdServer, fmt.Errorf("%q is served by user %d, neither root nor the caller", path, cred.Uid))
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	stop := c.until(ctx)
	defer stop()
	js, err := readFrame(c.c, MaxResponse)
	if err != nil {
		return nil, broken(ctx, err)
	}
	// A refusal can come in place of the challenge.
	var refusal Response
	if strictjson.Unmarshal(js, &refusal) == nil && refusal.Type == "error" {
		return nil, remote("connecting", &refusal)
	}
	if err := strictjson.Unmarshal(js, &c.challenge); err != nil || c.challenge.Type != "challenge" || c.challenge.Version != Version {
		return nil, code.Wrap(code.AttestdMalformed, fmt.Errorf("attestd: no challenge of version %d: %.100q, %v", Version, js, err))
	}
	return c, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.c.Close() }

func (c *Client) until(ctx context.Context) (stop func() bool) {
	c.c.SetDeadline(time.Time{})
	return context.AfterFunc(ctx, func() { c.c.SetDeadline(time.Unix(1, 0)) })
}

func remote(op string, r *Response) error {
	k := code.Code(r.Code)
	return code.Wrap(k, &RemoteError{op, k, r.Error})
}

func broken(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	k := code.Unreachable
	if errors.Is(err, ErrMalformed) {
		k = code.AttestdMalformed
	}
	return code.Wrap(k, fmt.Errorf("attestd: %w", err))
}

// Do sends one request with its data and reads the answer with its own, which
// the caller zeroes. Nonce and Size are filled in.
func (c *Client) Do(ctx context.Context, r Request, data []byte) (*Response, *secret.Bytes, error) {
	r.Nonce, r.Size = c.challenge.Nonce, len(data)
	if err := r.check(); err != nil {
		return nil, nil, err
	}
	stop := c.until(ctx)
	defer stop()
	head, err := frame(r, MaxRequest)
	if err != nil {
		return nil, nil, err
	}
	if _, err = c.c.Write(head); err == nil && len(data) > 0 {
		_, err = c.c.Write(data)
	}
	// attestd may have answered and closed before it read everything.
	js, rerr := readFrame(c.c, MaxResponse)
	if rerr != nil {
		return nil, nil, broken(ctx, errors.Join(rerr, err))
	}
	resp := new(Response)
	if err := strictjson.Unmarshal(js, resp); err != nil {
		return nil, nil, broken(ctx, fmt.Errorf("%w: %w", ErrMalformed, err))
	}
	if resp.Type == "error" {
		return nil, nil, remote(r.Op, resp)
	}
	if resp.Type != r.Op || resp.Size < 0 || resp.Size > maxBody {
		return nil, nil, broken(ctx, fmt.Errorf("%w: answer %.32q with %d bytes to %s", ErrMalformed, resp.Type, resp.Size, r.Op))
	}
	body := secret.New(resp.Size)
	if _, err := io.ReadFull(c.c, body.Bytes()); err != nil {
		body.Zero()
		return nil, nil, broken(ctx, err)
	}
	return resp, body, nil
}

// Attest gives evidence over wire.AttestdReportData(program, data).
func (c *Client) Attest(ctx context.Context, data []byte) (*Response, error) {
	resp, body, err := c.Do(ctx, Request{Op: OpAttest}, data)
	body.Zero()
	return resp, err
}

// Seal encrypts data for this program; scope "" is ScopeUser.
func (c *Client) Seal(ctx context.Context, data *secret.Bytes, context, scope string) ([]byte, error) {
	_, body, err := c.Do(ctx, Request{Op: OpSeal, Context: context, Scope: scope}, data.Bytes())
	if err != nil {
		return nil, err
	}
	defer body.Zero()
	return append([]byte(nil), body.Bytes()...), nil
}

// Unseal is the reverse of Seal; the caller zeroes the result.
func (c *Client) Unseal(ctx context.Context, blob []byte, context string) (*secret.Bytes, error) {
	_, body, err := c.Do(ctx, Request{Op: OpUnseal, Context: context}, blob)
	return body, err
}

// Sign signs data: see VerifySignature. key "" is KeyAuthentication.
func (c *Client) Sign(ctx context.Context, data []byte, context, key string) (*Response, error) {
	resp, body, err := c.Do(ctx, Request{Op: OpSign, Context: context, Key: key}, data)
	body.Zero()
	return resp, err
}

// Ask does an operation without data.
func (c *Client) Ask(ctx context.Context, op string) (*Response, error) {
	resp, body, err := c.Do(ctx, Request{Op: op}, nil)
	body.Zero()
	return resp, err
}

// ReportData is what the report of Attest must carry for this program and data.
func ReportData(program string, data []byte) [64]byte {
	return wire.AttestdReportData([]byte(program), data)
}
