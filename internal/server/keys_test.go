package server

import (
	"context"
	"crypto"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"attestbox/internal/admission"
	"attestbox/internal/client"
	"attestbox/internal/code"
	"attestbox/internal/recipient"
	"attestbox/internal/secret"
	"attestbox/internal/wire"
)

func sec(s string) *secret.Bytes { return secret.Copy([]byte(s)) }

func wantCode(t *testing.T, what string, err error, want code.Code) {
	t.Helper()
	if got, _ := code.Of(err); err == nil || got != want {
		t.Errorf("%s: %v (code %q), want %s", what, err, got, want)
	}
}

func TestKeys(t *testing.T) {
	w := newDomainWorld(t, nil)
	ctx := ctxFor(t)
	deploy, a, b := w.keys(w.mustCertify(w.enclave)), w.keys(w.mustCertify(w.vm(imageA, 1, nil))), w.keys(w.mustCertify(w.vm(imageB, 1, nil)))
	if v, err := deploy.Put(ctx, "db/password", 0, "", sec("sesame")); err != nil || v != 1 {
		t.Fatal(v, err, w.lastDecision())
	}
	got, err := a.Get(ctx, "db/password", 0)
	if err != nil || string(got.Value.Bytes()) != "sesame" || got.Version != 1 || got.Kind != "blob" {
		t.Fatalf("%+v %v", got, err)
	}
	// The wrong clients, in every way; the connection stays usable.
	_, err = b.Get(ctx, "db/password", 0)
	wantCode(t, "B reads", err, code.SecretRefused)
	_, err = a.Put(ctx, "db/password", 0, "", sec("mine"))
	wantCode(t, "A overwrites", err, code.SecretRefused)
	_, err = a.Rotate(ctx, "db/password", "aes-256")
	wantCode(t, "A rotates", err, code.SecretRefused)
	wantCode(t, "A deletes", a.Delete(ctx, "db/password", 0), code.SecretRefused)
	_, err = a.Get(ctx, "web/key", 0)
	wantCode(t, "A reads elsewhere", err, code.SecretRefused)
	_, err = a.Get(ctx, "db/deep/password", 0)
	wantCode(t, "A reads below", err, code.SecretRefused)
	_, err = a.Get(ctx, "db/none", 0)
	wantCode(t, "A reads nothing", err, code.SecretUnknown)
	_, err = b.Put(ctx, "web/key", 0, "", sec("x"))
	wantCode(t, "B writes elsewhere", err, code.SecretRefused)
	// Versions.
	if v, err := b.Put(ctx, "db/password", 0, "", sec("sesame 2")); err != nil || v != 2 {
		t.Fatal(v, err)
	}
	_, err = b.Put(ctx, "db/password", 2, "", sec("x"))
	wantCode(t, "a version twice", err, code.SecretExists)
	_, err = b.Put(ctx, "db/password", 1, "", sec("x"))
	wantCode(t, "a lower version", err, code.SecretExists)
	_, err = b.Put(ctx, "db/password", 0, "symmetric-key", secret.Random(32))
	wantCode(t, "another type", err, code.SecretInvalid)
	_, err = b.Put(ctx, "db/password", 0, "nonsense", sec("x"))
	wantCode(t, "no type", err, code.SecretInvalid)
	_, err = b.Rotate(ctx, "db/password", "")
	wantCode(t, "rotating what was put", err, code.SecretInvalid)
	if old, err := a.Get(ctx, "db/password", 1); err != nil || string(old.Value.Bytes()) != "sesame" {
		t.Errorf("version 1: %v", err)
	}
	if v, err := b.Rotate(ctx, "db/key", "aes-256"); err != nil || v != 1 {
		t.Fatal(v, err)
	}
	if v, err := b.Rotate(ctx, "db/key", ""); err != nil || v != 2 {
		t.Fatal(v, err)
	}
	k1, err1 := a.Get(ctx, "db/key", 1)
	k2, err2 := a.Get(ctx, "db/key", 0)
	if err1 != nil || err2 != nil || k1.Value.Equal(k2.Value) || k2.Value.Len() != 32 || k2.Kind != "symmetric-key" {
		t.Errorf("%v %v", err1, err2)
	}
	if v, err := deploy.Rotate(ctx, "web/tls", "ed25519"); err != nil || v != 1 {
		t.Fatal(v, err)
	}
	if s, err := deploy.Get(ctx, "web/tls", 0); err != nil || s.Kind != "private-key" {
		t.Errorf("%v", err)
	}
	// Lists show what may be read or written, and nothing else.
	for who, c := range map[string]struct {
		k       *client.KeyClient
		pattern string
		want    string
	}{"A": {a, "", "[db/key db/password]"}, "B": {b, "db/k*", "[db/key]"}, "deploy": {deploy, "", "[db/key db/password web/tls]"}, "none": {a, "web/*", "[]"}} {
		names, err := c.k.List(ctx, c.pattern)
		var got []string
		for _, n := range names {
			got = append(got, n.Name)
		}
		if err != nil || fmt.Sprint(got) != c.want {
			t.Errorf("%s lists %v (%v), want %s", who, got, err, c.want)
		}
	}
	if err := b.Delete(ctx, "db/password", 1); err != nil {
		t.Fatal(err)
	}
	_, err = a.Get(ctx, "db/password", 1)
	wantCode(t, "a deleted version", err, code.SecretUnknown)
	if err := b.Delete(ctx, "db/password", 0); err != nil {
		t.Fatal(err)
	}
	_, err = a.Get(ctx, "db/password", 0)
	wantCode(t, "deleted", err, code.SecretUnknown)
	if v, err := b.Put(ctx, "db/password", 0, "", sec("sesame 3")); err != nil || v != 3 {
		t.Errorf("after deletion: version %d (%v)", v, err)
	}
	// No secret is in the database, the logs or the audit log in clear.
	w.server.Audit.Sync(ctx)
	w.mustNotHold("sesame")
}

