package cryptstore

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"

	"attestbox/internal/secret"
)

const (
	// KeySize is the size of store keys and sealing keys, in bytes.
	KeySize = 32

	saltSize    = 32
	tagSize     = 16
	boxOverhead = saltSize + tagSize
	wrappedSize = KeySize + boxOverhead

	domainWrap  = "attestbox/cryptstore/wrap/1"
	domainIndex = "attestbox/cryptstore/index/1"
	domainValue = "attestbox/cryptstore/value/1"
)

// random fills b; the worked example replaces it.
var random = func(b []byte) { rand.Read(b) }

func boxCipher(key *secret.Bytes, salt []byte, info string) (aead cipher.AEAD, nonce []byte, err error) {
	if key.Len() != KeySize {
		return nil, nil, errors.New("the store is closed")
	}
	k, err := hkdf.Key(sha256.New, key.Bytes(), salt, info, 32+12)
	if err != nil {
		return nil, nil, err
	}
	defer clear(k[:32])
	// The cipher's key schedule stays on the heap until it is collected.
	block, err := aes.NewCipher(k[:32])
	if err != nil {
		return nil, nil, err
	}
	aead, err = cipher.NewGCM(block)
	return aead, k[32:], err
}

// sealBox encrypts plain: len(plain) + boxOverhead bytes.
func sealBox(key *secret.Bytes, info string, ad, plain []byte) ([]byte, error) {
	out := make([]byte, saltSize, len(plain)+boxOverhead)
	random(out)
	aead, nonce, err := boxCipher(key, out, info)
	if err != nil {
		return nil, err
	}
	return aead.Seal(out, nonce, plain, ad), nil
}

// openBox decrypts to dst, whose length must be that of the plain text.
func openBox(key *secret.Bytes, info string, ad, box, dst []byte) error {
	if len(box) != len(dst)+boxOverhead {
		return ErrTampered
	}
	aead, nonce, err := boxCipher(key, box[:saltSize], info)
	if err != nil {
		return err
	}
	if _, err := aead.Open(dst[:0], nonce, box[saltSize:], ad); err != nil {
		return ErrTampered
	}
	return nil
}

// lengthPrefixed joins fields, each preceded by its length (4 bytes,
// little-endian), so that no two lists of fields give the same bytes.
func lengthPrefixed(fields ...[]byte) []byte {
	var out []byte
	for _, f := range fields {
		out = binary.LittleEndian.AppendUint32(out, uint32(len(f)))
		out = append(out, f...)
	}
	return out
}
