package member

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"

	"attestbox/internal/secret"
)

// Formats of ExportKey.
const (
	FormatPKCS8   = "pkcs8"   // PEM, "PRIVATE KEY" (RFC 5958)
	FormatOpenSSH = "openssh" // PEM, "OPENSSH PRIVATE KEY" (OpenSSH, PROTOCOL.key)
)

// ExportKey writes a PKCS #8 key, DER, in a format that programs read, without
// a passphrase. The caller zeroes the result.
func ExportKey(der *secret.Bytes, format, comment string) (*secret.Bytes, error) {
	switch format {
	case FormatPKCS8:
		return encodePEM("PRIVATE KEY", der.Bytes()), nil
	case FormatOpenSSH:
	default:
		return nil, fmt.Errorf("format %.20q is neither %s nor %s", format, FormatPKCS8, FormatOpenSSH)
	}
	k, err := x509.ParsePKCS8PrivateKey(der.Bytes())
	if err != nil {
		return nil, errors.New("the key is not PKCS #8") // the cause may quote the key
	}
	var kind string
	var public, private []byte // the fields behind the key type
	switch k := k.(type) {
	case ed25519.PrivateKey:
		pub := k.Public().(ed25519.PublicKey)
		kind = "ssh-ed25519"
		public = sshString(nil, pub)
		private = sshString(sshString(nil, pub), k)
	case *ecdsa.PrivateKey:
		var curve string
		switch k.Curve {
		case elliptic.P256():
			curve = "nistp256"
		case elliptic.P384():
			curve = "nistp384"
		default:
			return nil, errors.New("OpenSSH has no such curve")
		}
		point, err := k.PublicKey.Bytes()
		if err != nil {
			return nil, err
		}
		scalar, err := k.Bytes()
		if err != nil {
			return nil, err
		}
		kind = "ecdsa-sha2-" + curve
		public = sshString(sshString(nil, []byte(curve)), point)
		private = append(public[:len(public):len(public)], sshInt(scalar)...)
	default:
		return nil, fmt.Errorf("a %T has no OpenSSH form here: use %s", k, FormatPKCS8)
	}
	defer clear(private)
	var check [4]byte
	rand.Read(check[:])
	inner := append(check[:], check[:]...)
	inner = append(sshString(inner, []byte(kind)), private...)
	inner = sshString(inner, []byte(comment))
	for i := byte(1); len(inner)%8 != 0; i++ {
		inner = append(inner, i)
	}
	defer clear(inner)
	out := []byte("openssh-key-v1\x00")
	out = sshString(out, []byte("none")) // cipher
	out = sshString(out, []byte("none")) // KDF
	out = sshString(out, nil)
	out = binary.BigEndian.AppendUint32(out, 1)
	out = sshString(out, append(sshString(nil, []byte(kind)), public...))
	out = sshString(out, inner)
	defer clear(out)
	return encodePEM("OPENSSH PRIVATE KEY", out), nil
}

func encodePEM(kind string, der []byte) *secret.Bytes {
	return secret.Take(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func sshString(b, s []byte) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}

// sshInt is an mpint (RFC 4251 section 5) of an unsigned number.
func sshInt(n []byte) []byte {
	for len(n) > 0 && n[0] == 0 {
		n = n[1:]
	}
	if len(n) > 0 && n[0]&0x80 != 0 {
		n = append([]byte{0}, n...)
	}
	return sshString(nil, n)
}
