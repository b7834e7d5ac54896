package servercmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/renameio/v2"

	"attestbox/internal/applet"
	"attestbox/internal/appraise"
	"attestbox/internal/appraise/amdroots"
	"attestbox/internal/client"
	"attestbox/internal/code"
	"attestbox/internal/kds"
	"attestbox/internal/server"
	"attestbox/internal/snp"
	"attestbox/internal/store"
	"attestbox/internal/store/relay"
	"attestbox/internal/wire"
)

// DefaultAdmin is where the admin pages are.
const DefaultAdmin = "127.0.0.1:8452"

// policyPoll is how often policy files are looked at by default.
const policyPoll = 2 * time.Second

// ServeOptions say how an applet calls Serve.
type ServeOptions struct {
	Roles []string // nil: the flag -roles says
	Admin string   // default of -admin; "" is off
}

// serveFlags are the flags of Serve.
type serveFlags struct {
	StateFlags
	domains domainFlags
	listen  applet.Strings
	limits  server.Limits
	roles   []string
	poll    time.Duration

	rolesText, kdsURL, ready, admin string
	asJSON, verbose, auditRestart   bool
}

func (f *serveFlags) parse(env *applet.Env, args []string, o ServeOptions) error {
	synopsis, example := "-state DIR -seal-key FILE [-domain DIR]... [-listen tcp://ADDRESS:PORT | vsock://:PORT]...",
		env.Name+" -state /var/lib/attestbox -seal-key /run/credentials/seal.key -listen tcp://0.0.0.0:8451 -listen vsock://:8451"
	if o.Roles == nil {
		synopsis, example = "-roles launch,certify,keys "+synopsis, env.Name+" -roles launch,certify,keys -state /var/lib/attestbox -seal-key /run/credentials/seal.key -domain /etc/attestbox/bank"
	}
	fs := env.Flags(synopsis, example)
	f.StateFlags.Register(fs)
	f.domains.register(fs)
	if o.Roles == nil {
		fs.StringVar(&f.rolesText, "roles", strings.Join(server.AllRoles(), ","), "what to serve, `ROLE,...`: launch, certify, keys")
	}
	fs.Var(&f.listen, "listen", fmt.Sprintf("`ADDRESS` to listen on, tcp://host:port or vsock://:port; may be repeated (default tcp://0.0.0.0:%d)", wire.DefaultPort))
	fs.StringVar(&f.admin, "admin", o.Admin, "serve health, readiness and metrics on this `ADDRESS` of the loopback interface; empty is off")
	fs.StringVar(&f.kdsURL, "kds", "", "ask this Key Distribution Service, `URL` such as "+kds.AMD+", for certificates that neither the VM nor the state folder has; without it no network is asked")
	fs.StringVar(&f.ready, "ready-file", "", "`FILE` to write the addresses to, one per line, once all of them listen")
	fs.DurationVar(&f.poll, "policy-poll", policyPoll, "look at the policy files every `DURATION`; SIGHUP has them read at once")
	fs.BoolVar(&f.auditRestart, "audit-restart", false, "the audit log is broken, and this is known: put it aside and begin a new one")
	fs.BoolVar(&f.asJSON, "log-json", false, "log JSON instead of text")
	fs.BoolVar(&f.verbose, "v", false, "log more: failed handshakes too")
	fs.IntVar(&f.limits.Conns, "max-conns", 256, "connections at once")
	fs.IntVar(&f.limits.ConnsByPeer, "max-conns-peer", 32, "connections at once of one address (IPv6: /64) or CID")
	fs.Float64Var(&f.limits.PeerRate, "peer-rate", 20, "new connections per second of one address or CID")
	if err := fs.Parse(args); err != nil {
		return err
	}
	f.roles = o.Roles
	if o.Roles == nil {
		f.roles = strings.Split(f.rolesText, ",")
	}
	needsDomain := slices.Contains(f.roles, server.RoleCertify) || slices.Contains(f.roles, server.RoleKeys)
	switch err := f.StateFlags.Check(fs); {
	case err != nil:
		return err
	case fs.NArg() > 0:
		return fs.Usage("unexpected argument %q", fs.Arg(0))
	case f.limits.Conns < 1 || f.limits.ConnsByPeer < 1 || f.limits.PeerRate <= 0:
		return fs.Usage("limits must be above zero")
	case f.poll < 100*time.Millisecond:
		return fs.Usage("-policy-poll %v: want at least 100ms", f.poll)
	}
	for _, r := range f.roles {
		if !slices.Contains(server.AllRoles(), r) {
			return fs.Usage("role %.32q: want %s", r, strings.Join(server.AllRoles(), ", "))
		}
	}
	if err := f.domains.check(fs, needsDomain, slices.Contains(f.roles, server.RoleKeys)); err != nil {
		return err
	}
	f.limits.PeerBurst = max(40, 2*f.limits.PeerRate)
	if len(f.listen) == 0 {
		f.listen = applet.Strings{fmt.Sprintf("tcp://0.0.0.0:%d", wire.DefaultPort)}
	}
	return nil
}

