package wire

import (
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
)

// The bundle protocol (ALPN attestbox-bundle/1) is what a stage-1 image asks
// before it starts a bundle: a begin that names digest and version of the
// bundle, a challenge, evidence, and then approved, refused or later. Nothing
// secret is sent, so nothing is sealed: the answer is authenticated by the
// channel, to the verifier's pinned key. docs/bundle.md has it byte for byte.

// MaxBundleVersion is the largest version: JSON readers of other languages
// agree on integers up to here (RFC 7493 section 2.2).
const MaxBundleVersion = 1<<53 - 1

// BundleBegin opens an exchange (guest to verifier).
type BundleBegin struct {
	Type          string `json:"type"`
	Version       int    `json:"version"`
	ID            Hex32  `json:"id"`
	Bundle        Hex32  `json:"bundle"` // see BundleDigest
	BundleVersion uint64 `json:"bundle_version"`
}

// BundleApproved is the verifier's go for one bundle in this one launch of the
// VM (verifier to guest). It is on durable record.
type BundleApproved struct {
	Type             string     `json:"type"`
	Exchange         ExchangeID `json:"exchange"`
	Bundle           Hex32      `json:"bundle"`
	BundleVersion    uint64     `json:"bundle_version"`
	Time             int64      `json:"time"` // the verifier's clock, Unix seconds
	MinPolicyVersion uint64     `json:"min_policy_version"`
}

func (*BundleBegin) kind() string    { return "bundle-begin" }
func (*BundleApproved) kind() string { return "bundle-approved" }

// ValidBundleVersion says whether a bundle can have this version.
func ValidBundleVersion(v uint64) bool { return v >= 1 && v <= MaxBundleVersion }

func checkBundle(digest Hex32, version uint64) error {
	if digest.IsZero() {
		return errors.New("no bundle is named")
	}
	if !ValidBundleVersion(version) {
		return fmt.Errorf("bundle version %d, want 1 to %d", version, uint64(MaxBundleVersion))
	}
	return nil
}

func (m *BundleBegin) check() error {
	if m.Version < 1 {
		return fmt.Errorf("version %d", m.Version)
	}
	return checkBundle(m.Bundle, m.BundleVersion)
}

func (m *BundleApproved) check() error { return checkBundle(m.Bundle, m.BundleVersion) }

// BundleTranscript is everything that a report of the bundle protocol binds.
type BundleTranscript struct {
	Version       int
	SPKI          [32]byte
	Exporter      [32]byte // label EXPORTER-attestbox-bundle-1
	Nonce         Hex32
	ID            Hex32
	Bundle        Hex32
	BundleVersion uint64
}

// ReportData is SHA-512 over the fields in Transcript's encoding.
func (t *BundleTranscript) ReportData() [64]byte {
	return sha512.Sum512(lengthPrefixed([]byte(domainApprove), versionBytes(t.Version), t.SPKI[:], t.Exporter[:], t.Nonce[:], t.ID[:],
		t.Bundle[:], binary.LittleEndian.AppendUint64(nil, t.BundleVersion)))
}

// FillChannel is Transcript.FillChannel for the bundle protocol.
func (t *BundleTranscript) FillChannel(cs *tls.ConnectionState, spki [32]byte) (err error) {
	t.SPKI = spki
	t.Exporter, err = exporter(cs, ALPNBundle, exporterBundle)
	return err
}

// SetNonce is Bound's.
func (t *BundleTranscript) SetNonce(n Hex32) { t.Nonce = n }

// BundleDigest names a bundle: SHA-256 over the domain string and the signed
// header, each preceded by its length. The header holds size and hash of
// everything else.
func BundleDigest(header []byte) Hex32 {
	return sha256.Sum256(lengthPrefixed([]byte(domainBundle), header))
}

// BundleMessage is what the owner's bundle key signs.
func BundleMessage(digest Hex32) []byte {
	return lengthPrefixed([]byte(domainBundleSign), digest[:])
}
