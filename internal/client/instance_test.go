package client

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"attestbox/internal/client/domaintest"
	"attestbox/internal/code"
	"attestbox/internal/dial"
	"attestbox/internal/wire"
)

// The image's ID is used where HOST_DATA is zeros, and nothing is asked where it
// is not: whichever ID the host wants to see.
func TestImageBringsID(t *testing.T) {
	p := newPeer(t)
	cfg := config(p)
	cfg.Instance = wire.Hex32{31: 1}
	for _, host := range []byte{7, 1} {
		cfg.Platform = psp{host}
		rel, err := Launch(t.Context(), cfg)
		if c, _ := code.Of(err); !errors.Is(err, ErrRefused) || c != code.HostDataSet {
			rel.Close()
			t.Errorf("HOST_DATA set: %v", err)
		}
	}
	if n := p.conns.Load(); n != 0 {
		t.Errorf("%d connections to the verifier", n)
	}
	cfg.Platform = psp{0}
	rel, err := Launch(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer rel.Close()
	if rel.ID != cfg.Instance {
		t.Errorf("asked as %s", rel.ID)
	}
}

// Nor does a VM of such an image ask to be certified as the host's choice.
func TestCertifyImageBringsID(t *testing.T) {
	p := domaintest.New(t, "a.example", time.Now()).NewPolicyServer(t)
	cfg := certifyConfig(p)
	cfg.Instance = wire.Hex32{31: 1}
	cfg.Dial = func(context.Context, dial.Addr) (net.Conn, error) {
		t.Error("a connection to the policy server")
		return nil, net.ErrClosed
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	a, err := Certify(ctx, cfg)
	if c, _ := code.Of(err); !errors.Is(err, ErrRefused) || c != code.HostDataSet {
		a.Close()
		t.Errorf("HOST_DATA set: %v", err)
	}
}
