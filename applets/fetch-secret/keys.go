package fetchsecret

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"attestbox/internal/applet"
	"attestbox/internal/client"
	"attestbox/internal/code"
	"attestbox/internal/cryptstore"
	"attestbox/internal/launchcfg"
	"attestbox/internal/member"
	"attestbox/internal/secret"
	"attestbox/internal/wire"
)

// keyOptions are the flags of -key-server.
type keyOptions struct {
	servers                          applet.Strings
	version                          uint64
	put, kind, list, alg, run        string
	rotate, remove, watch, listAsked bool
	args                             []string // of run

}

var (
	keyFlags    = []string{"version", "put", "kind", "list", "rotate", "alg", "delete", "watch", "run"}
	memberFlags = []string{"domain", "store", "run-dir", "floor", "platform", "enclave-key"}
	launchFlags = []string{"server", "pin", "config", "record", "device", "outcome", "report", "initramfs", "serve-key-socket", "finish"}
)

func (k *keyOptions) register(fs *applet.FlagSet) {
	fs.Var(&k.servers, "key-server", "ask the key server at `ADDRESS`, as the member that certify made of this machine; may be repeated")
	fs.Uint64Var(&k.version, "version", 0, "with -key-server: the secret's `VERSION` (default: the latest; -put: the next; -delete: all)")
	fs.StringVar(&k.put, "put", "", "with -key-server: store the content of `FILE`, or of stdin (-), as a new version of -name")
	fs.StringVar(&k.kind, "kind", cryptstore.Blob.String(), "with -put: the `TYPE` of the value, as in cryptstore")
	fs.StringVar(&k.list, "list", "", "with -key-server: list the secrets that match `PATTERN`, where * matches within one /; \"\" is all")
	fs.BoolVar(&k.rotate, "rotate", false, "with -key-server: have the server generate a new version of -name")
	fs.StringVar(&k.alg, "alg", "", "with -rotate: the `ALGORITHM`, as in cryptstore (default: as before)")
	fs.BoolVar(&k.remove, "delete", false, "with -key-server: delete -name, one -version or all of them")
	fs.BoolVar(&k.watch, "watch", false, "with -key-server: stay, and replace the -out file whenever the secret changes")
	fs.StringVar(&k.run, "run", "", "with -watch: run `PROGRAM` with the remaining arguments after each change; no shell")
}

// checkKeys refuses conflicts before any I/O.
func (o *options) checkKeys(fs *applet.FlagSet, given map[string]bool) error {
	k := &o.keys
	k.args, k.listAsked = fs.Args(), given["list"]
	for _, name := range launchFlags {
		if given[name] {
			return fs.Usage("-%s is for a launch, and excludes -key-server", name)
		}
	}
	if err := o.member.Check(fs); err != nil {
		return err
	}
	if err := fs.CheckSecretFD(o.fd, o.out); err != nil {
		return err
	}
	ops := 0
	for _, op := range []string{"put", "list", "rotate", "delete", "watch"} {
		if given[op] {
			ops++
		}
	}
	out := given["out"] || given["fd"]
	switch {
	case ops > 1:
		return fs.Usage("-put, -list, -rotate, -delete and -watch exclude each other")
	case given["put"] && k.put == "":
		return fs.Usage("-put wants a file, or - for stdin")
	case !k.listAsked && !wire.ValidKeyName(o.name):
		return fs.Usage("-name %q is not the name of a secret: segments of letters, digits, _, . and -, joined by /", o.name)
	case k.listAsked && (o.name != "" || given["version"]):
		return fs.Usage("-list takes a pattern, and no -name or -version")
	case out && ops > 0 && !k.watch:
		return fs.Usage("-out and -fd are for a secret that is read")
	case k.watch && (o.out == "-" || o.fd >= 0):
		return fs.Usage("-watch needs -out FILE, which it replaces")
	case k.watch && given["version"]:
		return fs.Usage("-watch follows the latest version")
	case given["run"] && (!k.watch || k.run == ""):
		return fs.Usage("-run PROGRAM goes with -watch")
	case len(k.args) > 0 && k.run == "":
		return fs.Usage("unexpected argument %q", k.args[0])
	case given["kind"] && k.put == "":
		return fs.Usage("-kind goes with -put")
	case given["alg"] && !k.rotate:
		return fs.Usage("-alg goes with -rotate")
	case given["version"] && k.rotate:
		return fs.Usage("-rotate makes the next version")
	case given["alg"] && !slices.Contains(cryptstore.Algs(), cryptstore.Alg(k.alg)):
		return fs.Usage("-alg %q is none of %v", k.alg, cryptstore.Algs())
	case o.timeout < 0:
		return fs.Usage("-timeout %s is no time to wait", o.timeout)
	}
	if _, err := cryptstore.ParseType(k.kind); err != nil {
		return fs.Usage("-kind %q is none of %q", k.kind, cryptstore.Types())
	}
	return nil
}

