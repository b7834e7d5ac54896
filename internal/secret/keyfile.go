package secret

import (
	"errors"
	"fmt"
)

// MinKeyFile is the least size of a key file, in bytes, and MaxKeyFile the
// greatest.
const MinKeyFile, MaxKeyFile = 32, 4096

// CheckRandom refuses the content of a key file that cannot have 256 bits of
// entropy: of another size, text, or with few distinct bytes.
func CheckRandom(key *Bytes) error {
	if key.Len() < MinKeyFile || key.Len() > MaxKeyFile {
		return fmt.Errorf("key file of %d bytes, want %d to %d random bytes", key.Len(), MinKeyFile, MaxKeyFile)
	}
	var seen [256]bool
	distinct, text := 0, true
	for _, c := range key.Bytes() {
		if !seen[c] {
			seen[c], distinct = true, distinct+1
		}
		if (c < 0x20 || c > 0x7e) && c != '\n' && c != '\r' && c != '\t' {
			text = false
		}
	}
	// 32 random bytes have fewer than 12 distinct values, or are all text,
	// with a probability below 2^-40.
	if text {
		return errors.New("the key file is text, want random bytes")
	}
	if distinct < 12 {
		return errors.New("the key file does not look random")
	}
	return nil
}
