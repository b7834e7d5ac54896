package verifier

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"
	"github.com/mdlayher/vsock"

	"attestbox/internal/applet"
	"attestbox/internal/appraise"
	"attestbox/internal/appraise/amdroots"
	"attestbox/internal/kds"
	"attestbox/internal/server"
	"attestbox/internal/snp"
	"attestbox/internal/store"
	"attestbox/internal/store/relay"
	"attestbox/internal/wire"
)

func runServe(ctx context.Context, env *applet.Env, args []string) error {
	var sf stateFlags
	var listen applet.Strings
	var limits server.Limits
	fs := env.Flags("-state DIR -seal-key FILE [-listen tcp://ADDRESS:PORT | vsock://:PORT]...",
		"verifier serve -state /var/lib/attestbox -seal-key /run/credentials/seal.key -listen tcp://0.0.0.0:8451 -listen vsock://:8451")
	sf.register(fs)
	fs.Var(&listen, "listen", fmt.Sprintf("`ADDRESS` to listen on, tcp://host:port or vsock://:port; may be repeated (default tcp://0.0.0.0:%d)", wire.DefaultPort))
	kdsURL := fs.String("kds", "", "ask this Key Distribution Service, `URL` such as "+kds.AMD+", for certificates that neither the VM nor the state folder has; without it no network is asked")
	ready := fs.String("ready-file", "", "`FILE` to write the addresses to, one per line, once all of them listen")
	asJSON := fs.Bool("log-json", false, "log JSON instead of text")
	verbose := fs.Bool("v", false, "log more: failed handshakes too")
	fs.IntVar(&limits.Conns, "max-conns", 256, "connections at once")
	fs.IntVar(&limits.ConnsByPeer, "max-conns-peer", 32, "connections at once of one address (IPv6: /64) or CID")
	fs.Float64Var(&limits.PeerRate, "peer-rate", 20, "new connections per second of one address or CID")
	if err := fs.Parse(args); err != nil {
		return err
	}
	switch err := sf.check(fs); {
	case err != nil:
		return err
	case fs.NArg() > 0:
		return fs.Usage("unexpected argument %q", fs.Arg(0))
	case limits.Conns < 1 || limits.ConnsByPeer < 1 || limits.PeerRate <= 0:
		return fs.Usage("limits must be above zero")
	}
	limits.PeerBurst = max(40, 2*limits.PeerRate)
	if len(listen) == 0 {
		listen = applet.Strings{fmt.Sprintf("tcp://0.0.0.0:%d", wire.DefaultPort)}
	}
	opts := &slog.HandlerOptions{Level: slog.LevelInfo}
	if *verbose {
		opts.Level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(env.Stderr, opts))
	if *asJSON {
		log = slog.New(slog.NewJSONHandler(env.Stderr, opts))
	}

	var raw store.Store
	st, err := sf.openBy(ctx, env, func() (s store.Store, err error) {
		s, err = openBolt(sf.dir)
		raw = s
		return s, err
	})
	if err != nil {
		return err
	}
	defer st.Close()
	// The network is asked only for chips that policy lists, or of which a
	// certificate for another TCB is kept.
	var appraiser *server.SNPAppraiser
	certs, err := kds.Open(kds.Config{Dir: filepath.Join(sf.dir, kdsDir), BaseURL: *kdsURL, Allow: func(p snp.Product, chip [64]byte) bool {
		return appraiser.ListsChip(ctx, chip) || knownChip(filepath.Join(sf.dir, kdsDir), p, chip)
	}, Check: func(ctx context.Context, p snp.Product, e appraise.Endorsements) error {
		return appraiser.Vouches(ctx, p, e)
	}})
	if err != nil {
		return err
	}
	if appraiser, err = server.NewSNPAppraiser(ctx, st, amdroots.Load, certs); err != nil {
		return err
	}
	decisions, err := server.OpenDecisionLog(filepath.Join(sf.dir, decisionsFile))
	if err != nil {
		return err
	}
	defer decisions.Close()
	srv, err := server.New(ctx, server.Options{State: st, Appraiser: appraiser, Decisions: decisions, Log: log, Limits: limits})
	if err != nil {
		return err
	}
	var listeners []net.Listener
	defer func() {
		for _, l := range listeners {
			l.Close()
		}
	}()
	var addresses []string
	for _, a := range listen {
		l, at, err := listenOn(ctx, a)
		if err != nil {
			return applet.WithHint(err, "is another server running there?")
		}
		listeners, addresses = append(listeners, l), append(addresses, at)
	}
	admin, err := relay.Listen(filepath.Join(sf.dir, socketFile))
	if err != nil {
		return err
	}
	// The tools are served until the last exchange has ended.
	rctx, stopRelay := context.WithCancel(context.WithoutCancel(ctx))
	relayed := make(chan error, 1)
	go func() { relayed <- relay.Serve(rctx, admin, raw) }()
	defer func() {
		stopRelay()
		<-relayed
		os.Remove(filepath.Join(sf.dir, socketFile)) // still under the state's lock
	}()

	fmt.Fprintf(env.Stderr, "verifier %s\n", srv.Pin())
	for _, a := range addresses {
		fmt.Fprintf(env.Stderr, "listening on %s\n", a)
	}
	if *ready != "" {
		if err := renameio.WriteFile(*ready, []byte(strings.Join(addresses, "\n")+"\n"), 0o644); err != nil {
			return fmt.Errorf("writing the ready file: %w", err)
		}
	}
	err = srv.Serve(ctx, listeners...)
	log.Info("stopped")
	return err
}

func listenOn(ctx context.Context, address string) (net.Listener, string, error) {
	scheme, rest, _ := strings.Cut(address, "://")
	switch scheme {
	case "tcp":
		if _, _, err := net.SplitHostPort(rest); err != nil {
			rest = net.JoinHostPort(strings.Trim(rest, "[]"), fmt.Sprint(wire.DefaultPort))
		}
		var lc net.ListenConfig
		l, err := lc.Listen(ctx, "tcp", rest)
		if err != nil {
			return nil, "", fmt.Errorf("listening on %q: %w", address, err)
		}
		return l, "tcp://" + l.Addr().String(), nil
	case "vsock":
		var port uint32
		_, p, _ := strings.Cut(rest, ":")
		if p == "" {
			port = wire.DefaultPort
		} else if _, err := fmt.Sscanf(p, "%d", &port); err != nil {
			return nil, "", fmt.Errorf("listening on %q: port %q", address, p)
		}
		l, err := vsock.Listen(port, nil)
		if err != nil {
			return nil, "", fmt.Errorf("listening on %q: %w", address, err)
		}
		return l, fmt.Sprintf("vsock://:%d", port), nil
	}
	return nil, "", fmt.Errorf("listening on %q: %w", address, errors.New("want tcp://host:port or vsock://:port"))
}
