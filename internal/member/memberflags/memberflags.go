// Package memberflags gives the applets that act for a member of a domain the
// same flags and the same defaults: which domain, which store, which platform.
package memberflags

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"attestbox/initramfs/config"
	"attestbox/internal/admission"
	"attestbox/internal/applet"
	"attestbox/internal/client"
	"attestbox/internal/code"
	"attestbox/internal/cryptstore"
	"attestbox/internal/instanceid"
	"attestbox/internal/member"
	"attestbox/internal/platform"
	"attestbox/internal/platform/sevguest"
	"attestbox/internal/platform/simenclave"
	"attestbox/internal/recipient"
	"attestbox/internal/seal"
	"attestbox/internal/secret"
	"attestbox/internal/store"
	"attestbox/internal/store/onefile"
	"attestbox/internal/wire"
)

// Platforms as -platform names them.
const (
	SNP     = "snp"
	Enclave = "enclave"
)

// StoreDir holds the stores of all domains unless -store says otherwise.
const StoreDir = "/var/lib/attestbox"

// Flags are the flags.
type Flags struct {
	Domain, PolicyCert, Store, RunDir, Platform, EnclaveKey, Floor string
}

// Register adds the flags to an applet's.
func (f *Flags) Register(fs *applet.FlagSet) {
	fs.StringVar(&f.Domain, "domain", "", "the security domain's `NAME` (default: the policy certificate's)")
	fs.StringVar(&f.PolicyCert, "policy-cert", config.PolicyPath, "the domain's policy certificate, PEM or DER, in `FILE`")
	fs.StringVar(&f.Store, "store", "", "keep key, certificate and proof in the sealed store `FILE` (default "+StoreDir+"/DOMAIN.store)")
	fs.StringVar(&f.RunDir, "run-dir", "", "keep the server's share of the store in `DIR` on tmpfs (default "+member.RunBase+"/DOMAIN)")
	fs.StringVar(&f.Floor, "floor", "", "the machine's floor of time in `FILE` (default /run/attestbox/floor)")
	fs.StringVar(&f.Platform, "platform", SNP, "what vouches for this machine: `snp` or enclave, the simulated enclave of a deployment machine")
	fs.StringVar(&f.EnclaveKey, "enclave-key", "", "the platform key of the simulated enclave in `FILE`, mode 0600")
}

// Check refuses conflicts before any I/O.
func (f *Flags) Check(fs *applet.FlagSet) error {
	switch {
	case f.Platform != SNP && f.Platform != Enclave:
		return fs.Usage("-platform is snp or enclave, not %q", f.Platform)
	case (f.Platform == Enclave) != (f.EnclaveKey != ""):
		return fs.Usage("-platform enclave and -enclave-key go together")
	case f.PolicyCert == "":
		return fs.Usage("-policy-cert is required: it says which domain's certificates count")
	}
	return nil
}

// Open reads the policy certificate, opens the platform and says how the
// membership is kept. The caller closes the platform, last.
func (f *Flags) Open(logf func(string, ...any)) (member.Config, platform.Platform, error) {
	var none member.Config
	policy, err := ReadPolicy(f.PolicyCert)
	if err != nil {
		return none, nil, err
	}
	domain, err := admission.DomainOf(policy)
	if err != nil {
		return none, nil, code.Wrap(code.ConfigBad, fmt.Errorf("policy certificate %q: %w", f.PolicyCert, err))
	}
	if f.Domain != "" && f.Domain != domain {
		return none, nil, applet.Usage("-domain %s: the policy certificate %q is of %s", f.Domain, f.PolicyCert, domain)
	}
	cfg := member.Config{Policy: policy, RunDir: f.RunDir, Floor: f.Floor, Logf: logf}
	if cfg.RunDir == "" {
		cfg.RunDir = filepath.Join(member.RunBase, domain)
	}
	if err := os.MkdirAll(cfg.RunDir, 0o700); err != nil {
		return none, nil, fmt.Errorf("making the run folder: %w", err)
	}
	if err := applet.CheckTmpfs(cfg.RunDir); err != nil {
		return none, nil, err
	}
	path := f.Store
	if path == "" {
		path = filepath.Join(StoreDir, domain+".store")
		if err := os.MkdirAll(StoreDir, 0o700); err != nil {
			return none, nil, fmt.Errorf("making the folder of the store: %w", err)
		}
	}
	cfg.OpenStore = func() (store.Store, error) { return onefile.Open(path) }
	p, err := f.openPlatform()
	if err != nil {
		return none, nil, err
	}
	cfg.Sealer = func(ctx context.Context, share *secret.Bytes, escrow []byte) (cryptstore.Sealer, error) {
		c := seal.Config{Platform: p, Domain: domain, Share: share}
		id, err := instanceid.Read(instanceid.Path)
		if err != nil {
			return nil, err
		}
		c.Instance = id
		if len(escrow) > 0 {
			to, err := recipient.ParsePublicBytes(escrow)
			if err != nil {
				return nil, fmt.Errorf("the server's escrow key: %w", err)
			}
			c.EscrowTo = to
		}
		return seal.New(ctx, c)
	}
	return cfg, p, nil
}

