package appraise

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"attestbox/internal/snp"
)

// The values of a policy file are text: byte fields in hex of exact length,
// masks as "0x...", durations as Go writes them.

// Hex16 is a FAMILY_ID or an IMAGE_ID.
type Hex16 [16]byte

// Hex48 is a launch digest, or the digest of an ID or author key (SHA-384).
type Hex48 [48]byte

// ChipID is a CHIP_ID; in text 128 hex digits, or the 16 of Turin, which are
// followed by zeros in the report.
type ChipID [64]byte

// Mask is a set of bits.
type Mask uint64

// Duration is a time.Duration as text, for example "72h".
type Duration time.Duration

// String prints hex.
func (h Hex16) String() string { return hex.EncodeToString(h[:]) }

// String prints hex.
func (h Hex48) String() string { return hex.EncodeToString(h[:]) }

// String prints hex, Turin's 8 bytes without the zeros.
func (c ChipID) String() string { return hex.EncodeToString(trim(c, snp.Turin.ChipIDSize())) }

// String prints "0x...".
func (m Mask) String() string { return fmt.Sprintf("0x%x", uint64(m)) }

// MarshalText writes String.
func (h Hex16) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// MarshalText writes String.
func (h Hex48) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// MarshalText writes String.
func (c ChipID) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// MarshalText writes String.
func (m Mask) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// MarshalText writes Go's form.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads 32 hex digits.
func (h *Hex16) UnmarshalText(b []byte) error { return readHex(h[:], b) }

// UnmarshalText reads 96 hex digits.
func (h *Hex48) UnmarshalText(b []byte) error { return readHex(h[:], b) }

// UnmarshalText reads 128 or 16 hex digits.
func (c *ChipID) UnmarshalText(b []byte) error {
	*c = ChipID{}
	if n := snp.Turin.ChipIDSize(); len(b) == 2*n {
		return readHex(c[:n], b)
	}
	return readHex(c[:], b)
}

// UnmarshalText reads "0x..." or a decimal number.
func (m *Mask) UnmarshalText(b []byte) error {
	v, err := strconv.ParseUint(string(b), 0, 64)
	if err != nil || strings.Contains(string(b), "_") {
		return fmt.Errorf("%q is not a mask such as \"0x30000\"", b)
	}
	*m = Mask(v)
	return nil
}

// UnmarshalText reads Go's form.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return fmt.Errorf("%q is not a duration such as \"72h\"", b)
	}
	*d = Duration(v)
	return nil
}

func readHex(to, text []byte) error {
	if len(text) != 2*len(to) {
		return fmt.Errorf("%d hex digits, want %d", len(text), 2*len(to))
	}
	if _, err := hex.Decode(to, text); err != nil {
		return fmt.Errorf("%q is not hex", text)
	}
	return nil
}
