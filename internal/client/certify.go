package client

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"attestbox/internal/admission"
	"attestbox/internal/code"
	"attestbox/internal/dial"
	"attestbox/internal/secret"
	"attestbox/internal/wire"
)

// CertifyConfig says whom to ask for an admission certificate, for which key.
type CertifyConfig struct {
	Config               // Policy is needed here: the answer is checked against it
	Domain string        // must be the policy certificate's
	Role   string        // one of wire.Role*; "" is wire.RoleClient. Asking grants nothing.
	Key    crypto.Signer // the key to be certified; it never leaves this machine

	// CSR, instead of Key, is a certification request for a key that is not at
	// hand: a program's, in attestd.
	CSR []byte

	// StoreEpoch is the epoch of the sealed store that is open; 0 if none is.
	StoreEpoch uint64
	// MinPolicyVersion is the least policy version that an answer may have: the
	// highest that an authenticated answer has named before.
	MinPolicyVersion uint64
}

// Admitted is what the policy server gave. Its owner calls Close.
type Admitted struct {
	Chain    [][]byte            // DER: the admission certificate, then its issuer's
	Identity *admission.Identity // what the certificate says, verified
	Proof    string              // human-readable, as the server logged it

	StoreSecret *secret.Bytes // this instance's share of its stores in the domain
	EscrowKey   []byte        // HPKE public key for escrow copies of store keys; empty if the server keeps none
	StoreEpoch  uint64        // the highest epoch that the instance has proved to the server

	Time             int64 // the server's clock, Unix seconds
	MinPolicyVersion uint64
	Exchange         wire.ExchangeID
	Server           string // the address that answered
}

// Close wipes the share.
func (a *Admitted) Close() {
	if a != nil {
		a.StoreSecret.Zero()
	}
}

// Certify runs the protocol until a certificate is there that verifies under
// the pinned policy. Errors are ErrRefused (final), ErrLater or ErrUnreachable,
// and carry a code.
func Certify(ctx context.Context, cfg CertifyConfig) (*Admitted, error) {
	if cfg.Role == "" {
		cfg.Role = wire.RoleClient
	}
	switch {
	case cfg.Policy == nil:
		return nil, code.Wrap(code.ConfigBad, errors.New("no policy certificate is pinned, so no answer could be checked"))
	case !wire.ValidDomain(cfg.Domain):
		return nil, code.Wrap(code.ConfigBad, fmt.Errorf("domain %.64q", cfg.Domain))
	case (cfg.Key == nil) == (cfg.CSR == nil) || cfg.Platform == nil:
		return nil, code.Wrap(code.ConfigBad, errors.New("no key to certify, or no platform to vouch for it"))
	}
	if d, err := admission.DomainOf(cfg.Policy); err != nil || d != cfg.Domain {
		return nil, code.Wrap(code.ConfigBad, fmt.Errorf("the policy certificate is not of domain %s: it says %q, %v", cfg.Domain, d, err))
	}
	s, err := newSession(cfg.Config, wire.ALPNCertify, wire.RolePolicyServer)
	if err != nil {
		return nil, err
	}
	if !cfg.Instance.IsZero() { // as for a launch: nothing is asked where the host set HOST_DATA
		if _, err := learn(ctx, &cfg.Config); err != nil {
			return nil, err
		}
	}
	csr := cfg.CSR
	if csr == nil {
		if csr, err = admission.NewCSR(cfg.Key); err != nil {
			return nil, fmt.Errorf("making the certification request: %w", err)
		}
	}
	pub, err := admission.KeyFromCSR(csr)
	if err != nil {
		return nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("encoding the public key: %w", err)
	}
	c := &certifier{session: s, cfg: &cfg, csr: csr, spki: spki}
	var out *Admitted
	err = s.try(ctx, func(a dial.Addr) (err error) {
		out, err = c.exchange(ctx, a)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

type certifier struct {
	*session
	cfg  *CertifyConfig
	csr  []byte
	spki []byte // SubjectPublicKeyInfo of the key, DER
}

// exchange is one run over one connection.
func (c *certifier) exchange(ctx context.Context, a dial.Addr) (_ *Admitted, err error) {
	conn, err := c.connect(ctx, a, wire.ExchangeTimeout)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.NetConn().Close() })
	defer func() {
		stop()
		conn.NetConn().Close()
		err = classify(err)
	}()

	key, err := wire.NewKey()
	if err != nil {
		return nil, fmt.Errorf("making the HPKE key: %w", err)
	}
	t := &wire.CertifyTranscript{
		Version: wire.Version, Domain: c.cfg.Domain, Role: c.cfg.Role, CSR: c.csr,
		Suite: wire.SuiteID(), Key: key.PublicKey().Bytes(), StoreEpoch: c.cfg.StoreEpoch,
	}
	begin := &wire.CertifyBegin{
		Version: t.Version, Domain: t.Domain, Role: t.Role, CSR: t.CSR,
		Suite: wire.SuiteHex(), Key: t.Key, StoreEpoch: t.StoreEpoch,
	}
	exchange, err := c.prove(ctx, conn, a, begin, t)
	if err != nil {
		return nil, err
	}
	answer, err := wire.Expect[*wire.Admission](conn)
	if err != nil {
		return nil, fmt.Errorf("%s, waiting for the admission: %w", a, err)
	}
	id, err := c.check(answer)
	if err != nil {
		return nil, fmt.Errorf("%s, exchange %s: %w", a, exchange, err)
	}
	payload, err := wire.OpenCertify(key, t, answer.Sealed)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", a, err)
	}
	defer payload.Zero()
	var escrow []byte
	for _, s := range payload.Secrets {
		if s.Name == wire.EscrowKeyName {
			escrow = bytes.Clone(s.Value.Bytes())
		}
	}
	return &Admitted{
		Chain: answer.Chain, Identity: id, Proof: answer.Proof,
		StoreSecret: secret.Copy(payload.DiskKey.Bytes()), EscrowKey: escrow, StoreEpoch: payload.Boot,
		Time: answer.Time, MinPolicyVersion: answer.MinPolicyVersion,
		Exchange: exchange, Server: a.String(),
	}, nil
}

// check verifies the certificate under the pinned policy, as a peer will, and
// that it is for this key and the role that was asked for. A clock that is
// behind the server's counts as the server's: its answer is authenticated.
func (c *certifier) check(answer *wire.Admission) (*admission.Identity, error) {
	now := c.now()
	if t := time.Unix(answer.Time, 0); now.Before(t) {
		now = t
	}
	trust := admission.Trust{Policy: c.Policy, Domain: c.cfg.Domain, MinPolicyVersion: max(c.cfg.MinPolicyVersion, answer.MinPolicyVersion)}
	id, err := trust.Verify(answer.Chain, now)
	if err != nil {
		return nil, code.Wrap(code.CertifyAnswer, fmt.Errorf("the certificate that was given: %w", err))
	}
	leaf, err := x509.ParseCertificate(answer.Chain[0])
	if err != nil || !bytes.Equal(leaf.RawSubjectPublicKeyInfo, c.spki) {
		return nil, code.Wrap(code.CertifyAnswer, errors.New("the certificate that was given is for another key"))
	}
	if c.cfg.Role != wire.RoleClient && !id.HasRole(c.cfg.Role) {
		return nil, code.Wrap(code.CertifyAnswer, fmt.Errorf("the certificate that was given lacks the role %s", c.cfg.Role))
	}
	return id, nil
}