func (f *Flags) openPlatform() (platform.Platform, error) {
	if f.Platform == Enclave {
		return simenclave.Open(f.EnclaveKey)
	}
	return sevguest.Open()
}

// OpenMember is Open and member.Open, for an applet that acts with a
// certificate that certify has fetched. close gives everything back.
func (f *Flags) OpenMember(ctx context.Context, logf func(string, ...any)) (m *member.Member, closeAll func(), err error) {
	cfg, p, err := f.Open(logf)
	if err != nil {
		return nil, nil, err
	}
	m, err = member.Open(ctx, cfg)
	if err != nil {
		p.Close()
		if errors.Is(err, member.ErrNoShare) || errors.Is(err, store.ErrNotFound) {
			return nil, nil, applet.WithHint(applet.Later(code.NotCertified, err), "run certify first, with the same -policy-cert and -store")
		}
		return nil, nil, err
	}
	return m, func() { m.Close(); p.Close() }, nil
}

// Endpoint says which servers to ask and which of them to trust: flags, else
// the image's configuration; and of a VM the ID that its image brings. The
// policy certificate is member's.
func (f *Flags) Endpoint(servers, pins []string) (client.Config, error) {
	c := client.Config{Servers: servers}
	if f.Platform == SNP {
		var err error
		if c.Instance, err = instanceid.Read(instanceid.Path); err != nil {
			return c, err
		}
	}
	for _, s := range pins {
		var p wire.Pin
		if err := p.UnmarshalText([]byte(s)); err != nil {
			return c, applet.Usage("-pin %q: %v", s, err)
		}
		c.Pins = append(c.Pins, p)
	}
	if len(c.Servers) > 0 {
		return c, nil
	}
	b, err := os.ReadFile(config.Path)
	if errors.Is(err, os.ErrNotExist) {
		return c, applet.Usage("no -server is given, and there is no %s", config.Path)
	}
	if err != nil {
		return c, code.Wrap(code.ConfigBad, fmt.Errorf("reading the configuration: %w", err))
	}
	img, err := config.Parse(b)
	if err != nil {
		return c, fmt.Errorf("%q: %w", config.Path, err)
	}
	if len(img.Servers) == 0 {
		return c, applet.Usage("no -server is given, and %s names none", config.Path)
	}
	c.Servers = img.Servers
	if len(pins) == 0 {
		c.Pins = img.Pins
	}
	return c, nil
}

// Recover asks key servers to re-wrap the escrow copy in a store's header to
// this machine, and opens and seals the store anew.
func Recover(servers []string, logf func(string, ...any)) member.Recover {
	return func(ctx context.Context, raw store.Store, h *cryptstore.Header, by cryptstore.Sealer, own *tls.Certificate, trust *admission.Trust, o cryptstore.Options) (*cryptstore.Store, error) {
		sealer, ok := by.(*seal.Sealer)
		if !ok || len(h.Escrow) == 0 {
			return nil, fmt.Errorf("%w: it has no escrow copy", member.ErrNoRecovery)
		}
		k, err := client.DialKeys(ctx, client.KeysConfig{
			Servers: servers, Trust: trust, Logf: logf, Now: o.Now,
			Certificate: func() (*tls.Certificate, error) { return own, nil },
		})
		if err != nil {
			return nil, err
		}
		defer k.Close()
		key, err := recipient.NewKey()
		if err != nil {
			return nil, err
		}
		box, epoch, err := k.Rewrap(ctx, h.Name, h.Escrow, key.PublicKey().Bytes())
		if err != nil {
			return nil, err
		}
		return seal.OpenWithRecovery(ctx, raw, h.Name, seal.Recovery{Box: box, Key: key, MinEpoch: epoch}, sealer, o)
	}
}

// ReadPolicy reads a policy certificate, PEM or DER. Its own signature and
// whether the domain is the right one is the reader's trust: the file is pinned.
func ReadPolicy(path string) (*x509.Certificate, error) {
	fail := func(err error) (*x509.Certificate, error) {
		return nil, code.Wrap(code.ConfigBad, fmt.Errorf("reading the policy certificate %q: %w", path, err))
	}
	st, err := os.Stat(path)
	if err != nil {
		return fail(errors.Unwrap(err))
	}
	if !st.Mode().IsRegular() || st.Size() > client.MaxPolicy {
		return fail(fmt.Errorf("not a regular file of at most %d bytes", client.MaxPolicy))
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return fail(err)
	}
	cert, err := client.ParsePolicy(b)
	if err != nil {
		return fail(err)
	}
	return cert, nil
}
