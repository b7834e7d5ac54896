package cryptstore

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	"attestbox/internal/cryptstore"
	"attestbox/internal/secret"
)

// Names of -format.
const (
	formatRaw    = "raw"
	formatPEM    = "pem"
	formatHex    = "hex"
	formatBase64 = "base64"

	pemPrivate = "PRIVATE KEY" // RFC 7468 section 10
	pemCert    = "CERTIFICATE" // RFC 7468 section 5
)

// maxInput bounds what is read for a value in any format: hex is the longest.
const maxInput = 2*cryptstore.MaxValue + 4096

// format is the one to use: PEM is the default of private keys and
// certificates, raw of everything else.
func format(name string, t cryptstore.Type) (string, error) {
	pemType := t == cryptstore.PrivateKey || t.Public()
	switch {
	case name == "" && pemType:
		return formatPEM, nil
	case name == "":
		return formatRaw, nil
	case !slices.Contains([]string{formatRaw, formatPEM, formatHex, formatBase64}, name):
		return "", fmt.Errorf("-format %.20q: raw, pem, hex or base64", name)
	case name == formatPEM && !pemType:
		return "", fmt.Errorf("a %s has no PEM form", t)
	}
	return name, nil
}

// encode writes a value in a format; the caller zeroes the result.
func encode(v *secret.Bytes, t cryptstore.Type, format string) (*secret.Bytes, error) {
	switch format {
	case formatHex:
		out := secret.New(hex.EncodedLen(v.Len()) + 1)
		hex.Encode(out.Bytes(), v.Bytes())
		out.Bytes()[out.Len()-1] = '\n'
		return out, nil
	case formatBase64:
		out := secret.New(base64.StdEncoding.EncodedLen(v.Len()) + 1)
		base64.StdEncoding.Encode(out.Bytes(), v.Bytes())
		out.Bytes()[out.Len()-1] = '\n'
		return out, nil
	case formatPEM:
		if t == cryptstore.PrivateKey {
			return secret.Take(pem.EncodeToMemory(&pem.Block{Type: pemPrivate, Bytes: v.Bytes()})), nil
		}
		certs, err := splitCerts(v.Bytes())
		if err != nil {
			return nil, err
		}
		var out bytes.Buffer
		for _, der := range certs {
			if err := pem.Encode(&out, &pem.Block{Type: pemCert, Bytes: der}); err != nil {
				return nil, err
			}
		}
		return secret.Take(out.Bytes()), nil
	}
	return secret.Copy(v.Bytes()), nil
}

// decode is the inverse of encode; the caller zeroes the result.
func decode(in *secret.Bytes, t cryptstore.Type, format string) (*secret.Bytes, error) {
	switch format {
	case formatHex:
		text := bytes.TrimSpace(in.Bytes())
		buf := secret.New(hex.DecodedLen(len(text)))
		if _, err := hex.Decode(buf.Bytes(), text); err != nil {
			buf.Zero()
			return nil, errors.New("the input is not hex") // the cause quotes it
		}
		return buf, nil
	case formatBase64:
		text := bytes.TrimSpace(in.Bytes())
		buf := secret.New(base64.StdEncoding.DecodedLen(len(text)))
		defer buf.Zero()
		n, err := base64.StdEncoding.Decode(buf.Bytes(), text)
		if err != nil {
			return nil, errors.New("the input is not base64")
		}
		return secret.Copy(buf.Bytes()[:n]), nil
	case formatPEM:
		return decodePEM(in, t)
	}
	return secret.Copy(in.Bytes()), nil
}

func decodePEM(in *secret.Bytes, t cryptstore.Type) (*secret.Bytes, error) {
	want := pemCert
	if t == cryptstore.PrivateKey {
		want = pemPrivate
	}
	var out []byte
	defer func() { clear(out) }()
	n, rest := 0, in.Bytes()
	for len(bytes.TrimSpace(rest)) > 0 {
		block, next := pem.Decode(rest)
		if block == nil || block.Type != want || n > 0 && t != cryptstore.X509Chain {
			return nil, fmt.Errorf("want PEM %q for a %s%s", want, t, hintPEM(block))
		}
		grown := slices.Concat(out, block.Bytes)
		clear(out)
		clear(block.Bytes)
		out, rest, n = grown, next, n+1
	}
	return secret.Copy(out), nil
}

func hintPEM(block *pem.Block) string {
	if block != nil && strings.HasSuffix(block.Type, pemPrivate) && block.Type != pemPrivate {
		return ": convert it with openssl pkcs8 -topk8 -nocrypt"
	}
	return ""
}

// splitCerts takes certificates that follow one another apart.
func splitCerts(der []byte) (certs [][]byte, err error) {
	for len(der) > 0 {
		n, err := derLen(der)
		if err != nil {
			return nil, err
		}
		certs = append(certs, der[:n])
		der = der[n:]
	}
	return certs, nil
}

// derLen is the length of the DER object in front, of at most 4 GiB.
func derLen(b []byte) (int, error) {
	bad := errors.New("malformed certificate")
	if len(b) < 2 {
		return 0, bad
	}
	n, head := int(b[1]), 2
	if n >= 0x80 {
		k := n & 0x7f
		if k == 0 || k > 4 || len(b) < 2+k {
			return 0, bad
		}
		n, head = 0, 2+k
		for _, c := range b[2:head] {
			n = n<<8 | int(c)
		}
	}
	if n > len(b)-head {
		return 0, bad
	}
	return head + n, nil
}
