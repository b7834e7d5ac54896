package wire

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
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

// What a server is that the image does not trust, for errors.Is.
var (
	ErrPin       = errors.New("the verifier's key is not pinned in this image")
	ErrUntrusted = errors.New("policy does not trust this server for its role")
)

// base is what both ends share: TLS 1.3 alone, hybrid key exchange first.
func base(alpn ...string) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		CurvePreferences:       []tls.CurveID{tls.X25519MLKEM768, tls.X25519},
		SessionTicketsDisabled: true,
		NextProtos:             alpn,
	}
}

// ClientTLS is the guest's end of launch, with servers trusted by pin.
func ClientTLS(pins []Pin) (*tls.Config, error) { return PinnedTLS(ALPNLaunch, pins) }

// PinnedTLS is a client's end of one protocol. The server is authenticated by
// its pinned key alone: the host owns the guest's clock and names, so neither
// dates nor host names mean anything here.
func PinnedTLS(alpn string, pins []Pin) (*tls.Config, error) {
	if len(pins) == 0 {
		return nil, errors.New("no verifier key is pinned")
	}
	return ChannelTLS(alpn, func(cert *x509.Certificate) error {
		got := PinOf(cert)
		if slices.Contains(pins, got) {
			return nil
		}
		return fmt.Errorf("%w: it presented %s", ErrPin, got)
	}), nil
}

// ChannelTLS is a client's end of one protocol, with trust as the only judge of
// the server's certificate; the handshake has proved that the server holds its
// key. VerifyConnection also runs on resumption.
func ChannelTLS(alpn string, trust func(*x509.Certificate) error) *tls.Config {
	cfg := base(alpn)
	cfg.InsecureSkipVerify = true // replaced by VerifyConnection below
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		if len(cs.PeerCertificates) == 0 {
			return errors.New("the server presented no certificate")
		}
		if cs.NegotiatedProtocol != alpn {
			return fmt.Errorf("the server does not speak %s", alpn)
		}
		return trust(cs.PeerCertificates[0])
	}
	return cfg
}

// ServerTLS is the verifier's end of launch.
func ServerTLS(cert tls.Certificate) *tls.Config { return ServerTLSFor(ALPNLaunch, cert) }

// ServerTLSFor is a server's end of one protocol whose clients show no
// certificate.
func ServerTLSFor(alpn string, cert tls.Certificate) *tls.Config {
	cfg := base(alpn)
	cfg.Certificates = []tls.Certificate{cert}
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		if cs.NegotiatedProtocol != alpn {
			return fmt.Errorf("the client does not speak %s", alpn)
		}
		return nil
	}
	return cfg
}
