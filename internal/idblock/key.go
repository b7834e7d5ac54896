package idblock

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"slices"
)

// Offsets in a public key, see doc.go.
const (
	offCurve    = 0x000
	offQX       = 0x004
	offQY       = 0x04C
	offKeyTail  = 0x094
	curveP384   = 2
	numberField = 72 // bytes of QX, QY, R and S
	numberP384  = 48 // bytes of those that a number of P-384 fills
)

// PublicKey is a public key as the secure processor takes it.
type PublicKey [PublicKeySize]byte

// NewPublicKey writes a P-384 key.
func NewPublicKey(k *ecdsa.PublicKey) (p PublicKey, err error) {
	if k.Curve != elliptic.P384() {
		return p, fmt.Errorf("a key on %s, want P-384", k.Curve.Params().Name)
	}
	point, err := k.Bytes() // 4, then X and Y, big-endian
	if err != nil {
		return p, err
	}
	binary.LittleEndian.PutUint32(p[offCurve:], curveP384)
	putNumber(p[offQX:], point[1:1+numberP384])
	putNumber(p[offQY:], point[1+numberP384:])
	return p, nil
}

// Key is the key, if it lies on the curve.
func (p *PublicKey) Key() (*ecdsa.PublicKey, error) {
	if c := binary.LittleEndian.Uint32(p[offCurve:]); c != curveP384 {
		return nil, fmt.Errorf("%w: CURVE %d, want 2", ErrKey, c)
	}
	if !isZero(p[offKeyTail:]) {
		return nil, errors.New("reserved bytes of the key are not zero")
	}
	point := []byte{4}
	for _, off := range []int{offQX, offQY} {
		n, err := getNumber(p[off : off+numberField])
		if err != nil {
			return nil, err
		}
		point = append(point, n...)
	}
	k, err := ecdsa.ParseUncompressedPublicKey(elliptic.P384(), point)
	if err != nil {
		return nil, fmt.Errorf("%w: the point is not on the curve", ErrKey)
	}
	return k, nil
}

func (p *PublicKey) check() error { _, err := p.Key(); return err }

// Digest is what reports show of the key.
func (p *PublicKey) Digest() [48]byte { return sha512.Sum384(p[:]) }

func (p *PublicKey) verify(message []byte, s *Signature) error {
	k, err := p.Key()
	if err != nil {
		return err
	}
	r, t, err := s.numbers()
	if err != nil {
		return err
	}
	digest := sha512.Sum384(message)
	if !ecdsa.Verify(k, digest[:], r, t) {
		return ErrSignature
	}
	return nil
}

// Signature is an ECDSA signature as the secure processor takes it.
type Signature [signatureSize]byte

func newSignature(r, s *big.Int) (out Signature) {
	putNumber(out[:], r.FillBytes(make([]byte, numberP384)))
	putNumber(out[numberField:], s.FillBytes(make([]byte, numberP384)))
	return out
}

func (s *Signature) numbers() (r, t *big.Int, err error) {
	if !isZero(s[2*numberField:]) {
		return nil, nil, errors.New("bytes after the signature are not zero")
	}
	R, err := getNumber(s[:numberField])
	if err != nil {
		return nil, nil, err
	}
	S, err := getNumber(s[numberField : 2*numberField])
	if err != nil {
		return nil, nil, err
	}
	return new(big.Int).SetBytes(R), new(big.Int).SetBytes(S), nil
}

func (s *Signature) check() error { _, _, err := s.numbers(); return err }

// putNumber writes a big-endian number as a little-endian field.
func putNumber(field, n []byte) {
	copy(field, n)
	slices.Reverse(field[:len(n)])
}

// getNumber reads a little-endian field as a big-endian number.
func getNumber(field []byte) ([]byte, error) {
	if !isZero(field[numberP384:numberField]) {
		return nil, errors.New("a number of more than 384 bits")
	}
	n := slices.Clone(field[:numberP384])
	slices.Reverse(n)
	return n, nil
}
