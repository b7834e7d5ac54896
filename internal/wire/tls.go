package wire

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// Pin is the SHA-256 of a key's SubjectPublicKeyInfo (DER), written as
// "sha256:" and 64 hex digits.
type Pin [32]byte

// PinOf is a certificate's pin.
func PinOf(cert *x509.Certificate) Pin { return sha256.Sum256(cert.RawSubjectPublicKeyInfo) }

func (p Pin) String() string { return "sha256:" + hex.EncodeToString(p[:]) }

// MarshalText writes the pin's text form.
func (p Pin) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads the pin's text form.
func (p *Pin) UnmarshalText(b []byte) error {
	digits, ok := strings.CutPrefix(string(b), "sha256:")
	if !ok {
		return errors.New(`a pin is written "sha256:" and 64 hex digits`)
	}
	return unhex(p[:], []byte(digits))
}

// ErrPin is a peer whose key is none of the pinned ones.
var ErrPin = errors.New("the verifier's key is not pinned in this image")

// base is what both ends share: TLS 1.3 alone, hybrid key exchange first.
func base() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		CurvePreferences:       []tls.CurveID{tls.X25519MLKEM768, tls.X25519},
		SessionTicketsDisabled: true,
		NextProtos:             []string{ALPNLaunch},
	}
}

// ClientTLS is the guest's end. The verifier is authenticated by its pinned
// key alone: the host owns the guest's clock and names, so neither dates nor
// host names mean anything here. VerifyConnection also runs on resumption.
func ClientTLS(pins []Pin) (*tls.Config, error) {
	if len(pins) == 0 {
		return nil, errors.New("no verifier key is pinned")
	}
	cfg := base()
	cfg.InsecureSkipVerify = true // replaced by VerifyConnection below
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		if len(cs.PeerCertificates) == 0 {
			return errors.New("the verifier presented no certificate")
		}
		if cs.NegotiatedProtocol != ALPNLaunch {
			return fmt.Errorf("the server does not speak %s", ALPNLaunch)
		}
		got := PinOf(cs.PeerCertificates[0])
		for _, p := range pins {
			if p == got {
				return nil
			}
		}
		return fmt.Errorf("%w: it presented %s", ErrPin, got)
	}
	return cfg, nil
}

// ServerTLS is the verifier's end.
func ServerTLS(cert tls.Certificate) *tls.Config {
	cfg := base()
	cfg.Certificates = []tls.Certificate{cert}
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		if cs.NegotiatedProtocol != ALPNLaunch {
			return fmt.Errorf("the client does not speak %s", ALPNLaunch)
		}
		return nil
	}
	return cfg
}
