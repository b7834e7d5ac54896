package member

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"attestbox/internal/client"
	"attestbox/internal/wire"
)

func TestSecondKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVM(t)
		m, res := v.certify()
		defer m.Close()
		for _, alg := range []string{"ed25519", "p256", "p384"} {
			req := v.request()
			req.Alg = alg
			s, err := m.Second(t.Context(), "sshd-"+alg, req)
			if err != nil {
				t.Fatal(err)
			}
			if !s.New || !bytes.Equal(s.ID.Measurement, res.Identity.Measurement) || s.ID.Instance != res.Identity.Instance || s.ID.SPKI == res.Identity.SPKI {
				t.Errorf("%+v", s.ID)
			}
			again, err := m.Second(t.Context(), "sshd-"+alg, req)
			if err != nil || again.New || !again.Key.Equal(s.Key) {
				t.Errorf("again: %+v, %v", again, err)
			}
			p8, err := ExportKey(s.Key, FormatPKCS8, "")
			if err != nil {
				t.Fatal(err)
			}
			block, _ := pem.Decode(p8.Bytes())
			want, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			file, err := ExportKey(s.Key, FormatOpenSSH, "sshd@vm")
			if err != nil {
				t.Fatal(err)
			}
			got, err := ssh.ParseRawPrivateKey(file.Bytes())
			if err != nil {
				t.Fatalf("%s: %v", alg, err)
			}
			a, err := ssh.NewSignerFromKey(want)
			if err != nil {
				t.Fatal(err)
			}
			b, err := ssh.NewSignerFromKey(got)
			if err != nil || !bytes.Equal(a.PublicKey().Marshal(), b.PublicKey().Marshal()) {
				t.Errorf("%s: OpenSSH reads another key, %v", alg, err)
			}
			time.Sleep(41 * time.Minute)
			if again, err = m.Second(t.Context(), "sshd-"+alg, req); err != nil || !again.New || !again.Key.Equal(s.Key) {
				t.Errorf("due: %+v, %v", again, err)
			}
		}
		if _, err := m.Second(t.Context(), "../x", v.request()); err == nil {
			t.Error("a malformed name was accepted")
		}
		if _, err := ExportKey(nil, "jks", ""); err == nil {
			t.Error("an unknown format was accepted")
		}
	})
}

func TestKeepCertified(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVM(t)
		m, _ := v.certify()
		defer m.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 6*time.Hour)
		defer cancel()
		n := 0
		var last time.Time
		err := m.KeepCertified(ctx, v.request(), func(r *Result) {
			if n++; r.Identity.NotAfter.Before(last) {
				t.Errorf("renewed to an earlier end")
			}
			last = r.Identity.NotAfter
		})
		if err != nil || n < 8 || n > 10 {
			t.Errorf("%d renewals in 6 h, %v", n, err)
		}
		if id, err := m.Identity(t.Context()); err != nil || id.NotAfter.Before(time.Now()) {
			t.Errorf("%v", err)
		}
	})
}

// Another program learns of a newer policy: the certificate is renewed at once,
// and if policy has taken the admission back, that is final at once.
func TestKeepCertifiedAcrossPolicies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVM(t)
		m, _ := v.certify()
		defer m.Close()
		begin := time.Now()
		var refuse bool
		v.ps.Answer = func(int) wire.Message {
			if refuse {
				return &wire.Refused{Code: "launch-refused"}
			}
			return nil
		}
		time.AfterFunc(5*time.Minute, func() {
			v.ps.Domain.Version = 2
			m.Learned(time.Now().Unix(), 2)
		})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		n := 0
		if err := m.KeepCertified(ctx, v.request(), func(r *Result) {
			if n++; r.Identity.PolicyVersion != 2 || time.Since(begin) > 6*time.Minute {
				t.Errorf("%+v after %v", r.Identity, time.Since(begin))
			}
		}); err != nil || n != 1 {
			t.Errorf("%d renewals, %v", n, err)
		}
		refuse = true
		m.Learned(time.Now().Unix(), 3)
		begin = time.Now()
		if err := m.KeepCertified(t.Context(), v.request(), nil); !errors.Is(err, client.ErrRefused) || time.Since(begin) > time.Minute {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
	})
}

// The server is away for a while, then refuses: the old certificate is used to
// its end, and the refusal is final only then.
func TestKeepCertifiedThroughFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVM(t)
		m, res := v.certify()
		defer m.Close()
		end := res.Identity.NotAfter
		begin := time.Now()
		v.ps.Answer = func(int) wire.Message {
			switch at := time.Since(begin); {
			case at < 45*time.Minute:
				return &wire.Later{Code: "launch-later", Seconds: 10}
			case at < 70*time.Minute:
				return nil
			}
			return &wire.Refused{Code: "launch-refused"}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 70*time.Minute)
		defer cancel()
		n := 0
		if err := m.KeepCertified(ctx, v.request(), func(r *Result) { n++; end = r.Identity.NotAfter }); err != nil || n != 1 {
			t.Errorf("%d renewals, %v", n, err)
		}
		err := m.KeepCertified(t.Context(), v.request(), nil)
		if late := time.Since(end); !errors.Is(err, client.ErrRefused) || late < 0 || late > 10*time.Minute {
			t.Errorf("%v, %v after the end", err, late)
		}
	})
}
