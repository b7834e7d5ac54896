package client

import (
	"context"
	"crypto/tls"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"attestbox/internal/admission"
	"attestbox/internal/client/domaintest"
	"attestbox/internal/code"
	"attestbox/internal/secret"
	"attestbox/internal/wire"
)

func keysConfig(t *testing.T, k *domaintest.KeyServer) KeysConfig {
	own := k.Domain.Member(t, k.Domain.Identity(1, 1), time.Now(), time.Hour)
	return KeysConfig{Servers: []string{"tcp://k:1"}, Trust: k.Domain.Trust(), Dial: k.Dial,
		Certificate: func() (*tls.Certificate, error) { return own, nil }}
}

func TestKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ks := domaintest.New(t, "a.example", time.Now()).NewKeyServer(t, time.Now())
		cfg := keysConfig(t, ks)
		learned := int64(0)
		cfg.Learned = func(at int64, policy uint64) { learned = at }
		k, err := DialKeys(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		for want := uint64(1); want <= 2; want++ {
			if v, err := k.Put(t.Context(), "db/password", 0, "blob", secret.Copy([]byte{'s', byte(want)})); err != nil || v != want {
				t.Fatalf("%d, %v", v, err)
			}
		}
		for v, want := range map[uint64]string{0: "s\x02", 1: "s\x01", 2: "s\x02"} {
			s, err := k.Get(t.Context(), "db/password", v)
			if err != nil || string(s.Value.Bytes()) != want {
				t.Fatalf("version %d: %v, %v", v, s, err)
			}
			s.Value.Zero()
		}
		if v, err := k.Rotate(t.Context(), "db/password", ""); err != nil || v != 3 {
			t.Errorf("%d, %v", v, err)
		}
		if names, err := k.List(t.Context(), "*"); err != nil || len(names) != 1 || names[0].Version != 3 {
			t.Errorf("%v, %v", names, err)
		}
		if err := k.Delete(t.Context(), "db/password", 0); err != nil {
			t.Error(err)
		}
		// A refused request leaves the connection usable.
		if _, err := k.Get(t.Context(), "db/password", 0); !errors.Is(err, ErrRefused) {
			t.Errorf("deleted, yet %v", err)
		}
		if _, err := k.List(t.Context(), "*"); err != nil || ks.Dialled() != 1 {
			t.Errorf("%v on %d connections", err, ks.Dialled())
		}
		if learned != time.Now().Unix() {
			t.Errorf("learned %d", learned)
		}
	})
}

