package attestd

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"attestbox/internal/code"
	"attestbox/internal/platform"
	"attestbox/internal/secret"
)

// What one program sealed opens for it alone, in the same context.
func TestSealForProgram(t *testing.T) {
	w := newWorld(t, false, nil)
	good, other := w.measured("good"), w.measured("other")
	data := []byte("the program's secret")
	for _, scope := range []string{"", ScopeUser, ScopeProgram} {
		blob := w.run(data, good, "seal", w.socket, scope)
		if strings.Contains(blob, hex.EncodeToString(data)) {
			t.Error("the blob shows its content")
		}
		if got := w.run([]byte(blob), good, "unseal", w.socket, "test"); got != string(data) {
			t.Errorf("scope %q: unsealed %q", scope, got)
		}
		wantRefused(t, "another context", w.run([]byte(blob), good, "unseal", w.socket, "other"), code.AttestdUnseal)
		wantRefused(t, "another program", w.run([]byte(blob), other, "unseal", w.socket, "test"), code.AttestdUnseal)
		wantRefused(t, "unmeasured", w.run([]byte(blob), w.unmeasured(), "unseal", w.socket, "test"), code.AttestdUnmeasured)
		// Another instance of attestd has another root.
		w2 := newWorld(t, false, nil)
		wantRefused(t, "another instance", w2.run([]byte(blob), w2.program(w2.bin, "good", "good"), "unseal", w2.socket, "test"), code.AttestdUnseal)
	}
	wantRefused(t, "short", w.run([]byte("00"), good, "unseal", w.socket, "test"), code.AttestdUnseal)
}

func TestSealFlipped(t *testing.T) {
	root, data := secret.Random(RootSize), secret.Copy([]byte("twelve bytes"))
	for _, scope := range []byte{scopeUser, scopeProgram} {
		blob, err := seal(root, "p", scope, 7, "c", data)
		if err != nil {
			t.Fatal(err)
		}
		if len(blob) != data.Len()+SealOverhead {
			t.Errorf("%d bytes sealed to %d", data.Len(), len(blob))
		}
		out, err := unseal(root, "p", 7, "c", blob)
		if err != nil || !out.Equal(data) {
			t.Fatalf("%q, %v", out.Bytes(), err)
		}
		_, err = unseal(root, "p", 8, "c", blob)
		if (err == nil) != (scope == scopeProgram) {
			t.Errorf("scope %d, another user: %v", scope, err)
		}
		for i := range blob {
			for bit := range 8 {
				bad := bytes.Clone(blob)
				bad[i] ^= 1 << bit
				if _, err := unseal(root, "p", 7, "c", bad); !errors.Is(err, errUnseal) {
					t.Fatalf("byte %d, bit %d flipped: %v", i, bit, err)
				}
			}
		}
		for n := range blob {
			if _, err := unseal(root, "p", 7, "c", blob[:n]); !errors.Is(err, errUnseal) {
				t.Fatalf("cut to %d bytes: %v", n, err)
			}
		}
	}
}

func fields(t *testing.T, line string, n int) []string {
	t.Helper()
	f := strings.Split(line, " ")
	if len(f) != n {
		t.Fatalf("%q has %d words, want %d", line, len(f), n)
	}
	return f
}

