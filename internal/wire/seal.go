package wire

import (
	"crypto/hpke"
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"attestbox/internal/secret"
)

// The one HPKE suite (RFC 9180; KEM from draft-ietf-hpke-pq): MLKEM768-X25519,
// HKDF-SHA256, AES-256-GCM, base mode.
func suite() (hpke.KEM, hpke.KDF, hpke.AEAD) {
	return hpke.MLKEM768X25519(), hpke.HKDFSHA256(), hpke.AES256GCM()
}

// SuiteID is the suite as 3 big-endian 16-bit identifiers: KEM, KDF, AEAD.
func SuiteID() []byte {
	kem, kdf, aead := suite()
	id := binary.BigEndian.AppendUint16(nil, kem.ID())
	id = binary.BigEndian.AppendUint16(id, kdf.ID())
	return binary.BigEndian.AppendUint16(id, aead.ID())
}

// SuiteHex is SuiteID as begin names it.
func SuiteHex() string { return hex.EncodeToString(SuiteID()) }

// NewKey makes the HPKE key of one exchange.
func NewKey() (hpke.PrivateKey, error) {
	kem, _, _ := suite()
	return kem.GenerateKey()
}

// Seal encrypts a payload to the guest's key, with the transcript as info.
func Seal(t *Transcript, p *Payload) ([]byte, error) { return sealTo(t.Key, t.Bytes(), p) }

// SealCertify is Seal for certify.
func SealCertify(t *CertifyTranscript, p *Payload) ([]byte, error) {
	return sealTo(t.Key, t.Bytes(), p)
}

func sealTo(key, info []byte, p *Payload) ([]byte, error) {
	kem, kdf, aead := suite()
	pub, err := kem.NewPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("%w: HPKE public key: %v", ErrMalformed, err)
	}
	plain, err := p.marshal()
	if err != nil {
		return nil, err
	}
	defer plain.Zero()
	return hpke.Seal(pub, kdf, aead, info, plain.Bytes())
}

// CheckKey says whether key is a public key of the suite.
func CheckKey(key []byte) error {
	kem, _, _ := suite()
	if _, err := kem.NewPublicKey(key); err != nil {
		return fmt.Errorf("%w: HPKE public key: %v", ErrMalformed, err)
	}
	return nil
}

// Open decrypts a release with the exchange's private key. The caller owns the
// payload and zeroes it.
func Open(key hpke.PrivateKey, t *Transcript, sealed []byte) (*Payload, error) {
	return openFrom(key, t.Bytes(), sealed)
}

// OpenCertify is Open for certify.
func OpenCertify(key hpke.PrivateKey, t *CertifyTranscript, sealed []byte) (*Payload, error) {
	return openFrom(key, t.Bytes(), sealed)
}

func openFrom(key hpke.PrivateKey, info, sealed []byte) (*Payload, error) {
	_, kdf, aead := suite()
	b, err := hpke.Open(key, kdf, aead, info, sealed)
	if err != nil {
		return nil, fmt.Errorf("opening the release: %w", err)
	}
	plain := secret.Take(b)
	defer plain.Zero()
	return parsePayload(plain.Bytes())
}
