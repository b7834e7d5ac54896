package sealed

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"

	"golang.org/x/crypto/argon2"

	"attestbox/internal/secret"
	"attestbox/internal/store"
	"attestbox/internal/strictjson"
)

const (
	metaKey    = "meta/seal"
	masterSize = 32
	saltSize   = 32

	domainKEK    = "attestbox/state/kek/1"
	domainMaster = "attestbox/state/master/1"

	// MinFileKey is the least size of a seal key file, in bytes, and
	// MaxFileKey the greatest.
	MinFileKey = secret.MinKeyFile
	MaxFileKey = secret.MaxKeyFile
	// MinPassphrase is the least length of a passphrase, in bytes.
	MinPassphrase = 12
)

// How the key-encryption key is derived.
const (
	kdfFile     = "hkdf-sha256" // of a file with at least 256 bits of entropy
	kdfArgon2id = "argon2id"    // of a passphrase
	kdfPlatform = "platform"    // HKDF-SHA-256 of a key that a platform derives
)

// Argon2id's cost for new states (RFC 9106 section 4, second recommendation:
// 3 passes, 64 MiB, 4 lanes), and what Open accepts at most.
const (
	argonTime, argonMemory, argonLanes = 3, 64 << 10, 4
	maxArgonTime, maxArgonMemory       = 16, 1 << 20
)

// Key is what seals a state: exactly one of the three.
type Key struct {
	File       *secret.Bytes // content of a key file
	Passphrase *secret.Bytes // what a person can remember
	Platform   Platform      // what measured the machine that this runs on
}

func (k Key) kinds() (n int) {
	for _, given := range []bool{k.File.Len() > 0, k.Passphrase.Len() > 0, k.Platform != nil} {
		if given {
			n++
		}
	}
	return n
}

// Platform derives keys of at least 32 bytes from what it measured. id is
// random and names the state: it is part of the key. The caller zeroes the key.
type Platform interface {
	// Seal derives the key of a new state. kind and params, at most
	// MaxPlatformParams bytes, are kept in the state, authenticated.
	Seal(ctx context.Context, id [16]byte) (kind string, params []byte, key *secret.Bytes, err error)
	// Unseal derives it again. An error that asking again does not mend, such
	// as another measurement, wraps ErrSealKey.
	Unseal(ctx context.Context, id [16]byte, kind string, params []byte) (*secret.Bytes, error)
}

// MaxPlatformParams bounds the parameters of a platform, in bytes, and
// maxPlatformKind its name.
const (
	MaxPlatformParams = 1024
	maxPlatformKind   = 32
)

// meta is the value "meta/seal". Everything but Wrapped is authenticated with it.
type meta struct {
	Version int    `json:"version"`
	KDF     string `json:"kdf"`
	Salt    []byte `json:"salt"`
	Time    uint32 `json:"time"`   // argon2id: passes
	Memory  uint32 `json:"memory"` // argon2id: KiB
	Lanes   uint8  `json:"lanes"`  // argon2id
	Wrapped []byte `json:"wrapped"`

	Platform string `json:"platform,omitempty"` // platform: its name
	Params   []byte `json:"params,omitempty"`   // platform: of its key
}

// id names the state to a platform.
func (m *meta) id() [16]byte { return [16]byte(m.Salt) }

// CheckFileKey refuses key files that cannot have 256 bits of entropy.
func CheckFileKey(key *secret.Bytes) error {
	return secret.CheckRandom(key)
}

// Create makes a sealed state in an empty store: store.ErrExists if it holds
// one already. It takes raw over.
func Create(ctx context.Context, raw store.Store, key Key) (*Store, error) {
	m := meta{Version: 1, Salt: make([]byte, saltSize)}
	rand.Read(m.Salt)
	ikm := key.File
	switch {
	case key.kinds() != 1:
		return nil, errors.New("a state is sealed by a key file, by a passphrase or by the platform")
	case key.File.Len() > 0:
		if err := CheckFileKey(key.File); err != nil {
			return nil, err
		}
		m.KDF = kdfFile
	case key.Platform != nil:
		var err error
		m.KDF = kdfPlatform
		if m.Platform, m.Params, ikm, err = key.Platform.Seal(ctx, m.id()); err != nil {
			return nil, fmt.Errorf("creating the sealed state: %w", err)
		}
		defer ikm.Zero()
	default:
		if key.Passphrase.Len() < MinPassphrase {
			return nil, fmt.Errorf("passphrase of %d bytes, want at least %d", key.Passphrase.Len(), MinPassphrase)
		}
		m.KDF, m.Time, m.Memory, m.Lanes = kdfArgon2id, argonTime, argonMemory, argonLanes
		ikm = key.Passphrase
	}
	aead, ad, err := m.kek(ikm)
	if err != nil {
		return nil, err
	}
	master := secret.Random(masterSize)
	m.Wrapped = make([]byte, nonceSize, nonceSize+masterSize+tagSize)
	rand.Read(m.Wrapped)
	m.Wrapped = aead.Seal(m.Wrapped, m.Wrapped, master.Bytes(), ad)
	b, err := json.Marshal(m)
	if err == nil {
		_, err = parseMeta(b) // what a platform gave is bounded too
	}
	if err == nil {
		err = raw.Create(ctx, metaKey, b)
	}
	if err != nil {
		master.Zero()
		return nil, fmt.Errorf("creating the sealed state: %w", err)
	}
	return &Store{raw, master}, nil
}

