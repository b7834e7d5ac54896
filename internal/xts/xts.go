// Package xts is AES-256 in XTS mode (IEEE 1619, NIST SP 800-38E) over sectors of
// whole blocks, as dm-crypt's aes-xts-plain64 uses it. It gives the same bytes as
// golang.org/x/crypto/xts, which tests compare it with, and takes less than half
// of its time: tweaks and plaintext meet a sector at a time, not a byte. The time
// of an open and of `mkimage disk` is largely this.
//
// XTS does not authenticate. No ciphertext stealing: a length that is no multiple
// of 16 is the caller's mistake.
package xts

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
)

// KeySize of AES-256-XTS: the data's key, then the tweak's.
const KeySize = 64

// MaxSector bounds a sector, in bytes.
const MaxSector = 4096

// Cipher is safe for use by several goroutines.
type Cipher struct {
	data, tweak cipher.Block
}

// New keeps expanded keys on the heap; the caller keeps key.
func New(key []byte) (*Cipher, error) {
	if len(key) != KeySize {
		return nil, fmt.Errorf("XTS key is %d bytes, want %d", len(key), KeySize)
	}
	data, err := aes.NewCipher(key[:KeySize/2])
	if err != nil {
		return nil, err
	}
	tweak, err := aes.NewCipher(key[KeySize/2:])
	if err != nil {
		return nil, err
	}
	return &Cipher{data, tweak}, nil
}

// Encrypt encrypts one sector; dst and src are of one length, at most MaxSector,
// and the same memory or apart.
func (c *Cipher) Encrypt(dst, src []byte, sector uint64) { c.crypt(dst, src, sector, c.data.Encrypt) }

// Decrypt is its inverse.
func (c *Cipher) Decrypt(dst, src []byte, sector uint64) { c.crypt(dst, src, sector, c.data.Decrypt) }

func (c *Cipher) crypt(dst, src []byte, sector uint64, block func(dst, src []byte)) {
	if len(dst) != len(src) || len(src)%aes.BlockSize != 0 || len(src) > MaxSector {
		panic("xts: sectors of whole blocks, dst as long as src")
	}
	var buf [MaxSector]byte
	mask := buf[:len(src)]
	c.tweaks(mask, sector)
	subtle.XORBytes(dst, src, mask)
	for b := dst; len(b) > 0; b = b[aes.BlockSize:] {
		block(b[:aes.BlockSize], b[:aes.BlockSize])
	}
	subtle.XORBytes(dst, dst, mask)
	clear(mask)
}

// tweaks fills mask with one tweak a block: the encrypted number of the sector,
// then each time multiplied by x in GF(2^128) modulo x^128 + x^7 + x^2 + x + 1.
func (c *Cipher) tweaks(mask []byte, sector uint64) {
	var t [aes.BlockSize]byte
	binary.LittleEndian.PutUint64(t[:], sector)
	c.tweak.Encrypt(t[:], t[:])
	lo, hi := binary.LittleEndian.Uint64(t[:]), binary.LittleEndian.Uint64(t[8:])
	for ; len(mask) > 0; mask = mask[aes.BlockSize:] {
		binary.LittleEndian.PutUint64(mask, lo)
		binary.LittleEndian.PutUint64(mask[8:], hi)
		carry := hi >> 63
		hi, lo = hi<<1|lo>>63, lo<<1^carry*0x87
	}
}
