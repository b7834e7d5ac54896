package attestd

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"attestbox/internal/code"
	"attestbox/internal/platform"
	"attestbox/internal/secret"
	"attestbox/internal/wire"
)

// Options of a server.
type Options struct {
	// Platform makes the reports; nil if there is none.
	Platform platform.Platform
	// Root is the key of RootSize bytes under which attestd seals for programs
	// and from which it derives their keys; nil: neither. It gives a copy, which
	// the server zeroes.
	Root func(ctx context.Context) (*secret.Bytes, error)
	// Identity is the VM's authentication key and admission certificate with
	// its issuer's, DER; nil: none. Both are asked for each request, so that
	// what certify makes or renews meanwhile is seen.
	Identity func(ctx context.Context) (crypto.Signer, [][]byte, error)
	// Measurer is Kernel if nil.
	Measurer Measurer
	Log      *slog.Logger     // discarded if nil
	Now      func() time.Time // time.Now if nil
	Limits   Limits
}

// Server is attestd.
type Server struct {
	o     Options
	users *users
	turn  chan struct{} // held while the platform makes a report
	wg    sync.WaitGroup
}

// New makes a server.
func New(o Options) *Server {
	if o.Measurer == nil {
		o.Measurer = new(Kernel)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	o.Limits = o.Limits.withDefaults()
	return &Server{o: o, users: newUsers(o.Limits, o.Now), turn: make(chan struct{}, 1)}
}

// Listen makes the socket: mode 0600, or 0660 for a group (gid >= 0). A socket
// that nobody listens on is replaced; one that answers, or anything else at
// path, is an error.
func Listen(path string, gid int) (*net.UnixListener, error) {
	if st, err := os.Lstat(path); err == nil {
		if st.Mode().Type() != os.ModeSocket {
			return nil, fmt.Errorf("%q exists and is no socket", path)
		}
		if c, err := net.Dial("unix", path); err == nil {
			c.Close()
			return nil, fmt.Errorf("somebody listens on %q already", path)
		} else if !errors.Is(err, unix.ECONNREFUSED) {
			return nil, err
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	// The mode of the socket before bind is the file's (unix(7)), whatever the
	// umask allows: at no time may more than the owner connect.
	cfg := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var ferr error
		return errors.Join(raw.Control(func(fd uintptr) { ferr = unix.Fchmod(int(fd), 0o600) }), ferr)
	}}
	l, err := cfg.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, err
	}
	if gid >= 0 {
		if err := errors.Join(os.Lchown(path, -1, gid), os.Chmod(path, 0o660)); err != nil {
			l.Close()
			return nil, err
		}
	}
	return l.(*net.UnixListener), nil
}

// Serve answers callers until ctx ends; it closes l. Connections then get
// Limits.Shutdown to end what they are at.
func (s *Server) Serve(ctx context.Context, l *net.UnixListener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	var failed error
	for {
		c, err := l.AcceptUnix()
		if ctx.Err() != nil {
			if c != nil {
				c.Close()
			}
			break
		}
		if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ECONNABORTED) {
			s.o.Log.Warn("accept", "error", err)
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		if err != nil {
			failed = fmt.Errorf("accepting connections: %w", err)
			l.Close()
			break
		}
		s.wg.Go(func() {
			defer c.Close()
			s.serve(ctx, c)
		})
	}
	cancel()
	done := make(chan struct{})
	go func() { s.wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(s.o.Limits.Shutdown):
		failed = errors.Join(failed, errors.New("connections did not end in time"))
	}
	return failed
}

