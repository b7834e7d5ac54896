package server

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"attestbox/internal/admission"
	"attestbox/internal/claim"
	"attestbox/internal/client"
	"attestbox/internal/code"
	"attestbox/internal/platform"
	"attestbox/internal/platform/simenclave"
	"attestbox/internal/secret"
	"attestbox/internal/snp"
	"attestbox/internal/snpsim"
	"attestbox/internal/snpsim/snpsimtest"
	"attestbox/internal/store/bolt"
	"attestbox/internal/store/sealed"
)

// domainWorld is a server with certify, keys and launch for one domain, a chip
// that its policy trusts, and a deployment machine.
type domainWorld struct {
	*world
	name              string
	policyKey, issuer ed25519.PrivateKey
	policyCert        *x509.Certificate
	issuerCert        *x509.Certificate
	enclave           *simenclave.Enclave
	domain            *Domain
	audit             string

	serials map[string]uint64 // of claims, by their text
	last    uint64

	mu     sync.Mutex
	signed []byte
	clock  time.Duration // ahead of the real one
}

// Images of the tests' domain.
var (
	imageA = [48]byte{0xA1} // may read db/*
	imageB = [48]byte{0xB2} // may write db/*, may not read
	imageC = [48]byte{0xC3} // not trusted
)

func ed25519Key() ed25519.PrivateKey {
	_, k, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	return k
}

func declared(name string, pub crypto.PublicKey) string {
	k := must(claim.KeyOf(name, pub))
	return "key " + name + " " + k.Alg + " " + base64.StdEncoding.EncodeToString(must(x509.MarshalPKIXPublicKey(pub)))
}

// policyLines are what the tests' policy says by default.
func (w *domainWorld) policyLines() []string {
	self := w.enclave.Measurement()
	me := hex.EncodeToString(self[:])
	m := func(i [48]byte) string { return "Measurement[" + hex.EncodeToString(i[:]) + "]" }
	return []string{
		"certificate ARK-Milan rsa " + base64.StdEncoding.EncodeToString(w.psp.ARK()),
		declared("issuer", w.issuer.Public()),
		declared("deploy", w.enclave.Key()),
		"Key[issuer] is-trusted-for-certification",
		"Key[ARK-Milan] is-trusted-for-attestation on Platform[amd-sev-snp, product = Milan]",
		"Platform[amd-sev-snp, debug: no, migrate: no, product = Milan] has-trusted-platform-property",
		"Key[deploy] is-trusted-for-attestation on Platform[simulated-enclave] about Measurement[" + me + "]",
		"Measurement[" + me + "] is-trusted",
		"Measurement[" + me + `] is-trusted-for-serving Role["key-server"]`,
		"Measurement[" + me + `] may-write Secret["*/*"]`,
		"Measurement[" + me + `] may-read Secret["*/*"]`,
		m(imageA) + " is-trusted",
		m(imageA) + ` may-read Secret["db/*"]`,
		m(imageB) + " is-trusted",
		m(imageB) + ` may-write Secret["db/*"]`,
	}
}

// sign puts a policy of the version with these lines in place.
func (w *domainWorld) sign(version uint64, lines ...string) {
	w.t.Helper()
	text := fmt.Sprintf("attestbox-policy 1\ndomain %s\nversion 0\nlast-serial 0\n%s\n%s\n", w.name, declared(claim.PolicyKeyName, w.policyKey.Public()), strings.Join(lines, "\n"))
	p, err := claim.Parse([]byte(text))
	if err != nil {
		w.t.Fatal(err)
	}
	p.Version = version
	for _, c := range p.Claims() {
		text := c.String()
		if w.serials[text] == 0 {
			w.last++
			w.serials[text] = w.last
		}
		c.Serial, c.NotBefore = w.serials[text], w.began().UTC().Truncate(time.Second)
		if !c.Revokes() {
			c.NotAfter = c.NotBefore.Add(90 * 24 * time.Hour)
		}
	}
	p.LastSerial = w.last
	signed, err := p.Sign(w.policyKey)
	if err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.signed = signed
}

var worldBegan = time.Now().Add(-time.Hour)

func (w *domainWorld) began() time.Time { return worldBegan }

func (w *domainWorld) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Now().Add(w.clock)
}

func (w *domainWorld) advance(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.clock += d
}

