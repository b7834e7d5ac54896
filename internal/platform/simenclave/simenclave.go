// Package simenclave is the simulated enclave of the deployment machine: a
// platform whose measurement is the SHA-256 of the program's own executable,
// vouched for by an Ed25519 platform key in a file of mode 0600. Policy must
// name that key and the measurements that it may speak about.
//
// Whoever can read the file can claim anything in its name; it isolates
// nothing. Since one binary is many tools, it cannot tell applets apart.
//
// Evidence, 200 bytes, integers little-endian:
//
//	offset  size  field
//	0       4     magic "ABSE"
//	4       4     version, 1
//	8       32    measurement: SHA-256 of the executable
//	40      64    report data, chosen by the caller
//	104     32    platform key, Ed25519
//	136     64    signature with it, RFC 8032, over the line
//	              "attestbox/simulated-enclave/evidence/1\n" and the 136 bytes in front
package simenclave

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"attestbox/internal/code"
	"attestbox/internal/platform"
	"attestbox/internal/secret"
)

const (
	// EvidenceSize is the size of evidence, in bytes.
	EvidenceSize = 200

	magic          = "ABSE"
	version        = 1
	signedSize     = 136
	domainEvidence = "attestbox/simulated-enclave/evidence/1\n"
	domainDerive   = "attestbox/simulated-enclave/derived-key/1"
	maxKeyFile     = 4096
	pemKey         = "PRIVATE KEY"
)

// ErrEvidence is evidence that is malformed or not signed by its key.
var ErrEvidence = errors.New("not evidence of a simulated enclave")

// Evidence is what a simulated enclave says.
type Evidence struct {
	Measurement [32]byte
	ReportData  [64]byte
	Key         ed25519.PublicKey // the platform key that signed
	Signature   [64]byte
}

// Parse reads evidence; it does not verify the signature.
func Parse(b []byte) (*Evidence, error) {
	if len(b) != EvidenceSize || string(b[:4]) != magic || binary.LittleEndian.Uint32(b[4:]) != version {
		return nil, fmt.Errorf("%w of version %d", ErrEvidence, version)
	}
	e := &Evidence{Key: bytes.Clone(b[104:136])}
	copy(e.Measurement[:], b[8:])
	copy(e.ReportData[:], b[40:])
	copy(e.Signature[:], b[136:])
	return e, nil
}

// Marshal is the inverse of Parse.
func (e *Evidence) Marshal() []byte {
	b := binary.LittleEndian.AppendUint32([]byte(magic), version)
	b = append(b, e.Measurement[:]...)
	b = append(b, e.ReportData[:]...)
	b = append(b, e.Key...)
	return append(b, e.Signature[:]...)
}

func (e *Evidence) signed() []byte {
	return append([]byte(domainEvidence), e.Marshal()[:signedSize]...)
}

// Verify checks the signature with the key that stands in the evidence. That
// policy trusts this key for this measurement is for the caller to prove.
func (e *Evidence) Verify() error {
	if len(e.Key) != ed25519.PublicKeySize || !ed25519.Verify(e.Key, e.signed(), e.Signature[:]) {
		return fmt.Errorf("%w: wrong signature", ErrEvidence)
	}
	return nil
}

// Enclave is the platform.
type Enclave struct {
	key         ed25519.PrivateKey // owned; wiped by Close
	measurement [32]byte
}

var (
	_ platform.Platform   = (*Enclave)(nil)
	_ platform.KeyDeriver = (*Enclave)(nil)
)

// GenerateKey makes a platform key as PEM (PKCS #8), in a secret that the
// caller zeroes, and its public half.
func GenerateKey() (*secret.Bytes, ed25519.PublicKey, error) {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	defer clear(key)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	defer clear(der)
	return secret.Take(pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: der})), pub, nil
}

// Open reads the platform key from a file that nobody else may read, and
// measures the running executable.
func Open(keyFile string) (*Enclave, error) {
	fail := func(err error) (*Enclave, error) {
		return nil, code.Wrap(code.EnclaveKey, fmt.Errorf("reading the platform key %q: %w", keyFile, err))
	}
	f, err := os.Open(keyFile)
	if err != nil {
		return fail(errors.Unwrap(err))
	}
	defer f.Close()
	st, err := f.Stat()
	switch {
	case err != nil:
		return fail(err)
	case !st.Mode().IsRegular():
		return fail(errors.New("not a regular file"))
	case st.Mode().Perm()&0o077 != 0:
		return fail(fmt.Errorf("mode %04o lets others read it, want 0600", st.Mode().Perm()))
	}
	text, err := secret.ReadAll(f, maxKeyFile)
	if err != nil {
		return fail(err)
	}
	defer text.Zero()
	key, err := parseKey(text)
	if err != nil {
		return fail(err)
	}
	measurement, err := measureSelf()
	if err != nil {
		clear(key)
		return nil, fmt.Errorf("measuring the executable: %w", err)
	}
	return &Enclave{key: key, measurement: measurement}, nil
}

func parseKey(text *secret.Bytes) (ed25519.PrivateKey, error) {
	block, rest := pem.Decode(text.Bytes())
	if block == nil {
		return nil, errors.New("not PEM")
	}
	defer clear(block.Bytes)
	if block.Type != pemKey || len(strings.TrimSpace(string(rest))) > 0 {
		return nil, fmt.Errorf("not one PEM block %q", pemKey)
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("not PKCS #8") // the cause may quote the key
	}
	key, ok := k.(ed25519.PrivateKey)
	if !ok {
		return nil, errors.New("not an Ed25519 key")
	}
	return key, nil
}

// measureSelf hashes the file that this process was started from, also if its
// name stands for another file by now.
func measureSelf() (m [32]byte, err error) {
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		return m, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return m, err
	}
	return [32]byte(h.Sum(nil)), nil
}

// Name is platform.SimulatedEnclave.
func (e *Enclave) Name() string { return platform.SimulatedEnclave }

// Key is the public half of the platform key.
func (e *Enclave) Key() ed25519.PublicKey { return e.key.Public().(ed25519.PublicKey) }

// Measurement is the SHA-256 of the executable.
func (e *Enclave) Measurement() [32]byte { return e.measurement }

// Report makes evidence. There are no endorsements: policy names the key.
func (e *Enclave) Report(ctx context.Context, reportData [64]byte) (*platform.Evidence, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	ev := &Evidence{Measurement: e.measurement, ReportData: reportData, Key: e.Key()}
	copy(ev.Signature[:], ed25519.Sign(e.key, ev.signed()))
	return &platform.Evidence{Platform: platform.SimulatedEnclave, Report: ev.Marshal()}, nil
}

// DeriveKey makes a key of the platform key and the measurement. It knows no
// other field: any request but SelectMeasurement alone is ErrKeyRefused.
func (e *Enclave) DeriveKey(ctx context.Context, q platform.KeyRequest) (*secret.Bytes, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if q != (platform.KeyRequest{FieldSelect: platform.SelectMeasurement}) {
		return nil, fmt.Errorf("%w: a simulated enclave has its measurement only", platform.ErrKeyRefused)
	}
	seed := e.key.Seed()
	defer clear(seed)
	k, err := hkdf.Key(sha256.New, seed, e.measurement[:], domainDerive, 32)
	if err != nil {
		return nil, err
	}
	return secret.Take(k), nil
}

// Close wipes the platform key.
func (e *Enclave) Close() error { clear(e.key); return nil }