func fromHex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func program(t *testing.T, s string) Program {
	t.Helper()
	p, err := ParseProgram(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestSign(t *testing.T) {
	w := newWorld(t, false, nil)
	data := []byte("what the program says")
	f := fields(t, w.run(data, w.measured("good"), "sign", w.socket, ""), 3)
	p, sig := program(t, f[0]), fromHex(t, f[1])
	pub := w.key.Public()
	if err := VerifySignature(pub, p, "test", data, sig); err != nil {
		t.Error(err)
	}
	other := p
	other.Digest = bytes.Clone(p.Digest)
	other.Digest[0] ^= 1
	for name, err := range map[string]error{
		"other program": VerifySignature(pub, other, "test", data, sig),
		"other context": VerifySignature(pub, p, "tes", data, sig),
		"other data":    VerifySignature(pub, p, "test", data[1:], sig),
		"unmeasured":    VerifySignature(pub, Program{}, "test", data, sig),
		"raw message":   verify(pub, data, sig),
	} {
		if err == nil {
			t.Errorf("%s: the signature verifies", name)
		}
	}
	for i := range sig {
		bad := bytes.Clone(sig)
		bad[i] ^= 0x80
		if VerifySignature(pub, p, "test", data, bad) == nil {
			t.Errorf("byte %d flipped: the signature verifies", i)
		}
	}
}

// A relying party that trusts the VM's certificate learns a program's key, and
// checks what that key signs.
func TestProgramKey(t *testing.T) {
	w := newWorld(t, false, nil)
	good := w.measured("good")
	f := fields(t, w.run(nil, good, "key", w.socket), 5)
	p, sig, spki := program(t, f[0]), fromHex(t, f[1]), fromHex(t, f[2])
	var from, to int64
	fmt.Sscan(f[3]+" "+f[4], &from, &to)
	now := time.Now()
	pub, err := VerifyStatement(w.key.Public(), p, spki, from, to, sig, now)
	if err != nil {
		t.Fatal(err)
	}
	if leaf, _ := x509.ParseCertificate(w.chain[0]); to > leaf.NotAfter.Unix() {
		t.Error("the statement outlives the certificate")
	}
	s := fields(t, w.run([]byte("hello"), good, "sign", w.socket, KeyProgram), 3)
	if err := VerifySignature(pub, p, "test", []byte("hello"), fromHex(t, s[1])); err != nil {
		t.Error(err)
	}
	if VerifySignature(w.key.Public(), p, "test", []byte("hello"), fromHex(t, s[1])) == nil {
		t.Error("the program's signature verifies as the VM's")
	}
	if s[2] != f[2] {
		t.Error("the program signs with another key than was stated")
	}
	if g := fields(t, w.run(nil, w.measured("other"), "key", w.socket), 5); g[2] == f[2] {
		t.Error("two programs have the same key")
	}
	for name, f := range map[string]func() error{
		"another key": func() error { _, err := VerifyStatement(w.key.Public(), p, spki[1:], from, to, sig, now); return err },
		"longer":      func() error { _, err := VerifyStatement(w.key.Public(), p, spki, from, to+1, sig, now); return err },
		"too late": func() error {
			_, err := VerifyStatement(w.key.Public(), p, spki, from, to, sig, now.Add(2*time.Hour))
			return err
		},
		"too early": func() error {
			_, err := VerifyStatement(w.key.Public(), p, spki, from, to, sig, time.Unix(from-1, 0))
			return err
		},
		"by the program": func() error { _, err := VerifyStatement(pub, p, spki, from, to, sig, now); return err },
		"unmeasured": func() error {
			_, err := VerifyStatement(w.key.Public(), Program{}, spki, from, to, sig, now)
			return err
		},
		"signed by sign": func() error { return VerifySignature(w.key.Public(), p, "test", spki, sig) },
	} {
		if f() == nil {
			t.Errorf("%s: the statement verifies", name)
		}
	}
}

func TestSignatureAlgorithms(t *testing.T) {
	p256, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []crypto.Signer{p256, p384, rsaKey} {
		alg, sig, err := sign(key, []byte("m"))
		if err != nil {
			t.Fatal(err)
		}
		if err := verify(key.Public(), []byte("m"), sig); err != nil {
			t.Errorf("%s: %v", alg, err)
		}
		if verify(key.Public(), []byte("n"), sig) == nil {
			t.Errorf("%s: another message verifies", alg)
		}
	}
	p224, _ := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if _, _, err := sign(p224, []byte("m")); err == nil {
		t.Error("signed with P-224")
	}
}

// Without a store attestd attests and no more; with the wrong certificate too.
func TestNoIdentity(t *testing.T) {
	w := newWorld(t, false, func(o *Options) { o.Root, o.Identity = nil, nil })
	good := w.measured("good")
	wantRefused(t, "seal", w.run([]byte("x"), good, "seal", w.socket, ""), code.AttestdNoIdentity)
	wantRefused(t, "sign", w.run([]byte("x"), good, "sign", w.socket, ""), code.AttestdNoIdentity)
	wantRefused(t, "sign", w.run([]byte("x"), good, "sign", w.socket, KeyProgram), code.AttestdNoIdentity)
	_, err := w.dial().Ask(testContext(t), OpCertificate)
	wantCode(t, "certificate", err, code.AttestdNoIdentity)
	_, err = w.dial().Attest(testContext(t), nil)
	wantCode(t, "attest", err, code.PlatformNone)

	w = newWorld(t, false, nil)
	w.key, _ = identityForTest(t, time.Now())
	_, err = w.dial().Ask(testContext(t), OpCertificate)
	wantCode(t, "a certificate of another key", err, code.AttestdNoIdentity)
	w.key, w.chain = identityForTest(t, time.Now().Add(-time.Minute))
	wantRefused(t, "expired", w.run(nil, w.measured("good"), "key", w.socket), code.AttestdNoIdentity)
}

// stuck is a secure processor that does not answer until it is told to.
type stuck struct {
	asked chan struct{}
	free  chan struct{}
}

func (s *stuck) Name() string { return platform.AMDSEVSNP }
func (s *stuck) Close() error { return nil }
func (s *stuck) Report(context.Context, [64]byte) (*platform.Evidence, error) {
	s.asked <- struct{}{}
	<-s.free
	return &platform.Evidence{Platform: platform.AMDSEVSNP, Report: make([]byte, 1184)}, nil
}

// While the platform hangs, everything else goes on; the caller is told; later
// the platform is of use again; the end of attestd does not wait for it.
func TestPlatformHangs(t *testing.T) {
	p := &stuck{asked: make(chan struct{}, 10), free: make(chan struct{}, 10)}
	w := newWorld(t, false, func(o *Options) {
		o.Platform, o.Limits = p, Limits{Report: time.Second, Shutdown: 20 * time.Second}
	})
	_, err := w.dial().Attest(testContext(t), nil)
	wantCode(t, "stuck", err, code.AttestdBusy)
	<-p.asked
	_, err = w.dial().Attest(testContext(t), nil)
	wantCode(t, "in line", err, code.AttestdBusy)
	if got := w.run([]byte("x"), w.measured("good"), "sign", w.socket, ""); !strings.HasPrefix(got, "image:") {
		t.Errorf("sign: %q", got)
	}
	p.free <- struct{}{}
	p.free <- struct{}{}
	if r, err := w.dial().Attest(testContext(t), nil); err != nil || len(r.Report) != 1184 {
		t.Errorf("afterwards: %v", err)
	}
	<-p.asked
	go w.dial().Attest(testContext(t), nil)
	<-p.asked
	if err := w.stop(); err != nil {
		t.Error(err)
	}
}

func TestReportsPerUser(t *testing.T) {
	free := make(chan struct{})
	close(free)
	now := time.Unix(1e9, 0)
	w := newWorld(t, false, func(o *Options) {
		o.Platform = &stuck{asked: make(chan struct{}, 10), free: free}
		o.Limits = Limits{ReportBurst: 2, ReportRate: 1}
		o.Now = func() time.Time { return now }
	})
	c, ctx := w.dial(), testContext(t)
	for range 2 {
		if _, err := c.Attest(ctx, nil); err != nil {
			t.Fatal(err)
		}
	}
	_, err := c.Attest(ctx, nil)
	wantCode(t, "the third", err, code.AttestdBusy)
	if _, err := c.Ask(ctx, OpWhoami); err != nil {
		t.Errorf("the connection is gone: %v", err)
	}
}

func TestBuckets(t *testing.T) {
	now := time.Unix(1e9, 0)
	u := newUsers(Limits{RequestRate: 2, RequestBurst: 3}.withDefaults(), func() time.Time { return now })
	a := u.enter(1)
	count := func() (n int) {
		for u.mayAsk(a) {
			n++
		}
		return n
	}
	if n := count(); n != 3 {
		t.Errorf("burst of %d", n)
	}
	now = now.Add(time.Second)
	if n := count(); n != 2 {
		t.Errorf("%d after a second", n)
	}
	now = now.Add(-time.Hour) // a clock that is set back gives nothing away
	if n := count(); n != 0 {
		t.Errorf("%d after the clock went back", n)
	}
	for uid := range uint32(5 * maxUsers) {
		if one := u.enter(uid); one != nil {
			u.leave(one)
		}
		now = now.Add(time.Hour)
	}
	if len(u.all) > maxUsers || u.all[1] != a {
		t.Errorf("%d users, the one with a connection among them: %v", len(u.all), u.all[1] == a)
	}
}

// One request of a measured program: what it costs to be sure who asks, and
// the work itself.
func BenchmarkRequest(b *testing.B) {
	w := newWorld(b, false, func(o *Options) { o.Limits = Limits{RequestRate: 1e9, RequestBurst: 1e9} })
	good := w.measured("good")
	for _, op := range []string{OpWhoami, OpSeal, OpSign} {
		b.Run(op, func(b *testing.B) {
			out := w.run(nil, good, "bench", w.socket, op, strconv.Itoa(b.N))
			ns, err := strconv.ParseFloat(out, 64)
			if err != nil {
				b.Fatal(out)
			}
			b.ReportMetric(ns, "ns/request")
			b.ReportMetric(0, "ns/op")
		})
	}
}
