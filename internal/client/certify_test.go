package client

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"attestbox/internal/admission"
	"attestbox/internal/client/domaintest"
	"attestbox/internal/code"
	"attestbox/internal/wire"
)

func certifyConfig(p *domaintest.PolicyServer) CertifyConfig {
	return CertifyConfig{
		Config: Config{Servers: []string{"tcp://a:1"}, Pins: []wire.Pin{p.Pin()}, Policy: p.Domain.Policy, Platform: psp{7}, Dial: p.Dial},
		Domain: p.Domain.Name, Key: domaintest.Key(),
	}
}

func TestCertify(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := domaintest.New(t, "a.example", time.Now()).NewPolicyServer(t)
		p.Epoch = 4
		cfg := certifyConfig(p)
		cfg.StoreEpoch = 9
		a, err := Certify(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		if string(a.StoreSecret.Bytes()) != string(p.Share) || a.StoreEpoch != 9 || a.Identity.Instance[0] != 7 || a.Identity.ReportID[0] != 9 || a.Proof == "" {
			t.Errorf("%+v", a)
		}
		if a.Time != time.Now().Unix() || a.MinPolicyVersion != 1 || len(a.Chain) != 2 {
			t.Errorf("%+v", a)
		}
		a.Close()
		if a.StoreSecret.Len() != 0 {
			t.Error("Close left the share")
		}

		cfg.Role = wire.RoleKeyServer
		key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		cfg.Key = key
		if a, err = Certify(t.Context(), cfg); err != nil || !a.Identity.HasRole(wire.RoleKeyServer) {
			t.Fatalf("%+v, %v", a, err)
		}
	})
}

// Whatever the server answers instead of the certificate that was asked for is
// not taken for one.
func TestCertifyAnswerIsChecked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		d, other := domaintest.New(t, "a.example", now), domaintest.New(t, "b.example", now)
		twin := domaintest.New(t, "a.example", now) // the same name under another policy key
		for name, tt := range map[string]struct {
			change func(*wire.Admission, *wire.CertifyTranscript)
			cfg    func(*CertifyConfig)
			code   code.Code
		}{
			"another key": {change: func(a *wire.Admission, _ *wire.CertifyTranscript) {
				a.Chain = d.Issue(t, domaintest.Key().Public(), d.Identity(1, 1), now, time.Hour)
			}, code: code.CertifyAnswer},
			"another domain": {change: func(a *wire.Admission, tr *wire.CertifyTranscript) {
				pub, _ := admission.KeyFromCSR(tr.CSR)
				a.Chain = other.Issue(t, pub, other.Identity(1, 1), now, time.Hour)
			}, code: code.CertifyAnswer},
			"another policy key": {change: func(a *wire.Admission, tr *wire.CertifyTranscript) {
				pub, _ := admission.KeyFromCSR(tr.CSR)
				a.Chain = twin.Issue(t, pub, twin.Identity(1, 1), now, time.Hour)
			}, code: code.CertifyAnswer},
			"expired": {change: func(a *wire.Admission, tr *wire.CertifyTranscript) {
				pub, _ := admission.KeyFromCSR(tr.CSR)
				a.Chain = d.Issue(t, pub, d.Identity(1, 1), now.Add(-2*time.Hour), 61*time.Minute)
				a.Time += 3601
			}, code: code.CertifyAnswer},
			"no issuer":            {change: func(a *wire.Admission, _ *wire.CertifyTranscript) { a.Chain = a.Chain[:1] }, code: code.CertifyAnswer},
			"policy rolled back":   {cfg: func(c *CertifyConfig) { c.MinPolicyVersion = 2 }, code: code.CertifyAnswer},
			"below its own policy": {change: func(a *wire.Admission, _ *wire.CertifyTranscript) { a.MinPolicyVersion = 2 }, code: code.CertifyAnswer},
			"sealed to another exchange": {change: func(a *wire.Admission, tr *wire.CertifyTranscript) {
				tr.Nonce[0] ^= 1
				a.Sealed, _ = wire.SealCertify(tr, &wire.Payload{})
			}},
			"role not granted": {cfg: func(c *CertifyConfig) { c.Role = wire.RoleVerifier }, code: code.CertifyAnswer,
				change: func(a *wire.Admission, tr *wire.CertifyTranscript) {
					pub, _ := admission.KeyFromCSR(tr.CSR)
					a.Chain = d.Issue(t, pub, d.Identity(1, 1), now, time.Hour)
				}},
		} {
			p := d.NewPolicyServer(t)
			p.Change = tt.change
			cfg := certifyConfig(p)
			if tt.cfg != nil {
				tt.cfg(&cfg)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			a, err := Certify(ctx, cfg)
			cancel()
			if err == nil {
				a.Close()
				t.Errorf("%s: accepted", name)
				continue
			}
			if !errors.Is(err, ErrUnreachable) {
				t.Errorf("%s: %v", name, err)
			}
			var found bool
			for e := err; e != nil; e = errors.Unwrap(e) {
				found = found || tt.code == "" || codeIn(e, tt.code)
			}
			if !found {
				t.Errorf("%s: %v lacks %s", name, err, tt.code)
			}
		}
	})
}

