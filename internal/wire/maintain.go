package wire

import (
	"crypto/hmac"
	"crypto/hpke"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"

	"attestbox/internal/secret"
)

// The maintain protocol (ALPN attestbox-maintain/1) is what a running VM may
// ask its verifier. It has launch's shape: a begin, which names what the VM
// wants, a challenge, evidence; then the state of the instance, and after it
// requests, each answered by the state again, or by a release of keys.
// docs/maintain.md has it byte for byte.

// What a maintain exchange is for. The report binds it.
const (
	PurposeHeaders  = "headers"  // register header records
	PurposeRotate   = "rotate"   // give the disk another key
	PurposeNominate = "nominate" // name a successor of the launch digest
)

// Limits of maintain.
const (
	MaxRequests    = 16  // in one exchange
	MaxNominations = 2   // launch digests that have not booted yet
	MaxSource      = 256 // bytes of a nomination's text
)

// MaintainBegin opens an exchange (guest to verifier).
type MaintainBegin struct {
	Type    string `json:"type"`
	Version int    `json:"version"`
	ID      Hex32  `json:"id"`
	Purpose string `json:"purpose"`
	Suite   string `json:"suite"` // SuiteID in hex
	Key     []byte `json:"key"`   // HPKE public key made for this exchange
}

// MaintainState answers evidence and requests (verifier to guest): what is on
// durable record of the instance now.
type MaintainState struct {
	Type             string         `json:"type"`
	Exchange         ExchangeID     `json:"exchange"`
	Headers          []HeaderRecord `json:"headers"`
	HasKey           bool           `json:"has_key"`     // a disk key is registered
	Rotation         string         `json:"rotation"`    // RotationNone, RotationRotate or RotationEnroll
	Allowed          []string       `json:"allowed"`     // launch digests, 96 hex digits
	Nominations      []string       `json:"nominations"` // those that wait for the owner
	Time             int64          `json:"time"`
	MinPolicyVersion uint64         `json:"min_policy_version"`
}

// Whether the disk's key is being changed.
const (
	RotationNone   = ""
	RotationRotate = "rotate" // there are two keys
	RotationEnroll = "enroll" // there is a key, of a disk that had none registered
)

// RegisterHeaders adds header records, then drops those of the given digests.
type RegisterHeaders struct {
	Type string         `json:"type"`
	Add  []HeaderRecord `json:"add"`
	Drop []Hex32        `json:"drop"`
}

// Rotate opens a rotation, or goes on with the one that is open. A release
// answers it: DiskKey is the new key, PreviousDiskKey the one before, if any.
type Rotate struct {
	Type string `json:"type"`
}

// RotateEnd ends a rotation: the record of Keep alone stays registered, with
// the key that made the MAC: the new one, or the one before if the rotation was
// taken back. So a message that comes late, or again, keeps no key but the one
// that opens the disk.
type RotateEnd struct {
	Type string `json:"type"`
	Keep Hex32  `json:"keep"`
	MAC  Hex32  `json:"mac"` // see KeepMAC
}

// Nominate names a successor of the launch digest, for this instance alone.
// What the digest covers is the guest's claim.
type Nominate struct {
	Type    string `json:"type"`
	Digest  string `json:"digest"` // launch digest, 96 hex digits
	Kernel  Hex32  `json:"kernel"` // SHA-256 of each
	Initrd  Hex32  `json:"initrd"`
	Cmdline Hex32  `json:"cmdline"`
	Source  string `json:"source"` // for the owner to read: which update made it
}

func (*MaintainBegin) kind() string   { return "maintain-begin" }
func (*MaintainState) kind() string   { return "maintain-state" }
func (*RegisterHeaders) kind() string { return "register-headers" }
func (*Rotate) kind() string          { return "rotate" }
func (*RotateEnd) kind() string       { return "rotate-end" }
func (*Nominate) kind() string        { return "nominate" }

// PurposeOf is the purpose that a request belongs to; "" for what is none.
// Within a rotation headers are registered as well.
func PurposeOf(m Message) (purposes []string) {
	switch m.(type) {
	case *RegisterHeaders:
		return []string{PurposeHeaders, PurposeRotate}
	case *Rotate, *RotateEnd:
		return []string{PurposeRotate}
	case *Nominate:
		return []string{PurposeNominate}
	}
	return nil
}

// MaintainTranscript is everything that a maintain report binds.
type MaintainTranscript struct {
	Version  int
	SPKI     [32]byte
	Exporter [32]byte // label EXPORTER-attestbox-maintain-1
	Nonce    Hex32
	ID       Hex32
	Purpose  string
	Suite    []byte
	Key      []byte
}

// Bytes is the transcript, in Transcript's encoding; it is the HPKE info.
func (t *MaintainTranscript) Bytes() []byte {
	return lengthPrefixed([]byte(domainMaintain), versionBytes(t.Version), t.SPKI[:], t.Exporter[:], t.Nonce[:], t.ID[:], []byte(t.Purpose), t.Suite, t.Key)
}

