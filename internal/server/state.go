package server

import (
	"context"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"time"

	"attestbox/internal/secret"
	"attestbox/internal/store"
	"attestbox/internal/store/sealed"
	"attestbox/internal/strictjson"
	"attestbox/internal/wire"
)

// Names in the store; see docs/verifier.md.
const (
	keyConfig      = "server/config"
	keyTLSKey      = "server/tls-key"      // Ed25519 seed, 32 bytes
	keyTLSCert     = "server/tls-cert"     // DER
	keyOutcomeRoot = "server/outcome-root" // 32 bytes, see outcomeKey

	prefixInstance = "instance/"
	prefixSecrets  = "secrets/"
	prefixBoots    = "boots/"
	prefixSpent    = "spent/"
)

const domainOutcomeKey = "attestbox/state/outcome-key/1"

// Root is one hardware root that this verifier trusts.
type Root struct {
	Product string `json:"product"` // "Milan", "Genoa", "Turin"
	ARK     []byte `json:"ark"`     // DER
	// Intermediates (ASK, ASVK) serve evidence that brings none; DER.
	Intermediates [][]byte `json:"intermediates"`
}

// Config is what the owner decides for the whole verifier.
type Config struct {
	Version int `json:"version"` // 1
	// Roots are simulators' roots. With any of them AMD's are not trusted and
	// every decision says so; with none, AMD's are trusted and nothing else.
	Roots []Root `json:"roots"`
	// Policy is the appraisal policy without measurements, see docs/appraisal.md.
	Policy json.RawMessage `json:"policy"`
	// MinPolicyVersion goes to guests, whose floor only rises.
	MinPolicyVersion uint64 `json:"min_policy_version"`
}

// State is everything that a verifier remembers, over a sealed store.
type State struct {
	s           *sealed.Store
	outcomeRoot *secret.Bytes // owned; zeroed by Close
}

// CreateState makes the state of a new verifier: its key, its self-signed
// certificate, its configuration. It takes raw over.
func CreateState(ctx context.Context, raw store.Store, key sealed.Key, cfg Config, now time.Time) (*State, error) {
	cfg.Version = 1
	cfgJSON, err := marshalConfig(&cfg)
	if err != nil {
		return nil, err
	}
	s, err := sealed.Create(ctx, raw, key)
	if err != nil {
		return nil, err
	}
	seed := secret.Random(ed25519.SeedSize)
	defer seed.Zero()
	cert, err := selfSigned(seed, now)
	if err != nil {
		return nil, err
	}
	root := secret.Random(32)
	defer root.Zero()
	for _, v := range []struct {
		key   string
		value []byte
	}{
		{keyTLSKey, seed.Bytes()}, {keyTLSCert, cert}, {keyOutcomeRoot, root.Bytes()},
		{keyConfig, cfgJSON}, // last: OpenState refuses a state without it
	} {
		if err := s.Create(ctx, v.key, v.value); err != nil {
			return nil, fmt.Errorf("creating the state: %w", err)
		}
	}
	return openState(ctx, s)
}

// OpenState opens the state of a verifier. It takes raw over.
func OpenState(ctx context.Context, raw store.Store, key sealed.Key) (*State, error) {
	s, err := sealed.Open(ctx, raw, key)
	if err != nil {
		return nil, err
	}
	return openState(ctx, s)
}

func openState(ctx context.Context, s *sealed.Store) (*State, error) {
	st := &State{s: s}
	if _, err := st.Config(ctx); err != nil {
		return nil, fmt.Errorf("the state is incomplete: %w", err)
	}
	var err error
	if st.outcomeRoot, _, err = s.GetSecret(ctx, keyOutcomeRoot); err != nil {
		return nil, fmt.Errorf("the state is incomplete: %w", err)
	}
	return st, nil
}

// Close wipes what is held in memory and closes the store.
func (st *State) Close() error {
	st.outcomeRoot.Zero()
	return st.s.Close()
}

