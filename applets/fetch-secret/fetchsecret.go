// Package fetchsecret is the attested-launch client as a command and as a
// crypttab keyscript: it proves this VM to the verifier and hands out what the
// verifier released, on a descriptor or in a file on tmpfs.
package fetchsecret

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"attestbox/internal/applet"
	"attestbox/internal/client"
	"attestbox/internal/code"
	"attestbox/internal/platform"
	"attestbox/internal/platform/sevguest"
	"attestbox/internal/secret"
	"attestbox/internal/wire"
)

// Applet is `fetch-secret`.
var Applet = applet.Applet{Name: "fetch-secret", Summary: "prove this VM to the verifier and get its secrets", Run: run}

type options struct {
	servers, pins applet.Strings
	config        string
	out           string
	fd            int
	name          string
	record        string
	token         string
	report        string
	timeout       time.Duration
	verbose       bool
}

func run(ctx context.Context, env *applet.Env, args []string) error {
	return fetch(ctx, env, args, sevguest.Open)
}

// fetch is the applet on the platform that open finds.
func fetch(ctx context.Context, env *applet.Env, args []string, open func() (platform.Platform, error)) error {
	var o options
	fs := env.Flags("[flags] [CRYPTTAB-KEY-FIELD]", "fetch-secret -record /run/attestbox/root.json -out /run/attestbox/root.key")
	fs.Var(&o.servers, "server", "ask the verifier at `ADDRESS`, tcp://host:port or vsock://cid:port; may be repeated (default: from -config)")
	fs.Var(&o.pins, "pin", "accept only the verifier key with this `PIN`, sha256:HEX; may be repeated (default: from -config)")
	fs.StringVar(&o.config, "config", "", "read servers, pins and timeout from `FILE` (default "+strings.Join(defaultConfigs, ", then ")+")")
	fs.StringVar(&o.out, "out", "-", "write the secret to `FILE` on tmpfs, mode 0600, or to stdout (-)")
	fs.IntVar(&o.fd, "fd", -1, "write the secret to descriptor `N`, which the caller opened")
	fs.StringVar(&o.name, "name", "", "the named secret `NAME` instead of the disk key")
	fs.StringVar(&o.record, "record", "", "also write the registered LUKS header record to `FILE` on tmpfs, for unlock-luks")
	fs.StringVar(&o.token, "outcome", "", "keep what is needed to report the outcome in `FILE` on tmpfs; with -report: read it")
	fs.StringVar(&o.report, "report", "", "report the `RESULT` of an earlier release, opened or failed, with its -outcome file, and wait for the acknowledgement")
	fs.DurationVar(&o.timeout, "timeout", 0, "give up after `DURATION` (default: from -config, else 5m)")
	fs.BoolVar(&o.verbose, "v", false, "say what is being tried")
	if err := fs.Parse(args); err != nil {
		return err
	}
	crypttab := env.Getenv("CRYPTTAB_NAME") != ""
	if err := o.check(fs, crypttab); err != nil {
		return err
	}
	cfg, timeout, err := o.clientConfig(env, crypttab, fs.Arg(0))
	if err != nil {
		return err
	}
	if o.verbose {
		cfg.Logf = func(format string, a ...any) { fmt.Fprintf(env.Stderr, env.Name+": "+format+"\n", a...) }
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if o.report != "" {
		return exit(o.sendReport(ctx, cfg))
	}
	sink, err := o.sink(env)
	if err != nil {
		return err
	}
	if cfg.Platform, err = open(); err != nil {
		return err
	}
	defer cfg.Platform.Close()
	rel, err := client.Launch(ctx, cfg)
	if err != nil {
		return exit(err)
	}
	defer rel.Close()
	return o.deliver(rel, sink)
}

// check refuses conflicts before any I/O.
func (o *options) check(fs *applet.FlagSet, crypttab bool) error {
	switch {
	case fs.NArg() > 1 || fs.NArg() == 1 && !crypttab:
		return fs.Usage("unexpected argument %q", fs.Arg(fs.NArg()-1))
	case o.fd != -1 && (o.fd < 1 || o.fd == 2):
		return fs.Usage("-fd %d is no descriptor to write a secret to", o.fd)
	case o.fd >= 0 && o.out != "-":
		return fs.Usage("-fd and -out exclude each other")
	case o.timeout < 0:
		return fs.Usage("-timeout %s is no time to wait", o.timeout)
	case o.report != "" && o.report != wire.ResultOpened && o.report != wire.ResultFailed:
		return fs.Usage("-report takes opened or failed, not %q", o.report)
	case o.report != "" && o.token == "":
		return fs.Usage("-report needs the -outcome file of the release")
	case o.report != "" && (o.record != "" || o.name != "" || o.fd >= 0 || o.out != "-"):
		return fs.Usage("-report goes with -outcome, -config, -server, -pin and -timeout only")
	case o.name != "" && !wire.ValidSecretName(o.name):
		return fs.Usage("%q is not the name of a secret", o.name)
	}
	return nil
}

// exit gives a client's error its exit code.
func exit(err error) error {
	c, _ := code.Of(err)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, client.ErrRefused):
		return applet.WithHint(applet.Refused(c, err), "attestbox explain "+string(c)+"; the verifier's log has the reason under the exchange ID")
	case errors.Is(err, client.ErrLater), errors.Is(err, client.ErrUnreachable):
		return applet.WithHint(applet.Later(c, err), "attestbox explain "+string(c))
	}
	return err
}

