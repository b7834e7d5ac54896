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

// parseVsock sets up the vsock device that -vsock-forward asks for.
func (f *runFlags) parseVsock(fs *applet.FlagSet, l *launch, log io.Writer) error {
	if len(f.forwards) == 0 {
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
	srv, err := vhostvsock.New(vhostvsock.Options{
		GuestCID: f.vsockCID,
		Dial: func(ctx context.Context, port uint32) (net.Conn, error) {
			t, ok := targets[port]
			if !ok {
				return nil, fmt.Errorf("no -vsock-forward for this port")
			}
			return new(net.Dialer).DialContext(ctx, t.network, t.address)
		},
		Logf: func(format string, a ...any) { fmt.Fprintf(log, "snp-sim: "+format+"\n", a...) },
	})
	if err != nil {
		return fs.Usage("-vsock-cid: %v", err)
	}
	l.machine.VhostVsock = srv.ServeConn
	return nil
}
