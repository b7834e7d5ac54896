package snpsim

import (
	"bytes"
	"fmt"
	"net"
	"path/filepath"
	"testing"

	"attestbox/internal/snpsim/vhostvsock"
)

func TestParseInbound(t *testing.T) {
	for in, want := range map[string]inbound{
		"127.0.0.1:8461=8461": {target{"tcp", "127.0.0.1:8461"}, 8461}, "[::1]:2=1": {target{"tcp", "[::1]:2"}, 1}, "unix:/a=b=7": {target{"unix", "/a=b"}, 7},
	} {
		if got, err := parseInbound(in); err != nil || got != want {
			t.Errorf("%q: %v, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "=", "a:1=", "a:1=x", "a:1=0", "a:1=4294967295", "unix:=1", ":5=1", "host=1", "a:1=-1", "a:1"} {
		if got, err := parseInbound(in); err == nil {
			t.Errorf("%q: %v", in, got)
		}
	}
}

// Before the guest's driver runs, a connection is closed and not kept waiting;
// stop ends the listeners.
func TestListenInbound(t *testing.T) {
	srv, err := vhostvsock.New(vhostvsock.Options{GuestCID: 3})
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	path := filepath.Join(t.TempDir(), "s")
	l := &launch{vsock: srv, inbound: []inbound{{target{"unix", path}, 8461}}, logf: func(f string, a ...any) { fmt.Fprintf(&log, f+"\n", a...) }}
	stop, err := l.listenInbound(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 1)); err == nil {
		t.Errorf("read %d bytes", n)
	}
	stop()
	if _, err := net.Dial("unix", path); err == nil {
		t.Error("the listener is still there")
	}
	if !bytes.Contains(log.Bytes(), []byte(vhostvsock.ErrNotReady.Error())) {
		t.Errorf("log %q", log.String())
	}
	// An address in use is an error before anything boots.
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	l.inbound = []inbound{{target{"tcp", taken.Addr().String()}, 1}}
	if _, err := l.listenInbound(t.Context()); err == nil {
		t.Error("listened twice")
	}
}
