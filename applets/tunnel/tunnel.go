// Package tunnel is `tunnel`: it carries the streams of unmodified programs
// between two members of a domain.
package tunnel

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"attestbox/internal/admission"
	"attestbox/internal/applet"
	"attestbox/internal/code"
	"attestbox/internal/member"
	"attestbox/internal/member/memberflags"
	"attestbox/internal/tunnel"
)

// Applet is `tunnel`.
var Applet = applet.Applet{Name: "tunnel", Summary: "carry TCP or Unix-socket streams between members of the domain", Run: run}

type options struct {
	memberflags.Flags
	listen, connect, mode string
	peers                 applet.Strings
	socketMode            string
	max                   int
	timeout               time.Duration
	verbose               bool
}

func run(ctx context.Context, env *applet.Env, args []string) error {
	var o options
	fs := env.Flags("-mode client|server -listen ADDRESS -connect ADDRESS -peer WHO [flags]",
		"tunnel -mode client -listen unix:/run/db.sock -connect 10.0.0.7:8461 -peer measurement:HEX")
	o.Register(fs)
	fs.StringVar(&o.mode, "mode", "", "`client`: plain streams in, to a member; or server: a member's streams in, to a plain program")
	fs.StringVar(&o.listen, "listen", "", "accept streams at `ADDRESS`: unix:PATH, tcp:HOST:PORT or vsock::PORT")
	fs.StringVar(&o.connect, "connect", "", "carry them to `ADDRESS`: unix:PATH, HOST:PORT or vsock:CID:PORT")
	fs.Var(&o.peers, "peer", "allow the other end to be `WHO`: measurement:HEX, role:NAME or any-of-domain; may be repeated")
	fs.StringVar(&o.socketMode, "socket-mode", "0600", "permissions of the -listen socket, octal `MODE`")
	fs.IntVar(&o.max, "max", tunnel.DefaultMaxStreams, "carry at most `N` streams at once")
	fs.DurationVar(&o.timeout, "timeout", tunnel.DefaultHandshake, "give up connecting and showing certificates after `DURATION`")
	fs.BoolVar(&o.verbose, "v", false, "say what is being tried")
	if err := fs.Parse(args); err != nil {
		return err
	}
	cfg, listen, mode, err := o.check(fs)
	if err != nil {
		return err
	}
	// Whoever read our messages may go; that is no reason to stop.
	signal.Ignore(unix.SIGPIPE)
	say := func(format string, a ...any) { fmt.Fprintf(env.Stderr, env.Name+": "+format+"\n", a...) }
	logf := func(string, ...any) {}
	if o.verbose {
		logf = say
	}
	m, done, err := o.OpenMember(ctx, logf)
	if err != nil {
		return err
	}
	defer done()
	if err := usable(ctx, m); err != nil {
		return err
	}
	cfg.Trust = func() (*admission.Trust, error) { return m.Trust(ctx) }
	cfg.Certificate, cfg.Now, cfg.Logf = m.Certificate, m.Clock, say
	if cfg.Listener, err = listen.Listen(ctx, mode); err != nil {
		return applet.Fail(code.Failed, err)
	}
	say("listening on %s", address(listen, cfg))
	return tunnel.Serve(ctx, *cfg)
}

// address is where the tunnel listens, with the port that the kernel chose.
func address(a tunnel.Addr, cfg *tunnel.Config) string {
	if a.Net.Network == "tcp" {
		return "tcp://" + cfg.Listener.Addr().String()
	}
	return a.String()
}

// usable says at once, and not with the first stream, that certify has to run.
func usable(ctx context.Context, m *member.Member) error {
	if _, err := m.Identity(ctx); err != nil {
		return applet.WithHint(applet.Later(code.NotCertified, fmt.Errorf("this machine's certificate: %w", err)), "run certify, or keep certify -renew running")
	}
	return nil
}

// check refuses conflicts before any I/O.
func (o *options) check(fs *applet.FlagSet) (*tunnel.Config, tunnel.Addr, os.FileMode, error) {
	fail := func(err error) (*tunnel.Config, tunnel.Addr, os.FileMode, error) { return nil, tunnel.Addr{}, 0, err }
	if fs.NArg() > 0 {
		return fail(fs.Usage("unexpected argument %q", fs.Arg(0)))
	}
	if o.mode != tunnel.Client && o.mode != tunnel.Server {
		return fail(fs.Usage("-mode is client or server, not %q", o.mode))
	}
	if o.listen == "" || o.connect == "" || len(o.peers) == 0 {
		return fail(fs.Usage("-listen, -connect and -peer are required"))
	}
	listen, err := tunnel.ParseAddr(o.listen)
	if err != nil {
		return fail(fs.Usage("-listen: %v", err))
	}
	connect, err := tunnel.ParseAddr(o.connect)
	if err == nil && !connect.Complete() {
		err = fmt.Errorf("%q names no host or no port", o.connect)
	}
	if err != nil {
		return fail(fs.Usage("-connect: %v", err))
	}
	plain, flag := listen, "-listen"
	if o.mode == tunnel.Server {
		plain, flag = connect, "-connect"
	}
	if !plain.Local() {
		return fail(fs.Usage("%s %s is the plain side: it must be a Unix socket or a loopback address", flag, plain))
	}
	mode, err := strconv.ParseUint(o.socketMode, 8, 32)
	if err != nil || mode > 0o777 {
		return fail(fs.Usage("-socket-mode %q is not an octal mode such as 0660", o.socketMode))
	}
	if o.max < 1 || o.max > 65536 || o.timeout <= 0 {
		return fail(fs.Usage("-max %d, -timeout %v: want 1 to 65536 streams and a time above 0", o.max, o.timeout))
	}
	cfg := &tunnel.Config{Mode: o.mode, Dial: connect.Dial, MaxStreams: o.max, Handshake: o.timeout}
	for _, s := range o.peers {
		p, err := tunnel.ParsePeer(s)
		if err != nil {
			return fail(fs.Usage("-peer: %v", err))
		}
		cfg.Peers = append(cfg.Peers, p)
	}
	return cfg, listen, os.FileMode(mode), o.Flags.Check(fs)
}
