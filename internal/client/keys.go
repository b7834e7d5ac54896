package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"attestbox/internal/admission"
	"attestbox/internal/code"
	"attestbox/internal/dial"
	"attestbox/internal/secret"
	"attestbox/internal/wire"
)

// KeysConfig says which key server to ask, and as whom. The server must have an
// admission certificate of the domain with the role key-server.
type KeysConfig struct {
	Servers []string
	Trust   *admission.Trust
	// Certificate is this machine's admission certificate with its key. It is
	// called for each connection, so that a renewed one is used.
	Certificate func() (*tls.Certificate, error)

	Now                    func() time.Time // see Config.Now
	Logf                   func(format string, args ...any)
	MinBackoff, MaxBackoff time.Duration
	Dial                   func(context.Context, dial.Addr) (net.Conn, error)

	// Learned, if set, is called with the time and policy version of each
	// authenticated answer, to raise the floor of both.
	Learned func(time int64, minPolicyVersion uint64)

	floor *atomic.Uint64 // highest policy version of an answer in this session
}

func (c *KeysConfig) session() (*session, error) {
	if c.Trust == nil || c.Trust.Policy == nil || c.Certificate == nil {
		return nil, code.Wrap(code.ConfigBad, errors.New("no policy certificate or no admission certificate is given"))
	}
	c.floor = new(atomic.Uint64)
	cfg := Config{Servers: c.Servers, Now: c.Now, Logf: c.Logf, MinBackoff: c.MinBackoff, MaxBackoff: c.MaxBackoff, Dial: c.Dial}
	return sessionWith(cfg, func() (*tls.Config, error) {
		own, _, err := c.own()
		if err != nil {
			return nil, err
		}
		return admission.ClientTLS(c.trust(), *own, cfg.now, wire.ALPNKeys, wire.RoleKeyServer), nil
	})
}

// own is this machine's certificate and when it ends. A clock that the host has
// set back does not make an old one good: see Now.
func (c *KeysConfig) own() (*tls.Certificate, time.Time, error) {
	cert, err := c.Certificate()
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("%w: %w", ErrCertificate, err)
	}
	now := time.Now
	if c.Now != nil {
		now = c.Now
	}
	id, err := c.trust().Verify(cert.Certificate, now())
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("%w: %w", ErrCertificate, err)
	}
	return cert, id.NotAfter, nil
}

// trust is Trust with what answers of this session have raised.
func (c *KeysConfig) trust() *admission.Trust {
	t := *c.Trust
	t.MinPolicyVersion = max(t.MinPolicyVersion, c.floor.Load())
	return &t
}

// Secret is one version of a secret. Its owner zeroes Value.
type Secret struct {
	Name    string
	Version uint64
	Kind    string // the entry's type, as in package cryptstore
	Value   *secret.Bytes
}

// KeyClient is a connection to a key server. Requests are answered in order;
// its methods may be called at the same time.
type KeyClient struct {
	Server string // the address that answered

	s       *session
	learned func(int64, uint64)
	floor   *atomic.Uint64
	mu      sync.Mutex
	conn    *tls.Conn
	ends    time.Time // when the first of both certificates ends
	own     *tls.Certificate
}

// DialKeys connects to the first key server that answers, until ctx ends.
func DialKeys(ctx context.Context, cfg KeysConfig) (*KeyClient, error) {
	s, err := cfg.session()
	if err != nil {
		return nil, err
	}
	var k *KeyClient
	err = s.try(ctx, func(a dial.Addr) (err error) {
		k, err = cfg.dial(ctx, s, a)
		return err
	})
	if err != nil {
		return nil, err
	}
	return k, nil
}

func (c *KeysConfig) dial(ctx context.Context, s *session, a dial.Addr) (*KeyClient, error) {
	conn, err := s.connect(ctx, a, wire.ExchangeTimeout)
	if err != nil {
		return nil, s.admissionError(err)
	}
	conn.SetDeadline(time.Time{})
	own, ends, err := c.own()
	if err != nil {
		conn.NetConn().Close()
		return nil, err
	}
	if peer := conn.ConnectionState().PeerCertificates[0].NotAfter; peer.Before(ends) {
		ends = peer
	}
	return &KeyClient{Server: a.String(), s: s, conn: conn, learned: c.Learned, floor: c.floor, ends: ends, own: own}, nil
}