func (f *serveFlags) log(env *applet.Env) *slog.Logger {
	opts := &slog.HandlerOptions{Level: slog.LevelInfo}
	if f.verbose {
		opts.Level = slog.LevelDebug
	}
	if f.asJSON {
		return slog.New(slog.NewJSONHandler(env.Stderr, opts))
	}
	return slog.New(slog.NewTextHandler(env.Stderr, opts))
}

// Serve runs a server until ctx ends.
func Serve(ctx context.Context, env *applet.Env, args []string, o ServeOptions) (err error) {
	var f serveFlags
	if err := f.parse(env, args, o); err != nil {
		return err
	}
	log := f.log(env)
	var raw store.Store
	st, err := f.OpenBy(ctx, env, func() (s store.Store, err error) {
		s, err = OpenBolt(f.Dir)
		raw = s
		return s, err
	})
	if err != nil {
		return err
	}
	defer st.Close()
	opts := server.Options{State: st, Roles: f.roles, Log: log, Limits: f.limits, Metrics: server.NewMetrics(time.Now())}
	source, appraiser, err := f.appraiser(ctx, st, &opts)
	if err != nil {
		return err
	}
	if appraiser != nil {
		opts.Appraiser = appraiser
	}
	if opts.Decisions, err = server.OpenDecisionLog(filepath.Join(f.Dir, DecisionsFile)); err != nil {
		return err
	}
	defer opts.Decisions.Close()
	if f.domains.any() {
		opts.Audit, err = server.OpenAudit(ctx, st, filepath.Join(f.Dir, AuditDir), f.auditRestart, time.Now())
		if err != nil {
			return applet.WithHint(err, "keep the files as they are and see docs/errors/audit-broken.md; -audit-restart begins a new log")
		}
		defer opts.Audit.Close()
		closeDomains, err := f.domains.open(ctx, st, &opts, server.ProverConfig{AMD: amdroots.Load, Source: source})
		defer closeDomains()
		if err != nil {
			return err
		}
	}
	srv, err := server.New(ctx, opts)
	if err != nil {
		return err
	}
	return f.run(ctx, env, srv, raw, log)
}

// appraiser judges instances without a domain: nil where the state has no
// policy for those. The network is asked only for chips that a policy lists, or
// of which a certificate for another TCB is kept; and what it sends is kept only
// where a trusted root vouches for it.
func (f *serveFlags) appraiser(ctx context.Context, st *server.State, o *server.Options) (server.EndorsementSource, *server.SNPAppraiser, error) {
	dir := filepath.Join(f.Dir, KDSDir)
	var appraiser *server.SNPAppraiser
	certs, err := kds.Open(kds.Config{Dir: dir, BaseURL: f.kdsURL, Allow: func(p snp.Product, chip [64]byte) bool {
		return appraiser != nil && appraiser.ListsChip(ctx, chip) || KnownChip(dir, p, chip) ||
			slices.ContainsFunc(o.Domains, func(d *server.Domain) bool { return d.ListsChip(chip) })
	}, Check: func(ctx context.Context, p snp.Product, e appraise.Endorsements) error {
		last := errors.New("this server has no roots of its own")
		if appraiser != nil {
			if last = appraiser.Vouches(ctx, p, e); last == nil {
				return nil
			}
		}
		for _, d := range o.Domains {
			if last = d.Vouches(p, e); last == nil {
				return nil
			}
		}
		return last
	}})
	if err != nil {
		return nil, nil, err
	}
	cfg, err := st.Config(ctx)
	if err != nil {
		return nil, nil, err
	}
	var policy map[string]json.RawMessage
	if json.Unmarshal(cfg.Policy, &policy) == nil && len(policy) == 0 {
		return certs, nil, nil
	}
	appraiser, err = server.NewSNPAppraiser(ctx, st, amdroots.Load, certs)
	return certs, appraiser, err
}

