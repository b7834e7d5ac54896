package server

import (
	"bytes"
	"context"
	"crypto"
	"crypto/hpke"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"attestbox/internal/admission"
	"attestbox/internal/claim"
	"attestbox/internal/code"
	"attestbox/internal/platform"
	"attestbox/internal/secret"
	"attestbox/internal/wire"
)

// DomainConfig is what the owner gives a server for one domain.
type DomainConfig struct {
	PolicyCert *x509.Certificate
	// Policy reads the signed policy; it is asked again at every Reload.
	Policy func() ([]byte, error)
	// Issuer and IssuerKey are needed for certify.
	Issuer    *x509.Certificate
	IssuerKey crypto.Signer
	// ServingClaims go into the server's certificate (claim.SignedClaim, text).
	ServingClaims [][]byte
	// Validity of admission certificates; 0 is admission.DefaultValidity.
	Validity time.Duration
	// Own vouches for this server, which needs the role key-server for keys.
	Own platform.Platform
	// OwnCertificate gets the server's admission certificate elsewhere; nil:
	// this server certifies itself by Own, which needs an issuer.
	OwnCertificate func(ctx context.Context) (*tls.Certificate, error)
}

// Domain is one security domain that a server serves.
type Domain struct {
	name    string
	st      *State
	cfg     DomainConfig
	prover  *prover
	serving *tls.Certificate // for launch and certify, with the claims
	shares  *secret.Bytes    // owned; zeroed by Close
	escrow  hpke.PrivateKey
	secrets *keyStore // nil before EnableKeys

	reload  sync.Mutex
	current atomic.Pointer[inForce]

	// Of Maintain alone.
	complained string        // about the policy file
	retry      time.Time     // not before this is the own certificate renewed,
	pause      time.Duration // which failed and was put off so long

	mu      sync.Mutex
	changed chan struct{} // closed when another policy comes into force
	own     *tls.Certificate
}

// inForce is a policy in force, and what follows from it.
type inForce struct {
	*rulesOf
	policy *claim.VerifiedPolicy
	signed []byte
	floor  uint64
	// renewed is what instances may not go back to; all policies of a domain share it.
	renewed *renewals
}

// OpenDomain opens a domain with the policy that cfg.Policy reads now. A policy
// older than one that was in force before is refused.
func OpenDomain(ctx context.Context, st *State, cfg DomainConfig, p ProverConfig, now time.Time) (*Domain, error) {
	name, err := admission.DomainOf(cfg.PolicyCert)
	if err != nil {
		return nil, err
	}
	fail := func(err error) (*Domain, error) { return nil, fmt.Errorf("domain %s: %w", name, err) }
	d := &Domain{name: name, st: st, cfg: cfg, changed: make(chan struct{}), prover: newProver(p)}
	if d.cfg.Validity == 0 {
		d.cfg.Validity = admission.DefaultValidity
	}
	if d.cfg.Validity < time.Minute || d.cfg.Validity > admission.MaxValidity {
		return fail(fmt.Errorf("validity of %v, want %v to %v", cfg.Validity, time.Minute, admission.MaxValidity))
	}
	if err := d.checkIssuer(now); err != nil {
		return fail(err)
	}
	if len(cfg.ServingClaims) > 0 {
		if err := d.makeServing(ctx, now); err != nil {
			return fail(err)
		}
	}
	if _, err := d.Reload(ctx, now); err != nil {
		return fail(err)
	}
	if d.shares, err = st.domainSecret(ctx, name, suffixShares); err != nil {
		return fail(err)
	}
	if d.escrow, err = st.escrowKey(ctx, name); err != nil {
		return fail(err)
	}
	return d, nil
}

func (d *Domain) checkIssuer(now time.Time) error {
	if d.cfg.IssuerKey == nil {
		return nil
	}
	c := d.cfg.Issuer
	switch {
	case c == nil:
		return errors.New("there is a key of an issuer and no certificate of it")
	case !claim.SamePublicKey(c.PublicKey, d.cfg.IssuerKey.Public()):
		return errors.New("the issuer's certificate is of another key")
	case now.After(c.NotAfter):
		return fmt.Errorf("the issuer's certificate ended at %s", c.NotAfter.Format(time.RFC3339))
	}
	if n, err := admission.DomainOf(c); err != nil || n != d.name {
		return fmt.Errorf("the issuer's certificate is of domain %q (%v)", n, err)
	}
	if err := c.CheckSignatureFrom(d.cfg.PolicyCert); err != nil {
		return fmt.Errorf("the issuer's certificate is not by the policy key: %w", err)
	}
	return nil
}

func (d *Domain) makeServing(ctx context.Context, now time.Time) error {
	cert, _, err := d.st.Certificate(ctx)
	if err != nil {
		return err
	}
	der, err := admission.ServingCertificate(cert.PrivateKey.(crypto.Signer), d.cfg.ServingClaims, now)
	if err != nil {
		return err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	d.serving = &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: cert.PrivateKey, Leaf: leaf}
	return nil
}

// Name is the domain's name.
func (d *Domain) Name() string { return d.name }