// admissionError makes final what no retry mends: a peer without the role is
// somebody else, and so is one of another domain.
func (s *session) admissionError(err error) error {
	for _, c := range []struct {
		err  error
		code code.Code
	}{
		{admission.ErrRole, code.AdmissionRole},
		{admission.ErrCertificate, code.AdmissionBad},
		{admission.ErrRevoked, code.AdmissionRevoked},
	} {
		if errors.Is(err, c.err) {
			return code.Wrap(c.code, fmt.Errorf("%w: %w", wire.ErrUntrusted, err))
		}
	}
	return err
}

// Close ends the connection.
func (k *KeyClient) Close() error {
	if k == nil {
		return nil
	}
	return k.conn.NetConn().Close()
}

// do sends one request and reads its answer. An error other than a refusal
// leaves the connection unusable.
func (k *KeyClient) do(ctx context.Context, req *wire.KeyRequest) (*wire.KeyReply, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	defer k.guard(ctx)()
	k.conn.SetDeadline(k.deadline(wire.ExchangeTimeout))
	if err := wire.Write(k.conn, req); err != nil {
		return nil, fmt.Errorf("asking %s: %w", k.Server, err)
	}
	return k.read(req)
}

// guard closes the connection when ctx ends, so that a silent server holds
// nobody; the caller calls what it returns.
func (k *KeyClient) guard(ctx context.Context) func() bool {
	return context.AfterFunc(ctx, func() { k.conn.NetConn().Close() })
}

// deadline is limit from now, but not after one of the certificates ends.
func (k *KeyClient) deadline(limit time.Duration) time.Time {
	now := time.Now()
	return now.Add(min(limit, max(0, k.ends.Sub(k.s.now()))))
}

// clockSlack is what a key server's clock may be behind its issuer's.
const clockSlack = 5 * time.Minute

func (k *KeyClient) read(req *wire.KeyRequest) (*wire.KeyReply, error) {
	// Time and policy version count also of an answer that is a refusal.
	reply, err := wire.Expect[*wire.KeyReply](k.conn)
	if err != nil {
		if remoteRefusal(err) {
			return nil, code.Wrap(code.AdmissionRefused, fmt.Errorf("%w: %s does not accept this machine's admission certificate: %w", ErrRefused, k.Server, err))
		}
		return nil, classify(fmt.Errorf("%s, waiting for an answer: %w", k.Server, err))
	}
	// A time after the end of its own certificate is none that an honest server
	// has: a floor that it raised would end every membership of this machine.
	if limit := k.conn.ConnectionState().PeerCertificates[0].NotAfter.Add(clockSlack); reply.Time > limit.Unix() {
		return nil, code.Wrap(code.LaunchMalformed, fmt.Errorf("%w: %s says that it is %s, after the end of its own certificate", wire.ErrMalformed, k.Server, time.Unix(reply.Time, 0).UTC().Format(time.RFC3339)))
	}
	for old := k.floor.Load(); old < reply.MinPolicyVersion && !k.floor.CompareAndSwap(old, reply.MinPolicyVersion); {
		old = k.floor.Load()
	}
	if k.learned != nil {
		k.learned(reply.Time, reply.MinPolicyVersion)
	}
	if reply.Code != "" {
		return nil, code.Wrap(reply.Code, fmt.Errorf("%w: %s %q at %s (%s, exchange %s)", kindOf(reply.Code), req.Op, req.Name, k.Server, reply.Code, reply.Exchange))
	}
	return reply, nil
}

// kindOf says which codes of an answer asking again can mend, and which a new
// certificate.
func kindOf(c code.Code) error {
	switch c {
	case code.VerifierBusy, code.LaunchLater:
		return ErrLater
	case code.AdmissionValidity, code.AdmissionPolicyVersion:
		return ErrCertificate
	}
	return ErrRefused
}

