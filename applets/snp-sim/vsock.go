package snpsim

import (
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"

	"attestbox/internal/applet"
	"attestbox/internal/snpsim/vhostvsock"
)

// target is where a vsock port leads on the host.
type target struct{ network, address string }

// parseForward reads PORT=HOST:PORT or PORT=unix:PATH.
func parseForward(s string) (port uint32, t target, err error) {
	p, to, ok := strings.Cut(s, "=")
	n, perr := strconv.ParseUint(p, 10, 32)
	if !ok || perr != nil || n == 0 || n == 1<<32-1 {
		return 0, t, fmt.Errorf("%q is not PORT=HOST:PORT or PORT=unix:PATH", s)
	}
	if path, ok := strings.CutPrefix(to, "unix:"); ok {
		if path == "" {
			return 0, t, fmt.Errorf("%q names no socket", s)
		}
		return uint32(n), target{"unix", path}, nil
	}
	host, tcp, err := net.SplitHostPort(to)
	if err != nil || host == "" || tcp == "" {
		return 0, t, fmt.Errorf("%q is not PORT=HOST:PORT or PORT=unix:PATH", s)
	}
	return uint32(n), target{"tcp", to}, nil
}

// inbound is a listener on the host that leads to a port of the guest.
type inbound struct {
	target
	port uint32
}

// parseInbound reads HOST:PORT=GUESTPORT or unix:PATH=GUESTPORT.
func parseInbound(s string) (inbound, error) {
	i := strings.LastIndexByte(s, '=')
	n, err := strconv.ParseUint(s[i+1:], 10, 32)
	if i < 0 || err != nil || n == 0 || n == 1<<32-1 {
		return inbound{}, fmt.Errorf("%q is not HOST:PORT=GUESTPORT or unix:PATH=GUESTPORT", s)
	}
	in := inbound{target{"tcp", s[:i]}, uint32(n)}
	if path, ok := strings.CutPrefix(s[:i], "unix:"); ok {
		if path == "" {
			return inbound{}, fmt.Errorf("%q names no socket", s)
		}
		in.target = target{"unix", path}
	} else if host, tcp, err := net.SplitHostPort(s[:i]); err != nil || host == "" || tcp == "" {
		return inbound{}, fmt.Errorf("%q is not HOST:PORT=GUESTPORT or unix:PATH=GUESTPORT", s)
	}
	return in, nil
}

// parseVsock sets up the vsock device that -vsock-forward and -vsock-listen ask
// for.
func (f *runFlags) parseVsock(fs *applet.FlagSet, l *launch, log io.Writer) error {
	if len(f.forwards)+len(f.listens) == 0 {
		return nil
	}
	targets := make(map[uint32]target)
	for _, s := range f.forwards {
		port, t, err := parseForward(s)
		if err != nil {
			return fs.Usage("-vsock-forward: %v", err)
		}
		if _, twice := targets[port]; twice {
			return fs.Usage("-vsock-forward: port %d is given twice", port)
		}
		targets[port] = t
	}
	for _, s := range f.listens {
		in, err := parseInbound(s)
		if err != nil {
			return fs.Usage("-vsock-listen: %v", err)
		}
		l.inbound = append(l.inbound, in)
	}
	logf := func(format string, a ...any) { fmt.Fprintf(log, "snp-sim: "+format+"\n", a...) }
	srv, err := vhostvsock.New(vhostvsock.Options{
		GuestCID: f.vsockCID,
		Dial: func(ctx context.Context, port uint32) (net.Conn, error) {
			t, ok := targets[port]
			if !ok {
				return nil, fmt.Errorf("no -vsock-forward for this port")
			}
			return new(net.Dialer).DialContext(ctx, t.network, t.address)
		},
		Logf: logf,
	})
	if err != nil {
		return fs.Usage("-vsock-cid: %v", err)
	}
	l.machine.VhostVsock, l.vsock, l.logf = srv.ServeConn, srv, logf
	return nil
}
