package bootcount

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
)

// Format of the counter; see the table in doc.go.
const (
	magic    = "attestbox-boot 1 "
	digits   = 20
	offSpace = len(magic) + digits
	size     = offSpace + 1 + 2*sha256.Size + 1
)

// idSize is the size of the instance file.
const idSize = 64 + 1

// Marshal writes a counter.
func Marshal(n uint64) []byte {
	b := fmt.Appendf(nil, "%s%0*d", magic, digits, n)
	sum := sha256.Sum256(b)
	return fmt.Appendf(b, " %x\n", sum)
}

// Parse reads a counter; there is one encoding of each number.
func Parse(b []byte) (uint64, error) {
	if len(b) != size || string(b[:len(magic)]) != magic {
		return 0, fmt.Errorf("%d bytes that are no counter", len(b))
	}
	// ParseUint takes neither signs nor, in base 10, underscores.
	n, err := strconv.ParseUint(string(b[len(magic):offSpace]), 10, 64)
	if err != nil {
		return 0, errors.New("the counter is no number")
	}
	if string(Marshal(n)) != string(b) {
		return 0, errors.New("the counter's check value is wrong")
	}
	return n, nil
}

// MarshalID writes an instance file.
func MarshalID(id [32]byte) []byte { return append(hex.AppendEncode(nil, id[:]), '\n') }

// ParseID reads an instance file.
func ParseID(b []byte) (id [32]byte, err error) {
	if len(b) == idSize {
		_, err = hex.Decode(id[:], b[:idSize-1])
	}
	if err != nil || string(MarshalID(id)) != string(b) {
		return id, errors.New("it is not 64 lower-case hexadecimal digits and a line end")
	}
	return id, nil
}
