package snp

import (
	"fmt"
	"math/big"
	"slices"
)

// componentSize is the size of R and of S in the SIGNATURE field: 72 bytes,
// little-endian, of which a P-384 number fills 48 (56860, chapter "Digital
// signatures").
const componentSize = 72

// SignedBytes is the part of a report that the signature covers: the first
// 0x2A0 bytes. b must be at least that long.
func SignedBytes(b []byte) []byte { return b[:offSignature] }

// SignatureRS is the ECDSA signature's R and S. Bytes after S that are not zero
// make it malformed.
func (r *Report) SignatureRS() (R, S *big.Int, err error) {
	for i, c := range r.Signature[2*componentSize:] {
		if c != 0 {
			return nil, nil, fmt.Errorf("%w: byte 0x%03x after the signature is 0x%02x, want 0", ErrMalformed, offSignature+2*componentSize+i, c)
		}
	}
	return fromLE(r.Signature[:componentSize]), fromLE(r.Signature[componentSize : 2*componentSize]), nil
}

// PutSignature writes R and S into the SIGNATURE field of a report of
// ReportSize bytes. Both must be numbers of P-384.
func PutSignature(report []byte, R, S *big.Int) error {
	if len(report) != ReportSize {
		return fmt.Errorf("%w: %d bytes, want %d", ErrMalformed, len(report), ReportSize)
	}
	field := report[offSignature:]
	clear(field)
	for i, n := range []*big.Int{R, S} {
		if n == nil || n.Sign() < 0 || n.BitLen() > 384 {
			return fmt.Errorf("%w: R or S is not a number of P-384", ErrMalformed)
		}
		part := field[i*componentSize : (i+1)*componentSize]
		n.FillBytes(part)
		slices.Reverse(part)
	}
	return nil
}

func fromLE(b []byte) *big.Int {
	be := slices.Clone(b)
	slices.Reverse(be)
	return new(big.Int).SetBytes(be)
}
