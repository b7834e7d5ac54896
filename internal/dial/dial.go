// Package dial turns server addresses into connections: "tcp://host:port" and
// "vsock://cid:port". The port may be left out (wire.DefaultPort).
package dial

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/mdlayher/vsock"

	"attestbox/internal/wire"
)

// HostCID is the vsock address of the host (linux/vm_sockets.h, VMADDR_CID_HOST).
const HostCID = vsock.Host

// Addr is a parsed server address.
type Addr struct {
	Network string // "tcp" or "vsock"
	Host    string // for tcp
	CID     uint32 // for vsock
	Port    uint32
}

// Parse reads "tcp://host[:port]" or "vsock://cid[:port]".
func Parse(s string) (Addr, error) {
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok || rest == "" {
		return Addr{}, fmt.Errorf("server address %q: want tcp://host:port or vsock://cid:port", s)
	}
	host, port := rest, strconv.Itoa(wire.DefaultPort)
	if h, p, err := net.SplitHostPort(rest); err == nil {
		host, port = h, p
	} else if strings.Count(rest, ":") == 1 {
		return Addr{}, fmt.Errorf("server address %q: %v", s, err)
	} else {
		if inner, ok := strings.CutPrefix(host, "["); ok && strings.HasSuffix(inner, "]") {
			host = strings.TrimSuffix(inner, "]")
		}
	}
	n, err := strconv.ParseUint(port, 10, 32)
	if err != nil || n == 0 {
		return Addr{}, fmt.Errorf("server address %q: port %q", s, port)
	}
	switch scheme {
	case "tcp":
		if n > 65535 || !validHost(host) {
			return Addr{}, fmt.Errorf("server address %q: host %q, port %s", s, host, port)
		}
		return Addr{Network: "tcp", Host: host, Port: uint32(n)}, nil
	case "vsock":
		cid, err := strconv.ParseUint(host, 10, 32)
		if err != nil {
			return Addr{}, fmt.Errorf("server address %q: CID %q is not a number", s, host)
		}
		return Addr{Network: "vsock", CID: uint32(cid), Port: uint32(n)}, nil
	}
	return Addr{}, fmt.Errorf("server address %q: scheme %q is neither tcp nor vsock", s, scheme)
}

// validHost takes names and IPv4 addresses, and IPv6 addresses without brackets.
func validHost(host string) bool {
	if strings.Contains(host, ":") {
		_, err := netip.ParseAddr(host)
		return err == nil
	}
	return host != "" && !strings.ContainsAny(host, "[]/@%?# \t\r\n\x00")
}

func (a Addr) String() string {
	if a.Network == "vsock" {
		return fmt.Sprintf("vsock://%d:%d", a.CID, a.Port)
	}
	return "tcp://" + net.JoinHostPort(a.Host, strconv.Itoa(int(a.Port)))
}

// Dial connects, at most until ctx ends.
func Dial(ctx context.Context, a Addr) (net.Conn, error) {
	if a.Network == "tcp" {
		d := net.Dialer{KeepAlive: 15 * time.Second}
		return d.DialContext(ctx, "tcp", net.JoinHostPort(a.Host, strconv.Itoa(int(a.Port))))
	}
	// vsock.Dial takes no context: let it finish alone when ctx ends first.
	// The kernel bounds a vsock connect to 2 s (VSOCK_DEFAULT_CONNECT_TIMEOUT).
	type result struct {
		c   net.Conn
		err error
	}
	done := make(chan result, 1)
	go func() {
		c, err := vsock.Dial(a.CID, a.Port, nil)
		if err != nil {
			done <- result{nil, err}
			return
		}
		done <- result{c, nil}
	}()
	select {
	case r := <-done:
		return r.c, r.err
	case <-ctx.Done():
		go func() {
			if r := <-done; r.c != nil {
				r.c.Close()
			}
		}()
		return nil, ctx.Err()
	}
}

// Listen opens a listener: "tcp://host:port" or "vsock://:port" (any CID).
func Listen(ctx context.Context, s string) (net.Listener, error) {
	if port, ok := strings.CutPrefix(s, "vsock://:"); ok {
		n, err := strconv.ParseUint(port, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("listen address %q: port %q", s, port)
		}
		l, err := vsock.Listen(uint32(n), nil)
		if err != nil {
			return nil, fmt.Errorf("listening on %q: %w", s, err)
		}
		return l, nil
	}
	addr, ok := strings.CutPrefix(s, "tcp://")
	if !ok {
		return nil, fmt.Errorf("listen address %q: want tcp://host:port or vsock://:port", s)
	}
	var lc net.ListenConfig
	return lc.Listen(ctx, "tcp", addr)
}
