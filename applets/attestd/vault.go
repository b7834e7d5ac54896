package attestd

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"sync"

	"attestbox/internal/admission"
	"attestbox/internal/code"
	"attestbox/internal/cryptstore"
	"attestbox/internal/instanceid"
	"attestbox/internal/member"
	"attestbox/internal/platform"
	"attestbox/internal/seal"
	"attestbox/internal/secret"
	"attestbox/internal/store"
	"attestbox/internal/store/onefile"
)

// rootTag is the entry of the member's store under which attestd seals. Its
// first version counts, for ever: another one would open nothing of before.
const rootTag = "attestd/root"

// vault is the member's store, opened when it is first needed: certify may
// not have run yet when attestd starts.
type vault struct {
	cfg member.Config

	mu sync.Mutex
	m  *member.Member // nil while closed
	// before is the member that m replaced: a request may still sign with its
	// key.
	before *member.Member
}

func newVault(o *options, p platform.Platform) (*vault, error) {
	b, err := os.ReadFile(o.policy)
	if err != nil {
		return nil, fmt.Errorf("reading the policy certificate: %w", err)
	}
	block, rest := pem.Decode(b)
	if block == nil || block.Type != "CERTIFICATE" || len(rest) > 0 {
		return nil, fmt.Errorf("reading the policy certificate %q: not one certificate in PEM", o.policy)
	}
	policy, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading the policy certificate %q: %w", o.policy, err)
	}
	domain, err := admission.DomainOf(policy)
	if err != nil {
		return nil, code.Wrap(code.ConfigBad, fmt.Errorf("the policy certificate %q: %w", o.policy, err))
	}
	v := &vault{}
	v.cfg = member.Config{
		Policy: policy,
		OpenStore: func() (store.Store, error) {
			if _, err := os.Stat(o.store); err != nil {
				return nil, err // certify makes it, attestd does not
			}
			return onefile.Open(o.store)
		},
		Sealer: func(ctx context.Context, share *secret.Bytes, _ []byte) (cryptstore.Sealer, error) {
			id, err := instanceid.Read(instanceid.Path)
			if err != nil {
				return nil, err
			}
			return seal.New(ctx, seal.Config{Platform: p, Domain: domain, Share: share, Instance: id})
		},
	}
	return v, nil
}

// with does something with the open member. If that fails, the store is opened
// anew and it is done again: certify may have replaced the store.
func (v *vault) with(ctx context.Context, do func(*member.Member) error) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.m != nil && do(v.m) == nil {
		return nil
	}
	m, err := member.Open(ctx, v.cfg)
	if err != nil {
		return err
	}
	v.before.Close()
	v.before, v.m = v.m, m
	return do(m)
}

func (v *vault) close() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.before.Close()
	v.m.Close()
	v.before, v.m = nil, nil
}

// identity is attestd.Options.Identity.
func (v *vault) identity(ctx context.Context) (key crypto.Signer, chain [][]byte, err error) {
	err = v.with(ctx, func(m *member.Member) error {
		cert, err := m.Certificate()
		if err != nil {
			return err
		}
		var ok bool
		if key, ok = cert.PrivateKey.(crypto.Signer); !ok {
			return fmt.Errorf("the authentication key is a %T", cert.PrivateKey)
		}
		chain = cert.Certificate
		return nil
	})
	return key, chain, err
}

// root is attestd.Options.Root: made when it is first asked for.
func (v *vault) root(ctx context.Context) (root *secret.Bytes, err error) {
	err = v.with(ctx, func(m *member.Member) error {
		var err error
		root, _, err = m.Store().Get(ctx, rootTag, cryptstore.SymmetricKey, 1)
		if !errors.Is(err, cryptstore.ErrNotFound) {
			return err
		}
		if _, err := m.Store().Generate(ctx, rootTag, cryptstore.AES256, false); err != nil {
			return err
		}
		root, _, err = m.Store().Get(ctx, rootTag, cryptstore.SymmetricKey, 1)
		return err
	})
	return root, err
}
