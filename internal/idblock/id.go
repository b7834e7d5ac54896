package idblock

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// ParseID reads a family or image ID as people write it: 32 hex digits, or at
// most 16 printing characters, which zeros fill up. Nothing is zeros.
func ParseID(s string) (id [16]byte, err error) {
	if len(s) == 2*len(id) {
		if _, err := hex.Decode(id[:], []byte(s)); err != nil {
			return [16]byte{}, err
		}
		return id, nil
	}
	for _, c := range []byte(s) {
		if c <= ' ' || c > '~' {
			return id, errors.New("a character that does not print")
		}
	}
	if len(s) > len(id) {
		return id, errors.New("too long")
	}
	copy(id[:], s)
	return id, nil
}

// ShowID prints an ID in hex, with the text that it may be.
func ShowID(id [16]byte) string {
	s := hex.EncodeToString(id[:])
	text := strings.TrimRight(string(id[:]), "\x00")
	if back, err := ParseID(text); err == nil && back == id && text != "" {
		s += fmt.Sprintf(" (%q)", text)
	}
	return s
}
