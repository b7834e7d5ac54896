package server

import (
	"context"
	"crypto/tls"
	"slices"
	"testing"
	"time"

	"attestbox/internal/admission"
	"attestbox/internal/client"
	"attestbox/internal/code"
	"attestbox/internal/wire"
)

// made is an admission of a chosen identity by the domain's issuer's key.
func (w *domainWorld) made(edit func(*admission.Identity)) *tls.Certificate {
	w.t.Helper()
	id := *must(w.trust().Verify(w.mustCertify(w.vm(imageA, 1, nil)).Certificate, w.now()))
	edit(&id)
	key := ed25519Key()
	der := must(admission.Issue(w.issuerCert, w.issuer, key.Public(), &id, w.now(), 10*time.Minute))
	return &tls.Certificate{Certificate: [][]byte{der, w.issuerCert.Raw}, PrivateKey: key}
}

// A thief of the issuer's key names the newest policy version. Once the owner
// has taken the delegation back, by leaving the claim out, its certificates do
// not count, although the issuer's certificate has months to live.
func TestStolenIssuer(t *testing.T) {
	w := newDomainWorld(t, nil)
	ctx := ctxFor(t)
	if _, err := w.keys(w.mustCertify(w.enclave)).Put(ctx, "db/password", 0, "", sec("sesame")); err != nil {
		t.Fatal(err)
	}
	stolen := w.made(func(id *admission.Identity) { id.PolicyVersion = 1 << 40 })
	own := w.made(func(id *admission.Identity) { id.PolicyVersion, id.Roles = 1<<40, []string{wire.RoleKeyServer} })
	own.Leaf = parse(own.Certificate[0])
	open := w.keys(stolen)
	if _, err := open.Get(ctx, "db/password", 0); err != nil {
		t.Fatal("while the issuer is trusted:", err)
	}
	watched := make(chan error, 1)
	seen := make(chan bool, 1)
	go func() {
		watched <- client.Watch(ctx, w.keysConfig(stolen), "db/password", func(*client.Secret) error { seen <- true; return nil })
	}()
	<-seen
	w.sign(2, without(w.policyLines(), "Key[issuer] is-trusted-for-certification")...)
	w.reload()
	_, err := open.Get(ctx, "db/password", 0)
	wantCode(t, "the open connection", err, code.AdmissionRevoked)
	wantCode(t, "the watch", <-watched, code.AdmissionRevoked)
	// The key server has no certificate of its own any more; with one of before
	// it refuses all the same.
	w.domain.mu.Lock()
	w.domain.own = own
	w.domain.mu.Unlock()
	_, err = client.Fetch(ctx, w.keysConfig(stolen), "db/password", 0)
	wantCode(t, "a new connection", err, code.AdmissionRevoked)
	if err := w.server.Certify(ctx, w.domain); err == nil {
		t.Error("a server was certified by an issuer that no claim trusts")
	}
}

// 9 MB where a request belongs, and garbage, cost a member its connection and
// nobody else anything.
func TestKeysMalformed(t *testing.T) {
	w := newDomainWorld(t, nil)
	cert := w.mustCertify(w.vm(imageA, 1, nil))
	for name, b := range map[string][]byte{
		"9 MB":            make([]byte, 9<<20),
		"a frame of 9 MB": append([]byte{0, 0x90, 0, 0}, make([]byte, 9<<20)...),
		"no JSON":         {0, 0, 0, 3, 'a', 'b', 'c'},
		"another message": slices.Concat([]byte{0, 0, 0, 32}, []byte(`{"type":"evidence","report":""}  `)[:32]),
	} {
		conn, err := tls.Dial("tcp", w.addr[len("tcp://"):], admission.ClientTLS(w.trust(), *cert, w.now, wire.ALPNKeys, wire.RoleKeyServer))
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		conn.Write(b) // may fail half way: the server has had enough
		if m, err := wire.Expect[*wire.KeyReply](conn); err == nil {
			t.Errorf("%s: answered %+v", name, m)
		}
		conn.Close()
	}
	if _, err := w.keys(cert).List(ctxFor(t), ""); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// Somebody who shows no certificate, or one that ended, gets no further than
// the handshake, and is told so by an alert.
func TestKeysWithoutCertificate(t *testing.T) {
	w := newDomainWorld(t, nil)
	ended := w.mustCertify(w.vm(imageA, 1, nil))
	w.advance(2 * time.Hour)
	if err := w.server.Certify(context.Background(), w.domain); err != nil {
		t.Fatal(err)
	}
	for name, cfg := range map[string]*tls.Config{
		"none":  admission.ClientTLS(w.trust(), tls.Certificate{}, w.now, wire.ALPNKeys, wire.RoleKeyServer),
		"ended": admission.ClientTLS(w.trust(), *ended, w.now, wire.ALPNKeys, wire.RoleKeyServer),
	} {
		conn, err := tls.Dial("tcp", w.addr[len("tcp://"):], cfg)
		if err != nil {
			t.Errorf("%s: %v", name, err) // TLS 1.3: the server's judgement comes later
			continue
		}
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		wire.Write(conn, &wire.KeyRequest{Op: wire.OpList})
		if m, err := wire.Expect[*wire.KeyReply](conn); err == nil {
			t.Errorf("%s: answered %+v", name, m)
		}
		conn.Close()
	}
}
