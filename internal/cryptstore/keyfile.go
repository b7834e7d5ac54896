package cryptstore

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"

	"attestbox/internal/secret"
)

// KindKeyFile is the kind of KeyFile's seal; its parameters are a salt of 32
// bytes.
const KindKeyFile = "key-file"

const domainKeyFile = "attestbox/cryptstore/key-file/1"

// KeyFile seals by the content of a file of 32 to 4096 random bytes, which the
// owner keeps elsewhere. It gives no protection against an older state, and no
// escrow copy: the file is the recovery.
type KeyFile struct {
	Key *secret.Bytes // stays the caller's
}

func (k KeyFile) derive(b Binding, salt []byte) (*secret.Bytes, error) {
	if err := secret.CheckRandom(k.Key); err != nil {
		return nil, err
	}
	key, err := hkdf.Key(sha256.New, k.Key.Bytes(), salt, string(lengthPrefixed([]byte(domainKeyFile), []byte(b.Name), b.ID[:])), KeySize)
	if err != nil {
		return nil, err
	}
	return secret.Take(key), nil
}

// Seal is Sealer's.
func (k KeyFile) Seal(_ context.Context, b Binding) (string, []byte, *secret.Bytes, error) {
	salt := make([]byte, 32)
	random(salt)
	key, err := k.derive(b, salt)
	return KindKeyFile, salt, key, err
}

// Unseal is Sealer's.
func (k KeyFile) Unseal(_ context.Context, b Binding, kind string, params []byte) (*secret.Bytes, error) {
	if kind != KindKeyFile || len(params) != 32 {
		return nil, fmt.Errorf("%w: it is sealed by %s, not by a key file", ErrSealed, kind)
	}
	return k.derive(b, params)
}

// Escrow is Sealer's: none.
func (k KeyFile) Escrow(context.Context, Binding, *secret.Bytes) ([]byte, error) { return nil, nil }
