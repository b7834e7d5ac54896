// Package member is what a machine keeps of its membership in a security
// domain: the authentication key, the admission certificate and the proof, in a
// sealed cryptstore (DESIGN sections 6 and 7), and beside it, on tmpfs, the
// server's share by which the store opens and the floors that only rise.
//
// Entries of the store, which is named "member":
//
//	admission/key     private-key, not exportable
//	admission/chain   x509-chain: admission certificate, issuer's certificate
//	admission/proof   blob: the proof as the server wrote it
//	admission/floor   blob: package floor's JSON, of this domain
//	second/NAME       private-key, exportable, and x509-chain: see Second
//
// Files in the run folder, /run/attestbox/domains/DOMAIN, mode 0600:
//
//	share   the server's share of the store, 32 bytes
//	epoch   the store's epoch when it was written last, in decimal
//	floor   package floor's JSON, of this domain
//
// A boot begins without the run folder; then only the server can open the
// store, which is what binds it to a VM that policy still admits.
package member

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/google/renameio/v2"

	"attestbox/internal/admission"
	"attestbox/internal/cryptstore"
	"attestbox/internal/floor"
	"attestbox/internal/secret"
	"attestbox/internal/store"
)

// StoreName is the cryptstore's name.
const StoreName = "member"

// RunBase holds a folder for each domain.
const RunBase = "/run/attestbox/domains"

// Tags of the store's entries.
const (
	tagKey    = "admission/key"
	tagChain  = "admission/chain"
	tagProof  = "admission/proof"
	tagFloor  = "admission/floor"
	tagSecond = "second/"
)

// ErrNoShare is a run folder without the server's share: certify fetches it.
var ErrNoShare = errors.New("the server's share of the store is not here: nothing was certified since this machine was started")

const (
	shareFile = "share"
	epochFile = "epoch"
	floorFile = "floor"
	maxShare  = 4096
)

// Config says whose membership this is and where it is kept.
type Config struct {
	Policy *x509.Certificate // the domain's; its domain is the one that counts
	RunDir string            // default RunBase and the domain
	Floor  string            // the machine's floor of time; default floor.Path

	// OpenStore opens what the cryptstore lies in; the cryptstore closes it.
	OpenStore func() (store.Store, error)
	// Sealer seals with the server's share, which stays the caller's and is
	// valid until the sealer is used no more. escrow is the server's public key
	// for escrow copies, empty where none is to be made.
	Sealer func(ctx context.Context, share *secret.Bytes, escrow []byte) (cryptstore.Sealer, error)
	// Now is the machine's clock; time.Now if nil. Clock is what counts.
	Now  func() time.Time
	Logf func(format string, args ...any)
}

// Member is an open membership. Its methods may be called concurrently.
type Member struct {
	*base
	sealing *secret.Bytes // the share, while the sealer may be used
	cs      *cryptstore.Store

	mu     sync.Mutex
	signer *cryptstore.Signer // of the key that was used last
}

// Open opens the store with the share of this boot: ErrNoShare, or the errors of
// cryptstore.Open.
func Open(ctx context.Context, cfg Config) (*Member, error) {
	b, err := newBase(cfg)
	if err != nil {
		return nil, err
	}
	share, err := b.share()
	if err != nil {
		return nil, err
	}
	epoch, err := b.epoch()
	if err != nil {
		share.Zero()
		return nil, err
	}
	return b.open(ctx, share, epoch)
}

// open takes over share.
func (b *base) open(ctx context.Context, share *secret.Bytes, minEpoch uint64) (*Member, error) {
	return b.with(ctx, share, nil, func(by cryptstore.Sealer, raw store.Store) (*cryptstore.Store, error) {
		return cryptstore.Open(ctx, raw, StoreName, by, cryptstore.Options{MinEpoch: minEpoch, Now: b.Now})
	})
}

func (b *base) with(ctx context.Context, share *secret.Bytes, escrow []byte, f func(cryptstore.Sealer, store.Store) (*cryptstore.Store, error)) (*Member, error) {
	by, err := b.Sealer(ctx, share, escrow)
	if err != nil {
		share.Zero()
		return nil, err
	}
	raw, err := b.OpenStore()
	if err != nil {
		share.Zero()
		return nil, err
	}
	cs, err := f(by, raw)
	if err != nil {
		raw.Close()
		share.Zero()
		return nil, err
	}
	return &Member{base: b, sealing: share, cs: cs}, nil
}

// Close wipes the keys and closes the store.
func (m *Member) Close() error {
	if m == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.signer != nil {
		m.signer.Close()
	}
	m.sealing.Zero()
	return m.cs.Close()
}

// Domain is the domain's name.
func (m *Member) Domain() string { return m.domain }

// Store is the cryptstore.
func (m *Member) Store() *cryptstore.Store { return m.cs }

