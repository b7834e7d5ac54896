package server

import (
	"context"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestAdmin(t *testing.T) {
	w := newDomainWorld(t, nil)
	w.mustCertify(w.vm(imageA, 1, nil))
	w.certify(w.vm(imageC, 1, nil), "")
	for _, bad := range []string{"0.0.0.0:0", "localhost:0", ":0", "192.0.2.1:80", "nonsense", ""} {
		if l, err := AdminListen(context.Background(), bad); err == nil {
			l.Close()
			t.Errorf("listens on %q", bad)
		}
	}
	l, err := AdminListen(context.Background(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.server.ServeAdmin(ctx, l) }()
	get := func(path, host string) (int, string) {
		t.Helper()
		req, err := http.NewRequest("GET", "http://"+l.Addr().String()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if host != "" {
			req.Host = host
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(b)
	}
	if c, b := get("/healthz", ""); c != 200 || b != "ok\n" {
		t.Error(c, b)
	}
	if c, b := get("/readyz", ""); c != 200 {
		t.Error(c, b)
	}
	if c, _ := get("/metrics", "evil.example:8452"); c != http.StatusForbidden {
		t.Errorf("by another name: %d", c)
	}
	if c, _ := get("/", ""); c != 404 {
		t.Error(c)
	}
	c, b := get("/metrics", "")
	if c != 200 {
		t.Fatal(c)
	}
	line := regexp.MustCompile(`^([a-z_]+)(\{[a-z]+="[^"\\]*"(,[a-z]+="[^"\\]*")*\})? -?[0-9.e+-]+$`)
	for _, s := range strings.Split(strings.TrimSpace(b), "\n") {
		if !strings.HasPrefix(s, "# HELP ") && !strings.HasPrefix(s, "# TYPE ") && !line.MatchString(s) {
			t.Errorf("not Prometheus' text: %q", s)
		}
	}
	for _, want := range []string{`decision="admitted",code=""} 2`, `decision="refused",code="measurement-unknown"} 1`, `attestbox_policy_version{domain="bank.example"} 1`, "attestbox_audit_lines 3"} {
		if !strings.Contains(b, want) {
			t.Errorf("no %s in:\n%s", want, b)
		}
	}
	// Whatever peers send, the series stay few: codes of decisions are a closed set.
	for range 20 {
		w.server.Metrics.decided(&Decision{Protocol: RoleCertify, Decision: Refused, Code: "made-up-by-" + "a-peer"}, time.Millisecond)
	}
	if _, b := get("/metrics", ""); strings.Contains(b, "made-up") || !strings.Contains(b, `code="other"} 20`) {
		t.Error("a code that is not in the table made a series")
	}
	w.advance(2 * time.Hour) // the server's own certificate ends
	if c, b := get("/readyz", ""); c != 503 || !strings.Contains(b, "no admission certificate") {
		t.Error(c, b)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
