package wire

import (
	"crypto/sha512"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"

	"attestbox/internal/form"
)

// The certify protocol (ALPN attestbox-certify/1) has launch's shape: a begin,
// a challenge, evidence, and an answer. The answer is the admission certificate
// with its chain and proof, and the instance's share of its stores, sealed to a
// key that the transcript binds.

// Roles that a client may ask for. Policy decides; asking grants nothing. An
// owner may have roles of other names (ValidRole), for programs that know each
// other by them.
const (
	RoleClient       = "client"
	RoleKeyServer    = "key-server"
	RolePolicyServer = "policy-server"
	RoleVerifier     = "verifier"
	RoleAttester     = "attester" // a VM whose attestd attests to its programs
)

// ValidRole says whether a client may ask for a role of this name: 1 to 32
// lower-case letters, digits and single hyphens within.
func ValidRole(name string) bool {
	return len(name) <= 32 && form.Hyphenated(name)
}

// Limits of certify.
const (
	MaxDomainName = 253
	MaxCSR        = 8 << 10
	MaxProof      = 24 << 10
	MaxChain      = 4
)

// CertifyBegin opens an exchange (client to policy server).
type CertifyBegin struct {
	Type    string `json:"type"`
	Version int    `json:"version"`
	Domain  string `json:"domain"`
	Role    string `json:"role"`
	CSR     []byte `json:"csr"`   // PKCS#10; only its public key is used
	Suite   string `json:"suite"` // SuiteID in hex
	Key     []byte `json:"key"`   // HPKE public key made for this exchange
	// StoreEpoch is the epoch of the sealed store that the client has open; 0
	// if it has none open. The server keeps the highest that the instance has
	// proved, and answers with it.
	StoreEpoch uint64 `json:"store_epoch"`
}

// EscrowKeyName names, among the secrets of an admission's payload, the HPKE
// public key to which clients wrap the escrow copies of their store keys. It is
// no secret, but it is to be authentic.
const EscrowKeyName = "escrow-key"

// Admission answers evidence (policy server to client).
type Admission struct {
	Type             string     `json:"type"`
	Exchange         ExchangeID `json:"exchange"`
	Chain            [][]byte   `json:"chain"`  // DER: admission certificate, then its issuer
	Proof            string     `json:"proof"`  // human-readable, as it was logged
	Sealed           []byte     `json:"sealed"` // HPKE: a Payload whose DiskKey is the store secret and whose Boot is the store epoch
	Time             int64      `json:"time"`
	MinPolicyVersion uint64     `json:"min_policy_version"`
}

func (*CertifyBegin) kind() string { return "certify-begin" }
func (*Admission) kind() string    { return "admission" }

// CertifyTranscript is everything that a certify report binds.
type CertifyTranscript struct {
	Version  int
	SPKI     [32]byte
	Exporter [32]byte // label EXPORTER-attestbox-certify-1
	Nonce    Hex32
	Domain   string
	Role     string
	CSR      []byte
	Suite    []byte
	Key      []byte

	StoreEpoch uint64
}

// Bytes is the transcript, in Transcript's encoding; it is the HPKE info.
func (t *CertifyTranscript) Bytes() []byte {
	return lengthPrefixed([]byte(domainCertify), versionBytes(t.Version), t.SPKI[:], t.Exporter[:], t.Nonce[:],
		[]byte(t.Domain), []byte(t.Role), t.CSR, t.Suite, t.Key,
		binary.LittleEndian.AppendUint64(nil, t.StoreEpoch))
}

// SetNonce is Bound's.
func (t *CertifyTranscript) SetNonce(n Hex32) { t.Nonce = n }

// ReportData is SHA-512 over Bytes.
func (t *CertifyTranscript) ReportData() [64]byte { return sha512.Sum512(t.Bytes()) }

// FillChannel is Transcript.FillChannel for certify.
func (t *CertifyTranscript) FillChannel(cs *tls.ConnectionState, spki [32]byte) (err error) {
	t.SPKI = spki
	t.Exporter, err = exporter(cs, ALPNCertify, exporterCertify)
	return err
}

func exporter(cs *tls.ConnectionState, alpn, label string) (out [32]byte, err error) {
	if cs.Version != tls.VersionTLS13 {
		return out, errors.New("the channel is not TLS 1.3")
	}
	if cs.NegotiatedProtocol != alpn {
		return out, fmt.Errorf("the channel speaks %q, not %q", cs.NegotiatedProtocol, alpn)
	}
	ekm, err := cs.ExportKeyingMaterial(label, nil, len(out))
	if err != nil {
		return out, fmt.Errorf("TLS exporter: %w", err)
	}
	copy(out[:], ekm)
	return out, nil
}

// ValidDomain says whether a name can be a security domain's: lower-case
// letters, digits, dots and hyphens.
func ValidDomain(name string) bool {
	return len(name) <= MaxDomainName && form.Bounded(name, form.Chars("a-z0-9"), form.Chars("a-z0-9.-"))
}

func (m *CertifyBegin) check() error {
	switch {
	case m.Version < 1:
		return fmt.Errorf("version %d", m.Version)
	case !ValidDomain(m.Domain):
		return fmt.Errorf("domain %.64q", m.Domain)
	case !ValidRole(m.Role):
		return fmt.Errorf("role %.32q", m.Role)
	case len(m.CSR) == 0 || len(m.CSR) > MaxCSR:
		return fmt.Errorf("CSR of %d bytes", len(m.CSR))
	case len(m.Key) == 0 || len(m.Key) > 4096 || len(m.Suite) > 64:
		return fmt.Errorf("HPKE key of %d bytes, suite of %d characters", len(m.Key), len(m.Suite))
	}
	return nil
}

func (m *Admission) check() error {
	if len(m.Chain) == 0 || len(m.Chain) > MaxChain {
		return fmt.Errorf("chain of %d certificates", len(m.Chain))
	}
	if len(m.Proof) > MaxProof || len(m.Sealed) == 0 {
		return fmt.Errorf("proof of %d bytes, sealed part of %d", len(m.Proof), len(m.Sealed))
	}
	return nil
}