// run listens and serves.
func (f *serveFlags) run(ctx context.Context, env *applet.Env, srv *server.Server, raw store.Store, log *slog.Logger) error {
	hup, stopSignals := signals()
	defer stopSignals()
	var listeners []net.Listener
	defer func() {
		for _, l := range listeners {
			l.Close()
		}
	}()
	var addresses []string
	for _, a := range f.listen {
		l, at, err := listenOn(ctx, a)
		if err != nil {
			return applet.WithHint(err, "is another server running there?")
		}
		listeners, addresses = append(listeners, l), append(addresses, at)
	}
	socket, err := relay.Listen(filepath.Join(f.Dir, SocketFile))
	if err != nil {
		return err
	}
	// The tools are served until the last exchange has ended.
	rctx, stopRelay := context.WithCancel(context.WithoutCancel(ctx))
	relayed := make(chan error, 1)
	go func() { relayed <- relay.Serve(rctx, socket, raw) }()
	defer func() {
		stopRelay()
		<-relayed
		os.Remove(filepath.Join(f.Dir, SocketFile)) // still under the state's lock
	}()
	var beside sync.WaitGroup
	defer beside.Wait()
	bctx, stop := context.WithCancel(ctx)
	defer stop()
	if slices.Contains(f.roles, server.RoleKeys) {
		if err := certifyAll(ctx, srv); err != nil {
			return err
		}
	}
	if len(srv.Domains) > 0 {
		reload := make(chan struct{}, 1)
		beside.Go(func() { forward(bctx, hup, reload) })
		beside.Go(func() { srv.Maintain(bctx, f.poll, reload) })
		beside.Go(func() { srv.Audit.Run(bctx, log) })
	}
	if f.admin != "" {
		l, err := server.AdminListen(ctx, f.admin)
		if err != nil {
			return applet.WithHint(err, "another address with -admin, or none with -admin ''")
		}
		beside.Go(func() {
			if err := srv.ServeAdmin(bctx, l); err != nil {
				log.Error("admin pages", "error", err)
			}
		})
		fmt.Fprintf(env.Stderr, "admin pages on http://%s\n", l.Addr())
	}
	fmt.Fprintf(env.Stderr, "%s %s\n", strings.Fields(env.Name)[0], srv.Pin())
	for _, d := range srv.Domains {
		fmt.Fprintf(env.Stderr, "domain %s, policy version %d\n", d.Name(), d.Version())
	}
	for _, a := range addresses {
		fmt.Fprintf(env.Stderr, "listening on %s\n", a)
	}
	if f.ready != "" {
		if err := renameio.WriteFile(f.ready, []byte(strings.Join(addresses, "\n")+"\n"), 0o644); err != nil {
			return fmt.Errorf("writing the ready file: %w", err)
		}
	}
	err = srv.Serve(ctx, listeners...)
	log.Info("stopped")
	return err
}

// signals catches SIGHUP, which asks for the policies to be read again and is
// no reason to end where there are none or the server only starts; and SIGPIPE:
// whoever read the messages may go.
func signals() (hup <-chan os.Signal, stop func()) {
	h, pipe := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(h, syscall.SIGHUP)
	signal.Notify(pipe, syscall.SIGPIPE)
	return h, func() { signal.Stop(h); signal.Stop(pipe) }
}

// certifyTimeout bounds the wait for a policy server elsewhere at the start.
const certifyTimeout = 5 * time.Minute

// certifyAll gets the server's own admission certificates.
func certifyAll(ctx context.Context, srv *server.Server) error {
	ctx, cancel := context.WithTimeout(ctx, certifyTimeout)
	defer cancel()
	for _, d := range srv.Domains {
		if err := srv.Certify(ctx, d); err != nil {
			return notCertified(err)
		}
	}
	return nil
}

// notCertified gives a key server that is not certified its exit code.
func notCertified(err error) error {
	c, known := code.Of(err)
	switch {
	case errors.Is(err, client.ErrUnreachable), errors.Is(err, client.ErrLater):
		return applet.Later(c, err)
	case known:
		err = applet.Refused(c, err)
	}
	return applet.WithHint(err, "policy must trust what vouches for this server, and grant its measurement to serve as "+wire.RoleKeyServer)
}

// forward turns signals into requests to reload.
func forward(ctx context.Context, from <-chan os.Signal, to chan<- struct{}) {
	for {
		select {
		case <-from:
			select {
			case to <- struct{}{}:
			default: // one is waiting
			}
		case <-ctx.Done():
			return
		}
	}
}
