package sealed

import (
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
)

// Argon2id's cost for new states (RFC 9106 section 4, second recommendation:
// 3 passes, 64 MiB, 4 lanes), and what Open accepts at most.
const (
	argonTime, argonMemory, argonLanes = 3, 64 << 10, 4
	maxArgonTime, maxArgonMemory       = 16, 1 << 20
)

// Key is what seals a state: exactly one of the two.
type Key struct {
	File       *secret.Bytes // content of a key file
	Passphrase *secret.Bytes // what a person can remember
}

// meta is the value "meta/seal". Everything but Wrapped is authenticated with it.
type meta struct {
	Version int    `json:"version"`
	KDF     string `json:"kdf"`
	Salt    []byte `json:"salt"`
	Time    uint32 `json:"time"`   // argon2id: passes
	Memory  uint32 `json:"memory"` // argon2id: KiB
	Lanes   uint8  `json:"lanes"`  // argon2id
	Wrapped []byte `json:"wrapped"`
}

// CheckFileKey refuses key files that cannot have 256 bits of entropy.
func CheckFileKey(key *secret.Bytes) error {
	return secret.CheckRandom(key)
}

// Create makes a sealed state in an empty store: store.ErrExists if it holds
// one already. It takes raw over.
func Create(ctx context.Context, raw store.Store, key Key) (*Store, error) {
	m := meta{Version: 1, Salt: make([]byte, saltSize)}
	rand.Read(m.Salt)
	switch {
	case key.File.Len() > 0 && key.Passphrase.Len() > 0, key.File.Len() == 0 && key.Passphrase.Len() == 0:
		return nil, errors.New("a state is sealed by a key file or by a passphrase")
	case key.File.Len() > 0:
		if err := CheckFileKey(key.File); err != nil {
			return nil, err
		}
		m.KDF = kdfFile
	default:
		if key.Passphrase.Len() < MinPassphrase {
			return nil, fmt.Errorf("passphrase of %d bytes, want at least %d", key.Passphrase.Len(), MinPassphrase)
		}
		m.KDF, m.Time, m.Memory, m.Lanes = kdfArgon2id, argonTime, argonMemory, argonLanes
	}
	aead, ad, err := m.kek(key)
	if err != nil {
		return nil, err
	}
	master := secret.Random(masterSize)
	m.Wrapped = make([]byte, nonceSize, nonceSize+masterSize+tagSize)
	rand.Read(m.Wrapped)
	m.Wrapped = aead.Seal(m.Wrapped, m.Wrapped, master.Bytes(), ad)
	b, err := json.Marshal(m)
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
	switch {
	case m.KDF == kdfFile && key.File.Len() == 0:
		return nil, fmt.Errorf("%w: it is sealed by a key file", ErrSealKey)
	case m.KDF == kdfArgon2id && key.Passphrase.Len() == 0:
		return nil, fmt.Errorf("%w: it is sealed by a passphrase", ErrSealKey)
	}
	aead, ad, err := m.kek(key)
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
	case m.KDF == kdfFile && m.Time == 0 && m.Memory == 0 && m.Lanes == 0:
	case m.KDF == kdfArgon2id && m.Time >= 1 && m.Time <= maxArgonTime &&
		m.Memory >= 8<<10 && m.Memory <= maxArgonMemory && m.Lanes >= 1 && m.Lanes <= 16:
	default:
		return nil, fmt.Errorf("key derivation %.32q with costs that are not allowed", m.KDF)
	}
	return &m, nil
}

// kek derives the key-encryption key; ad binds the parameters.
func (m *meta) kek(key Key) (aead cipher.AEAD, ad []byte, err error) {
	params := *m
	params.Wrapped = nil
	if ad, err = json.Marshal(params); err != nil {
		return nil, nil, err
	}
	ad = append([]byte(domainMaster), ad...)
	ikm := key.File.Bytes()
	if m.KDF == kdfArgon2id {
		ikm = argon2.IDKey(key.Passphrase.Bytes(), m.Salt, m.Time, m.Memory, m.Lanes, 32)
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
