package server

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"attestbox/internal/client"
	"attestbox/internal/code"
)

// Maintain takes policies over and renews the server's own certificate.
func TestMaintain(t *testing.T) {
	w := newDomainWorld(t, nil)
	ctx, cancel := context.WithCancel(ctxFor(t))
	defer cancel()
	reload, done := make(chan struct{}), make(chan struct{})
	go func() { defer close(done); w.server.Maintain(ctx, time.Hour, reload) }()
	changed := w.domain.watchPolicy()
	w.sign(2, append(w.policyLines(), "Measurement["+hexOf(imageC)+"] is-trusted")...)
	reload <- struct{}{}
	<-changed
	if w.domain.Version() != 2 {
		t.Errorf("version %d", w.domain.Version())
	}
	before := must(w.domain.ownCertificate(w.now())).Certificate[0]
	w.advance(50 * time.Minute)
	reload <- struct{}{}
	reload <- struct{}{} // taken when the round before is over
	if after := must(w.domain.ownCertificate(w.now())).Certificate[0]; bytes.Equal(before, after) {
		t.Error("the server's certificate was not renewed at two thirds of its life")
	}
	// A bad policy is said once, not at every look.
	w.mu.Lock()
	w.signed = []byte("nonsense")
	w.mu.Unlock()
	for range 4 {
		reload <- struct{}{}
	}
	cancel()
	<-done
	if n := strings.Count(w.log.String(), "was not taken over"); n != 1 {
		t.Errorf("said %d times", n)
	}
}

// A policy under which the server is a key server no longer: it does not ask
// itself at every look, serves nobody, and is one again when policy says so.
func TestRenewalRefused(t *testing.T) {
	w := newDomainWorld(t, nil)
	ctx, cancel := context.WithCancel(ctxFor(t))
	defer cancel()
	reload, done := make(chan struct{}), make(chan struct{})
	go func() { defer close(done); w.server.Maintain(ctx, time.Hour, reload) }()
	lines := w.policyLines()
	w.sign(2, without(lines, "is-trusted-for-serving")...)
	for range 10 {
		reload <- struct{}{}
	}
	if n := strings.Count(w.log.String(), "keys cannot be served"); n != 1 {
		t.Errorf("tried %d times", n)
	}
	if err := w.server.Ready(); err == nil {
		t.Error("ready")
	}
	short, stop := context.WithTimeout(ctx, 200*time.Millisecond)
	defer stop()
	if _, err := client.Fetch(short, w.keysConfig(w.mustCertify(w.vm(imageA, 1, nil))), "db/password", 0); err == nil {
		t.Error("served without a certificate")
	}
	for text := range w.serials { // a claim that comes back is a new one
		if strings.Contains(text, "is-trusted-for-serving") {
			delete(w.serials, text)
		}
	}
	w.sign(3, lines...)
	reload <- struct{}{}
	reload <- struct{}{} // taken when the round before is over
	if err := w.server.Ready(); err != nil {
		t.Error(err)
	}
	cancel()
	<-done
}

// What cannot be put on record is not given.
func TestNothingWithoutAudit(t *testing.T) {
	w := newDomainWorld(t, nil)
	ctx := ctxFor(t)
	if _, err := w.keys(w.mustCertify(w.enclave)).Put(ctx, "db/password", 0, "", sec("sesame")); err != nil {
		t.Fatal(err)
	}
	k := w.keys(w.mustCertify(w.vm(imageA, 1, nil)))
	if _, err := k.Get(ctx, "db/password", 0); err != nil {
		t.Fatal(err)
	}
	if err := w.server.Audit.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := k.Get(ctx, "db/password", 0)
	wantCode(t, "a secret", err, code.VerifierBusy)
	short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	cfg := w.certifyConfig(w.vm(imageA, 1, nil))
	if a, err := client.Certify(short, cfg); err == nil {
		t.Errorf("admitted %v", a.Identity)
	}
}
