package member

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"attestbox/internal/admission"
	"attestbox/internal/client"
	"attestbox/internal/cryptstore"
	"attestbox/internal/floor"
	"attestbox/internal/secret"
	"attestbox/internal/store"
	"attestbox/internal/wire"
)

// Request is how to certify.
type Request struct {
	Client client.Config // whom to ask, as what platform; Policy and Now are set here
	Role   string        // see client.CertifyConfig
	Alg    string        // of a new authentication key: ed25519 (the default), p256, p384
	Force  bool          // also if the certificate is good for a while

	// Recover opens a store that no longer opens by its seal, after an update
	// of the image or a move, and seals it anew; nil means there is no way.
	// A refusal, and an error that wraps ErrNoRecovery, lead to the store being
	// set aside; any other error ends Certify, since asking again may mend it.
	Recover Recover
	// SetAside also sets aside a store that was damaged or set back to an older
	// state, which else is an error: somebody should look at it.
	SetAside bool
}

// ErrNoRecovery is a store for which there is no way of recovery.
var ErrNoRecovery = errors.New("the store cannot be recovered here")

// Recover opens the store in raw, whose header is h, for the machine whose
// certificate is own, and seals it by by. The clock of o is not behind the
// server's.
type Recover func(ctx context.Context, raw store.Store, h *cryptstore.Header, by cryptstore.Sealer, own *tls.Certificate, trust *admission.Trust, o cryptstore.Options) (*cryptstore.Store, error)

// Result says what certify did.
type Result struct {
	Identity *admission.Identity
	Proof    string
	New      bool // a certificate was asked for and given
	// What became of the store, for the log: "opened", "created", "recovered",
	// or "set aside as N" and why.
	Store string
}

// Renew is when a certificate is due: at two thirds of its life.
func Renew(id *admission.Identity) time.Time {
	return id.NotBefore.Add(id.NotAfter.Sub(id.NotBefore) * 2 / 3)
}

// StillValid is a certification that failed beside a certificate that is still
// good: nothing was changed.
type StillValid struct {
	Identity *admission.Identity
	Err      error
}

func (e *StillValid) Error() string {
	return fmt.Sprintf("%v; the certificate of before stays in use until %s", e.Err, e.Identity.NotAfter.UTC().Format(time.RFC3339))
}

func (e *StillValid) Unwrap() error { return e.Err }

// Certify sees to a valid admission certificate in the store: a present one is
// kept unless it is due, and another one is asked for. A store that another
// image or chip sealed is recovered or set aside, never overwritten. The caller
// closes the member.
func Certify(ctx context.Context, cfg Config, req Request) (*Member, *Result, error) {
	b, err := newBase(cfg)
	if err != nil {
		return nil, nil, err
	}
	m, err := Open(ctx, cfg)
	if err != nil && !cold(err) && !(req.SetAside && spoiled(err)) {
		return nil, nil, err
	}
	if m != nil {
		res, err := m.Recertify(ctx, req)
		if err != nil {
			m.Close()
			return nil, nil, err
		}
		return m, res, nil
	}
	if !errors.Is(err, ErrNoShare) {
		b.Logf("opening the store: %v", err)
	}
	return b.cold(ctx, req)
}

// cold says which failures of Open mean to ask the server first: it may open
// with the share of this day, or is to be set aside.
func cold(err error) bool {
	return errors.Is(err, ErrNoShare) || errors.Is(err, store.ErrNotFound) || errors.Is(err, cryptstore.ErrSealed)
}

func spoiled(err error) bool {
	return errors.Is(err, cryptstore.ErrTampered) || errors.Is(err, cryptstore.ErrRollback)
}

// Recertify asks for a certificate of the present key if the present one is due.
func (m *Member) Recertify(ctx context.Context, req Request) (*Result, error) {
	f, err := m.floorNow(ctx)
	if err != nil {
		return nil, err
	}
	cert, err := m.certificate(ctx)
	if err != nil && !errors.Is(err, cryptstore.ErrNotFound) {
		return nil, err
	}
	var id *admission.Identity
	if cert != nil {
		trust := &admission.Trust{Policy: m.Policy, Domain: m.domain, MinPolicyVersion: f.MinPolicyVersion}
		id, err = trust.Verify(cert.Certificate, f.Clock(m.Now()))
		if err != nil {
			m.Logf("the present certificate: %v", err)
		}
	}
	want := req.Role == "" || req.Role == wire.RoleClient || id != nil && id.HasRole(req.Role)
	if id != nil && want && !req.Force && f.Clock(m.Now()).Before(Renew(id)) {
		proof, err := m.Proof(ctx)
		return &Result{Identity: id, Proof: proof, Store: "opened"}, err
	}
	var key crypto.Signer
	var fresh crypto.Signer // a key that the store does not have yet
	if cert != nil {
		key = cert.PrivateKey.(crypto.Signer)
	} else {
		if fresh, err = newKey(req.Alg); err != nil {
			return nil, err
		}
		key = fresh
	}
	h, err := m.cs.Header(ctx)
	if err != nil {
		return nil, err
	}
	a, err := m.ask(ctx, req, key, h.Epoch, f)
	if err != nil {
		if id != nil {
			err = &StillValid{id, err}
		}
		return nil, err
	}
	defer a.Close()
	if err := m.keep(ctx, a, fresh); err != nil {
		return nil, err
	}
	return &Result{Identity: a.Identity, Proof: a.Proof, New: true, Store: "opened"}, nil
}