// serve is one connection.
func (s *Server) serve(ctx context.Context, uc *net.UnixConn) {
	c := &conn{UnixConn: uc}
	var cred *unix.Ucred
	err := errors.Join(passCredentials(uc), control(uc, func(fd int) (err error) {
		cred, err = unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
		return err
	}))
	if err != nil {
		s.o.Log.Warn("connection", "error", err)
		return
	}
	log := s.o.Log.With("pid", cred.Pid, "uid", cred.Uid)
	u := s.users.enter(cred.Uid)
	if u == nil {
		s.fail(c, log, "", code.Wrap(code.AttestdBusy, errors.New("too many connections")))
		return
	}
	defer s.users.leave(u)
	p, err := identify(uc, s.o.Measurer)
	if err != nil {
		s.fail(c, log, "", code.Wrap(code.AttestdCaller, err))
		return
	}
	defer p.close()
	c.pid = p.pid
	log = log.With("program", p.program.String())
	stop := context.AfterFunc(ctx, func() { uc.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()

	ch := Challenge{Type: "challenge", Version: Version}
	rand.Read(ch.Nonce[:])
	if err := c.send(s.o.Limits.Transfer, ch, nil); err != nil {
		return
	}
	for ctx.Err() == nil {
		if !s.one(ctx, c, p, u, &ch, log) {
			return
		}
	}
}

// one answers one request and says whether another may follow.
func (s *Server) one(ctx context.Context, c *conn, p *peer, u *user, ch *Challenge, log *slog.Logger) bool {
	r, body, err := s.receive(ctx, c, ch.Nonce)
	defer body.Zero()
	if errors.Is(err, io.EOF) || ctx.Err() != nil {
		return false
	}
	// Everything of the request has arrived. If the same execution still runs,
	// it is what wrote it.
	if err == nil {
		if perr := p.check(s.o.Measurer); perr != nil {
			err = code.Wrap(code.AttestdCaller, perr)
		}
	}
	if err != nil {
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			log.Info("request", "error", "silent")
			return false
		case errors.Is(err, errStranger):
			err = code.Wrap(code.AttestdCaller, err)
		case errors.Is(err, ErrMalformed) || errors.Is(err, io.ErrUnexpectedEOF):
			err = code.Wrap(code.AttestdMalformed, err)
		}
		s.fail(c, log, "", err)
		return false
	}
	resp, out, err := s.answer(ctx, p, u, r, body)
	defer out.Zero()
	if err != nil {
		return s.fail(c, log, r.Op, err)
	}
	resp.Type, resp.Program, resp.Size = r.Op, p.program.String(), out.Len()
	log.Info("request", "op", r.Op, "context", r.Context)
	return c.send(s.o.Limits.Transfer, resp, out.Bytes()) == nil
}

// receive reads one request and its data, which the caller zeroes.
func (s *Server) receive(ctx context.Context, c *conn, nonce wire.Hex32) (*Request, *secret.Bytes, error) {
	wait := func(d time.Duration) {
		c.SetReadDeadline(time.Now().Add(d))
		if ctx.Err() != nil { // the deadline of shutdown may have come before
			c.SetReadDeadline(time.Unix(1, 0))
		}
	}
	wait(s.o.Limits.Idle)
	var first [1]byte
	if _, err := io.ReadFull(c, first[:]); err != nil {
		return nil, nil, err
	}
	wait(s.o.Limits.Transfer)
	js, err := readFrame(io.MultiReader(bytes.NewReader(first[:]), c), MaxRequest)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, nil, err
	}
	r, err := ParseRequest(js)
	if err != nil {
		return nil, nil, err
	}
	if r.Nonce != nonce {
		return nil, nil, fmt.Errorf("%w: the nonce is not the challenge's", ErrMalformed)
	}
	body := secret.New(r.Size)
	if _, err := io.ReadFull(c, body.Bytes()); err != nil {
		body.Zero()
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, nil, err
	}
	return r, body, nil
}

// fail answers with an error and says whether that was possible. Only errors
// with a code tell the caller what happened.
func (s *Server) fail(c *conn, log *slog.Logger, op string, err error) bool {
	k, ok := code.Of(err)
	text := err.Error()
	if !ok {
		k, text = code.Failed, "attestd's log has the reason"
	}
	log.Warn("refused", "op", op, "code", k, "error", err)
	return c.send(s.o.Limits.Transfer, Response{Type: "error", Code: string(k), Error: text}, nil) == nil
}
