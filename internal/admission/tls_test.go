package admission

import (
	"crypto"
	"crypto/tls"
	"errors"
	"net"
	"testing"
	"time"
)

func (w *world) tlsCert(id *Identity) tls.Certificate {
	key := newKey()
	return tls.Certificate{Certificate: [][]byte{must(Issue(w.issuer, w.issuerKey, key.Public(), id, testNow, time.Hour)), w.issuer.Raw}, PrivateKey: crypto.Signer(key)}
}

func shake(client, server *tls.Config) (clientErr, serverErr error) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	done := make(chan error, 1)
	go func() {
		s := tls.Server(b, server)
		err := s.Handshake()
		if err == nil {
			_, err = s.Write([]byte{1})
		}
		b.Close()
		done <- err
	}()
	c := tls.Client(a, client)
	clientErr = c.Handshake()
	if clientErr == nil {
		// In TLS 1.3 the client learns of the server's verdict with its first read.
		_, clientErr = c.Read(make([]byte, 1))
	}
	a.Close()
	return clientErr, <-done
}

func TestTLS(t *testing.T) {
	const alpn = "attestbox-test/1"
	w := newWorld(t, "a.example", newKey(), newKey())
	other := newWorld(t, "b.example", newKey(), newKey())
	now := func() time.Time { return testNow }
	server := testIdentity("a.example")
	server.Roles = []string{"key-server"}
	member, keyServer, stranger := w.tlsCert(testIdentity("a.example")), w.tlsCert(server), other.tlsCert(testIdentity("b.example"))
	serve := func(c tls.Certificate) *tls.Config {
		return ServerTLS(w.trust, func() (*tls.Certificate, error) { return &c, nil }, now, alpn)
	}
	if c, s := shake(ClientTLS(w.trust, member, now, alpn, "key-server"), serve(keyServer)); c != nil || s != nil {
		t.Fatalf("client %v, server %v", c, s)
	}
	if c, s := shake(ClientTLS(w.trust, member, now, alpn, ""), serve(member)); c != nil || s != nil {
		t.Fatalf("client %v, server %v", c, s)
	}
	for name, pair := range map[string][2]*tls.Config{
		"admitted VM posing as key server": {ClientTLS(w.trust, member, now, alpn, "key-server"), serve(member)},
		"server of another domain":         {ClientTLS(w.trust, member, now, alpn, ""), serve(stranger)},
		"client of another domain":         {ClientTLS(w.trust, stranger, now, alpn, ""), serve(keyServer)},
		"client without certificate":       {func() *tls.Config { c := base(alpn); c.InsecureSkipVerify = true; return c }(), serve(keyServer)},
		"other protocol":                   {ClientTLS(w.trust, member, now, "attestbox-other/1", ""), serve(keyServer)},
		"expired server":                   {ClientTLS(w.trust, member, func() time.Time { return testNow.Add(2 * time.Hour) }, alpn, ""), serve(keyServer)},
		"expired client": {ClientTLS(w.trust, member, now, alpn, ""),
			ServerTLS(w.trust, func() (*tls.Certificate, error) { return &keyServer, nil }, func() time.Time { return testNow.Add(2 * time.Hour) }, alpn)},
	} {
		if c, s := shake(pair[0], pair[1]); c == nil || s == nil {
			t.Errorf("%s: client %v, server %v", name, c, s)
		}
	}
	// The right leaf with somebody else's key.
	stolen := keyServer
	stolen.PrivateKey = crypto.Signer(newKey())
	if c, _ := shake(ClientTLS(w.trust, member, now, alpn, "key-server"), serve(stolen)); c == nil || errors.Is(c, ErrRole) {
		t.Errorf("certificate with another key: %v", c)
	}
}
