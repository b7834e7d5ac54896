// Package certify is `certify`: it proves this machine to the policy server and
// keeps the admission certificate, its key and the proof in a sealed store, and
// renews them.
package certify

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"attestbox/internal/applet"
	"attestbox/internal/client"
	"attestbox/internal/code"
	"attestbox/internal/cryptstore"
	"attestbox/internal/member"
	"attestbox/internal/member/memberflags"
	"attestbox/internal/wire"
)

// Applet is `certify`.
var Applet = applet.Applet{Name: "certify", Summary: "get this machine's admission certificate, keep and renew it", Run: run}

type options struct {
	memberflags.Flags
	servers, pins, keyServers applet.Strings
	role, alg                 string
	force, renew, verbose     bool
	setAside                  bool
	timeout                   time.Duration
	chain, proof              string
	second, format, out       string

	logf func(string, ...any)
	env  *applet.Env
}

func run(ctx context.Context, env *applet.Env, args []string) error {
	o := &options{env: env}
	fs := env.Flags("[flags]", "certify -server tcp://10.0.0.1:8451 -policy-cert /etc/attestbox/policy.crt")
	o.Register(fs)
	fs.Var(&o.servers, "server", "ask the policy server at `ADDRESS`, tcp://host:port or vsock://cid:port; may be repeated (default: from the image's configuration)")
	fs.Var(&o.pins, "pin", "also accept a server key with this `PIN`, sha256:HEX; may be repeated (default: only a key that policy trusts by claim)")
	fs.Var(&o.keyServers, "key-server", "recover a store that an earlier image sealed through the key server at `ADDRESS`; may be repeated (default: as -server)")
	fs.StringVar(&o.role, "role", wire.RoleClient, "ask for a `ROLE`: client, attester, key-server, policy-server, verifier, or one that the owner made up; policy decides")
	fs.StringVar(&o.alg, "alg", string(cryptstore.Ed25519), "the algorithm `ALG` of a new key: ed25519, p256 or p384")
	fs.BoolVar(&o.force, "force", false, "ask for a new certificate although the present one is good for a while")
	fs.BoolVar(&o.renew, "renew", false, "stay, and renew at two thirds of the certificate's life")
	fs.BoolVar(&o.setAside, "set-aside", false, "also set aside a store that was damaged or set back, and begin a new one")
	fs.DurationVar(&o.timeout, "timeout", 5*time.Minute, "give up after `DURATION`")
	fs.StringVar(&o.chain, "chain", "", "also write the certificate and its issuer's, PEM, to `FILE`, or to stdout (-); with -second-key, that key's")
	fs.StringVar(&o.proof, "proof", "", "also write the proof to `FILE`, or to stdout (-)")
	fs.StringVar(&o.second, "second-key", "", "certify and export a second key, `NAME`, for a program that needs a key file")
	fs.StringVar(&o.format, "format", member.FormatPKCS8, "the `FORMAT` of the exported key: pkcs8 or openssh")
	fs.StringVar(&o.out, "out", "", "write the second key to `FILE` on tmpfs, mode 0600")
	fs.BoolVar(&o.verbose, "v", false, "say what is being tried")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if err := o.check(fs); err != nil {
		return err
	}
	o.logf = func(string, ...any) {}
	if o.verbose {
		o.logf = o.say
	}
	return exit(o.run(ctx))
}

func (o *options) say(format string, a ...any) {
	fmt.Fprintf(o.env.Stderr, o.env.Name+": "+format+"\n", a...)
}

// check refuses conflicts before any I/O.
func (o *options) check(fs *applet.FlagSet) error {
	if fs.NArg() > 0 {
		return fs.Usage("unexpected argument %q", fs.Arg(0))
	}
	if err := o.Flags.Check(fs); err != nil {
		return err
	}
	if !wire.ValidRole(o.role) {
		return fs.Usage("-role %.40q: want client, attester, key-server, policy-server, verifier, or a name of lower-case letters, digits and hyphens", o.role)
	}
	switch cryptstore.Alg(o.alg) {
	case cryptstore.Ed25519, cryptstore.P256, cryptstore.P384:
	default:
		return fs.Usage("-alg %q is none of ed25519, p256, p384", o.alg)
	}
	switch {
	case (o.second == "") != (o.out == ""):
		return fs.Usage("-second-key and -out go together")
	case o.second != "" && cryptstore.CheckTag("second/"+o.second) != nil:
		return fs.Usage("-second-key %q: letters, digits, dots, underscores and hyphens", o.second)
	case o.second != "" && o.renew:
		return fs.Usage("-second-key and -renew exclude each other")
	case o.second != "" && o.role != wire.RoleClient:
		return fs.Usage("-second-key is for programs, which have no -role")
	case o.format != member.FormatPKCS8 && o.format != member.FormatOpenSSH:
		return fs.Usage("-format is pkcs8 or openssh, not %q", o.format)
	case o.chain == "-" && o.proof == "-":
		return fs.Usage("-chain and -proof cannot both go to stdout")
	case o.timeout <= 0:
		return fs.Usage("-timeout %v", o.timeout)
	}
	return nil
}

