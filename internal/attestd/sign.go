package attestd

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha512" // SHA-384
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"attestbox/internal/wire"
)

// Algorithms of signatures.
const (
	AlgEd25519 = "ed25519"           // RFC 8032, pure
	AlgP256    = "ecdsa-p256-sha256" // ASN.1 DER
	AlgP384    = "ecdsa-p384-sha384" // ASN.1 DER
	AlgRSA     = "rsa-pss-sha256"    // salt as long as the hash
)

var errSignature = errors.New("the signature is wrong")

func algOf(pub crypto.PublicKey) (alg string, hash crypto.Hash, opts crypto.SignerOpts, err error) {
	switch k := pub.(type) {
	case ed25519.PublicKey:
		return AlgEd25519, 0, crypto.Hash(0), nil
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return AlgP256, crypto.SHA256, crypto.SHA256, nil
		case elliptic.P384():
			return AlgP384, crypto.SHA384, crypto.SHA384, nil
		}
	case *rsa.PublicKey:
		return AlgRSA, crypto.SHA256, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256}, nil
	}
	return "", 0, nil, fmt.Errorf("no signatures with a key of type %T", pub)
}

func hashed(hash crypto.Hash, message []byte) []byte {
	if hash == 0 {
		return message
	}
	h := hash.New()
	h.Write(message)
	return h.Sum(nil)
}

func sign(key crypto.Signer, message []byte) (alg string, sig []byte, err error) {
	alg, hash, opts, err := algOf(key.Public())
	if err != nil {
		return "", nil, err
	}
	sig, err = key.Sign(rand.Reader, hashed(hash, message), opts)
	return alg, sig, err
}

func verify(pub crypto.PublicKey, message, sig []byte) error {
	_, hash, opts, err := algOf(pub)
	if err != nil {
		return err
	}
	ok := false
	switch k := pub.(type) {
	case ed25519.PublicKey:
		ok = ed25519.Verify(k, message, sig)
	case *ecdsa.PublicKey:
		ok = ecdsa.VerifyASN1(k, hashed(hash, message), sig)
	case *rsa.PublicKey:
		ok = rsa.VerifyPSS(k, hash, hashed(hash, message), sig, opts.(*rsa.PSSOptions)) == nil
	}
	if !ok {
		return errSignature
	}
	return nil
}

// VerifySignature checks what the operation sign gave: that the program signed
// data in this context. pub is the key of the VM's admission certificate, which
// the caller has verified, or a program key from VerifyStatement.
func VerifySignature(pub crypto.PublicKey, program Program, context string, data, sig []byte) error {
	if !program.Measured() || !ValidContext(context) {
		return errSignature
	}
	return verify(pub, wire.AttestdSigned([]byte(program.String()), []byte(context), data), sig)
}

// VerifyStatement checks what the operation key gave: that attestd, by the key
// of the VM's admission certificate, says that spki is the program's key at the
// time now. It returns that key.
func VerifyStatement(pub crypto.PublicKey, program Program, spki []byte, notBefore, notAfter int64, sig []byte, now time.Time) (crypto.PublicKey, error) {
	if !program.Measured() {
		return nil, errSignature
	}
	if t := now.Unix(); t < notBefore || t > notAfter {
		return nil, errors.New("the statement is not valid at this time")
	}
	if err := verify(pub, wire.AttestdStatement([]byte(program.String()), spki, notBefore, notAfter), sig); err != nil {
		return nil, err
	}
	return x509.ParsePKIXPublicKey(spki)
}