// sink decides where the secret goes before one exists: a regular file behind
// the descriptor must lie on tmpfs, a disk is never written to, and a terminal
// is nobody's.
func (o *options) sink(env *applet.Env) (io.Writer, error) {
	if o.out != "-" {
		return nil, applet.CheckTmpfs(parent(o.out))
	}
	var w io.Writer = env.Stdout
	if o.fd >= 0 {
		w = os.NewFile(uintptr(o.fd), fmt.Sprintf("descriptor %d", o.fd))
	}
	f, ok := w.(*os.File)
	if !ok {
		return w, nil
	}
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("descriptor for the secret: %w", err)
	}
	if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err == nil {
		return nil, applet.WithHint(applet.Usage("stdout is a terminal: the secret would be on the screen"), "pipe it, or use -out FILE")
	}
	if m := st.Mode(); m&os.ModeDevice != 0 && m&os.ModeCharDevice == 0 {
		return nil, applet.Refused(code.NotTmpfs, errors.New("stdout is a block device"))
	}
	if st.Mode().IsRegular() {
		var fs unix.Statfs_t
		if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil || fs.Type != unix.TMPFS_MAGIC && fs.Type != unix.RAMFS_MAGIC {
			return nil, applet.Refused(code.NotTmpfs, errors.New("stdout is a file that is not on tmpfs or ramfs"))
		}
	}
	return w, nil
}

// deliver writes everything or reports an error; the secret itself comes last.
func (o *options) deliver(rel *client.Release, sink io.Writer) error {
	key := rel.Payload.DiskKey
	if o.name != "" {
		key = nil
		for _, s := range rel.Payload.Secrets {
			if s.Name == o.name {
				key = s.Value
			}
		}
	}
	if key.Len() == 0 {
		what := "no disk key"
		if o.name != "" {
			what = fmt.Sprintf("no secret named %q", o.name)
		}
		return applet.Refused(code.LaunchRefused, fmt.Errorf("the verifier accepted this VM, yet its release has %s", what))
	}
	if o.record != "" {
		if len(rel.Payload.Headers) != 1 {
			return fmt.Errorf("the release has %d LUKS header records, want 1", len(rel.Payload.Headers))
		}
		js, err := json.Marshal(rel.Payload.Headers[0])
		if err != nil {
			return err
		}
		rec := secret.Take(append(js, '\n'))
		defer rec.Zero()
		if err := applet.CreateSecretFile(o.record, rec); err != nil {
			return err
		}
	}
	if o.token != "" {
		if err := saveToken(o.token, rel); err != nil {
			return err
		}
	}
	if o.out != "-" {
		return applet.CreateSecretFile(o.out, key)
	}
	_, err := sink.Write(key.Bytes())
	return err
}