// floorNow is the highest of the files and of the copy in the store, which a
// reboot does not lose.
func (m *Member) floorNow(ctx context.Context) (floor.Floor, error) {
	f, err := m.floors()
	if err != nil {
		return f, err
	}
	kept, err := m.keptFloor(ctx)
	if err != nil {
		return f, err
	}
	return f.Max(kept), nil
}

// Clock is the machine's clock, never below the floor. A floor that cannot be
// read is an error where a decision is made, and here the end of all time, by
// which nothing is valid.
func (m *Member) Clock() time.Time {
	f, err := m.floorNow(context.Background())
	if err != nil {
		return time.Unix(1<<40, 0)
	}
	return f.Clock(m.Now())
}

// Trust is what this member trusts in its peers at this moment.
func (m *Member) Trust(ctx context.Context) (*admission.Trust, error) {
	f, err := m.floorNow(ctx)
	if err != nil {
		return nil, err
	}
	return &admission.Trust{Policy: m.Policy, Domain: m.domain, MinPolicyVersion: f.MinPolicyVersion}, nil
}

// Learned raises the floors by an authenticated answer; a failure is logged,
// for the answer counts all the same.
func (m *Member) Learned(t int64, minPolicyVersion uint64) {
	if err := m.learn(floor.Floor{Time: t, MinPolicyVersion: minPolicyVersion}); err != nil {
		m.Logf("%v", err)
	}
}

// Certificate is the present admission certificate with its key, whether it is
// still valid or not.
func (m *Member) Certificate() (*tls.Certificate, error) {
	return m.certificate(context.Background())
}

func (m *Member) certificate(ctx context.Context) (*tls.Certificate, error) {
	cert, err := m.certificateOnce(ctx)
	if errors.Is(err, errNoKey) { // another process replaced both in between
		cert, err = m.certificateOnce(ctx)
	}
	return cert, err
}

func (m *Member) certificateOnce(ctx context.Context) (*tls.Certificate, error) {
	der, _, err := m.cs.Get(ctx, tagChain, cryptstore.X509Chain, 0)
	if err != nil {
		return nil, fmt.Errorf("reading the admission certificate: %w", err)
	}
	defer der.Zero()
	// The certificates keep what they were parsed from, which must outlive der.
	chain, err := x509.ParseCertificates(bytes.Clone(der.Bytes()))
	if err != nil || len(chain) == 0 {
		return nil, fmt.Errorf("reading the admission certificate: %w", err)
	}
	cert := &tls.Certificate{Leaf: chain[0]}
	for _, c := range chain {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	signer, err := m.signerOf(ctx, chain[0])
	if err != nil {
		return nil, err
	}
	cert.PrivateKey = signer
	return cert, nil
}

// signerOf finds the key of a certificate: the latest version, unless a write
// was cut off between key and certificate.
func (m *Member) signerOf(ctx context.Context, leaf *x509.Certificate) (crypto.Signer, error) {
	want := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.signer != nil && spkiOf(m.signer) == want {
		return m.signer, nil
	}
	first, last, err := m.cs.Versions(ctx, tagKey, cryptstore.PrivateKey)
	if err != nil {
		return nil, fmt.Errorf("reading the authentication key: %w", err)
	}
	for v := last; v >= first; v-- {
		s, err := m.cs.Signer(ctx, tagKey, v)
		if errors.Is(err, cryptstore.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("reading the authentication key: %w", err)
		}
		if spkiOf(s) == want {
			// The old one may be in use by a handshake: it is left to the
			// collector.
			m.signer = s
			return s, nil
		}
		s.Close()
	}
	return nil, errNoKey
}

var errNoKey = errors.New("no authentication key in the store fits the admission certificate")

func spkiOf(s crypto.Signer) [32]byte {
	der, err := x509.MarshalPKIXPublicKey(s.Public())
	if err != nil {
		return [32]byte{}
	}
	return sha256.Sum256(der)
}

// Identity verifies the present certificate and says what it says.
func (m *Member) Identity(ctx context.Context) (*admission.Identity, error) {
	cert, err := m.certificate(ctx)
	if err != nil {
		return nil, err
	}
	trust, err := m.Trust(ctx)
	if err != nil {
		return nil, err
	}
	return trust.Verify(cert.Certificate, m.Clock())
}

// Proof is the text that came with the present certificate.
func (m *Member) Proof(ctx context.Context) (string, error) {
	b, _, err := m.cs.Get(ctx, tagProof, cryptstore.Blob, 0)
	if err != nil {
		return "", fmt.Errorf("reading the proof: %w", err)
	}
	defer b.Zero()
	return string(b.Bytes()), nil
}

// writeEpoch keeps the store's epoch for the rest of this boot.
func (m *Member) writeEpoch(ctx context.Context) error {
	h, err := m.cs.Header(ctx)
	if err != nil {
		return err
	}
	err = renameio.WriteFile(filepath.Join(m.RunDir, epochFile), strconv.AppendUint(nil, h.Epoch, 10), 0o600)
	if err != nil {
		return fmt.Errorf("keeping the store's epoch: %w", err)
	}
	return nil
}