func newEnclave(t testing.TB) *simenclave.Enclave {
	t.Helper()
	text, _, err := simenclave.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	defer text.Zero()
	file := filepath.Join(t.TempDir(), "platform.key")
	if err := os.WriteFile(file, text.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	e, err := simenclave.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

// newDomainWorld starts a server; edit may change what it is given.
func newDomainWorld(t *testing.T, edit func(*domainWorld, *Options, *DomainConfig)) *domainWorld {
	t.Helper()
	return newDomainWorldTB(t, edit)
}

func newDomainWorldTB(t testing.TB, edit func(*domainWorld, *Options, *DomainConfig)) *domainWorld {
	t.Helper()
	ctx := context.Background()
	w := &domainWorld{world: &world{t: t, dir: t.TempDir(), psp: snpsimtest.PSP(t, snp.Milan), log: &lockedBuffer{}},
		serials: map[string]uint64{}, name: "bank.example", policyKey: ed25519Key(), issuer: ed25519Key(), enclave: newEnclave(t)}
	raw, err := bolt.Open(filepath.Join(w.dir, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	w.raw = raw
	if w.state, err = CreateState(ctx, raw, sealed.Key{File: secret.Random(32)}, simConfig(t, w.psp), time.Now()); err != nil {
		t.Fatal(err)
	}
	w.policyCert = must(x509.ParseCertificate(must(admission.NewPolicyCertificate(w.policyKey, w.name, w.began(), admission.PolicyValidity))))
	w.issuerCert = must(x509.ParseCertificate(must(admission.NewIssuer(w.policyCert, w.policyKey, w.issuer.Public(), w.began(), admission.IssuerValidity))))
	w.sign(1, w.policyLines()...)
	cfg := DomainConfig{PolicyCert: w.policyCert, Issuer: w.issuerCert, IssuerKey: w.issuer, Own: w.enclave, Policy: func() ([]byte, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.signed, nil
	}}
	w.audit = filepath.Join(w.dir, "audit")
	auditor, err := OpenAudit(ctx, w.state, w.audit, false, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	o := Options{
		State: w.state, Roles: AllRoles(), Audit: auditor, Metrics: NewMetrics(time.Now()), Now: w.now,
		Log:    slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Limits: Limits{PeerBurst: 1e6, PeerRate: 1e6, ConnsByPeer: 1000, IDBurst: 1000},
	}
	if edit != nil {
		edit(w, &o, &cfg)
	}
	if w.domain, err = OpenDomain(ctx, w.state, cfg, ProverConfig{}, w.now()); err != nil {
		t.Fatal(err)
	}
	if err := w.domain.EnableKeys(ctx); err != nil {
		t.Fatal(err)
	}
	o.Domains = append(o.Domains, w.domain)
	if w.server, err = New(ctx, o); err != nil {
		t.Fatal(err)
	}
	if err := w.server.Certify(ctx, w.domain); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.addr = "tcp://" + l.Addr().String()
	sctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- w.server.Serve(sctx, l) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(func() {
		w.stop()
		w.domain.Close()
		auditor.Close()
		w.state.Close()
	})
	return w
}

// vm is a platform: an instance of an image on the world's chip.
func (w *domainWorld) vm(image [48]byte, instance byte, edit func(*snpsim.GuestConfig)) platform.Platform {
	c := snpsim.GuestConfig{Measurement: image, HostData: [32]byte{instance}}
	if edit != nil {
		edit(&c)
	}
	return w.psp.Launch(c).Platform()
}

func (w *domainWorld) certifyConfig(p platform.Platform) client.CertifyConfig {
	c := client.CertifyConfig{Config: w.client(p), Domain: w.name, Key: ed25519Key()}
	c.Policy, c.Now = w.policyCert, w.now
	return c
}

// certify is a whole exchange with the real client.
func (w *domainWorld) certify(p platform.Platform, role string) (*tls.Certificate, *client.Admitted, error) {
	w.t.Helper()
	c := w.certifyConfig(p)
	c.Role = role
	a, err := client.Certify(ctxFor(w.t), c)
	if err != nil {
		return nil, nil, err
	}
	w.t.Cleanup(a.Close)
	return &tls.Certificate{Certificate: a.Chain, PrivateKey: c.Key}, a, nil
}

func (w *domainWorld) mustCertify(p platform.Platform) *tls.Certificate {
	w.t.Helper()
	c, _, err := w.certify(p, "")
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

func (w *domainWorld) trust() *admission.Trust {
	return &admission.Trust{Policy: w.policyCert, Domain: w.name}
}

func (w *domainWorld) keysConfig(cert *tls.Certificate) client.KeysConfig {
	return client.KeysConfig{Servers: []string{w.addr}, Trust: w.trust(), Certificate: func() (*tls.Certificate, error) { return cert, nil },
		Now: w.now, MinBackoff: time.Millisecond, MaxBackoff: 5 * time.Millisecond}
}

func (w *domainWorld) keys(cert *tls.Certificate) *client.KeyClient {
	w.t.Helper()
	k, err := client.DialKeys(ctxFor(w.t), w.keysConfig(cert))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { k.Close() })
	return k
}

func (w *domainWorld) reload() {
	w.t.Helper()
	if err := w.server.Reload(context.Background(), w.domain); err != nil {
		w.t.Fatal(err)
	}
}

// lastDecision is the last line of the server's log that says a decision.
func (w *domainWorld) lastDecision() string {
	lines := strings.Split(w.log.String(), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		if strings.Contains(lines[i], "msg=decision") {
			return lines[i]
		}
	}
	return ""
}

func parse(der []byte) *x509.Certificate { return must(x509.ParseCertificate(der)) }

// mustNotHold looks for a text in every file that the server wrote, and in its log.
func (w *domainWorld) mustNotHold(text string) {
	w.t.Helper()
	if strings.Contains(w.log.String(), text) {
		w.t.Errorf("the log holds %q", text)
	}
	filepath.WalkDir(w.dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(b), text) {
			w.t.Errorf("%s holds %q", path, text)
		}
		return err
	})
}

func (w *domainWorld) mustHaveCode(c code.Code) {
	w.t.Helper()
	if !strings.Contains(w.log.String(), "code="+string(c)) {
		w.t.Errorf("no %s in the log", c)
	}
}