// Attacks on who answers and who asks.
func TestKeysPeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		d, other := domaintest.New(t, "a.example", now), domaintest.New(t, "b.example", now)
		d.Version = 2
		newer, newServer := d.Member(t, d.Identity(1, 1), now, time.Hour), d.Member(t, d.Identity(9, 9, wire.RoleKeyServer), now, time.Hour)
		d.Version = 1
		for name, tt := range map[string]struct {
			server *tls.Certificate
			own    *tls.Certificate
			trust  func(*admission.Trust)
			now    func() time.Time
			want   error
			code   code.Code

			serverVersion uint64
		}{
			"admitted VM poses as the key server": {server: d.Member(t, d.Identity(1, 1), now, time.Hour), want: ErrRefused, code: code.AdmissionRole},
			"role of another server":              {server: d.Member(t, d.Identity(1, 1, wire.RolePolicyServer), now, time.Hour), want: ErrRefused, code: code.AdmissionRole},
			"key server of another domain":        {server: other.Member(t, other.Identity(1, 1, wire.RoleKeyServer), now, time.Hour), want: ErrRefused, code: code.AdmissionBad},
			"key server under an old policy":      {own: newer, trust: func(t *admission.Trust) { t.MinPolicyVersion = 2 }, want: ErrUnreachable},
			"own certificate under an old policy": {trust: func(t *admission.Trust) { t.MinPolicyVersion = 2 }, want: ErrCertificate, code: code.AdmissionPolicyVersion},
			"the server knows a newer policy":     {serverVersion: 2, server: newServer, want: ErrRefused, code: code.AdmissionRefused},
			"key server taken back": {trust: func(t *admission.Trust) {
				t.Revoked = func(id *admission.Identity) bool { return id.HasRole(wire.RoleKeyServer) }
			}, want: ErrRefused, code: code.AdmissionRevoked},
			"expired key server":                    {server: d.Member(t, d.Identity(1, 1, wire.RoleKeyServer), now.Add(-2*time.Hour), time.Hour), want: ErrUnreachable},
			"own certificate of another domain":     {own: other.Member(t, other.Identity(1, 1), now, time.Hour), want: ErrCertificate, code: code.AdmissionBad},
			"own certificate expired":               {own: d.Member(t, d.Identity(1, 1), now.Add(-2*time.Hour), time.Hour), want: ErrCertificate, code: code.AdmissionValidity},
			"clock set back, expired, floor raised": {own: d.Member(t, d.Identity(1, 1), now, time.Hour), now: func() time.Time { return now.Add(2 * time.Hour) }, want: ErrCertificate},
		} {
			ks := d.NewKeyServer(t, now)
			ks.Put("a", []byte("secret"))
			if tt.server != nil {
				ks.Cert = tt.server
			}
			cfg := keysConfig(t, ks)
			d.Version = max(1, tt.serverVersion)
			if tt.own != nil {
				cfg.Certificate = func() (*tls.Certificate, error) { return tt.own, nil }
			}
			if tt.trust != nil {
				tt.trust(cfg.Trust)
			}
			cfg.Now = tt.now
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			s, err := Fetch(ctx, cfg, "a", 0)
			cancel()
			d.Version = 1
			if err == nil {
				t.Errorf("%s: got %q", name, s.Value.Bytes())
				continue
			}
			c, _ := code.Of(err)
			if !errors.Is(err, tt.want) || tt.code != "" && c != tt.code {
				t.Errorf("%s: %v (%s)", name, err, c)
			}
		}
	})
}

// An answer about another secret is not taken for the one that was asked for.
func TestKeysAnswerIsChecked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ks := domaintest.New(t, "a.example", time.Now()).NewKeyServer(t, time.Now())
		for name, reply := range map[string]*wire.KeyReply{
			"another name":    {Name: "b", Version: 1, Value: []byte("x")},
			"another version": {Name: "a", Version: 2, Value: []byte("x")},
			"no version":      {Name: "a", Value: []byte("x")},
		} {
			ks.Answer = func(*admission.Identity, *wire.KeyRequest) *wire.KeyReply { return reply }
			k, err := DialKeys(t.Context(), keysConfig(t, ks))
			if err != nil {
				t.Fatal(err)
			}
			if s, err := k.Get(t.Context(), "a", 1); !errors.Is(err, wire.ErrMalformed) {
				t.Errorf("%s: %v, %v", name, s, err)
			}
			k.Close()
		}
	})
}