func (o *options) run(ctx context.Context) error {
	if o.out != "" {
		if err := applet.CheckTmpfs(filepath.Dir(o.out)); err != nil {
			return err
		}
	}
	endpoint, err := o.Endpoint(o.servers, o.pins)
	if err != nil {
		return err
	}
	cfg, p, err := o.Open(o.logf)
	if err != nil {
		return err
	}
	defer p.Close()
	req := member.Request{Client: endpoint, Role: o.role, Alg: o.alg, Force: o.force && o.second == "", SetAside: o.setAside}
	req.Client.Platform, req.Client.Logf = p, o.logf
	if len(o.keyServers) == 0 {
		o.keyServers = endpoint.Servers
	}
	req.Recover = memberflags.Recover(o.keyServers, o.logf)

	cctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	m, res, err := member.Certify(cctx, cfg, req)
	if still, ok := errors.AsType[*member.StillValid](err); ok && o.renew {
		// What -renew is for: the old certificate is good, so go on trying.
		o.say("%v", still)
		if m, err = member.Open(cctx, cfg); err != nil {
			return err
		}
		defer m.Close()
		return o.keep(ctx, m, req)
	}
	if err != nil {
		return err
	}
	defer m.Close()
	o.report(res)
	if o.second != "" {
		req.Force = o.force
		return o.secondKey(cctx, m, req)
	}
	if err := o.write(ctx, m); err != nil {
		return err
	}
	cancel()
	if o.renew {
		return o.keep(ctx, m, req)
	}
	return nil
}

func (o *options) keep(ctx context.Context, m *member.Member, req member.Request) error {
	// Whoever read our messages may go; that is no reason to stop.
	signal.Ignore(unix.SIGPIPE)
	m.Logf = o.say
	return m.KeepCertified(ctx, req, func(res *member.Result) {
		o.report(res)
		if err := o.write(ctx, m); err != nil {
			o.say("%v", err)
		}
	})
}

func (o *options) report(res *member.Result) {
	what := "certified"
	if !res.New {
		what = "still certified"
	}
	o.say("%s as %s until %s; store %s", what, res.Identity, res.Identity.NotAfter.UTC().Format(time.RFC3339), res.Store)
}

// write puts the certificate and the proof where they were asked for.
func (o *options) write(ctx context.Context, m *member.Member) error {
	if o.chain != "" {
		cert, err := m.Certificate()
		if err != nil {
			return err
		}
		if err := o.publish(o.chain, chainPEM(cert.Certificate)); err != nil {
			return err
		}
	}
	if o.proof == "" {
		return nil
	}
	proof, err := m.Proof(ctx)
	if err != nil {
		return err
	}
	return o.publish(o.proof, []byte(proof))
}

// publish writes something that is no secret.
func (o *options) publish(path string, data []byte) error {
	if path == "-" {
		_, err := o.env.Stdout.Write(data)
		return err
	}
	if err := renameio.WriteFile(path, data, 0o644); err != nil {
		return fmt.Errorf("writing %q: %w", path, err)
	}
	return nil
}

func (o *options) secondKey(ctx context.Context, m *member.Member, req member.Request) error {
	s, err := m.Second(ctx, o.second, req)
	if err != nil {
		return err
	}
	defer s.Key.Zero()
	file, err := member.ExportKey(s.Key, o.format, o.second+"@"+m.Domain())
	if err != nil {
		return err
	}
	defer file.Zero()
	if o.chain != "" { // before the key: a program that sees the key finds both
		if err := o.publish(o.chain, chainPEM(s.Chain)); err != nil {
			return err
		}
	}
	if err := applet.CreateSecretFile(o.out, file); err != nil {
		return err
	}
	o.say("second key %s is certified until %s", o.second, s.ID.NotAfter.UTC().Format(time.RFC3339))
	return nil
}

func chainPEM(chain [][]byte) []byte {
	var out []byte
	for _, der := range chain {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return out
}

// exit gives an error its exit code and a hint.
func exit(err error) error {
	c, _ := code.Of(err)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, client.ErrRefused):
		return applet.WithHint(applet.Refused(c, err), "attestbox explain "+string(c)+"; the policy server's audit log has the reason under the exchange ID")
	case errors.Is(err, client.ErrLater), errors.Is(err, client.ErrUnreachable):
		return applet.WithHint(applet.Later(c, err), "attestbox explain "+string(c))
	case errors.Is(err, cryptstore.ErrRollback), errors.Is(err, cryptstore.ErrTampered):
		return applet.WithHint(err, "somebody changed the store or put an older copy in its place; -set-aside keeps it for a look and begins a new one")
	case errors.Is(err, os.ErrPermission):
		return applet.WithHint(err, "the store, the run folder and the secure processor are root's")
	}
	return err
}