func (o *options) runKeys(ctx context.Context, env *applet.Env, fs *applet.FlagSet, given map[string]bool) error {
	if err := o.checkKeys(fs, given); err != nil {
		return err
	}
	var sink *applet.SecretSink
	if reads := o.keys.put == "" && !o.keys.listAsked && !o.keys.rotate && !o.keys.remove; reads {
		var err error
		if sink, err = env.SecretSink(o.out, o.fd); err != nil {
			return err
		}
	}
	logf := func(string, ...any) {}
	if o.verbose {
		logf = func(format string, a ...any) { fmt.Fprintf(env.Stderr, env.Name+": "+format+"\n", a...) }
	}
	m, done, err := o.member.OpenMember(ctx, logf)
	if err != nil {
		return err
	}
	defer done()
	trust, err := m.Trust(ctx)
	if err != nil {
		return err
	}
	cfg := client.KeysConfig{Servers: o.keys.servers, Trust: trust, Certificate: m.Certificate, Now: m.Clock, Learned: m.Learned, Logf: logf}
	timeout := o.timeout
	if timeout == 0 {
		timeout = launchcfg.DefaultTimeout
	}
	if o.keys.watch {
		return exitKeys(o.watch(ctx, env, cfg, timeout))
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return exitKeys(o.operate(ctx, env, cfg, m, sink))
}

// operate does the one thing that was asked for. What changes something is sent
// once: nobody would know whether an answer that got lost had been yes.
func (o *options) operate(ctx context.Context, env *applet.Env, cfg client.KeysConfig, m *member.Member, sink *applet.SecretSink) error {
	if sink != nil {
		s, err := client.Fetch(ctx, cfg, o.name, o.keys.version)
		if err != nil {
			return err
		}
		defer s.Value.Zero()
		return sink.Put(s.Value)
	}
	var value *secret.Bytes
	if o.keys.put != "" {
		var err error
		if value, err = readValue(env, o.keys.put); err != nil {
			return err
		}
		defer value.Zero()
	}
	k, err := client.DialKeys(ctx, cfg)
	if err != nil {
		return err
	}
	defer k.Close()
	version := uint64(0)
	switch {
	case o.keys.listAsked:
		names, err := k.List(ctx, o.keys.list)
		if err != nil {
			return err
		}
		for _, n := range names {
			fmt.Fprintf(env.Stdout, "%s\t%d\t%s\n", printable(n.Name), n.Version, printable(n.Kind))
		}
		return nil
	case o.keys.put != "":
		version, err = k.Put(ctx, o.name, o.keys.version, o.keys.kind, value)
	case o.keys.rotate:
		version, err = k.Rotate(ctx, o.name, o.keys.alg)
	case o.keys.remove:
		return k.Delete(ctx, o.name, o.keys.version)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(env.Stdout, version)
	return err
}

// printable keeps what a server sent from moving the cursor.
func printable(s string) string {
	if wire.ValidKeyName(s) {
		return s
	}
	return fmt.Sprintf("%q", s)
}

func readValue(env *applet.Env, path string) (*secret.Bytes, error) {
	var r io.Reader = env.Stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("reading the secret: %w", err)
		}
		defer f.Close()
		r = f
	}
	v, err := secret.ReadAll(r, wire.MaxKeyValue)
	if err != nil {
		return nil, fmt.Errorf("reading the secret: %w", err)
	}
	if v.Len() == 0 {
		return nil, errors.New("reading the secret: there is nothing")
	}
	return v, nil
}

// exitKeys is exit for a client of the key server.
func exitKeys(err error) error {
	c, _ := code.Of(err)
	switch {
	case errors.Is(err, client.ErrCertificate):
		if c == "" {
			c = code.NotCertified
		}
		return applet.WithHint(applet.Later(c, err), "run certify, or keep certify -renew running")
	case errors.Is(err, client.ErrRefused):
		return applet.WithHint(applet.Refused(c, err), "attestbox explain "+string(c)+"; the key server's audit log has the reason under the exchange ID")
	}
	return launchcfg.Exit(err)
}

const (
	runTimeout = time.Minute      // of -run's program
	runGrace   = 10 * time.Second // between SIGTERM and SIGKILL
)
