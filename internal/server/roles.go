package server

import (
	"crypto/tls"
	"errors"
	"fmt"
	"slices"

	"attestbox/internal/admission"
	"attestbox/internal/wire"
)

// What a server does; one listener does any of them.
const (
	RoleLaunch  = "launch"
	RoleCertify = "certify"
	RoleKeys    = "keys"
)

var alpnOf = map[string]string{RoleLaunch: wire.ALPNLaunch, RoleCertify: wire.ALPNCertify, RoleKeys: wire.ALPNKeys}

// What every server of launches serves beside them; no roles of their own.
const (
	protocolMaintain = "maintain"
	protocolBundle   = "bundle"
)

// protocolOf is what an ALPN identifier chooses.
func protocolOf(alpn string) string {
	for role, a := range alpnOf {
		if a == alpn {
			return role
		}
	}
	switch alpn {
	case wire.ALPNMaintain:
		return protocolMaintain
	case wire.ALPNBundle:
		return protocolBundle
	}
	return ""
}

// AllRoles lists the roles.
func AllRoles() []string { return []string{RoleLaunch, RoleCertify, RoleKeys} }

// checkRoles refuses a server that lacks what its roles need.
func (s *Server) checkRoles() error {
	if s.Roles == nil {
		s.Roles = []string{RoleLaunch}
	}
	for _, r := range s.Roles {
		alpn, ok := alpnOf[r]
		if !ok || s.roles[alpn] {
			return fmt.Errorf("role %.32q is unknown or given twice; there are %v", r, AllRoles())
		}
		s.roles[alpn] = true
	}
	s.roles[wire.ALPNMaintain] = s.roles[wire.ALPNLaunch]
	s.roles[wire.ALPNBundle] = s.roles[wire.ALPNLaunch]
	launch, certify, keys := s.roles[wire.ALPNLaunch], s.roles[wire.ALPNCertify], s.roles[wire.ALPNKeys]
	switch {
	case len(s.Roles) == 0:
		return errors.New("a server needs a role")
	case launch && s.Appraiser == nil && len(s.Domains) == 0:
		return errors.New("launch needs an appraiser or a domain")
	case (certify || keys) && (len(s.Domains) == 0 || s.Audit == nil):
		return errors.New("certify and keys need a domain and an audit log")
	}
	seen := map[string]bool{}
	for _, d := range s.Domains {
		if seen[d.name] {
			return fmt.Errorf("domain %s is given twice", d.name)
		}
		seen[d.name] = true
		if certify && d.cfg.IssuerKey == nil {
			return fmt.Errorf("domain %s: certify needs an issuer", d.name)
		}
	}
	return nil
}

// domain finds a domain; "" is the only one, where there is one.
func (s *Server) domain(name string) *Domain {
	if name == "" && len(s.Domains) == 1 {
		return s.Domains[0]
	}
	for _, d := range s.Domains {
		if d.name == name {
			return d
		}
	}
	return nil
}

// tlsConfig is the server's end of one connection. ALPN chooses the protocol,
// the server name indication a domain.
func (s *Server) tlsConfig(x *exchange) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			i := slices.IndexFunc(hello.SupportedProtos, func(p string) bool { return s.roles[p] })
			if i < 0 {
				return nil, fmt.Errorf("the client speaks %.200q, none of which is served here", hello.SupportedProtos)
			}
			alpn := hello.SupportedProtos[i]
			x.protocol = protocolOf(alpn)
			if x.protocol == RoleKeys {
				return s.keysTLS(hello.ServerName)
			}
			cert := s.pinned
			if d := s.domainFor(hello.ServerName); d != nil && d.serving != nil {
				cert = *d.serving
			}
			return wire.ServerTLSFor(alpn, cert), nil
		},
	}
}

// domainFor is the domain whose claims the server's certificate shows: the one
// that the client names, else the first. Whoever pins the key finds the same
// key in all of them.
func (s *Server) domainFor(name string) *Domain {
	if d := s.domain(name); d != nil || len(s.Domains) == 0 {
		return d
	}
	return s.Domains[0]
}

// keysTLS asks for an admission certificate, and shows the server's own.
func (s *Server) keysTLS(name string) (*tls.Config, error) {
	d := s.domain(name)
	if d == nil {
		return nil, fmt.Errorf("the client means domain %.100q, which is not served here", name)
	}
	own, err := d.ownCertificate(s.Now())
	if err != nil {
		return nil, err
	}
	cfg := admission.ServerTLS(d.greeting(), func() (*tls.Certificate, error) { return own, nil }, s.Now, wire.ALPNKeys)
	return cfg, nil
}
