package member

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"

	"attestbox/internal/admission"
	"attestbox/internal/cryptstore"
	"attestbox/internal/secret"
)

// Second is a second key of this machine, certified for the same measurement
// and instance and marked exportable, for programs that need a key file.
type Second struct {
	Key   *secret.Bytes // PKCS #8, DER; the caller zeroes it
	Chain [][]byte      // DER
	New   bool          // a certificate was asked for
	ID    *admission.Identity
}

// Second gives the second key of a name, a valid tag, and certifies it if its
// certificate is due or req.Force says so. The key is made once.
func (m *Member) Second(ctx context.Context, name string, req Request) (*Second, error) {
	tag := tagSecond + name
	if err := cryptstore.CheckTag(tag); err != nil {
		return nil, err
	}
	f, err := m.floorNow(ctx)
	if err != nil {
		return nil, err
	}
	der, _, err := m.cs.Get(ctx, tag, cryptstore.PrivateKey, 0)
	if errors.Is(err, cryptstore.ErrNotFound) {
		fresh, err := newKey(req.Alg)
		if err != nil {
			return nil, err
		}
		if err := m.putKey(ctx, tag, fresh, true); err != nil {
			return nil, fmt.Errorf("keeping the second key: %w", err)
		}
		if der, _, err = m.cs.Get(ctx, tag, cryptstore.PrivateKey, 0); err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, fmt.Errorf("reading the second key: %w", err)
	}
	s := &Second{Key: der}
	if s.Chain, s.ID, err = m.secondChain(ctx, tag, f.MinPolicyVersion); err == nil && !req.Force && f.Clock(m.Now()).Before(Renew(s.ID)) {
		return s, nil
	}
	if err := m.certifySecond(ctx, tag, s, req); err != nil {
		der.Zero()
		return nil, err
	}
	return s, nil
}

func (m *Member) certifySecond(ctx context.Context, tag string, s *Second, req Request) error {
	k, err := x509.ParsePKCS8PrivateKey(s.Key.Bytes())
	if err != nil {
		return errors.New("the second key is not PKCS #8") // the cause may quote the key
	}
	signer, ok := k.(crypto.Signer)
	if !ok {
		return fmt.Errorf("the second key is a %T, which signs nothing", k)
	}
	f, err := m.floorNow(ctx)
	if err != nil {
		return err
	}
	h, err := m.cs.Header(ctx)
	if err != nil {
		return err
	}
	a, err := m.ask(ctx, req, signer, h.Epoch, f)
	if err != nil {
		return fmt.Errorf("certifying the second key: %w", err)
	}
	defer a.Close()
	m.Learned(a.Time, a.MinPolicyVersion)
	if err := m.put(ctx, tag, cryptstore.X509Chain, bytes.Join(a.Chain, nil)); err != nil {
		return fmt.Errorf("keeping the second key's certificate: %w", err)
	}
	if err := m.forget(ctx); err != nil {
		return err
	}
	s.Chain, s.ID, s.New = a.Chain, a.Identity, true
	return m.writeEpoch(ctx)
}

func (m *Member) secondChain(ctx context.Context, tag string, minPolicy uint64) ([][]byte, *admission.Identity, error) {
	b, _, err := m.cs.Get(ctx, tag, cryptstore.X509Chain, 0)
	if err != nil {
		return nil, nil, err
	}
	defer b.Zero()
	certs, err := x509.ParseCertificates(bytes.Clone(b.Bytes()))
	if err != nil {
		return nil, nil, err
	}
	var chain [][]byte
	for _, c := range certs {
		chain = append(chain, c.Raw)
	}
	trust := admission.Trust{Policy: m.Policy, Domain: m.domain, MinPolicyVersion: minPolicy}
	id, err := trust.Verify(chain, m.Clock())
	return chain, id, err
}