func TestPolicyOnEveryRequest(t *testing.T) {
	w := newDomainWorld(t, nil)
	ctx := ctxFor(t)
	deploy, a := w.keys(w.mustCertify(w.enclave)), w.keys(w.mustCertify(w.vm(imageA, 1, nil)))
	if _, err := deploy.Put(ctx, "web/key", 0, "", sec("w")); err != nil {
		t.Fatal(err)
	}
	_, err := a.Get(ctx, "web/key", 0)
	wantCode(t, "before the grant", err, code.SecretRefused)
	lines := append(w.policyLines(), "Measurement["+hexOf(imageA)+`] may-read Secret["web/*"]`)
	w.sign(2, lines...)
	w.reload()
	if _, err := a.Get(ctx, "web/key", 0); err != nil {
		t.Errorf("a grant does not count at once: %v", err)
	}
	// The image is taken back: the open connection gets nothing more.
	w.sign(3, append(lines, "Measurement["+hexOf(imageA)+"] is-revoked")...)
	w.reload()
	_, err = a.Get(ctx, "web/key", 0)
	wantCode(t, "after the revocation", err, code.AdmissionPolicyVersion)
	if err := w.server.Certify(ctx, w.domain); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Fetch(ctx, w.keysConfig(w.mustCertify(w.enclave)), "web/key", 0); err != nil {
		t.Errorf("the deployment machine, certified anew: %v", err)
	}
}