func (b *base) ask(ctx context.Context, req Request, key crypto.Signer, epoch uint64, f floor.Floor) (*client.Admitted, error) {
	c := client.CertifyConfig{Config: req.Client, Domain: b.domain, Role: req.Role, Key: key, StoreEpoch: epoch, MinPolicyVersion: f.MinPolicyVersion}
	c.Policy = b.Policy
	c.Now = func() time.Time { return f.Clock(b.Now()) }
	return client.Certify(ctx, c)
}

// cold certifies a new key to get the share, and opens, recovers or makes the
// store with it.
func (b *base) cold(ctx context.Context, req Request) (*Member, *Result, error) {
	f, err := b.floors()
	if err != nil {
		return nil, nil, err
	}
	key, err := newKey(req.Alg)
	if err != nil {
		return nil, nil, err
	}
	a, err := b.ask(ctx, req, key, 0, f)
	if err != nil {
		return nil, nil, err
	}
	defer a.Close()
	if err := b.learn(floor.Floor{Time: a.Time, MinPolicyVersion: a.MinPolicyVersion}); err != nil {
		return nil, nil, err
	}
	m, what, err := b.openOrMake(ctx, req, a, key)
	if err != nil {
		return nil, nil, err
	}
	if err := m.keep(ctx, a, key); err != nil {
		m.Close()
		return nil, nil, err
	}
	return m, &Result{Identity: a.Identity, Proof: a.Proof, New: true, Store: what}, nil
}

func (b *base) openOrMake(ctx context.Context, req Request, a *client.Admitted, key crypto.Signer) (m *Member, what string, err error) {
	m, err = b.open(ctx, secret.Copy(a.StoreSecret.Bytes()), a.StoreEpoch)
	if err == nil {
		return m, "opened", nil
	}
	if errors.Is(err, cryptstore.ErrSealed) || req.SetAside && spoiled(err) {
		why := err
		if m, err = b.recover(ctx, req, a, key, why); err == nil {
			return m, "recovered", nil
		}
		if !errors.Is(err, client.ErrRefused) && !errors.Is(err, ErrNoRecovery) && !(req.SetAside && spoiled(err)) {
			return nil, "", err
		}
		b.Logf("%v", err)
		raw, err := b.OpenStore()
		if err != nil {
			return nil, "", err
		}
		n, err := cryptstore.SetAside(ctx, raw, StoreName)
		raw.Close()
		if err != nil {
			return nil, "", err
		}
		what = fmt.Sprintf("set aside as %d, because: %v", n, why)
	} else if errors.Is(err, store.ErrNotFound) {
		what = "created"
		if a.StoreEpoch > 0 {
			what = fmt.Sprintf("created, because the one of before (epoch %d) is not here", a.StoreEpoch)
		}
	} else {
		return nil, "", err
	}
	m, err = b.with(ctx, secret.Copy(a.StoreSecret.Bytes()), a.EscrowKey, func(by cryptstore.Sealer, raw store.Store) (*cryptstore.Store, error) {
		return cryptstore.Create(ctx, raw, StoreName, by, cryptstore.Options{MinEpoch: a.StoreEpoch, Now: b.Now})
	})
	return m, what, err
}

// recover opens a store that this VM may succeed to, by the server's copy of
// its key, and seals it anew.
func (b *base) recover(ctx context.Context, req Request, a *client.Admitted, key crypto.Signer, why error) (*Member, error) {
	if req.Recover == nil || spoiled(why) {
		return nil, ErrNoRecovery
	}
	return b.with(ctx, secret.Copy(a.StoreSecret.Bytes()), a.EscrowKey, func(by cryptstore.Sealer, raw store.Store) (*cryptstore.Store, error) {
		h, err := cryptstore.Inspect(ctx, raw, StoreName, cryptstore.Options{})
		if err != nil {
			return nil, err
		}
		leaf, err := x509.ParseCertificate(a.Chain[0])
		if err != nil {
			return nil, err
		}
		own := &tls.Certificate{Certificate: a.Chain, PrivateKey: key, Leaf: leaf}
		trust := &admission.Trust{Policy: b.Policy, Domain: b.domain, MinPolicyVersion: a.MinPolicyVersion}
		now := func() time.Time { return floor.Floor{Time: a.Time}.Clock(b.Now()) }
		cs, err := req.Recover(ctx, raw, h, by, own, trust, cryptstore.Options{MinEpoch: a.StoreEpoch, Now: now})
		if err != nil {
			return nil, fmt.Errorf("recovering the store: %w", err)
		}
		return cs, nil
	})
}

func newKey(alg string) (crypto.Signer, error) {
	switch alg {
	case "", string(cryptstore.Ed25519):
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	case string(cryptstore.P256):
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case string(cryptstore.P384):
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	}
	return nil, fmt.Errorf("algorithm %.20q is none of ed25519, p256, p384", alg)
}
