package luks

import (
	"fmt"

	"attestbox/internal/wire"
)

// Suite is one way to encrypt the data. A record names it; a header is only
// compared with it.
type Suite struct {
	Integrity string // the record's name
	Cipher    string // in record and header
	KeyBytes  int    // of the volume key
	Auth      string // "type" of the header's integrity object; empty: there is none
	TagBytes  int    // what dm-integrity keeps per sector: tag, then a random IV if there is one
	DMCipher  string // in dm-crypt's table
}

// Names of integrity in a record.
const (
	IntegrityNone     = "none"
	IntegrityHMAC     = "hmac-sha256"
	IntegrityGCM      = "aead-gcm"
	IntegrityChaCha   = "aead-chacha20-poly1305"
	IntegrityAEGIS128 = "aead-aegis128"
)

// suites is every one that is served, with the names that cryptsetup writes
// and the tables that it makes. The volume key of hmac-sha256 is 64 bytes for
// AES-256-XTS and then 32 for HMAC. Those with a random IV (12 bytes; AEGIS 16)
// are opened for disks that cryptsetup formatted and never written.
var suites = []Suite{
	{IntegrityNone, Cipher, 64, "", 0, Cipher},
	{IntegrityHMAC, Cipher, 96, "hmac(sha256)", 32, "capi:authenc(hmac(sha256),xts(aes))-plain64"},
	{IntegrityGCM, "aes-gcm-random", 32, "aead", 16 + 12, "capi:gcm(aes)-random"},
	{IntegrityChaCha, "chacha20-random", 32, "poly1305", 16 + 12, "capi:rfc7539(chacha20,poly1305)-random"},
	{IntegrityAEGIS128, "aegis128-random", 16, "aead", 16 + 16, "capi:aegis128-random"},
}

// SuiteNamed finds a suite by the record's name for its integrity.
func SuiteNamed(integrity string) (*Suite, error) {
	for i := range suites {
		if suites[i].Integrity == integrity {
			return &suites[i], nil
		}
	}
	return nil, fmt.Errorf("integrity is %q, which is not served", clip(integrity))
}

// suiteOf is the suite that rules compare with: the record's or, where none
// is known, the one whose names the segment has; bare XTS if there is none.
func suiteOf(want *wire.HeaderRecord, seg *segment) *Suite {
	if want != nil {
		if s, err := SuiteNamed(want.Integrity); err == nil { // CheckRecord has seen it
			return s
		}
	}
	auth := ""
	if seg.Integrity != nil {
		auth = seg.Integrity.Type
	}
	for i := range suites {
		if suites[i].Cipher == seg.Encryption && suites[i].Auth == auth {
			return &suites[i]
		}
	}
	return &suites[0]
}

// afSize is the size of the split volume key, areaSize that of its area.
func (s *Suite) afSize() int { return s.KeyBytes * afStripes }

func (s *Suite) areaSize() int64 { return int64(s.afSize()+areaAlign-1) &^ (areaAlign - 1) }

// minHeaderArea holds the two smallest headers and one keyslot.
func (s *Suite) minHeaderArea() int64 { return 2*minHdrSize + s.areaSize() }

// header is the integrity object of the suite's segment, nil without one.
func (s *Suite) header() *integrity {
	if s.Auth == "" {
		return nil
	}
	return &integrity{Type: s.Auth, JournalEncryption: "none", JournalIntegrity: "none"}
}