// ReportData is SHA-512 over Bytes.
func (t *MaintainTranscript) ReportData() [64]byte { return sha512.Sum512(t.Bytes()) }

// FillChannel is Transcript.FillChannel for maintain.
func (t *MaintainTranscript) FillChannel(cs *tls.ConnectionState, spki [32]byte) (err error) {
	t.SPKI = spki
	t.Exporter, err = exporter(cs, ALPNMaintain, exporterMaintain)
	return err
}

// SetNonce is Bound's.
func (t *MaintainTranscript) SetNonce(n Hex32) { t.Nonce = n }

// SealMaintain is Seal for maintain.
func SealMaintain(t *MaintainTranscript, p *Payload) ([]byte, error) {
	return sealTo(t.Key, t.Bytes(), p)
}

// OpenMaintain is Open for maintain.
func OpenMaintain(key hpke.PrivateKey, t *MaintainTranscript, sealed []byte) (*Payload, error) {
	return openFrom(key, t.Bytes(), sealed)
}

// ValidDigest says whether a text is a launch digest: 96 lower-case hex digits,
// not all zero.
func ValidDigest(s string) bool {
	var d [48]byte
	return unhex(d[:], []byte(s)) == nil && d != [48]byte{}
}

func (m *MaintainBegin) check() error {
	switch {
	case m.Version < 1:
		return fmt.Errorf("version %d", m.Version)
	case m.Purpose != PurposeHeaders && m.Purpose != PurposeRotate && m.Purpose != PurposeNominate:
		return fmt.Errorf("purpose %.16q", m.Purpose)
	case len(m.Key) == 0 || len(m.Key) > 4096 || len(m.Suite) > 64:
		return fmt.Errorf("HPKE key of %d bytes, suite of %d characters", len(m.Key), len(m.Suite))
	}
	return nil
}

// maxAllowed bounds the launch digests in a state.
const maxAllowed = 32

func (m *MaintainState) check() error {
	switch {
	case len(m.Headers) > MaxHeaders:
		return fmt.Errorf("%d headers, at most %d", len(m.Headers), MaxHeaders)
	case m.Rotation != RotationNone && m.Rotation != RotationRotate && m.Rotation != RotationEnroll:
		return fmt.Errorf("rotation %.16q", m.Rotation)
	case len(m.Allowed) > maxAllowed || len(m.Nominations) > MaxNominations:
		return fmt.Errorf("%d and %d launch digests", len(m.Allowed), len(m.Nominations))
	}
	for _, list := range [][]string{m.Allowed, m.Nominations} {
		for _, d := range list {
			if !ValidDigest(d) {
				return fmt.Errorf("launch digest %.100q", d)
			}
		}
	}
	return nil
}

func (m *RegisterHeaders) check() error {
	switch {
	case len(m.Add) > MaxHeaders || len(m.Drop) > MaxHeaders:
		return fmt.Errorf("%d headers to add and %d to drop, at most %d", len(m.Add), len(m.Drop), MaxHeaders)
	case len(m.Add)+len(m.Drop) == 0:
		return errors.New("nothing to add and nothing to drop")
	}
	return nil
}

// KeepMAC says which key stays: HMAC-SHA-256 under the disk key over the
// length-prefixed domain string, instance ID and digest of the record.
func KeepMAC(key *secret.Bytes, id, keep Hex32) Hex32 {
	mac := hmac.New(sha256.New, key.Bytes())
	mac.Write(lengthPrefixed([]byte(domainKeep), id[:], keep[:]))
	return Hex32(mac.Sum(nil))
}

// VerifyKeep compares a KeepMAC in constant time. An empty key verifies nothing.
func VerifyKeep(key *secret.Bytes, id Hex32, m *RotateEnd) bool {
	want := KeepMAC(key, id, m.Keep)
	return key.Len() > 0 && hmac.Equal(want[:], m.MAC[:])
}

func (m *Nominate) check() error {
	switch {
	case !ValidDigest(m.Digest):
		return fmt.Errorf("launch digest %.100q", m.Digest)
	case !ValidSource(m.Source):
		return fmt.Errorf("source of %d bytes, want 1 to %d of printable ASCII", len(m.Source), MaxSource)
	case m.Kernel.IsZero() || m.Initrd.IsZero() || m.Cmdline.IsZero():
		return errors.New("kernel, initramfs and command line must all be named")
	}
	return nil
}

// ValidSource says whether a text can be a nomination's source: it is shown in
// the owner's terminal.
func ValidSource(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return false
		}
	}
	return s != "" && len(s) <= MaxSource
}

// DigestText writes a launch digest as messages have it.
func DigestText(d [48]byte) string { return hex.EncodeToString(d[:]) }
