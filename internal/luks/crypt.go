package luks

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"

	"golang.org/x/crypto/argon2"

	"attestbox/internal/secret"
	"attestbox/internal/xts"
)

// Keys pass through HMAC pads and AES key schedules of the standard library,
// which live on the collected heap and cannot be wiped from here: pads hold the
// key masked with a constant, schedules hold it expanded; argon2's first hash
// holds the key itself, which is one more reason for pbkdf2. A process that must
// leave nothing behind ends, or executes another program, after opening, on a
// kernel with init_on_free=1.

// pbkdf2 is RFC 8018 section 5.2 with HMAC-SHA-256, n bytes. The standard
// library's takes the password as a string and copies it; this one does not.
func pbkdf2(password *secret.Bytes, salt []byte, iterations uint64, n int) *secret.Bytes {
	mac := hmac.New(sha256.New, password.Bytes())
	out := secret.New(n)
	var u, t [sha256.Size]byte
	defer func() { clear(u[:]); clear(t[:]) }()
	for block := uint32(1); len(out.Bytes()) > int(block-1)*sha256.Size; block++ {
		mac.Reset()
		mac.Write(salt)
		mac.Write(binary.BigEndian.AppendUint32(nil, block))
		mac.Sum(u[:0])
		t = u
		for i := uint64(1); i < iterations; i++ {
			mac.Reset()
			mac.Write(u[:])
			mac.Sum(u[:0])
			for j := range t {
				t[j] ^= u[j]
			}
		}
		copy(out.Bytes()[int(block-1)*sha256.Size:], t[:])
	}
	return out
}

// derive is the keyslot's key from the released one; the rules bounded its cost.
func (k *kdf) derive(key *secret.Bytes, salt []byte) *secret.Bytes {
	if k.Type == "pbkdf2" {
		return pbkdf2(key, salt, *k.Iterations, slotKeyBytes)
	}
	return secret.Take(argon2.IDKey(key.Bytes(), salt, uint32(*k.Time), uint32(*k.Memory), uint8(*k.CPUs), slotKeyBytes))
}

// newXTS is the cipher of keyslot areas.
func newXTS(key *secret.Bytes) (*xts.Cipher, error) {
	return xts.New(key.Bytes())
}

// areaSector is the encryption sector of keyslot areas, whatever the data's.
const areaSector = 512

// diffuse is AFsplitter's H1 with SHA-256: each 32-byte block of b is replaced
// by SHA-256(block number as 4 bytes big-endian, block).
func diffuse(b []byte) {
	var buf [4 + sha256.Size]byte
	for i := 0; i < len(b); i += sha256.Size {
		end := min(i+sha256.Size, len(b))
		binary.BigEndian.PutUint32(buf[:], uint32(i/sha256.Size))
		n := copy(buf[4:], b[i:end])
		sum := sha256.Sum256(buf[:4+n])
		copy(b[i:end], sum[:])
		clear(sum[:])
	}
	clear(buf[:])
}

func xor(dst, src []byte) {
	for i := range dst {
		dst[i] ^= src[i]
	}
}

// afMerge recovers a key of n bytes from its afStripes stripes.
func afMerge(stripes []byte, n int) *secret.Bytes {
	key := secret.New(n)
	d := key.Bytes()
	for i := range afStripes - 1 {
		xor(d, stripes[i*n:(i+1)*n])
		diffuse(d)
	}
	xor(d, stripes[(afStripes-1)*n:afStripes*n])
	return key
}

// afSplit fills the last stripe so that afMerge gives key; all others must
// already hold random bytes.
func afSplit(key *secret.Bytes, stripes []byte) {
	n := key.Len()
	acc := secret.New(n)
	defer acc.Zero()
	d := acc.Bytes()
	for i := range afStripes - 1 {
		xor(d, stripes[i*n:(i+1)*n])
		diffuse(d)
	}
	last := stripes[(afStripes-1)*n : afStripes*n]
	copy(last, key.Bytes())
	xor(last, d)
}
