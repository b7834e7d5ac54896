package attestd

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/google/renameio/v2"

	"attestbox/internal/applet"
	"attestbox/internal/attestd"
	"attestbox/internal/secret"
	"attestbox/internal/wire"
)

// Client is `attestd-client`.
var Client = applet.Applet{Name: "attestd-client", Summary: "ask attestd, for scripts", Run: runClient}

const synopsis = `whoami|attest|seal|unseal|certificate|sign|key|certify [flags]
  whoami       print who attestd takes this program for
  attest       print a report over this program and the data on stdin
  seal         encrypt stdin for this program and user
  unseal       the reverse
  certificate  print the VM's admission certificate and its issuer's
  sign         sign the data on stdin
  key          print this program's public key and the VM's statement for it
  certify      get an admission certificate for that key`

type clientOptions struct {
	socket, out, context, scope, key, format string
	timeout                                  time.Duration

	servers, pins applet.Strings
	policy, role  string
}

func runClient(ctx context.Context, env *applet.Env, args []string) error {
	var op string
	sub := *env
	if len(args) > 0 && args[0] != "" && args[0][0] != '-' {
		op, args = args[0], args[1:]
		sub.Name += " " + op
	}
	var o clientOptions
	syn, example := synopsis, "attestd-client seal -context db < password > password.sealed"
	if op != "" {
		syn = "[flags]"
	}
	fs := sub.Flags(syn, example)
	fs.StringVar(&o.socket, "socket", attestd.DefaultSocket, "attestd listens on `PATH`")
	fs.DurationVar(&o.timeout, "timeout", 30*time.Second, "give up after `DURATION`")
	fs.StringVar(&o.out, "out", "-", "write to `FILE` or stdout (-); unseal writes to tmpfs only")
	switch op {
	case "":
	case attestd.OpWhoami, attestd.OpCertificate, attestd.OpKey:
	case attestd.OpAttest:
		fs.StringVar(&o.format, "format", "json", "`FORMAT`: json, or raw for the report alone")
	case attestd.OpSeal:
		fs.StringVar(&o.context, "context", "", "what the data is for; unseal needs the same `TEXT`")
		fs.StringVar(&o.scope, "scope", attestd.ScopeUser, "who can unseal: this program run by this user (user), or by any (program)")
	case attestd.OpUnseal:
		fs.StringVar(&o.context, "context", "", "the `TEXT` that was given to seal")
	case attestd.OpSign:
		fs.StringVar(&o.context, "context", "", "what the signature is for; needed")
		fs.StringVar(&o.key, "key", attestd.KeyAuthentication, "sign with the VM's authentication `KEY` or the program's (program)")
		fs.StringVar(&o.format, "format", "json", "`FORMAT`: json, or raw for the signature alone")
	case attestd.OpCertify:
		o.certifyFlags(fs)
	default:
		return fs.Usage("%q is none of whoami, attest, seal, unseal, certificate, sign, key, certify", op)
	}
	if err := fs.Parse(args); err != nil {
		return err
	}
	switch {
	case op == "":
		return fs.Usage("say what to ask: whoami, attest, seal, unseal, certificate, sign, key or certify")
	case fs.NArg() > 0:
		return fs.Usage("unexpected argument %q", fs.Arg(0))
	case o.context != "" && !attestd.ValidContext(o.context), op == attestd.OpSign && o.context == "":
		return fs.Usage("-context takes 1 to %d letters, digits and ._:/@-", attestd.MaxContext)
	case op == attestd.OpSeal && o.scope != attestd.ScopeUser && o.scope != attestd.ScopeProgram:
		return fs.Usage("-scope takes user or program, not %q", o.scope)
	case op == attestd.OpSign && o.key != attestd.KeyAuthentication && o.key != attestd.KeyProgram:
		return fs.Usage("-key takes authentication or program, not %q", o.key)
	case o.format != "" && o.format != "json" && o.format != "raw":
		return fs.Usage("-format takes json or raw, not %q", o.format)
	}
	if op == attestd.OpCertify {
		if err := o.checkCertify(fs); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	return exit(o.do(ctx, env, op))
}

// do asks, and writes what came back.
func (o *clientOptions) do(ctx context.Context, env *applet.Env, op string) error {
	var sink *applet.SecretSink
	if op == attestd.OpUnseal {
		var err error
		if sink, err = env.SecretSink(o.out, -1); err != nil {
			return err
		}
	}
	in := new(secret.Bytes)
	if op == attestd.OpAttest || op == attestd.OpSeal || op == attestd.OpUnseal || op == attestd.OpSign {
		limit := attestd.MaxData
		if op == attestd.OpUnseal {
			limit += attestd.SealOverhead
		}
		var err error
		if in, err = secret.ReadAll(env.Stdin, limit); err != nil {
			return applet.WithHint(fmt.Errorf("reading stdin: %w", err), fmt.Sprintf("%s takes at most %d bytes; of more, give a hash or a key", op, limit))
		}
		defer in.Zero()
	}
	c, err := attestd.Dial(ctx, o.socket)
	if err != nil {
		return err
	}
	defer c.Close()
	if op == attestd.OpCertify {
		return o.certify(ctx, env, c)
	}
	r, body, err := c.Do(ctx, attestd.Request{Op: op, Context: o.context, Scope: o.scope, Key: o.key}, in.Bytes())
	if err != nil {
		return err
	}
	defer body.Zero()
	var out []byte
	switch op {
	case attestd.OpUnseal:
		return sink.Put(body)
	case attestd.OpSeal:
		out = body.Bytes()
	case attestd.OpWhoami:
		out = fmt.Appendf(nil, "program %s\nuid %d\npid %d\n", r.Program, *r.UID, r.PID)
		if p, err := attestd.ParseProgram(r.Program); err == nil && p.Measured() {
			out = fmt.Appendf(out, "measurement %x\n", wire.AttestdMeasurement([]byte(r.Program)))
		}
		if r.Why != "" {
			out = fmt.Appendf(out, "why %s\n", r.Why)
		}
	case attestd.OpCertificate:
		out = chainPEM(r.Chain)
	case attestd.OpAttest:
		if out = r.Report; o.format == "json" {
			data := attestd.ReportData(r.Program, in.Bytes())
			out, err = asJSON(struct {
				Program      string             `json:"program"`
				Platform     string             `json:"platform"`
				ReportData   string             `json:"report_data"` // what the report must carry
				Report       []byte             `json:"report"`
				Endorsements []wire.Endorsement `json:"endorsements,omitempty"`
			}{r.Program, r.Platform, fmt.Sprintf("%x", data), r.Report, r.Endorsements})
		}
	case attestd.OpSign:
		if out = r.Signature; o.format == "json" {
			out, err = asJSON(r)
		}
	case attestd.OpKey:
		out, err = asJSON(r)
	}
	if err != nil {
		return err
	}
	return write(env.Stdout, o.out, out)
}

func chainPEM(chain [][]byte) (out []byte) {
	for _, der := range chain {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return out
}

func asJSON(v any) ([]byte, error) {
	b, err := json.MarshalIndent(v, "", "  ")
	return append(b, '\n'), err
}

// write writes what is no secret.
func write(stdout io.Writer, path string, b []byte) error {
	if path != "-" {
		return renameio.WriteFile(path, b, os.FileMode(0o644))
	}
	_, err := stdout.Write(b)
	return err
}