// A key server cannot end every membership of a machine by a time of its own
// invention.
func TestKeysTimeOutOfReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ks := domaintest.New(t, "a.example", time.Now()).NewKeyServer(t, time.Now())
		cfg := keysConfig(t, ks)
		var learned int64
		cfg.Learned = func(at int64, _ uint64) { learned = at }
		for at, good := range map[int64]bool{time.Now().Unix() + 30: true, time.Now().AddDate(1, 0, 0).Unix(): false, 1<<63 - 1: false} {
			ks.Answer = func(*admission.Identity, *wire.KeyRequest) *wire.KeyReply {
				return &wire.KeyReply{Name: "a", Version: 1, Value: []byte("x"), Time: at}
			}
			learned = 0
			k, err := DialKeys(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			_, err = k.Get(t.Context(), "a", 1)
			k.Close()
			if good != (err == nil) || !good && !errors.Is(err, wire.ErrMalformed) || good != (learned == at) {
				t.Errorf("%d: %v, learned %d", at, err, learned)
			}
		}
	})
}

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ks := domaintest.New(t, "a.example", time.Now()).NewKeyServer(t, time.Now())
		ks.Put("a", []byte("one"))
		var got []string
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		cfg := keysConfig(t, ks)
		go func() {
			done <- Watch(ctx, cfg, "a", func(s *Secret) error {
				got = append(got, string(s.Value.Bytes()))
				return nil
			})
		}()
		synctest.Wait()
		ks.Put("a", []byte("two"))
		synctest.Wait()
		ks.Drop()
		time.Sleep(time.Minute) // of fake time: a reconnection with its backoff
		synctest.Wait()
		ks.Put("a", []byte("three"))
		synctest.Wait()
		if !slices.Equal(got, []string{"one", "two", "three"}) || ks.Dialled() != 2 {
			t.Errorf("%q on %d connections", got, ks.Dialled())
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) && !errors.Is(err, ErrUnreachable) {
			t.Error(err)
		}
	})
}

// A key server that falls behind the policy version that it has named before is
// not asked again.
func TestWatchPolicyOnlyRises(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ks := domaintest.New(t, "a.example", time.Now()).NewKeyServer(t, time.Now())
		ks.Put("a", []byte("one"))
		ks.Domain.Version = 5
		ks.Cert = ks.Domain.Member(t, ks.Domain.Identity(9, 9, wire.RoleKeyServer), time.Now(), time.Hour)
		cfg := keysConfig(t, ks)
		cfg.Trust.MinPolicyVersion = 1
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		n := 0
		err := Watch(ctx, cfg, "a", func(*Secret) error {
			n++
			ks.Domain.Version = 4 // set back from a backup
			ks.Cert = ks.Domain.Member(t, ks.Domain.Identity(9, 9, wire.RoleKeyServer), time.Now(), time.Hour)
			go ks.Drop()
			return nil
		})
		if n != 1 || !errors.Is(err, admission.ErrPolicyVersion) {
			t.Errorf("%d deliveries, %v", n, err)
		}
	})
}

// A watch ends with the certificate, unless there is a new one by then.
func TestWatchEndsWithCertificate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ks := domaintest.New(t, "a.example", time.Now()).NewKeyServer(t, time.Now())
		ks.Put("a", []byte("one"))
		cfg := keysConfig(t, ks)
		begin := time.Now()
		err := Watch(t.Context(), cfg, "a", func(*Secret) error { return nil })
		if lived := time.Since(begin); !errors.Is(err, ErrCertificate) || lived < 50*time.Minute || lived > 65*time.Minute {
			t.Errorf("%v after %v", err, lived)
		}

		own := ks.Domain.Member(t, ks.Domain.Identity(1, 1), time.Now(), time.Hour)
		ks.Cert = ks.Domain.Member(t, ks.Domain.Identity(9, 9, wire.RoleKeyServer), time.Now(), 4*time.Hour)
		renew := time.Now().Add(40 * time.Minute)
		cfg.Certificate = func() (*tls.Certificate, error) {
			if time.Now().After(renew) {
				renew = time.Now().Add(24 * time.Hour)
				own = ks.Domain.Member(t, ks.Domain.Identity(1, 1), time.Now(), time.Hour)
			}
			return own, nil
		}
		ctx, cancel := context.WithTimeout(t.Context(), 90*time.Minute)
		defer cancel()
		if err := Watch(ctx, cfg, "a", func(*Secret) error { return nil }); !errors.Is(err, ErrUnreachable) {
			t.Errorf("with a renewed certificate: %v", err)
		}
	})
}

