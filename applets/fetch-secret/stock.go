package fetchsecret

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"attestbox/initramfs/config"
	"attestbox/internal/applet"
	"attestbox/internal/client"
	"attestbox/internal/code"
	"attestbox/internal/keysocket"
	"attestbox/internal/launchcfg"
	"attestbox/internal/member/memberflags"
	"attestbox/internal/platform"
	"attestbox/internal/stockboot"
	"attestbox/internal/unlock"
)

// stockOptions are the flags inside a distribution's own initramfs.
type stockOptions struct {
	kind, socket, finish string
	crypttab             bool
}

func (s *stockOptions) register(fs *applet.FlagSet) {
	fs.StringVar(&s.kind, "initramfs", "", "run inside a distribution's initramfs of this `KIND`, "+config.Dracut+" or "+config.InitramfsTools+": judge the command line, bring the network up, check the disk's header")
	fs.StringVar(&s.socket, "serve-key-socket", "", "with -initramfs: give the disk key to systemd-cryptsetup over the socket `PATH`, once")
	fs.BoolVar(&s.crypttab, "crypttab", false, "with -initramfs dracut: print the line of crypttab that fits the configuration, and do nothing else")
	fs.StringVar(&s.finish, "finish", "", "with -initramfs: compare the disk that is mounted on `DIR` with the release, report opened, and wait for the acknowledgement")
}

// check refuses conflicts before any I/O.
func (s *stockOptions) check(o *options, fs *applet.FlagSet, given map[string]bool) error {
	switch {
	case s.kind != config.Dracut && s.kind != config.InitramfsTools:
		return fs.Usage("-initramfs is %s or %s, not %q", config.Dracut, config.InitramfsTools, s.kind)
	case fs.NArg() > 0:
		return fs.Usage("unexpected argument %q", fs.Arg(0))
	}
	for _, name := range []string{"server", "pin", "policy-cert", "fd", "name", "record", "device", "outcome", "report"} {
		if given[name] {
			return fs.Usage("-%s does not go with -initramfs, which takes all from the measured configuration", name)
		}
	}
	ways := 0
	for _, name := range []string{"serve-key-socket", "finish", "out", "crypttab"} {
		if given[name] {
			ways++
		}
	}
	switch {
	case ways != 1 || o.out == "-" && given["out"]:
		return fs.Usage("-initramfs needs one of -serve-key-socket PATH, -out FILE, -finish DIR and -crypttab")
	case given["crypttab"] && s.kind != config.Dracut:
		return fs.Usage("-crypttab goes with -initramfs %s", config.Dracut)
	case given["serve-key-socket"] && !filepath.IsAbs(s.socket), given["finish"] && !filepath.IsAbs(s.finish):
		return fs.Usage("-serve-key-socket and -finish take an absolute path")
	case o.timeout < 0:
		return fs.Usage("-timeout %s is no time to wait", o.timeout)
	}
	return nil
}

func (o *options) runStock(ctx context.Context, env *applet.Env, fs *applet.FlagSet, given map[string]bool, open func() (platform.Platform, error)) error {
	if err := o.stock.check(o, fs, given); err != nil {
		return err
	}
	path := o.config
	if path == "" {
		path = config.Path
	}
	b, err := applet.ReadFile(env, path, config.MaxSize)
	if err != nil {
		return code.Wrap(code.ConfigBad, err)
	}
	cfg, err := config.Parse(b)
	if err != nil {
		return fmt.Errorf("%q: %w", path, err)
	}
	if o.stock.crypttab {
		line, err := stockboot.Crypttab(cfg)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(env.Stdout, line)
		return err
	}
	boot := &stockboot.Boot{Kind: o.stock.kind, Config: cfg, Open: open, Log: env.Stderr, Dir: stockboot.Dir,
		Client: client.Config{Servers: cfg.Servers, Pins: cfg.Pins}}
	if o.verbose {
		boot.Client.Logf = func(format string, a ...any) { fmt.Fprintf(env.Stderr, env.Name+": "+format+"\n", a...) }
	}
	if cfg.Policy != "" {
		if boot.Client.Policy, err = memberflags.ReadPolicy(cfg.Policy); err != nil {
			return err
		}
	}
	timeout := o.timeout
	if timeout == 0 {
		timeout = time.Duration(cfg.Timeout)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	switch {
	case o.stock.finish != "":
		err = boot.Finish(ctx, o.stock.finish)
	case o.stock.socket != "":
		err = o.serveSocket(ctx, env, boot)
	default:
		err = o.fetchToFile(ctx, boot)
	}
	if unlock.IsRefusal(err) {
		c, _ := code.Of(err)
		return applet.Refused(c, err)
	}
	return launchcfg.Exit(err)
}

// serveSocket makes the socket first: what fails without the verifier fails
// before a release is spent.
func (o *options) serveSocket(ctx context.Context, env *applet.Env, boot *stockboot.Boot) error {
	logf := func(format string, a ...any) { fmt.Fprintf(env.Stderr, env.Name+": "+format+"\n", a...) }
	s, err := keysocket.Activated(env.Getenv, o.stock.socket, logf)
	if err == nil && s == nil {
		if err = stockboot.MakeDir(boot.Dir); err == nil {
			s, err = keysocket.Listen(o.stock.socket, logf)
		}
	}
	if err != nil {
		return err
	}
	defer s.Close()
	key, err := boot.Fetch(ctx)
	if err != nil {
		return err
	}
	defer key.Zero()
	if err := keysocket.Ready(env.Getenv); err != nil {
		return err
	}
	return s.Serve(ctx, boot.Config.Root.Name, key)
}

func (o *options) fetchToFile(ctx context.Context, boot *stockboot.Boot) error {
	if err := stockboot.MakeDir(boot.Dir); err != nil {
		return err
	}
	if err := applet.CheckTmpfs(filepath.Dir(o.out)); err != nil {
		return err
	}
	key, err := boot.Fetch(ctx)
	if err != nil {
		return err
	}
	defer key.Zero()
	return applet.CreateSecretFile(o.out, key)
}
