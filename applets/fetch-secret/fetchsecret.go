// Package fetchsecret is the attested-launch client as a command and as a
// crypttab keyscript: it proves this VM to the verifier and hands out what the
// verifier released, on a descriptor or in a file on tmpfs. With -key-server it
// is a client of a key server, by the admission certificate that certify keeps.
package fetchsecret

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"strings"
	"time"

	"attestbox/internal/applet"
	"attestbox/internal/client"
	"attestbox/internal/code"
	"attestbox/internal/launchcfg"
	"attestbox/internal/member/memberflags"
	"attestbox/internal/platform"
	"attestbox/internal/platform/sevguest"
	"attestbox/internal/secret"
	"attestbox/internal/stockboot"
	"attestbox/internal/unlock"
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
	device        string
	token         string
	report        string
	timeout       time.Duration
	verbose       bool

	member      memberflags.Flags
	policyGiven bool
	keys        keyOptions
	stock       stockOptions
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
	fs.StringVar(&o.config, "config", "", "read servers, pins and timeout from `FILE` (default "+strings.Join(launchcfg.Defaults, ", then ")+")")
	fs.StringVar(&o.out, "out", "-", "write the secret to `FILE` on tmpfs, mode 0600, or to stdout (-)")
	fs.IntVar(&o.fd, "fd", -1, "write the secret to descriptor `N`, which the caller opened")
	fs.StringVar(&o.name, "name", "", "the named secret `NAME` instead of the disk key")
	fs.StringVar(&o.record, "record", "", "also write the registered LUKS header record to `FILE` on tmpfs, for unlock-luks")
	fs.StringVar(&o.device, "device", "", "of several header records and keys, as there are while the disk key is changed, take those of the disk `DEVICE` (as crypttab keyscript: its source)")
	fs.StringVar(&o.token, "outcome", "", "keep what is needed to report the outcome in `FILE` on tmpfs; with -report: read it")
	fs.StringVar(&o.report, "report", "", "report the `RESULT` of an earlier release, opened or failed, with its -outcome file, and wait for the acknowledgement")
	fs.DurationVar(&o.timeout, "timeout", 0, "give up after `DURATION` (default: from -config, else 5m)")
	fs.BoolVar(&o.verbose, "v", false, "say what is being tried")
	o.keys.register(fs)
	o.stock.register(fs)
	o.member.Register(fs)
	if err := fs.Parse(args); err != nil {
		return err
	}
	given := map[string]bool{}
	fs.Visit(func(f *flag.Flag) { given[f.Name] = true })
	o.policyGiven = given["policy-cert"]
	if given["key-server"] {
		return o.runKeys(ctx, env, fs, given)
	}
	for _, name := range append(keyFlags, memberFlags...) {
		if given[name] {
			return fs.Usage("-%s goes with -key-server", name)
		}
	}
	if o.stock.kind != "" || given["serve-key-socket"] || given["finish"] {
		return o.runStock(ctx, env, fs, given, open)
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
		return launchcfg.Exit(stockboot.SendOutcome(ctx, cfg, o.token, o.report))
	}
	sink, err := env.SecretSink(o.out, o.fd)
	if err != nil {
		return err
	}
	if cfg.Platform, err = open(); err != nil {
		return err
	}
	defer cfg.Platform.Close()
	rel, err := client.Launch(ctx, cfg)
	if err != nil {
		return launchcfg.Exit(err)
	}
	defer rel.Close()
	if o.device == "" && crypttab {
		o.device = env.Getenv("CRYPTTAB_SOURCE")
	}
	return o.deliver(ctx, rel, sink)
}

// check refuses conflicts before any I/O.
func (o *options) check(fs *applet.FlagSet, crypttab bool) error {
	switch {
	case fs.NArg() > 1 || fs.NArg() == 1 && !crypttab:
		return fs.Usage("unexpected argument %q", fs.Arg(fs.NArg()-1))
	case fs.CheckSecretFD(o.fd, o.out) != nil:
		return fs.CheckSecretFD(o.fd, o.out)
	case o.timeout < 0:
		return fs.Usage("-timeout %s is no time to wait", o.timeout)
	case o.report != "" && o.report != wire.ResultOpened && o.report != wire.ResultFailed:
		return fs.Usage("-report takes opened or failed, not %q", o.report)
	case o.report != "" && o.token == "":
		return fs.Usage("-report needs the -outcome file of the release")
	case o.report != "" && (o.record != "" || o.device != "" || o.name != "" || o.fd >= 0 || o.out != "-"):
		return fs.Usage("-report goes with -outcome, -config, -server, -pin and -timeout only")
	case o.name != "" && !wire.ValidSecretName(o.name):
		return fs.Usage("%q is not the name of a secret", o.name)
	}
	return nil
}

// deliver writes everything or reports an error; the secret itself comes last.
func (o *options) deliver(ctx context.Context, rel *client.Release, sink *applet.SecretSink) error {
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
	headers := rel.Payload.Headers
	if o.name == "" && rel.Payload.PreviousDiskKey.Len() > 0 || o.record != "" && len(headers) > 1 {
		if o.device == "" {
			return applet.WithHint(fmt.Errorf("the release has %d LUKS header records", len(headers)),
				"the disk key is being changed: name the disk with -device, so that record and key are those that it has")
		}
		record, opens, err := unlock.Choose(ctx, o.device, headers, rel.Payload.DiskKey, rel.Payload.PreviousDiskKey)
		if c, _ := code.Of(err); unlock.IsRefusal(err) {
			return applet.Refused(c, err)
		} else if err != nil {
			return err
		}
		headers = []wire.HeaderRecord{*record}
		if o.name == "" {
			key = opens
		}
	}
	if o.record != "" {
		if len(headers) == 0 {
			return errors.New("the release has no LUKS header record")
		}
		js, err := json.Marshal(headers[0])
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
		if err := stockboot.SaveOutcome(o.token, rel, headers); err != nil {
			return err
		}
	}
	return sink.Put(key)
}