// Policy moves on while a watch is open: it goes on with the certificate that
// this machine gets then, and not with the old one.
func TestWatchAcrossPolicies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ks := domaintest.New(t, "a.example", time.Now()).NewKeyServer(t, time.Now())
		ks.Put("a", []byte("one"))
		cfg := keysConfig(t, ks)
		old, _ := cfg.Certificate()
		var moved atomic.Int64
		cfg.Certificate = func() (*tls.Certificate, error) {
			if at := moved.Load(); at == 0 || time.Now().Unix() < at+20 {
				return old, nil
			}
			return ks.Domain.Member(t, ks.Domain.Identity(1, 1), time.Now(), time.Hour), nil
		}
		cfg.Trust.MinPolicyVersion = 1
		var got []string
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		done := make(chan error, 1)
		go func() {
			done <- Watch(ctx, cfg, "a", func(s *Secret) error { got = append(got, string(s.Value.Bytes())); return nil })
		}()
		synctest.Wait()
		ks.Domain.Version = 2
		ks.Cert = ks.Domain.Member(t, ks.Domain.Identity(9, 9, wire.RoleKeyServer), time.Now(), time.Hour)
		moved.Store(time.Now().Unix())
		ks.Drop()
		time.Sleep(time.Minute)
		ks.Put("a", []byte("two"))
		if err := <-done; !errors.Is(err, ErrUnreachable) || !slices.Equal(got, []string{"one", "two"}) {
			t.Errorf("%q, %v", got, err)
		}
	})
}

func TestWatchRefusedAndUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ks := domaintest.New(t, "a.example", time.Now()).NewKeyServer(t, time.Now())
		if err := Watch(t.Context(), keysConfig(t, ks), "absent", func(*Secret) error { return nil }); !errors.Is(err, ErrRefused) {
			t.Error(err)
		}
		ks.Put("a", []byte("one"))
		broken := errors.New("the disk is full")
		if err := Watch(t.Context(), keysConfig(t, ks), "a", func(*Secret) error { return broken }); !errors.Is(err, broken) || strings.Contains(err.Error(), "refused") {
			t.Error(err)
		}
		// Policy takes the right away while a watch is open.
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour/2)
		defer cancel()
		err := Watch(ctx, keysConfig(t, ks), "a", func(*Secret) error {
			ks.Answer = func(*admission.Identity, *wire.KeyRequest) *wire.KeyReply {
				return &wire.KeyReply{Code: code.LaunchRefused}
			}
			go ks.Put("a", []byte("two"))
			return nil
		})
		if c, _ := code.Of(err); !errors.Is(err, ErrRefused) || c != code.LaunchRefused {
			t.Error(err)
		}
	})
}

// A key server that accepts and says nothing holds a fetch no longer than an
// exchange, and a watch comes back when it answers again.
func TestSilentKeyServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ks := domaintest.New(t, "a.example", time.Now()).NewKeyServer(t, time.Now())
		ks.Put("a", []byte("one"))
		var silentUntil atomic.Int64
		ks.Answer = func(*admission.Identity, *wire.KeyRequest) *wire.KeyReply {
			if d := time.Until(time.Unix(silentUntil.Load(), 0)); d > 0 {
				time.Sleep(d)
			}
			return nil
		}
		silentUntil.Store(time.Now().Add(time.Minute).Unix())
		begin := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		s, err := Fetch(ctx, keysConfig(t, ks), "a", 0)
		if err != nil || time.Since(begin) > 100*time.Second || ks.Dialled() < 4 {
			t.Errorf("%v after %v, %d connections", err, time.Since(begin), ks.Dialled())
		}
		s.Value.Zero()
		silentUntil.Store(time.Now().Add(time.Minute).Unix())
		n := 0
		done := errors.New("done")
		if err := Watch(t.Context(), keysConfig(t, ks), "a", func(*Secret) error { n++; return done }); !errors.Is(err, done) || n != 1 {
			t.Errorf("%v, %d deliveries", err, n)
		}
		short, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		silentUntil.Store(time.Now().Add(time.Minute).Unix())
		if _, err := Fetch(short, keysConfig(t, ks), "a", 0); !errors.Is(err, ErrUnreachable) {
			t.Error(err)
		}
		time.Sleep(2 * time.Minute) // of fake time: the silent ones end
	})
}
