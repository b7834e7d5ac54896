package admission

import (
	"crypto/tls"
	"encoding/asn1"
	"errors"
	"fmt"
	"time"
)

// known are the standard extensions of an admission certificate: key usage,
// subject alternative name, basic constraints, authority key identifier,
// extended key usage.
var known = []asn1.ObjectIdentifier{
	{2, 5, 29, 15}, {2, 5, 29, 17}, {2, 5, 29, 19}, {2, 5, 29, 35}, {2, 5, 29, 37},
}

// base is TLS 1.3 alone, hybrid key exchange first, nothing resumed: every
// connection shows its certificate (DESIGN section 5).
func base(alpn ...string) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		CurvePreferences:       []tls.CurveID{tls.X25519MLKEM768, tls.X25519},
		SessionTicketsDisabled: true,
		NextProtos:             alpn,
	}
}

// ClientTLS is the connecting end of a channel between members of a domain.
// The peer must have an admission certificate of the domain that grants
// wantRole; "" accepts any member, for channels whose caller judges the peer by
// its identity. Host names mean nothing here: the server name indication is the
// domain, so that a server of several knows which one is meant.
func ClientTLS(t *Trust, own tls.Certificate, now func() time.Time, alpn, wantRole string) *tls.Config {
	cfg := base(alpn)
	cfg.ServerName = t.Domain
	cfg.InsecureSkipVerify = true // replaced by VerifyConnection
	// Always the one certificate: there is none to choose from.
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &own, nil }
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		if cs.NegotiatedProtocol != alpn {
			return fmt.Errorf("the server does not speak %s", alpn)
		}
		id, err := t.IdentityOf(&cs, now())
		if err != nil {
			return err
		}
		return RequireRole(id, wantRole)
	}
	return cfg
}

// ServerTLS is the accepting end: every client must have an admission
// certificate of the domain.
func ServerTLS(t *Trust, own func() (*tls.Certificate, error), now func() time.Time, alpn ...string) *tls.Config {
	cfg := base(alpn...)
	cfg.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return own() }
	cfg.ClientAuth = tls.RequireAnyClientCert // verified below, also where crypto/tls would resume
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		if cs.NegotiatedProtocol == "" {
			return errors.New("the client names no protocol")
		}
		_, err := t.IdentityOf(&cs, now())
		return err
	}
	return cfg
}

// IdentityOf verifies what the peer of a TLS connection presented, at now. A
// caller that keeps a connection open asks again: certificates end.
func (t *Trust) IdentityOf(cs *tls.ConnectionState, now time.Time) (*Identity, error) {
	if cs.Version != tls.VersionTLS13 {
		return nil, errors.New("the channel is not TLS 1.3")
	}
	chain := make([][]byte, len(cs.PeerCertificates))
	for i, c := range cs.PeerCertificates {
		chain[i] = c.Raw
	}
	return t.Verify(chain, now)
}