// Open opens a sealed state: ErrSealKey for a key that is not its own. It
// takes raw over.
func Open(ctx context.Context, raw store.Store, key Key) (*Store, error) {
	b, err := raw.Get(ctx, metaKey)
	if err != nil {
		return nil, fmt.Errorf("opening the sealed state: %w", err)
	}
	m, err := parseMeta(b)
	if err != nil {
		return nil, fmt.Errorf("opening the sealed state: %w", err)
	}
	ikm := key.File
	switch {
	case m.KDF == kdfFile && key.File.Len() == 0:
		return nil, fmt.Errorf("%w: it is sealed by a key file", ErrSealKey)
	case m.KDF == kdfArgon2id && key.Passphrase.Len() == 0:
		return nil, fmt.Errorf("%w: it is sealed by a passphrase", ErrSealKey)
	case m.KDF == kdfPlatform && key.Platform == nil:
		return nil, fmt.Errorf("%w: it is sealed by the platform %s", ErrSealKey, m.Platform)
	case m.KDF == kdfArgon2id:
		ikm = key.Passphrase
	case m.KDF == kdfPlatform:
		if ikm, err = key.Platform.Unseal(ctx, m.id(), m.Platform, m.Params); err != nil {
			return nil, fmt.Errorf("opening the sealed state: %w", err)
		}
		defer ikm.Zero()
	}
	aead, ad, err := m.kek(ikm)
	if err != nil {
		return nil, err
	}
	master := secret.New(masterSize)
	if _, err := aead.Open(master.Bytes()[:0], m.Wrapped[:nonceSize], m.Wrapped[nonceSize:], ad); err != nil {
		master.Zero()
		return nil, ErrSealKey
	}
	return &Store{raw, master}, nil
}

func parseMeta(b []byte) (*meta, error) {
	var m meta
	if err := strictjson.Unmarshal(b, &m); err != nil {
		return nil, err
	}
	switch {
	case m.Version != 1:
		return nil, fmt.Errorf("state of version %d, this program knows 1", m.Version)
	case len(m.Salt) != saltSize || len(m.Wrapped) != nonceSize+masterSize+tagSize:
		return nil, errors.New("malformed seal record")
	case (m.KDF == kdfPlatform) != (m.Platform != "" && len(m.Params) > 0), len(m.Platform) > maxPlatformKind, len(m.Params) > MaxPlatformParams,
		m.KDF != kdfPlatform && (m.Platform != "" || len(m.Params) > 0):
		return nil, errors.New("malformed seal record: parameters of a platform")
	case (m.KDF == kdfFile || m.KDF == kdfPlatform) && m.Time == 0 && m.Memory == 0 && m.Lanes == 0:
	case m.KDF == kdfArgon2id && m.Time >= 1 && m.Time <= maxArgonTime &&
		m.Memory >= 8<<10 && m.Memory <= maxArgonMemory && m.Lanes >= 1 && m.Lanes <= 16:
	default:
		return nil, fmt.Errorf("key derivation %.32q with costs that are not allowed", m.KDF)
	}
	if again, err := json.Marshal(m); err != nil || !bytes.Equal(again, b) {
		return nil, errors.New("malformed seal record: not in the form that it is written in")
	}
	return &m, nil
}

// kek derives the key-encryption key from what seals; ad binds the parameters.
func (m *meta) kek(from *secret.Bytes) (aead cipher.AEAD, ad []byte, err error) {
	params := *m
	params.Wrapped = nil
	if ad, err = json.Marshal(params); err != nil {
		return nil, nil, err
	}
	ad = append([]byte(domainMaster), ad...)
	if from.Len() < 32 && m.KDF == kdfPlatform {
		return nil, nil, fmt.Errorf("the platform's key has %d bytes, want at least 32", from.Len())
	}
	ikm := from.Bytes()
	if m.KDF == kdfArgon2id {
		ikm = argon2.IDKey(ikm, m.Salt, m.Time, m.Memory, m.Lanes, 32)
		defer clear(ikm)
	}
	k, err := hkdf.Key(sha256.New, ikm, m.Salt, domainKEK, 32)
	if err != nil {
		return nil, nil, err
	}
	defer clear(k)
	block, err := aes.NewCipher(k)
	if err != nil {
		return nil, nil, err
	}
	aead, err = cipher.NewGCM(block)
	return aead, ad, err
}