func TestKeysAttacks(t *testing.T) {
	w := newDomainWorld(t, nil)
	other := newDomainWorld(t, func(w *domainWorld, _ *Options, _ *DomainConfig) {})
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	good := w.mustCertify(w.vm(imageA, 1, nil))
	deploy := w.mustCertify(w.enclave)
	if _, err := w.keys(deploy).Put(ctxFor(t), "db/password", 0, "", sec("sesame")); err != nil {
		t.Fatal(err)
	}
	forger := ed25519Key()
	self := must(admission.NewPolicyCertificate(forger, w.name, w.began(), time.Hour))
	leafKey := ed25519Key()
	leaf := parse(good.Certificate[0])
	leaf.IsCA, leaf.MaxPathLenZero, leaf.PermittedURIDomains, leaf.PermittedDNSDomainsCritical = true, true, []string{w.name}, true
	id := must(w.trust().Verify(good.Certificate, w.now()))
	asCA := must(admission.Issue(leaf, good.PrivateKey.(crypto.Signer), leafKey.Public(), id, w.now(), 10*time.Minute))
	for name, cert := range map[string]*tls.Certificate{
		"another domain":         other.mustCertify(other.vm(imageA, 1, nil)),
		"stolen certificate":     {Certificate: good.Certificate, PrivateKey: ed25519Key()},
		"self-made":              {Certificate: [][]byte{self, self}, PrivateKey: forger},
		"certificate used as CA": {Certificate: [][]byte{asCA, good.Certificate[0]}, PrivateKey: leafKey},
		"without its issuer":     {Certificate: good.Certificate[:1], PrivateKey: good.PrivateKey},
	} {
		cfg := w.keysConfig(cert)
		if s, err := client.Fetch(ctx, cfg, "db/password", 0); err == nil {
			t.Errorf("%s: got %v", name, s.Name)
		}
	}
	// An admitted VM poses as the key server.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go tls.Server(c, admission.ServerTLS(w.trust(), func() (*tls.Certificate, error) { return good, nil }, w.now, wire.ALPNKeys)).Handshake()
		}
	}()
	cfg := w.keysConfig(deploy)
	cfg.Servers = []string{"tcp://" + l.Addr().String()}
	_, err = client.Fetch(ctxFor(t), cfg, "db/password", 0)
	wantCode(t, "an admitted VM as key server", err, code.AdmissionRole)
	// Expired at the server, whatever the client believes.
	w.advance(2 * time.Hour)
	cfg = w.keysConfig(good)
	cfg.Now = func() time.Time { return time.Now() }
	if _, err := client.Fetch(ctx, cfg, "db/password", 0); err == nil {
		t.Error("an expired certificate was accepted")
	}
	w.advance(-2 * time.Hour)
	if _, err := client.Fetch(ctxFor(t), w.keysConfig(good), "db/password", 0); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestWatch(t *testing.T) {
	w := newDomainWorld(t, nil)
	ctx := ctxFor(t)
	writer := w.keys(w.mustCertify(w.vm(imageB, 2, nil)))
	if _, err := writer.Put(ctx, "db/password", 0, "", sec("1")); err != nil {
		t.Fatal(err)
	}
	versions := make(chan string, 100)
	ended := make(chan error, 1)
	var cert atomic.Pointer[tls.Certificate]
	cert.Store(w.mustCertify(w.vm(imageA, 1, nil)))
	cfg := w.keysConfig(nil)
	cfg.Certificate = func() (*tls.Certificate, error) { return cert.Load(), nil }
	go func() {
		ended <- client.Watch(ctx, cfg, "db/password", func(s *client.Secret) error {
			versions <- fmt.Sprintf("%d=%s", s.Version, s.Value.Bytes())
			return nil
		})
	}()
	for i, v := range []string{"1", "2", "3"} {
		if i > 0 {
			if _, err := writer.Put(ctx, "db/password", 0, "", sec(v)); err != nil {
				t.Fatal(err)
			}
		}
		if got := <-versions; got != fmt.Sprintf("%d=%s", i+1, v) {
			t.Fatalf("got %s", got)
		}
	}
	// Policy takes the right away: the watch ends at the server, and by a new
	// certificate it does not begin again.
	w.sign(2, without(w.policyLines(), hexOf(imageA)+`] may-read`)...)
	w.reload()
	if err := w.server.Certify(ctx, w.domain); err != nil {
		t.Fatal(err)
	}
	cert.Store(w.mustCertify(w.vm(imageA, 1, nil)))
	wantCode(t, "the watch", <-ended, code.SecretRefused)
	w.mustHaveCode(code.AdmissionPolicyVersion)
	if len(versions) > 0 {
		t.Errorf("another version came: %s", <-versions)
	}
}

