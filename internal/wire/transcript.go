package wire

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"encoding/binary"

	"attestbox/internal/secret"
)

// Transcript is everything that a launch report binds (DESIGN section 5). Both
// ends fill it from what they saw themselves.
type Transcript struct {
	Version  int
	SPKI     [32]byte // SHA-256 of the SPKI of the key actually seen from the peer
	Exporter [32]byte // TLS 1.3 exporter, RFC 8446 section 7.5
	Nonce    Hex32
	ID       Hex32
	Suite    []byte // SuiteID
	Key      []byte // HPKE public key
}

// Bytes is the transcript: the domain string and each field in order, each
// preceded by its length as 4 bytes little-endian. It is the HPKE info.
func (t *Transcript) Bytes() []byte {
	return lengthPrefixed([]byte(domainLaunch), versionBytes(t.Version), t.SPKI[:], t.Exporter[:], t.Nonce[:], t.ID[:], t.Suite, t.Key)
}

// Bound is a transcript on its way to be complete: what the step from challenge
// to evidence needs of it, whichever protocol it belongs to.
type Bound interface {
	FillChannel(cs *tls.ConnectionState, spki [32]byte) error
	SetNonce(Hex32)
	ReportData() [64]byte
}

// SetNonce is Bound's.
func (t *Transcript) SetNonce(n Hex32) { t.Nonce = n }

// ReportData is SHA-512 over Bytes.
func (t *Transcript) ReportData() [64]byte { return sha512.Sum512(t.Bytes()) }

// LearnIDReportData is what a guest puts into the report by which it learns
// its own HOST_DATA; no verifier accepts it.
func LearnIDReportData() [64]byte { return sha512.Sum512(lengthPrefixed([]byte(domainLearnID))) }

func lengthPrefixed(fields ...[]byte) []byte {
	var out []byte
	for _, f := range fields {
		out = binary.LittleEndian.AppendUint32(out, uint32(len(f)))
		out = append(out, f...)
	}
	return out
}

// FillChannel sets SPKI and Exporter from a TLS 1.3 connection; spki is the
// SHA-256 of the verifier's SubjectPublicKeyInfo: the guest takes it from the
// peer's certificate, the verifier from its own.
func (t *Transcript) FillChannel(cs *tls.ConnectionState, spki [32]byte) error {
	ekm, err := exporter(cs, ALPNLaunch, exporterLaunch)
	if err != nil {
		return err
	}
	t.Exporter, t.SPKI = ekm, spki
	return nil
}

func versionBytes(v int) []byte { return binary.LittleEndian.AppendUint32(nil, uint32(v)) }

// OutcomeMAC authenticates an outcome: HMAC-SHA-256 under the outcome key over
// the length-prefixed domain string, ID, REPORT_ID, boot number, result,
// reason and header digests.
func OutcomeMAC(key *secret.Bytes, o *Outcome) Hex32 {
	var boot [8]byte
	binary.LittleEndian.PutUint64(boot[:], o.Boot)
	fields := [][]byte{[]byte(domainOutcome), o.ID[:], o.ReportID[:], boot[:], []byte(o.Result), []byte(o.Reason)}
	for i := range o.Headers {
		fields = append(fields, o.Headers[i][:])
	}
	mac := hmac.New(sha256.New, key.Bytes())
	mac.Write(lengthPrefixed(fields...))
	return Hex32(mac.Sum(nil))
}

// VerifyOutcome compares an outcome's MAC in constant time. An empty key
// verifies nothing.
func VerifyOutcome(key *secret.Bytes, o *Outcome) bool {
	want := OutcomeMAC(key, o)
	return key.Len() > 0 && hmac.Equal(want[:], o.MAC[:])
}
