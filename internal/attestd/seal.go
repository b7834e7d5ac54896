package attestd

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"

	"attestbox/internal/secret"
	"attestbox/internal/wire"
)

// A sealed blob:
//
//	offset  size  field
//	0       8     magic "ABXSEAL1"
//	8       1     scope: 1 program, 2 program and user
//	9       32    salt, random
//	41      n     ciphertext
//	41+n    16    tag of AES-256-GCM
//
// Key (32 bytes) and nonce (12) are HKDF-SHA-256(root, salt,
// wire.AttestdSealInfo("seal", program, owner, context)); the associated data
// are the first 41 bytes.
const (
	sealMagic  = "ABXSEAL1"
	sealHeader = 8 + 1 + 32
	// SealOverhead is how much longer a sealed blob is than its content.
	SealOverhead = sealHeader + 16
	// RootSize is the size of the key under which attestd seals, in bytes.
	RootSize = 32
)

const (
	scopeProgram = 1
	scopeUser    = 2
)

// errUnseal is a blob that this program, user and context do not open, or that
// was changed: which of these is not to be known.
var errUnseal = errors.New("the data was sealed for another program, user or context, by another instance, or was changed")

func scopeByte(scope string) byte {
	if scope == ScopeProgram {
		return scopeProgram
	}
	return scopeUser
}

// owner is the part of the HKDF info that a scope adds.
func owner(scope byte, uid uint32) []byte {
	if scope == scopeUser {
		return binary.LittleEndian.AppendUint32(nil, uid)
	}
	return nil
}

// seal encrypts data for a program.
func seal(root *secret.Bytes, program string, scope byte, uid uint32, context string, data *secret.Bytes) ([]byte, error) {
	out := make([]byte, sealHeader, data.Len()+SealOverhead)
	copy(out, sealMagic)
	out[8] = scope
	rand.Read(out[9:sealHeader])
	gcm, nonce, err := sealCipher(root, out, program, uid, context)
	if err != nil {
		return nil, err
	}
	return gcm.Seal(out, nonce, data.Bytes(), out[:sealHeader]), nil
}

// unseal is the reverse; the caller zeroes what it returns.
func unseal(root *secret.Bytes, program string, uid uint32, context string, blob []byte) (*secret.Bytes, error) {
	if len(blob) < SealOverhead || string(blob[:8]) != sealMagic || blob[8] != scopeProgram && blob[8] != scopeUser {
		return nil, errUnseal
	}
	gcm, nonce, err := sealCipher(root, blob[:sealHeader], program, uid, context)
	if err != nil {
		return nil, err
	}
	out := secret.New(len(blob) - SealOverhead)
	if _, err := gcm.Open(out.Bytes()[:0], nonce, blob[sealHeader:], blob[:sealHeader]); err != nil {
		out.Zero()
		return nil, errUnseal
	}
	return out, nil
}

func sealCipher(root *secret.Bytes, header []byte, program string, uid uint32, context string) (cipher.AEAD, []byte, error) {
	key, err := derive(root, header[9:sealHeader], "seal", program, owner(header[8], uid), context, 32+12)
	if err != nil {
		return nil, nil, err
	}
	defer clear(key[:32])
	block, err := aes.NewCipher(key[:32])
	if err != nil {
		return nil, nil, err
	}
	gcm, err := cipher.NewGCM(block)
	return gcm, key[32:], err
}

func derive(root *secret.Bytes, salt []byte, purpose, program string, owner []byte, context string, n int) ([]byte, error) {
	if root.Len() != RootSize {
		return nil, errors.New("there is no key to seal with")
	}
	info := wire.AttestdSealInfo(purpose, []byte(program), owner, []byte(context))
	return hkdf.Key(sha256.New, root.Bytes(), salt, string(info), n)
}

// programKey is the program's own key: derived each time, so that it needs no
// storage and lives as long as the root. The caller zeroes it.
func programKey(root *secret.Bytes, program string, scope byte, uid uint32) (ed25519.PrivateKey, error) {
	seed, err := derive(root, nil, "key", program, owner(scope, uid), "", ed25519.SeedSize)
	if err != nil {
		return nil, err
	}
	defer clear(seed)
	return ed25519.NewKeyFromSeed(seed), nil
}