func codeIn(err error, want code.Code) bool {
	switch e := err.(type) {
	case *code.Error:
		return e.Code == want || codeIn(e.Err, want)
	case interface{ Unwrap() []error }:
		for _, e := range e.Unwrap() {
			if codeIn(e, want) {
				return true
			}
		}
	case interface{ Unwrap() error }:
		return codeIn(e.Unwrap(), want)
	}
	return false
}

func TestCertifyRefusedAndLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := domaintest.New(t, "a.example", time.Now()).NewPolicyServer(t)
		p.Answer = func(n int) wire.Message {
			if n < 3 {
				return &wire.Later{Code: code.LaunchLater, Seconds: 20}
			}
			return &wire.Refused{Exchange: wire.ExchangeID{1}, Code: code.LaunchRefused}
		}
		begin := time.Now()
		_, err := Certify(t.Context(), certifyConfig(p))
		if !errors.Is(err, ErrRefused) || p.Conns() != 3 || time.Since(begin) < 40*time.Second {
			t.Errorf("%v after %d connections and %v", err, p.Conns(), time.Since(begin))
		}
	})
}

// A server without a serving claim is not trusted by the policy certificate
// alone, and nothing is sent to it.
func TestCertifyUntrustedServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := domaintest.New(t, "a.example", time.Now()).NewPolicyServer(t)
		cfg := certifyConfig(p)
		cfg.Pins = nil
		_, err := Certify(t.Context(), cfg)
		if c, _ := code.Of(err); !errors.Is(err, ErrRefused) || c != code.ServerUntrusted || len(p.Begun) != 0 {
			t.Errorf("%v (%s)", err, c)
		}
		cfg = certifyConfig(p)
		cfg.Pins[0][0] ^= 1
		cfg.Policy = nil
		if _, err := Certify(t.Context(), cfg); err == nil {
			t.Error("certified without a policy certificate")
		}
		cfg = certifyConfig(p)
		cfg.Domain = "b.example"
		if _, err := Certify(t.Context(), cfg); err == nil || p.Conns() != 1 {
			t.Errorf("%v after %d connections: the policy certificate is of another domain", err, p.Conns())
		}
	})
}

// A server is trusted by the claim in its certificate, for its role, while the
// claim is valid by a clock that has a floor.
func TestCertifyServingClaim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC))) // of fake time: claims have plausible dates
		now := time.Now()
		d, other := domaintest.New(t, "a.example", now), domaintest.New(t, "a.example", now)
		p := d.NewPolicyServer(t)
		for name, tt := range map[string]struct {
			cert tls.Certificate
			now  time.Time
			ok   bool
		}{
			"trusted":              {d.Serving(t, now, wire.RoleVerifier, wire.RolePolicyServer), now, true},
			"for another role":     {d.Serving(t, now, wire.RoleVerifier), now, false},
			"no claim":             {d.Serving(t, now), now, false},
			"by another policy":    {other.Serving(t, now, wire.RolePolicyServer), now, false},
			"claim has expired":    {d.Serving(t, now, wire.RolePolicyServer), now.Add(48 * time.Hour), false},
			"claim is of tomorrow": {d.Serving(t, now, wire.RolePolicyServer), now.Add(-48 * time.Hour), false},
		} {
			p.Cert = tt.cert
			cfg := certifyConfig(p)
			cfg.Pins, cfg.Now = nil, func() time.Time { return tt.now }
			a, err := Certify(t.Context(), cfg)
			if c, _ := code.Of(err); (err == nil) != tt.ok || !tt.ok && (c != code.ServerUntrusted || !errors.Is(err, ErrRefused)) {
				t.Errorf("%s: %v (%s)", name, err, c)
			}
			a.Close()
		}
	})
}
