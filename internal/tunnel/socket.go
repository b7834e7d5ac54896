package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"attestbox/internal/dial"
)

// deadAfter is when TCP gives up data that nobody acknowledges.
const deadAfter = 2 * time.Minute

func isNotConnected(err error) bool { return errors.Is(err, unix.ENOTCONN) }

// Addr is one end of a tunnel.
type Addr struct {
	Unix string // path; else
	Net  dial.Addr
}

// ParseAddr reads "unix:PATH", "tcp:HOST:PORT", "vsock:CID:PORT", the same with
// "//" as package dial has it, or "HOST:PORT". A listener on every CID is
// "vsock::PORT", on every address "tcp::PORT".
func ParseAddr(s string) (Addr, error) {
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		if !strings.HasPrefix(path, "/") || strings.ContainsRune(path, 0) || len(path) > 107 { // sun_path
			return Addr{}, fmt.Errorf("address %.140q: want unix: and an absolute path of at most 107 bytes", s)
		}
		return Addr{Unix: path}, nil
	}
	scheme, rest, ok := strings.Cut(s, ":")
	if !ok {
		return Addr{}, fmt.Errorf("address %.140q is none of unix:PATH, tcp:HOST:PORT, vsock:CID:PORT, HOST:PORT", s)
	}
	if scheme != "tcp" && scheme != "vsock" {
		scheme, rest = "tcp", s
	}
	rest = strings.TrimPrefix(rest, "//")
	i := strings.LastIndexByte(rest, ':')
	if i < 0 {
		return Addr{}, fmt.Errorf("address %.140q lacks a port", s)
	}
	if i == 0 {
		bits := 16
		if scheme == "vsock" {
			bits = 32
		}
		port, err := strconv.ParseUint(rest[1:], 10, bits)
		if err != nil {
			return Addr{}, fmt.Errorf("address %.140q: %.20q is not a port", s, rest[1:])
		}
		return Addr{Net: dial.Addr{Network: scheme, Port: uint32(port), CID: unix.VMADDR_CID_ANY}}, nil
	}
	if host := rest[:i]; strings.Contains(host, ":") && !(strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]")) {
		return Addr{}, fmt.Errorf("address %.140q: an IPv6 address is written in brackets", s)
	}
	if scheme == "tcp" && rest[i+1:] == "0" { // any free port, for listeners
		return Addr{Net: dial.Addr{Network: "tcp", Host: strings.Trim(rest[:i], "[]")}}, nil
	}
	a, err := dial.Parse(scheme + "://" + rest)
	return Addr{Net: a}, err
}

func (a Addr) String() string {
	if a.Unix != "" {
		return "unix:" + a.Unix
	}
	return a.Net.String()
}

// Local says whether only this machine can be at the other end: a plain stream
// goes nowhere else.
func (a Addr) Local() bool {
	if a.Unix != "" {
		return true
	}
	if a.Net.Network != "tcp" {
		return false
	}
	ip, err := netip.ParseAddr(a.Net.Host)
	return a.Net.Host == "localhost" || err == nil && ip.IsLoopback()
}

// Complete says whether the address can be connected to.
func (a Addr) Complete() bool {
	return a.Unix != "" || a.Net.Port != 0 && (a.Net.Network == "vsock" && a.Net.CID != unix.VMADDR_CID_ANY || a.Net.Host != "")
}

// Dial connects to the address.
func (a Addr) Dial(ctx context.Context) (net.Conn, error) {
	var c net.Conn
	var err error
	if a.Unix != "" {
		var d net.Dialer
		c, err = d.DialContext(ctx, "unix", a.Unix)
	} else {
		c, err = dial.Dial(ctx, a.Net)
	}
	if err != nil {
		return nil, err
	}
	return c, giveUp(c)
}

// Listen opens a listener. A socket file gets mode; one that was left over and
// that nobody serves is replaced, anything else at its path is not.
func (a Addr) Listen(ctx context.Context, mode fs.FileMode) (net.Listener, error) {
	if a.Unix == "" {
		s := "tcp://" + net.JoinHostPort(a.Net.Host, strconv.Itoa(int(a.Net.Port)))
		if a.Net.Network == "vsock" {
			if a.Net.CID != unix.VMADDR_CID_ANY {
				return nil, fmt.Errorf("listening on %s: a vsock listener is vsock::PORT", a)
			}
			s = fmt.Sprintf("vsock://:%d", a.Net.Port)
		}
		l, err := dial.Listen(ctx, s)
		if err != nil {
			return nil, err
		}
		return listener{l}, nil
	}
	if err := removeStale(a.Unix); err != nil {
		return nil, err
	}
	// Nobody may connect before the mode is right.
	old := unix.Umask(0o177)
	l, err := net.Listen("unix", a.Unix)
	unix.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", a, err)
	}
	if err := os.Chmod(a.Unix, mode); err != nil {
		l.Close()
		return nil, fmt.Errorf("listening on %s: %w", a, err)
	}
	return l, nil
}

func removeStale(path string) error {
	st, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("listening on %q: %w", path, err)
	}
	if st.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("listening on %q: something else than a socket is there", path)
	}
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		return fmt.Errorf("listening on %q: another program serves it", path)
	}
	return os.Remove(path)
}

// listener sets each connection up as Dial does.
type listener struct{ net.Listener }

func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if err := giveUp(c); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// giveUp bounds how long TCP waits for a peer that is gone: for an answer to
// keep-alives, and for data to be acknowledged.
func giveUp(c net.Conn) error {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return nil
	}
	tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 15 * time.Second, Count: 6})
	raw, err := tcp.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	if err := raw.Control(func(fd uintptr) {
		serr = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(deadAfter.Milliseconds()))
	}); err != nil {
		return err
	}
	return serr
}