func marshalConfig(c *Config) ([]byte, error) {
	if c.Roots == nil {
		c.Roots = []Root{}
	}
	if len(c.Policy) == 0 {
		c.Policy = json.RawMessage("{}")
	}
	b, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	return b, strictjson.Unmarshal(b, new(Config))
}

// Config reads the configuration.
func (st *State) Config(ctx context.Context) (*Config, error) {
	b, _, err := st.s.Get(ctx, keyConfig)
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	var c Config
	if err := strictjson.Unmarshal(b, &c); err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	if c.Version != 1 {
		return nil, fmt.Errorf("configuration of version %d, this program knows 1", c.Version)
	}
	return &c, nil
}

// UpdateConfig changes the configuration by compare-and-swap. The minimum
// policy version never falls.
func (st *State) UpdateConfig(ctx context.Context, f func(*Config) error) error {
	for range maxSwaps {
		_, old, err := st.s.Get(ctx, keyConfig)
		if err != nil {
			return fmt.Errorf("reading the configuration: %w", err)
		}
		c, err := st.Config(ctx)
		if err != nil {
			return err
		}
		was := c.MinPolicyVersion
		if err := f(c); err != nil {
			return err
		}
		if c.MinPolicyVersion < was {
			return fmt.Errorf("the minimum policy version is %d and cannot fall to %d", was, c.MinPolicyVersion)
		}
		b, err := marshalConfig(c)
		if err != nil {
			return err
		}
		if err := st.s.Replace(ctx, keyConfig, old, b); !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
	return errBusy
}

// Certificate loads the TLS key and certificate, and the pin that images carry.
func (st *State) Certificate(ctx context.Context) (tls.Certificate, wire.Pin, error) {
	fail := func(err error) (tls.Certificate, wire.Pin, error) {
		return tls.Certificate{}, wire.Pin{}, fmt.Errorf("loading the server's key: %w", err)
	}
	seed, _, err := st.s.GetSecret(ctx, keyTLSKey)
	if err != nil {
		return fail(err)
	}
	defer seed.Zero()
	der, _, err := st.s.Get(ctx, keyTLSCert)
	if err != nil {
		return fail(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return fail(err)
	}
	if seed.Len() != ed25519.SeedSize {
		return fail(errors.New("malformed key"))
	}
	key := ed25519.NewKeyFromSeed(seed.Bytes()) // lives in crypto/tls as long as the server
	if pub, ok := cert.PublicKey.(ed25519.PublicKey); !ok || !pub.Equal(key.Public()) {
		return fail(errors.New("key and certificate do not belong together"))
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: cert}, wire.PinOf(cert), nil
}

// selfSigned makes the certificate around the pinned key. Its names and dates
// mean nothing to a guest.
func selfSigned(seed *secret.Bytes, now time.Time) ([]byte, error) {
	key := ed25519.NewKeyFromSeed(seed.Bytes())
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber:          serial.Add(serial, big.NewInt(1)),
		Subject:               pkix.Name{CommonName: "attestbox verifier"},
		NotBefore:             now.Add(-time.Hour).UTC(),
		NotAfter:              now.AddDate(30, 0, 0).UTC(),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:              []string{"verifier.attestbox.invalid"},
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("making the server's certificate: %w", err)
	}
	return der, nil
}

// outcomeKey is the key of one boot's outcome. It is derived, so that the
// record of a boot holds no secret and a repeated release has the same one.
func (st *State) outcomeKey(id, reportID wire.Hex32, boot uint64) (*secret.Bytes, error) {
	info := binary.LittleEndian.AppendUint64([]byte(domainOutcomeKey+"\x00"), boot)
	info = append(append(info, id[:]...), reportID[:]...)
	if st.outcomeRoot.Len() == 0 {
		return nil, errors.New("the state is closed")
	}
	k, err := hkdf.Key(sha256.New, st.outcomeRoot.Bytes(), nil, string(info), wire.OutcomeKeySize)
	if err != nil {
		return nil, err
	}
	return secret.Take(k), nil
}
