package tunnel

import (
	"strings"
	"testing"
)

func TestParseAddr(t *testing.T) {
	for in, want := range map[string]struct {
		text            string
		local, complete bool
	}{
		"unix:/run/a.sock":  {"unix:/run/a.sock", true, true},
		"tcp:127.0.0.1:80":  {"tcp://127.0.0.1:80", true, true},
		"tcp://db.vm:5432":  {"tcp://db.vm:5432", false, true},
		"db.vm:5432":        {"tcp://db.vm:5432", false, true},
		"localhost:80":      {"tcp://localhost:80", true, true},
		"tcp:[::1]:80":      {"tcp://[::1]:80", true, true},
		"vsock:2:9000":      {"vsock://2:9000", false, true},
		"vsock::9000":       {"vsock://4294967295:9000", false, false},
		"tcp::8452":         {"tcp://:8452", false, false},
		"tcp:127.0.0.1:0":   {"tcp://127.0.0.1:0", true, false},
		"tcp:192.0.2.1:443": {"tcp://192.0.2.1:443", false, true},
	} {
		a, err := ParseAddr(in)
		if err != nil || a.String() != want.text || a.Local() != want.local || a.Complete() != want.complete {
			t.Errorf("%q: %s, local %v, complete %v, %v", in, a, a.Local(), a.Complete(), err)
		}
	}
	for _, in := range []string{"", "x", "unix:", "unix:a", "unix:/" + strings.Repeat("a", 107), "tcp:", "tcp:host", "tcp:host:port", "tcp:host:70000", "vsock:x:1", "vsock:1", "tcp::x", "udp:a:1:2", "a:b:c"} {
		if a, err := ParseAddr(in); err == nil {
			t.Errorf("%q was read as %s", in, a)
		}
	}
}

func TestParsePeer(t *testing.T) {
	m := strings.Repeat("0a", 48)
	for _, s := range []string{"any-of-domain", "role:key-server", "measurement:" + m} {
		p, err := ParsePeer(s)
		if err != nil || p.String() != s {
			t.Errorf("%q: %s, %v", s, p, err)
		}
	}
	for _, s := range []string{"", "any", "role:", "role:Key", "role:a/b", "measurement:", "measurement:0a", "measurement:" + strings.ToUpper(m), "measurement:" + m + m, "instance:" + m} {
		if p, err := ParsePeer(s); err == nil {
			t.Errorf("%q was read as %s", s, p)
		}
	}
	if err := allow(nil, nil); err == nil {
		t.Error("an empty list allowed somebody")
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"unix:/run/a.sock", "tcp:127.0.0.1:80", "vsock::1", "[::1]:2", "role:a", "measurement:" + strings.Repeat("0a", 32), "any-of-domain"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if p, err := ParsePeer(s); err == nil && p.String() != s {
			t.Fatalf("peer %q prints %q", s, p)
		}
		a, err := ParseAddr(s)
		if err != nil || !a.Complete() {
			return
		}
		b, err := ParseAddr(a.String())
		if err != nil || a != b {
			t.Fatalf("%q: %+v, then %+v, %v", s, a, b, err)
		}
	})
}
