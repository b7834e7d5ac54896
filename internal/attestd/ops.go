package attestd

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"attestbox/internal/code"
	"attestbox/internal/platform"
	"attestbox/internal/secret"
	"attestbox/internal/wire"
)

// keyValidity bounds a statement about a program's key; the certificate of the
// key that signs it may end earlier.
const keyValidity = time.Hour

// answer does what a request asks for. The second result is the body of the
// answer.
func (s *Server) answer(ctx context.Context, p *peer, u *user, r *Request, data *secret.Bytes) (*Response, *secret.Bytes, error) {
	if !s.users.mayAsk(u) {
		return nil, nil, code.Wrap(code.AttestdBusy, errors.New("this user asks too often"))
	}
	program := p.program.String()
	if !p.program.Measured() && (r.Op == OpSeal || r.Op == OpUnseal || r.Op == OpSign || r.Op == OpKey || r.Op == OpCertify) {
		return nil, nil, code.Wrap(code.AttestdUnmeasured, fmt.Errorf("an unmeasured program may not %s: %s", r.Op, p.why))
	}
	switch r.Op {
	case OpWhoami:
		uid := int(p.uid)
		return &Response{PID: p.pid, UID: &uid, Why: p.why}, nil, nil
	case OpAttest:
		resp, err := s.attest(ctx, u, program, data)
		return resp, nil, err
	case OpCertificate:
		_, chain, err := s.identity(ctx)
		return &Response{Chain: chain}, nil, err
	case OpSign:
		resp, err := s.sign(ctx, p, r, data)
		return resp, nil, err
	}
	root, err := s.root(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer root.Zero()
	switch r.Op {
	case OpSeal:
		blob, err := seal(root, program, scopeByte(r.Scope), p.uid, r.Context, data)
		return &Response{}, secret.Take(blob), err
	case OpUnseal:
		out, err := unseal(root, program, p.uid, r.Context, data.Bytes())
		if errors.Is(err, errUnseal) {
			err = code.Wrap(code.AttestdUnseal, err)
		}
		return &Response{}, out, err
	case OpKey:
		resp, err := s.key(ctx, root, p, r)
		return resp, nil, err
	case OpCertify:
		resp, err := s.certify(ctx, root, p, r, data)
		return resp, nil, err
	}
	return nil, nil, code.Wrap(code.AttestdMalformed, fmt.Errorf("operation %.32q", r.Op))
}

// attest makes a report. The caller chooses none of its 64 bytes: they are a
// hash with attestd's domain and the program in front.
func (s *Server) attest(ctx context.Context, u *user, program string, data *secret.Bytes) (*Response, error) {
	if s.o.Platform == nil {
		return nil, code.Wrap(code.PlatformNone, errors.New("attestd was started without an attestation device"))
	}
	if !s.users.mayReport(u) {
		return nil, code.Wrap(code.AttestdBusy, errors.New("this user asks for reports too often"))
	}
	ctx, cancel := context.WithTimeout(ctx, s.o.Limits.Report)
	defer cancel()
	// First the user's place in line, then the platform's turn.
	for _, turn := range []chan struct{}{u.turn, s.turn} {
		select {
		case turn <- struct{}{}:
		case <-ctx.Done():
			if turn == s.turn {
				<-u.turn
			}
			return nil, code.Wrap(code.AttestdBusy, errors.New("the platform is busy"))
		}
	}
	type result struct {
		ev  *platform.Evidence
		err error
	}
	done := make(chan result, 1)
	want := wire.AttestdReportData([]byte(program), data.Bytes())
	go func() {
		// The turn is given back when the platform answers, not when the caller
		// has lost patience.
		ev, err := s.o.Platform.Report(ctx, want)
		<-s.turn
		<-u.turn
		done <- result{ev, err}
	}()
	select {
	case res := <-done:
		if res.err != nil {
			return nil, res.err
		}
		return &Response{Platform: res.ev.Platform, Report: res.ev.Report, Endorsements: res.ev.Endorsements}, nil
	case <-ctx.Done():
		return nil, code.Wrap(code.AttestdBusy, errors.New("the platform did not answer in time"))
	}
}

func (s *Server) root(ctx context.Context) (*secret.Bytes, error) {
	if s.o.Root == nil {
		return nil, code.Wrap(code.AttestdNoIdentity, errors.New("attestd was started without a store"))
	}
	root, err := s.o.Root(ctx)
	if n := root.Len(); err == nil && n != RootSize {
		root.Zero()
		err = fmt.Errorf("root key of %d bytes, want %d", n, RootSize)
	}
	if err != nil {
		return nil, code.Wrap(code.AttestdNoIdentity, fmt.Errorf("the key to seal with: %w", err))
	}
	return root, nil
}

func (s *Server) identity(ctx context.Context) (crypto.Signer, [][]byte, error) {
	if s.o.Identity == nil {
		return nil, nil, code.Wrap(code.AttestdNoIdentity, errors.New("attestd was started without a certified identity"))
	}
	key, chain, err := s.o.Identity(ctx)
	if err == nil {
		err = matches(key, chain)
	}
	if err != nil {
		return nil, nil, code.Wrap(code.AttestdNoIdentity, fmt.Errorf("the VM's identity: %w", err))
	}
	return key, chain, nil
}

// matches checks that the first certificate is the key's.
func matches(key crypto.Signer, chain [][]byte) error {
	if key == nil || len(chain) == 0 {
		return errors.New("there is no key or no certificate")
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return err
	}
	pub, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !pub.Equal(leaf.PublicKey) {
		return errors.New("the certificate is not the key's")
	}
	return nil
}

func (s *Server) sign(ctx context.Context, p *peer, r *Request, data *secret.Bytes) (_ *Response, err error) {
	program := p.program.String()
	resp := &Response{}
	var key crypto.Signer
	if r.Key == KeyProgram {
		root, err := s.root(ctx)
		if err != nil {
			return nil, err
		}
		defer root.Zero()
		own, err := programKey(root, program, scopeByte(r.Scope), p.uid)
		if err != nil {
			return nil, err
		}
		defer clear(own)
		key = own
		if resp.SPKI, err = x509.MarshalPKIXPublicKey(own.Public()); err != nil {
			return nil, err
		}
	} else if key, resp.Chain, err = s.identity(ctx); err != nil {
		return nil, err
	}
	resp.Alg, resp.Signature, err = sign(key, wire.AttestdSigned([]byte(program), []byte(r.Context), data.Bytes()))
	return resp, err
}

// key states, by the VM's authentication key, which key is the program's.
func (s *Server) key(ctx context.Context, root *secret.Bytes, p *peer, r *Request) (*Response, error) {
	signer, chain, err := s.identity(ctx)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return nil, fmt.Errorf("the VM's certificate: %w", err)
	}
	program := p.program.String()
	own, err := programKey(root, program, scopeByte(r.Scope), p.uid)
	if err != nil {
		return nil, err
	}
	defer clear(own)
	spki, err := x509.MarshalPKIXPublicKey(own.Public())
	if err != nil {
		return nil, err
	}
	now := s.o.Now()
	from, to := now.Unix(), min(now.Add(keyValidity).Unix(), leaf.NotAfter.Unix())
	if to <= from {
		return nil, code.Wrap(code.AttestdNoIdentity, errors.New("the VM's certificate has expired"))
	}
	alg, sig, err := sign(signer, wire.AttestdStatement([]byte(program), spki, from, to))
	return &Response{SPKI: spki, NotBefore: from, NotAfter: to, Chain: chain, Alg: alg, Signature: sig}, err
}