func TestWatchEndsWithCertificate(t *testing.T) {
	w := newDomainWorld(t, func(_ *domainWorld, o *Options, _ *DomainConfig) { o.Timeouts.KeysIdle = 50 * time.Millisecond })
	ctx := ctxFor(t)
	if _, err := w.keys(w.mustCertify(w.vm(imageB, 2, nil))).Put(ctx, "db/password", 0, "", sec("1")); err != nil {
		t.Fatal(err)
	}
	cert := w.mustCertify(w.vm(imageA, 1, nil))
	conn, err := tls.Dial("tcp", w.addr[len("tcp://"):], admission.ClientTLS(w.trust(), *cert, w.now, wire.ALPNKeys, wire.RoleKeyServer))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	if err := wire.Write(conn, &wire.KeyRequest{Op: wire.OpWatch, Name: "db/password"}); err != nil {
		t.Fatal(err)
	}
	if r, err := wire.Expect[*wire.KeyReply](conn); err != nil || r.Version != 1 {
		t.Fatalf("%+v %v", r, err)
	}
	w.advance(2 * time.Hour)
	r, err := wire.Expect[*wire.KeyReply](conn)
	if err != nil || r.Code != code.AdmissionValidity || len(r.Value) > 0 {
		t.Errorf("%+v %v", r, err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("the connection stays")
	}
}

// One client reads nothing, one says nothing, one has a watch and reads
// nothing: everybody else is served.
func TestSlowClientsDisturbNobody(t *testing.T) {
	w := newDomainWorld(t, func(_ *domainWorld, o *Options, _ *DomainConfig) {
		// Well above what a busy machine needs for those who do read.
		o.Timeouts.KeysWrite, o.Timeouts.KeysIdle = 3*time.Second, 10*time.Second
	})
	ctx := ctxFor(t)
	writer := w.keys(w.mustCertify(w.vm(imageB, 2, nil)))
	big := secret.Random(wire.MaxKeyValue - 1)
	if _, err := writer.Put(ctx, "db/password", 0, "", big); err != nil {
		t.Fatal(err)
	}
	cert := w.mustCertify(w.vm(imageA, 1, nil))
	for range 5 {
		conn, err := tls.Dial("tcp", w.addr[len("tcp://"):], admission.ClientTLS(w.trust(), *cert, w.now, wire.ALPNKeys, wire.RoleKeyServer))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		op := wire.OpGet
		go func() {
			for range 500 { // answers of 44 KB each that nobody reads
				conn.SetWriteDeadline(time.Now().Add(5 * time.Second))
				if wire.Write(conn, &wire.KeyRequest{Op: op, Name: "db/password"}) != nil {
					return
				}
			}
		}()
	}
	var wg sync.WaitGroup
	reader := w.mustCertify(w.vm(imageA, 3, nil))
	for i := range 8 {
		wg.Go(func() {
			k, err := client.DialKeys(ctx, w.keysConfig(reader))
			if err != nil {
				t.Error(err)
				return
			}
			defer k.Close()
			for range 20 {
				if s, err := k.Get(ctx, "db/password", 1); err != nil || !s.Value.Equal(big) {
					t.Errorf("client %d: %v", i, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestMemberLimits(t *testing.T) {
	w := newDomainWorld(t, func(_ *domainWorld, o *Options, _ *DomainConfig) { o.Limits.KeyConnsBy = 2 })
	cert := w.mustCertify(w.vm(imageA, 1, nil))
	k1, k2 := w.keys(cert), w.keys(cert)
	for _, k := range []*client.KeyClient{k1, k2} {
		if _, err := k.List(ctxFor(t), ""); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	k3, err := client.DialKeys(ctx, w.keysConfig(cert))
	if err == nil {
		if _, err = k3.List(ctx, ""); err == nil {
			t.Error("a third connection of one member")
		}
	}
	if _, err := w.keys(w.mustCertify(w.vm(imageA, 2, nil))).List(ctxFor(t), ""); err != nil {
		t.Errorf("another member: %v", err)
	}
}

func TestRewrapRefuses(t *testing.T) {
	w := newDomainWorld(t, nil)
	a := w.keys(w.mustCertify(w.vm(imageA, 1, nil)))
	to := must(recipient.NewKey())
	_, _, err := a.Rewrap(ctxFor(t), "store", []byte("not an escrow copy"), to.PublicKey().Bytes())
	wantCode(t, "garbage", err, code.SecretRefused)
	_, _, err = a.Rewrap(ctxFor(t), "store", []byte("x"), []byte("no key"))
	wantCode(t, "no key", err, code.SecretInvalid)
}

// Whoever was admitted under a policy that counts no longer is told so on a new
// connection too, and learns the version that counts.
func TestOldPolicyVersionIsAnswered(t *testing.T) {
	w := newDomainWorld(t, nil)
	cert := w.mustCertify(w.vm(imageA, 1, nil))
	w.sign(2, without(w.policyLines(), hexOf(imageB)+`] may-write`)...)
	w.reload()
	if err := w.server.Certify(ctxFor(t), w.domain); err != nil {
		t.Fatal(err)
	}
	cfg := w.keysConfig(cert)
	var learned uint64
	cfg.Learned = func(_ int64, v uint64) { learned = v }
	k, err := client.DialKeys(ctxFor(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	_, err = k.Get(ctxFor(t), "db/password", 0)
	wantCode(t, "by an old certificate", err, code.AdmissionPolicyVersion)
	if !errors.Is(err, client.ErrCertificate) || learned != 2 {
		t.Errorf("%v; learned version %d, want 2", err, learned)
	}
	if _, err := k.List(ctxFor(t), ""); err == nil {
		t.Error("the connection stays")
	}
	// Revoked is another thing: no connection at all.
	w.sign(3, append(without(w.policyLines(), hexOf(imageB)+`] may-write`), "Measurement["+hexOf(imageA)+"] is-revoked")...)
	w.reload()
	if err := w.server.Certify(ctxFor(t), w.domain); err != nil {
		t.Fatal(err)
	}
	k, err = client.DialKeys(ctxFor(t), w.keysConfig(cert))
	if err == nil {
		_, err = k.Get(ctxFor(t), "db/password", 0)
		k.Close()
	}
	wantCode(t, "revoked", err, code.AdmissionRefused)
}

func without(lines []string, part string) (out []string) {
	for _, l := range lines {
		if !strings.Contains(l, part) {
			out = append(out, l)
		}
	}
	return out
}