// Version is the version of the policy in force.
func (d *Domain) Version() uint64 { return d.current.Load().policy.Version() }

// Close wipes what is held in memory.
func (d *Domain) Close() error {
	d.shares.Zero()
	if d.secrets != nil {
		return d.secrets.Close()
	}
	return nil
}

// Reload reads the policy anew and puts it into force if it is another one. A
// lower version, the same version with another text, another domain's or
// another key's policy is refused, and the old one stays.
func (d *Domain) Reload(ctx context.Context, now time.Time) (changed bool, err error) {
	d.reload.Lock()
	defer d.reload.Unlock()
	signed, err := d.cfg.Policy()
	if err != nil {
		return false, fmt.Errorf("reading the policy: %w", err)
	}
	was := d.current.Load()
	var renewed *renewals
	if was != nil {
		renewed = was.renewed
	} else if renewed, err = d.st.loadRenewals(ctx, d.name); err != nil {
		return false, err
	}
	if was != nil && bytes.Equal(was.signed, signed) {
		return false, nil
	}
	kept, _, err := d.st.policyRecord(ctx, d.name)
	if err != nil {
		return false, err
	}
	p, err := claim.Verify(signed, d.cfg.PolicyCert.PublicKey, kept.Version)
	if err != nil {
		return false, err
	}
	digest := wire.Hex32(p.Digest())
	switch {
	case p.Domain() != d.name:
		return false, code.Wrap(code.PolicySignature, fmt.Errorf("the policy is of domain %s", p.Domain()))
	case p.Version() == kept.Version && digest != kept.Digest:
		return false, code.Wrap(code.PolicyRollback, fmt.Errorf("there was another policy of version %d", kept.Version))
	case was != nil && p.Version() == was.policy.Version():
		return false, nil
	}
	rules, err := d.prover.rules(p)
	if err != nil {
		return false, err
	}
	r := &policyRecord{Domain: d.name, Version: p.Version(), Digest: digest, Floor: kept.Floor}
	if p.Version() > kept.Version {
		if err := d.follow(ctx, r, kept, p, was); err != nil {
			return false, err
		}
		if err := d.st.keepPolicy(ctx, r, signed); err != nil {
			return false, err
		}
	}
	if err := d.enforce(ctx, &inForce{rulesOf: rules, policy: p, signed: signed, floor: r.Floor, renewed: renewed}); err != nil {
		return false, err
	}
	d.mu.Lock()
	close(d.changed)
	d.changed = make(chan struct{})
	if d.own != nil && d.st != nil && r.Floor > kept.Floor {
		d.own = nil // made under a policy that counts no longer
	}
	d.mu.Unlock()
	return true, nil
}

// follow checks a new policy against the one before it, and raises the floor
// to the new version unless it is known that nothing was taken back.
func (d *Domain) follow(ctx context.Context, r, kept *policyRecord, p *claim.VerifiedPolicy, was *inForce) error {
	var old *claim.VerifiedPolicy
	if was != nil {
		old = was.policy
	} else if text := d.st.keptPolicy(ctx, d.name); text != nil {
		if o, err := claim.Verify(text, d.cfg.PolicyCert.PublicKey, kept.Version); err == nil && wire.Hex32(o.Digest()) == kept.Digest {
			old = o
		}
	}
	if err := p.Follows(old); err != nil {
		return err
	}
	if kept.Version > 0 && (old == nil || takesBack(old, p)) {
		r.Floor = p.Version()
	}
	return nil
}

// takesBack says whether a policy revokes anything anew or lacks a claim that
// the old one had. Platform requirements are alternatives, so that one more
// takes nothing back.
func takesBack(old, p *claim.VerifiedPolicy) bool {
	had, has := map[string]bool{}, map[string]bool{}
	for _, c := range old.Claims() {
		had[c.String()] = true
	}
	for _, c := range p.Claims() {
		has[c.String()] = true
		if !had[c.String()] && c.Revokes() {
			return true
		}
	}
	for c := range had {
		if !has[c] {
			return true
		}
	}
	return false
}

// watchPolicy is closed when another policy comes into force.
func (d *Domain) watchPolicy() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.changed
}

// trust is what makes a member's certificate count now.
func (d *Domain) trust() *admission.Trust {
	cur := d.current.Load()
	return &admission.Trust{Policy: d.cfg.PolicyCert, Domain: d.name, MinPolicyVersion: cur.floor, Revoked: cur.revoked}
}

// greeting is trust but for the policy version: whoever was admitted under a
// policy that counts no longer is answered at its first request, and learns in
// that authenticated answer which version counts. An alert of TLS would say
// nothing, and the member would keep its certificate until it ends.
func (d *Domain) greeting() *admission.Trust {
	t := d.trust()
	t.MinPolicyVersion = 0
	return t
}

// OnPolicy says once what is in force, for logs.
func (d *Domain) OnPolicy() map[string]any {
	cur := d.current.Load()
	digest := cur.policy.Digest()
	return map[string]any{"domain": d.name, "version": cur.policy.Version(), "floor": cur.floor, "digest": hex.EncodeToString(digest[:]), "amd": cur.policy.AMD(), "renewals": cur.renewed.count()}
}
