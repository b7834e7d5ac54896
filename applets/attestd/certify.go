package attestd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"attestbox/internal/admission"
	"attestbox/internal/applet"
	"attestbox/internal/attestd"
	"attestbox/internal/client"
	"attestbox/internal/code"
	"attestbox/internal/member/memberflags"
	"attestbox/internal/platform"
	"attestbox/internal/wire"
)

func (o *clientOptions) certifyFlags(fs *applet.FlagSet) {
	fs.Var(&o.servers, "server", "ask the policy server at `ADDRESS`, tcp://host:port or vsock://cid:port; may be repeated (default: from the image's configuration)")
	fs.Var(&o.pins, "pin", "also accept a server key with this `PIN`, sha256:HEX; may be repeated")
	fs.StringVar(&o.policy, "policy-cert", "", "the domain's policy certificate, PEM or DER, in `FILE`")
	fs.StringVar(&o.role, "role", wire.RoleClient, "ask for a `ROLE`; policy decides")
	fs.StringVar(&o.scope, "scope", attestd.ScopeUser, "whose key: this program's run by this user (user), or by any (program)")
}

func (o *clientOptions) checkCertify(fs *applet.FlagSet) error {
	switch {
	case o.policy == "":
		return fs.Usage("-policy-cert is required: the answer is checked against it")
	case !wire.ValidRole(o.role) || o.role == wire.RoleAttester:
		return fs.Usage("-role %.40q: want client, or another role but attester, which is for VMs", o.role)
	case o.scope != attestd.ScopeUser && o.scope != attestd.ScopeProgram:
		return fs.Usage("-scope takes user or program, not %q", o.scope)
	}
	return nil
}

// throughAttestd is the platform of a program: its attestd.
type throughAttestd struct {
	c     *attestd.Client
	scope string
}

func (throughAttestd) Name() string { return platform.AttestdProgram }
func (throughAttestd) Close() error { return nil }

func (p throughAttestd) Report(ctx context.Context, reportData [64]byte) (*platform.Evidence, error) {
	r, body, err := p.c.Do(ctx, attestd.Request{Op: attestd.OpCertify, Scope: p.scope}, reportData[:])
	if err != nil {
		return nil, err
	}
	body.Zero()
	return &platform.Evidence{Platform: r.Platform, Report: r.Report}, nil
}

// certify gets a certificate for this program's key and writes it.
func (o *clientOptions) certify(ctx context.Context, env *applet.Env, c *attestd.Client) error {
	endpoint, err := new(memberflags.Flags).Endpoint(o.servers, o.pins)
	if err != nil {
		return err
	}
	if endpoint.Policy, err = memberflags.ReadPolicy(o.policy); err != nil {
		return err
	}
	domain, err := admission.DomainOf(endpoint.Policy)
	if err != nil {
		return code.Wrap(code.ConfigBad, fmt.Errorf("policy certificate %q: %w", o.policy, err))
	}
	r, body, err := c.Do(ctx, attestd.Request{Op: attestd.OpCertify, Scope: o.scope}, nil)
	if err != nil {
		return err
	}
	body.Zero()
	endpoint.Platform = throughAttestd{c, o.scope}
	a, err := client.Certify(ctx, client.CertifyConfig{Config: endpoint, Domain: domain, Role: o.role, CSR: r.CSR})
	k, _ := code.Of(err)
	switch {
	case errors.Is(err, client.ErrRefused):
		return applet.WithHint(applet.Refused(k, err), "attestbox explain "+string(k)+"; the policy server's audit log has the reason under the exchange ID")
	case errors.Is(err, client.ErrLater), errors.Is(err, client.ErrUnreachable):
		return applet.WithHint(applet.Later(k, err), "attestbox explain "+string(k))
	case err != nil:
		return err
	}
	defer a.Close()
	if err := write(env.Stdout, o.out, chainPEM(a.Chain)); err != nil {
		return err
	}
	fmt.Fprintf(env.Stderr, "%s: certified as %s until %s\n", env.Name, a.Identity, a.Identity.NotAfter.UTC().Format(time.RFC3339))
	return nil
}
