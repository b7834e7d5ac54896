package appraise

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"attestbox/internal/snp"
)

// maxCerts bounds how many certificates one file may hold.
const maxCerts = 8

// DecodeReport takes a report as people keep it: raw bytes, or hex with or
// without white space and a leading 0x. It does not look at the length; Verify
// does.
func DecodeReport(b []byte) ([]byte, error) {
	text := bytes.Join(bytes.Fields(b), nil)
	text = bytes.TrimPrefix(text, []byte("0x"))
	if len(text) == 0 {
		return nil, errors.New("the report is empty")
	}
	raw := make([]byte, hex.DecodedLen(len(text)))
	if _, err := hex.Decode(raw, text); err == nil {
		return raw, nil
	}
	return b, nil
}

// DecodeCerts takes certificates in PEM or in DER, one after the other, and
// returns each in DER. Text around PEM blocks, as openssl writes it, is skipped
// (RFC 7468, section 2); blocks of another type are errors. What the DER says is
// not looked at.
func DecodeCerts(b []byte) ([][]byte, error) {
	if len(bytes.TrimSpace(b)) == 0 {
		return nil, errors.New("no certificate: the file is empty")
	}
	next := nextDER
	if isPEM(b) {
		next, b = nextPEM, toPEM(b)
	}
	var list [][]byte
	for len(b) > 0 {
		der, rest, err := next(b)
		if err != nil {
			return nil, err
		}
		if list = append(list, der); len(list) > maxCerts {
			return nil, fmt.Errorf("more than %d certificates", maxCerts)
		}
		b = rest
	}
	return list, nil
}

const pemBegin = "-----BEGIN "

// isPEM says whether there is a PEM block with nothing but text before it.
func isPEM(b []byte) bool {
	from := toPEM(b)
	before := b[:len(b)-len(from)]
	return len(from) > 0 && utf8.Valid(before) && !bytes.Contains(before, []byte{0})
}

// toPEM cuts what stands before the next line that begins a PEM block; all, if
// there is none.
func toPEM(b []byte) []byte {
	if t := bytes.TrimSpace(b); bytes.HasPrefix(t, []byte(pemBegin)) {
		return t
	}
	if i := bytes.Index(b, []byte("\n"+pemBegin)); i >= 0 {
		return b[i+1:]
	}
	return nil
}

func nextPEM(b []byte) (der, rest []byte, err error) {
	if !bytes.HasPrefix(b, []byte("-----BEGIN CERTIFICATE-----")) {
		return nil, nil, errors.New("a PEM block that is not of type CERTIFICATE")
	}
	block, rest := pem.Decode(b)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, nil, errors.New("broken PEM block of type CERTIFICATE")
	}
	return block.Bytes, toPEM(rest), nil
}

func nextDER(b []byte) (der, rest []byte, err error) {
	var v asn1.RawValue
	rest, err = asn1.Unmarshal(b, &v)
	if err != nil || v.Tag != asn1.TagSequence || !v.IsCompound {
		return nil, nil, errors.New("neither PEM nor DER")
	}
	return b[:len(b)-len(rest)], rest, nil
}

// DecodeChain takes ASK and ARK in either order, as AMD's KDS serves them; one
// of them may be missing. The one whose issuer is itself is the ARK.
func DecodeChain(b []byte) (ask, ark []byte, err error) { return DecodeChainOf(nil, b) }

// DecodeChainOf is DecodeChain for one VEK: bundles as tools write them, with
// the VEK itself among the rest, or with the intermediates of VCEK and VLEK
// both, give the intermediate that is named as the VEK's issuer. A certificate
// that is there twice counts once. Nothing is verified here.
func DecodeChainOf(vek, b []byte) (ask, ark []byte, err error) {
	list, err := DecodeCerts(b)
	if err != nil {
		return nil, nil, err
	}
	var asks [][]byte
	for i, der := range list {
		if bytes.Equal(der, vek) || slices.ContainsFunc(list[:i], func(d []byte) bool { return bytes.Equal(d, der) }) {
			continue
		}
		if cert, err := x509.ParseCertificate(der); err != nil || !bytes.Equal(cert.RawIssuer, cert.RawSubject) {
			asks = append(asks, der)
		} else if ark != nil {
			return nil, nil, errors.New("two root certificates, want an ASK and an ARK")
		} else {
			ark = der
		}
	}
	if len(asks) > 1 {
		if asks = issuersOf(vek, ark, asks); len(asks) != 1 {
			return nil, nil, errors.New("two intermediate certificates, want an ASK and an ARK")
		}
	}
	if len(asks) == 1 {
		ask = asks[0]
	}
	return ask, ark, nil
}

// issuersOf keeps the certificates that have the name of the VEK's issuer; none
// where one of the list is not of the ARK that came with it.
func issuersOf(vek, ark []byte, list [][]byte) (fit [][]byte) {
	leaf, err := x509.ParseCertificate(vek)
	if err != nil {
		return nil
	}
	root, err := x509.ParseCertificate(ark)
	if err != nil {
		return nil
	}
	for _, der := range list {
		cert, err := x509.ParseCertificate(der)
		if err != nil || !bytes.Equal(cert.RawIssuer, root.RawSubject) {
			return nil
		}
		if bytes.Equal(cert.RawSubject, leaf.RawIssuer) {
			fit = append(fit, der)
		}
	}
	return fit
}

// DecodeRoots takes roots from a file of certificates: each self-issued one is
// a root, for the product that its common name ends in (ARK-Milan) or else for
// fallback; the others are intermediates of those they fit.
func DecodeRoots(b []byte, fallback string) (*Roots, error) {
	list, err := DecodeCerts(b)
	if err != nil {
		return nil, err
	}
	var arks, asks []*x509.Certificate
	for _, der := range list {
		cert, err := parseCert(der)
		if err != nil {
			return nil, err
		}
		if bytes.Equal(cert.RawIssuer, cert.RawSubject) {
			arks = append(arks, cert)
		} else {
			asks = append(asks, cert)
		}
	}
	if len(arks) == 0 {
		return nil, errors.New("no self-signed certificate that could be a root")
	}
	var roots []*Root
	for _, ark := range arks {
		product, err := rootProduct(ark, fallback)
		if err != nil {
			return nil, err
		}
		var mine [][]byte
		for _, ask := range asks {
			if bytes.Equal(ask.RawIssuer, ark.RawSubject) {
				mine = append(mine, ask.Raw)
			}
		}
		r, err := NewRoot(product, ark.Raw, mine...)
		if err != nil {
			return nil, err
		}
		roots = append(roots, r)
	}
	return NewRoots(roots...)
}

func rootProduct(ark *x509.Certificate, fallback string) (snp.Product, error) {
	if name, ok := strings.CutPrefix(ark.Subject.CommonName, "ARK-"); ok {
		if p, err := snp.ParseProduct(name); err == nil {
			return p, nil
		}
	}
	if fallback == "" {
		return "", fmt.Errorf("root %q does not say which product it is of", ark.Subject.CommonName)
	}
	return snp.ParseProduct(fallback)
}