// remoteRefusal says whether the peer ended the channel over our certificate.
// In TLS 1.3 that comes after our end of the handshake, so the alert is
// authenticated. crypto/tls has no type for it.
func remoteRefusal(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "remote error" && op.Err != nil &&
		(strings.Contains(op.Err.Error(), "certificate") || strings.Contains(op.Err.Error(), "access denied"))
}

// value takes the secret out of an answer and wipes the answer's copy. The
// frame that it came in was on the heap: DESIGN section 3 has what that means.
func value(req *wire.KeyRequest, r *wire.KeyReply) (*Secret, error) {
	s := &Secret{Name: r.Name, Version: r.Version, Kind: r.Kind, Value: secret.Take(r.Value)}
	if r.Name != req.Name || r.Version == 0 || req.Op == wire.OpGet && req.Version != 0 && r.Version != req.Version {
		s.Value.Zero()
		return nil, code.Wrap(code.LaunchMalformed, fmt.Errorf("%w: asked for %q version %d, got %.80q version %d", wire.ErrMalformed, req.Name, req.Version, r.Name, r.Version))
	}
	return s, nil
}

// Get fetches a secret; version 0 is the latest.
func (k *KeyClient) Get(ctx context.Context, name string, version uint64) (*Secret, error) {
	req := &wire.KeyRequest{Op: wire.OpGet, Name: name, Version: version}
	r, err := k.do(ctx, req)
	if err != nil {
		return nil, err
	}
	return value(req, r)
}

// Fetch is DialKeys and Get, tried again on every failure but a refusal.
func Fetch(ctx context.Context, cfg KeysConfig, name string, version uint64) (*Secret, error) {
	s, err := cfg.session()
	if err != nil {
		return nil, err
	}
	var out *Secret
	err = s.try(ctx, func(a dial.Addr) error {
		k, err := cfg.dial(ctx, s, a)
		if err != nil {
			return err
		}
		defer k.Close()
		out, err = k.Get(ctx, name, version)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Put stores a value under a new version; version 0 is the latest + 1. It
// returns the version.
func (k *KeyClient) Put(ctx context.Context, name string, version uint64, kind string, value *secret.Bytes) (uint64, error) {
	if value.Len() > wire.MaxKeyValue {
		return 0, fmt.Errorf("%w: value of %d bytes, at most %d", wire.ErrMalformed, value.Len(), wire.MaxKeyValue)
	}
	r, err := k.do(ctx, &wire.KeyRequest{Op: wire.OpPut, Name: name, Version: version, Kind: kind, Value: value.Bytes()})
	if err != nil {
		return 0, err
	}
	return r.Version, nil
}

// List names the secrets that match a pattern and that policy lets this
// machine read or write; "*" matches within one "/".
func (k *KeyClient) List(ctx context.Context, pattern string) ([]wire.KeyName, error) {
	r, err := k.do(ctx, &wire.KeyRequest{Op: wire.OpList, Name: pattern})
	if err != nil {
		return nil, err
	}
	return r.Names, nil
}

// Rotate makes the server generate a new version; alg "" is as before. It
// returns the version.
func (k *KeyClient) Rotate(ctx context.Context, name, alg string) (uint64, error) {
	r, err := k.do(ctx, &wire.KeyRequest{Op: wire.OpRotate, Name: name, Kind: alg})
	if err != nil {
		return 0, err
	}
	return r.Version, nil
}

// Delete removes one version; 0 is all of them.
func (k *KeyClient) Delete(ctx context.Context, name string, version uint64) error {
	_, err := k.do(ctx, &wire.KeyRequest{Op: wire.OpDelete, Name: name, Version: version})
	return err
}

// Rewrap asks for the store key in an escrow record, wrapped to the HPKE public
// key pub, which this process made for that: recovery after an update of the
// image or a move to another chip, where policy allows it. epoch is the highest
// that the server knows of the store: an older copy must not be opened.
func (k *KeyClient) Rewrap(ctx context.Context, name string, escrow, pub []byte) (box []byte, epoch uint64, err error) {
	r, err := k.do(ctx, &wire.KeyRequest{Op: wire.OpRewrap, Name: name, Value: escrow, Key: pub})
	if err != nil {
		return nil, 0, err
	}
	return r.Value, r.Version, nil
}
