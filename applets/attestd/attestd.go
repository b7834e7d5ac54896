// Package attestd is the applets attestd, the local service of a VM's programs,
// and attestd-client, which asks it for scripts.
package attestd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"os/user"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"attestbox/internal/applet"
	"attestbox/internal/attestd"
	"attestbox/internal/code"
	"attestbox/internal/platform"
	"attestbox/internal/platform/sevguest"
	"attestbox/internal/platform/simenclave"
)

// Applet is `attestd`.
var Applet = applet.Applet{Name: "attestd", Summary: "let the VM's programs attest, seal and sign", Run: run}

type options struct {
	socket, group         string
	platform, platformKey string
	policy, store         string
	verbose               bool
}

func run(ctx context.Context, env *applet.Env, args []string) error {
	var o options
	fs := env.Flags("[flags]", "attestd -policy-cert /etc/attestbox/policy.crt -store /var/lib/attestbox/member.store")
	fs.StringVar(&o.socket, "socket", attestd.DefaultSocket, "listen on the Unix socket `PATH`")
	fs.StringVar(&o.group, "group", "", "let the members of `GROUP`, a name or a number, connect too (default: root alone)")
	fs.StringVar(&o.platform, "platform", "snp", "the machine's `PLATFORM`: snp, enclave (the deployment machine) or none")
	fs.StringVar(&o.platformKey, "enclave-key", "", "with -platform enclave: its platform key is in `FILE`")
	fs.StringVar(&o.policy, "policy-cert", "", "the domain's policy certificate is in `FILE`")
	fs.StringVar(&o.store, "store", "", "the store that certify made is `FILE`; without it attestd attests and no more")
	fs.BoolVar(&o.verbose, "v", false, "log what is answered, not only what is refused")
	if err := fs.Parse(args); err != nil {
		return err
	}
	switch {
	case fs.NArg() > 0:
		return fs.Usage("unexpected argument %q", fs.Arg(0))
	case o.platform != "snp" && o.platform != "enclave" && o.platform != "none":
		return fs.Usage("-platform takes snp, enclave or none, not %q", o.platform)
	case (o.platform == "enclave") != (o.platformKey != ""):
		return fs.Usage("-platform enclave and -enclave-key go together")
	case (o.store == "") != (o.policy == ""):
		return fs.Usage("-store and -policy-cert go together")
	case o.store != "" && o.platform == "none":
		return fs.Usage("a store opens on its platform only")
	}
	gid, err := groupID(o.group)
	if err != nil {
		return fs.Usage("-group: %v", err)
	}
	return serve(ctx, env, &o, gid)
}

func serve(ctx context.Context, env *applet.Env, o *options, gid int) error {
	level := slog.LevelWarn
	if o.verbose {
		level = slog.LevelInfo
	}
	so := attestd.Options{Log: slog.New(slog.NewTextHandler(env.Stderr, &slog.HandlerOptions{Level: level}))}
	p, err := openPlatform(o)
	if err != nil {
		return err
	}
	if p != nil {
		defer p.Close()
		so.Platform = p
	}
	if o.store != "" {
		v, err := newVault(o, p)
		if err != nil {
			return err
		}
		defer v.close()
		so.Root, so.Identity = v.root, v.identity
	}
	if err := os.MkdirAll(filepath.Dir(o.socket), 0o755); err != nil {
		return fmt.Errorf("making the folder of the socket: %w", err)
	}
	l, err := attestd.Listen(o.socket, gid)
	if err != nil {
		return applet.WithHint(fmt.Errorf("listening on %q: %w", o.socket, err), "does another attestd run? is the folder writable?")
	}
	// Whoever read our messages may go; that is no reason to stop.
	signal.Ignore(unix.SIGPIPE)
	fmt.Fprintf(env.Stderr, "%s: listening on %s\n", env.Name, o.socket)
	return attestd.New(so).Serve(ctx, l)
}

func openPlatform(o *options) (platform.Platform, error) {
	switch o.platform {
	case "snp":
		return sevguest.Open()
	case "enclave":
		e, err := simenclave.Open(o.platformKey)
		if err != nil {
			return nil, err
		}
		return e, nil
	}
	return nil, nil
}

// groupID is the number of a group; -1 for none.
func groupID(name string) (int, error) {
	if name == "" {
		return -1, nil
	}
	if n, err := strconv.ParseUint(name, 10, 31); err == nil {
		return int(n), nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(g.Gid)
	if err != nil || n < 0 {
		return 0, errors.New("its number is " + g.Gid)
	}
	return n, nil
}

// exit gives attestd's refusals their exit code.
func exit(err error) error {
	k, ok := code.Of(err)
	if err == nil || !ok {
		return err
	}
	hint := "attestbox explain " + string(k)
	switch k {
	case code.AttestdCaller, code.AttestdMalformed, code.AttestdServer, code.AttestdUnmeasured, code.AttestdUnseal:
		return applet.WithHint(applet.Refused(k, err), hint)
	case code.AttestdBusy, code.AttestdNoIdentity, code.Unreachable:
		return applet.WithHint(applet.Later(k, err), hint)
	}
	return err
}
