package claim

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// ErrSignature is a signature that does not verify.
var ErrSignature = errors.New("the signature is wrong")

var pss = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA384}

// sign signs msg with an Ed25519, P-384 or RSA key.
func sign(key crypto.Signer, msg []byte) (alg string, sig []byte, err error) {
	if alg, err = algorithm(key.Public()); err != nil {
		return "", nil, err
	}
	digest := sha512.Sum384(msg)
	switch alg {
	case Ed25519:
		sig, err = key.Sign(rand.Reader, msg, crypto.Hash(0))
	case P384:
		sig, err = key.Sign(rand.Reader, digest[:], crypto.SHA384)
	case RSA:
		sig, err = key.Sign(rand.Reader, digest[:], pss)
	default:
		return "", nil, fmt.Errorf("a key of %s does not sign claims, want ed25519, p384 or rsa", alg)
	}
	return alg, sig, err
}

// verify checks a signature of msg.
func verify(pub crypto.PublicKey, alg string, msg, sig []byte) error {
	got, err := algorithm(pub)
	if err != nil {
		return err
	}
	if got != alg {
		return fmt.Errorf("%w: made with %s, the key is %s", ErrSignature, alg, got)
	}
	digest := sha512.Sum384(msg)
	ok := false
	switch k := pub.(type) {
	case ed25519.PublicKey:
		ok = ed25519.Verify(k, msg, sig)
	case *ecdsa.PublicKey:
		ok = alg == P384 && ecdsa.VerifyASN1(k, digest[:], sig)
	case *rsa.PublicKey:
		ok = rsa.VerifyPSS(k, crypto.SHA384, digest[:], sig, pss) == nil
	}
	if !ok {
		return ErrSignature
	}
	return nil
}

// maxSignature bounds a signature, in bytes.
const maxSignature = 1024

// signatureLine is the last line of a signed text.
func signatureLine(alg string, sig []byte) string {
	return "signature " + alg + " " + base64.StdEncoding.EncodeToString(sig) + "\n"
}

// splitSigned cuts a signed text into the text and its signature.
func splitSigned(signed []byte) (text []byte, alg string, sig []byte, err error) {
	s := string(signed)
	body, ok := strings.CutSuffix(s, "\n")
	if !ok {
		return nil, "", nil, errors.New("does not end with a line")
	}
	at := strings.LastIndexByte(body, '\n') + 1
	rest, ok := strings.CutPrefix(body[at:], "signature ")
	if !ok {
		return nil, "", nil, errors.New("the last line is not a signature")
	}
	alg, b64, ok := strings.Cut(rest, " ")
	if !ok {
		return nil, "", nil, errors.New("malformed signature line")
	}
	if sig, err = decodeBase64(b64, maxSignature); err != nil {
		return nil, "", nil, fmt.Errorf("signature: %w", err)
	}
	return []byte(s[:at]), alg, sig, nil
}

// decodeBase64 reads the one standard encoding of some bytes.
func decodeBase64(s string, max int) ([]byte, error) {
	if base64.StdEncoding.DecodedLen(len(s)) > max+2 {
		return nil, fmt.Errorf("more than %d bytes", max)
	}
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || base64.StdEncoding.EncodeToString(b) != s {
		return nil, errors.New("not standard base64")
	}
	return b, nil
}
