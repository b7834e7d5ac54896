package servercmd

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"attestbox/internal/admission"
	"attestbox/internal/applet"
	"attestbox/internal/appraise"
	"attestbox/internal/claim"
	"attestbox/internal/client"
	"attestbox/internal/platform"
	"attestbox/internal/platform/sevguest"
	"attestbox/internal/platform/simenclave"
	"attestbox/internal/secret"
	"attestbox/internal/server"
	"attestbox/internal/wire"
)

// Files of a domain's folder, as `policy` writes them.
const (
	policyCertFile = "policy.crt"
	policyFile     = "policy.signed"
	issuerCertFile = "issuer.crt"
	claimsDir      = "claims"
)

// domainFlags say which domains are served.
type domainFlags struct {
	dirs                            applet.Strings
	policy, cert, issuer, issuerKey string
	claims                          applet.Strings
	validity                        time.Duration
	platform, enclaveKey            string
	certifyAt                       applet.Strings
}

func (f *domainFlags) register(fs *applet.FlagSet) {
	fs.Var(&f.dirs, "domain", "serve the domain whose "+policyFile+", "+policyCertFile+", "+issuerCertFile+" and "+claimsDir+"/ lie in `DIR`; may be repeated")
	fs.StringVar(&f.policy, "policy", "", "the signed policy, `FILE`, of a domain without a folder")
	fs.StringVar(&f.cert, "policy-cert", "", "its policy certificate, PEM or DER, `FILE`")
	fs.StringVar(&f.issuer, "issuer-cert", "", "its issuer's certificate, `FILE`, for certify")
	fs.StringVar(&f.issuerKey, "issuer-key", "", "the issuer's private key, PKCS #8 in PEM, `FILE` of mode 0600 (default: the one in the state)")
	fs.Var(&f.claims, "serving-claim", "put the claim in `FILE` into the server's certificate; may be repeated")
	fs.DurationVar(&f.validity, "validity", admission.DefaultValidity, "life of admission certificates")
	fs.StringVar(&f.platform, "platform", "", "what vouches for this server as key server: snp, or enclave with -enclave-key")
	fs.StringVar(&f.enclaveKey, "enclave-key", "", "the platform key of the simulated enclave in `FILE`, mode 0600")
	fs.Var(&f.certifyAt, "certify-server", "get the admission as key server from the policy server at `ADDRESS`, not from this server itself; may be repeated")
}

func (f *domainFlags) any() bool { return len(f.dirs) > 0 || f.policy != "" }

func (f *domainFlags) check(fs *applet.FlagSet, needed, keys bool) error {
	if f.platform == "" && f.enclaveKey != "" {
		f.platform = "enclave"
	}
	switch {
	case needed && !f.any():
		return fs.Usage("which domain? give -domain DIR, or -policy and -policy-cert")
	case (f.policy == "") != (f.cert == ""):
		return fs.Usage("-policy and -policy-cert go together")
	case f.policy == "" && (f.issuer != "" || len(f.claims) > 0):
		return fs.Usage("-issuer-cert and -serving-claim go with -policy; a -domain folder has its own")
	case f.platform != "" && f.platform != "snp" && f.platform != "enclave":
		return fs.Usage("-platform is snp or enclave, not %q", f.platform)
	case (f.platform == "enclave") != (f.enclaveKey != ""):
		return fs.Usage("-platform enclave and -enclave-key go together")
	case keys && f.platform == "":
		return fs.Usage("what vouches for this server as key server? give -platform snp, or -enclave-key FILE")
	}
	return nil
}

// open opens all domains and puts them into the options.
func (f *domainFlags) open(ctx context.Context, st *server.State, o *server.Options, p server.ProverConfig) (closeAll func(), err error) {
	var done []func() error
	closeAll = func() {
		for _, c := range slices.Backward(done) {
			c()
		}
	}
	var own platform.Platform
	if slices.Contains(o.Roles, server.RoleKeys) {
		if own, err = f.openPlatform(); err != nil {
			return closeAll, err
		}
		done = append(done, own.Close)
	}
	issuerKey, err := f.readIssuerKey(ctx, st)
	if err != nil {
		return closeAll, err
	}
	var configs []server.DomainConfig
	for _, dir := range f.dirs {
		path := func(name string) string { return filepath.Join(dir, name) }
		claims, err := filepath.Glob(path(filepath.Join(claimsDir, "*.claim")))
		if err != nil {
			return closeAll, err
		}
		c, err := domainConfig(ctx, st, path(policyFile), path(policyCertFile), path(issuerCertFile), claims, false)
		if err != nil {
			return closeAll, err
		}
		configs = append(configs, c)
	}
	if f.policy != "" {
		c, err := domainConfig(ctx, st, f.policy, f.cert, f.issuer, f.claims, true)
		if err != nil {
			return closeAll, err
		}
		configs = append(configs, c)
	}
	certify := slices.Contains(o.Roles, server.RoleCertify) || len(f.certifyAt) == 0
	for _, c := range configs {
		c.Validity, c.Own = f.validity, own
		if certify && c.Issuer != nil {
			c.IssuerKey = issuerKey
		}
		if own != nil && len(f.certifyAt) > 0 {
			c.OwnCertificate = certifyAt(f.certifyAt, c.PolicyCert, own, o.Log)
		}
		d, err := server.OpenDomain(ctx, st, c, p, time.Now())
		if err != nil {
			return closeAll, hintIssuer(err)
		}
		done = append(done, d.Close)
		if own != nil {
			if err := d.EnableKeys(ctx); err != nil {
				return closeAll, err
			}
		}
		if err := o.Audit.Note("policy", d.OnPolicy(), time.Now()); err != nil {
			return closeAll, err
		}
		o.Domains = append(o.Domains, d)
	}
	return closeAll, nil
}

