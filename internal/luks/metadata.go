package luks

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
)

// The JSON metadata, in the order in which cryptsetup writes it. Fields that
// must be absent are here as well where a refusal of its own says more than
// "unknown field".
type metadata struct {
	Keyslots map[string]keyslot         `json:"keyslots"`
	Tokens   map[string]json.RawMessage `json:"tokens"`
	Segments map[string]segment         `json:"segments"`
	Digests  map[string]keyDigest       `json:"digests"`
	Config   *config                    `json:"config"`
}

type keyslot struct {
	Type    string `json:"type"`
	KeySize uint64 `json:"key_size"`
	AF      af     `json:"af"`
	Area    area   `json:"area"`
	KDF     kdf    `json:"kdf"`

	Priority  *uint64         `json:"priority,omitempty"`  // refused
	Mode      json.RawMessage `json:"mode,omitempty"`      // re-encryption: refused
	Direction json.RawMessage `json:"direction,omitempty"` // re-encryption: refused
}

type af struct {
	Type    string `json:"type"`
	Stripes uint64 `json:"stripes"`
	Hash    string `json:"hash"`
}

type area struct {
	Type       string `json:"type"`
	Offset     string `json:"offset"`
	Size       string `json:"size"`
	Encryption string `json:"encryption"`
	KeySize    uint64 `json:"key_size"`
}

// kdf has the fields of both kinds; which ones must be there is a rule.
type kdf struct {
	Type       string  `json:"type"`
	Hash       *string `json:"hash,omitempty"`
	Iterations *uint64 `json:"iterations,omitempty"`
	Time       *uint64 `json:"time,omitempty"`
	Memory     *uint64 `json:"memory,omitempty"` // KiB
	CPUs       *uint64 `json:"cpus,omitempty"`
	Salt       string  `json:"salt"`
}

type segment struct {
	Type       string `json:"type"`
	Offset     string `json:"offset"`
	Size       string `json:"size"`
	IVTweak    string `json:"iv_tweak"`
	Encryption string `json:"encryption"`
	SectorSize uint64 `json:"sector_size"`

	Integrity *integrity      `json:"integrity,omitempty"`
	Flags     json.RawMessage `json:"flags,omitempty"` // refused
}

// integrity names what dm-crypt authenticates with; the journal's two are
// never used. A key_size, which newer cryptsetups write on request, is refused
// as an unknown field.
type integrity struct {
	Type              string `json:"type"`
	JournalEncryption string `json:"journal_encryption"`
	JournalIntegrity  string `json:"journal_integrity"`
}

type keyDigest struct {
	Type       string   `json:"type"`
	Keyslots   []string `json:"keyslots"`
	Segments   []string `json:"segments"`
	Hash       string   `json:"hash"`
	Iterations uint64   `json:"iterations"`
	Salt       string   `json:"salt"`
	Digest     string   `json:"digest"`
}

type config struct {
	JSONSize     string `json:"json_size"`
	KeyslotsSize string `json:"keyslots_size"`

	Flags        json.RawMessage `json:"flags,omitempty"`        // refused
	Requirements json.RawMessage `json:"requirements,omitempty"` // refused
}

// only is the single entry of a map whose size was checked.
func only[T any](m map[string]T) (string, T) {
	for k, v := range m {
		return k, v
	}
	var none T
	return "", none
}

// decimal reads a number as LUKS2 writes 64-bit ones: a string of digits
// without sign or leading zero.
func decimal(name, s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil || strconv.FormatUint(n, 10) != s {
		return 0, fmt.Errorf("%s is %q, want a decimal number", name, clip(s))
	}
	return n, nil
}

// base64Exact reads n bytes in canonical base64.
func base64Exact(name, s string, n int) ([]byte, error) {
	if len(s) != base64.StdEncoding.EncodedLen(n) {
		return nil, fmt.Errorf("%s is not %d bytes in base64", name, n)
	}
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil || len(b) != n || base64.StdEncoding.EncodeToString(b) != s {
		return nil, fmt.Errorf("%s is not %d bytes in base64", name, n)
	}
	return b, nil
}

// clip keeps a hostile string out of error messages but for its beginning.
func clip(s string) string {
	if len(s) > 40 {
		return s[:40] + "..."
	}
	return s
}
