package server

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"attestbox/internal/admission"
	"attestbox/internal/code"
	"attestbox/internal/wire"
)

// domainOwn begins the REPORT_DATA of a server that certifies itself; there is
// no channel that it could bind.
const domainOwn = "attestbox/server/own-admission/1\x00"

// ownCertificate is the server's admission certificate for keys, while it is
// valid.
func (d *Domain) ownCertificate(now time.Time) (*tls.Certificate, error) {
	d.mu.Lock()
	own := d.own
	d.mu.Unlock()
	if own == nil || now.After(own.Leaf.NotAfter) {
		return nil, fmt.Errorf("domain %s: this server has no admission certificate now", d.name)
	}
	return own, nil
}

// Certify gets the server's admission certificate with the role key-server:
// from elsewhere, or by its own evidence through the domain's prover, as any
// other member.
func (s *Server) Certify(ctx context.Context, d *Domain) error {
	var own *tls.Certificate
	var err error
	if d.cfg.OwnCertificate != nil {
		own, err = d.cfg.OwnCertificate(ctx)
	} else {
		own, err = s.certifyOwn(ctx, d)
	}
	if err != nil {
		return fmt.Errorf("domain %s: certifying this server as %s: %w", d.name, wire.RoleKeyServer, err)
	}
	if own.Leaf == nil {
		if own.Leaf, err = x509.ParseCertificate(own.Certificate[0]); err != nil {
			return err
		}
	}
	id, err := d.trust().Verify(own.Certificate, s.Now())
	if err == nil {
		err = admission.RequireRole(id, wire.RoleKeyServer)
	}
	if err != nil {
		return fmt.Errorf("domain %s: this server's admission certificate: %w", d.name, err)
	}
	d.mu.Lock()
	d.own = own
	d.mu.Unlock()
	return nil
}

func (s *Server) certifyOwn(ctx context.Context, d *Domain) (*tls.Certificate, error) {
	if d.cfg.Own == nil || d.cfg.IssuerKey == nil {
		return nil, code.Wrap(code.PlatformNone, errors.New("it has no platform that vouches for it, or no issuer"))
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	csr, err := admission.NewCSR(key)
	if err != nil {
		return nil, err
	}
	x := &exchange{protocol: RoleCertify, peer: "this server", started: time.Now()}
	rand.Read(x.id[:])
	nonce := make([]byte, 32)
	rand.Read(nonce)
	now := s.Now()
	a := &asked{role: wire.RoleKeyServer, now: now, reportData: sha512.Sum512(append(append([]byte(domainOwn), nonce...), csr...))}
	ev, err := d.cfg.Own.Report(ctx, a.reportData)
	if err != nil {
		return nil, err
	}
	a.platform, a.report, a.endorsements = ev.Platform, ev.Report, ev.Endorsements
	dec := &Decision{Exchange: x.id.String(), Protocol: x.protocol, Peer: x.peer, Domain: d.name, Role: a.role}
	adm, shown, err := d.admit(ctx, a, csr)
	dec.fill(shown, d)
	if err != nil {
		dec.Decision, dec.Code, dec.Reason = Refused, codeOr(err, code.CertifyRefused), err.Error()
		s.record(x, dec)
		return nil, err
	}
	dec.Decision, dec.Serial = Admitted, adm.serial
	if err := s.record(x, dec); err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: adm.chain, PrivateKey: crypto.Signer(key)}, nil
}

// Maintain keeps the server's admission certificates valid (renewed at two
// thirds of their life and when policy changes) and the policies current, until
// ctx ends. poll is how often policy files are looked at; reload asks at once.
func (s *Server) Maintain(ctx context.Context, poll time.Duration, reload <-chan struct{}) {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		for _, d := range s.Domains {
			s.renew(ctx, d)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-reload:
		}
		for _, d := range s.Domains {
			s.Reload(ctx, d)
		}
	}
}

// Reload reads a domain's policy anew; one that cannot be used is logged, and
// the old one stays in force.
func (s *Server) Reload(ctx context.Context, d *Domain) error {
	changed, err := d.Reload(ctx, s.Now())
	if err != nil && ctx.Err() != nil { // the server ends: nothing is wrong with the policy
		return err
	}
	s.Metrics.reloaded(d.name, err == nil)
	switch {
	case err != nil:
		if text := err.Error(); d.complained != text { // once, not at every poll
			d.complained = text
			s.Log.Error("the policy was not taken over; the old one stays in force", "domain", d.name, "version", d.Version(), "error", err)
			s.Audit.Note("policy-refused", map[string]any{"domain": d.name, "reason": cut(err.Error())}, s.Now())
		}
		return err
	case changed:
		d.retry, d.pause = time.Time{}, 0 // it may grant what was refused
		s.Log.Info("policy in force", slog.Any("policy", d.OnPolicy()))
		if err := s.Audit.Note("policy", d.OnPolicy(), s.Now()); err != nil {
			s.Log.Error("recording a policy", "error", err)
		}
	}
	d.complained = ""
	return nil
}

// renew certifies the server anew where its certificate is missing, was made
// under another policy, or is two thirds through.
func (s *Server) renew(ctx context.Context, d *Domain) {
	if !s.roles[wire.ALPNKeys] {
		return
	}
	if own, err := d.ownCertificate(s.Now()); err == nil {
		life := own.Leaf.NotAfter.Sub(own.Leaf.NotBefore)
		if s.Now().Before(own.Leaf.NotBefore.Add(2 * life / 3)) {
			return
		}
	}
	if time.Now().Before(d.retry) {
		return
	}
	cctx, cancel := context.WithTimeout(ctx, wire.ExchangeTimeout)
	defer cancel()
	err := s.Certify(cctx, d)
	if err == nil {
		d.retry, d.pause = time.Time{}, 0
		return
	}
	if ctx.Err() != nil {
		return
	}
	d.pause = min(max(2*d.pause, minRenewPause), maxRenewPause)
	d.retry = time.Now().Add(d.pause)
	said := "the certificate of before stays in use"
	if _, err := d.ownCertificate(s.Now()); err != nil {
		said = "keys cannot be served"
	}
	s.Log.Error(said, "domain", d.name, "again_in", d.pause, "error", err)
}

// Pauses between attempts to renew the server's own certificate that failed: a
// policy that does not grant it would fill the audit log.
const (
	minRenewPause = 5 * time.Second
	maxRenewPause = time.Minute
)

// Ready says whether every role can be served, and what is missing.
func (s *Server) Ready() error {
	var errs error
	for _, d := range s.Domains {
		if s.roles[wire.ALPNKeys] {
			if _, err := d.ownCertificate(s.Now()); err != nil {
				errs = errors.Join(errs, err)
			}
		}
		if s.roles[wire.ALPNCertify] && s.Now().After(d.cfg.Issuer.NotAfter) {
			errs = errors.Join(errs, fmt.Errorf("domain %s: the issuer's certificate has ended", d.name))
		}
	}
	return errs
}