func hintIssuer(err error) error {
	if err == nil {
		return nil
	}
	return applet.WithHint(err, "make the issuer's certificate with: policy delegate -dir DIR issuer.pub -issuer -out DIR/issuer.crt, and sign")
}

// domainConfig reads a domain's files. Claims that are about other keys than
// the server's are passed over where they were found in a folder.
func domainConfig(ctx context.Context, st *server.State, policy, cert, issuer string, claims []string, named bool) (c server.DomainConfig, err error) {
	if c.PolicyCert, err = readCert(cert); err != nil {
		return c, fmt.Errorf("policy certificate: %w", err)
	}
	if issuer != "" {
		c.Issuer, err = readCert(issuer)
		if err != nil && (named || !errors.Is(err, fs.ErrNotExist)) {
			return c, fmt.Errorf("issuer's certificate: %w", err)
		}
	}
	tlsCert, _, err := st.Certificate(ctx)
	if err != nil {
		return c, err
	}
	spki := sha256.Sum256(tlsCert.Leaf.RawSubjectPublicKeyInfo)
	for _, name := range claims {
		b, err := applet.ReadFile(nil, name, claim.MaxSignedClaim)
		if err != nil {
			return c, err
		}
		sc, err := claim.ParseSignedClaim(b)
		if err != nil {
			return c, fmt.Errorf("%q: %w", name, err)
		}
		if k, ok := sc.Claim.Statement.Clause.Subject.(claim.Key); ok && k.ID == hex.EncodeToString(spki[:]) {
			c.ServingClaims = append(c.ServingClaims, b)
		} else if named {
			return c, fmt.Errorf("%q: it is not about this server's key", name)
		}
	}
	c.Policy = func() ([]byte, error) { return applet.ReadFile(nil, policy, claim.MaxPolicy) }
	return c, nil
}

func readCert(name string) (*x509.Certificate, error) {
	b, err := applet.ReadFile(nil, name, 64<<10)
	if err != nil {
		return nil, err
	}
	ders, err := appraise.DecodeCerts(b)
	if err != nil || len(ders) != 1 {
		return nil, fmt.Errorf("%q: want one certificate (%v)", name, err)
	}
	return x509.ParseCertificate(ders[0])
}

func (f *domainFlags) openPlatform() (platform.Platform, error) {
	if f.platform == "enclave" {
		return simenclave.Open(f.enclaveKey)
	}
	return sevguest.Open()
}

func (f *domainFlags) readIssuerKey(ctx context.Context, st *server.State) (crypto.Signer, error) {
	if f.issuerKey == "" {
		return st.IssuerKey(ctx)
	}
	fail := func(err error) (crypto.Signer, error) {
		return nil, fmt.Errorf("reading the issuer's key %q: %w", f.issuerKey, err)
	}
	if info, err := os.Stat(f.issuerKey); err != nil {
		return fail(err)
	} else if info.Mode().Perm()&0o077 != 0 {
		return fail(fmt.Errorf("mode %04o lets others read it, want 0600", info.Mode().Perm()))
	}
	b, err := applet.ReadSecret(nil, f.issuerKey, 64<<10)
	if err != nil {
		return fail(err)
	}
	defer b.Zero()
	block, _ := pem.Decode(b.Bytes())
	if block == nil || block.Type != "PRIVATE KEY" {
		return fail(errors.New(`not a PEM block "PRIVATE KEY"`))
	}
	der := secret.Take(block.Bytes) // block.Bytes is gone now
	defer der.Zero()
	k, err := x509.ParsePKCS8PrivateKey(der.Bytes())
	if err != nil {
		return fail(errors.New("not PKCS #8")) // the cause may quote the key
	}
	key, ok := k.(crypto.Signer)
	if !ok {
		return fail(errors.New("it cannot sign"))
	}
	return key, nil
}

// certifyAt gets a key server's admission from a policy server elsewhere, with
// a new key each time, which stays in memory.
func certifyAt(servers []string, policy *x509.Certificate, own platform.Platform, log *slog.Logger) func(context.Context) (*tls.Certificate, error) {
	return func(ctx context.Context) (*tls.Certificate, error) {
		domain, err := admission.DomainOf(policy)
		if err != nil {
			return nil, err
		}
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, err
		}
		cfg := client.CertifyConfig{Config: client.Config{Servers: servers, Policy: policy, Platform: own}, Domain: domain, Role: wire.RoleKeyServer, Key: key}
		cfg.Logf = func(format string, a ...any) {
			log.Warn("certifying this server", "domain", domain, "error", fmt.Sprintf(format, a...))
		}
		a, err := client.Certify(ctx, cfg)
		if err != nil {
			return nil, err
		}
		defer a.Close()
		return &tls.Certificate{Certificate: a.Chain, PrivateKey: key}, nil
	}
}
