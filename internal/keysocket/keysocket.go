package keysocket

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"attestbox/internal/applet"
	"attestbox/internal/code"
	"attestbox/internal/secret"
)

// writeTimeout bounds the one write: a key fits into the socket's buffer.
const writeTimeout = 10 * time.Second

// firstFD is where socket activation puts its first descriptor (sd_listen_fds(3)).
const firstFD = 3

// Socket listens for the one who asks.
type Socket struct {
	l    *net.UnixListener
	uid  uint32 // of the peer that may ask: root's
	logf func(format string, args ...any)
}

// Listen makes the socket at path, mode 0600. Its folder is on tmpfs and root's
// alone, and is made where it is missing. What lies at path already is an error.
func Listen(path string, logf func(string, ...any)) (*Socket, error) {
	dir := filepath.Dir(path)
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("making the folder of the key socket: %w", err)
	}
	if err := checkFolder(dir); err != nil {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("making the key socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("making the key socket: %w", err)
	}
	return &Socket{l: l, logf: logf}, nil
}

// checkFolder wants a folder that nobody but root can look into.
func checkFolder(dir string) error {
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return fmt.Errorf("looking at %q: %w", dir, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || st.Uid != 0 || st.Mode&0o077 != 0 {
		return code.Wrap(code.KeySocket, fmt.Errorf("%q is not a folder of root's with mode 0700", dir))
	}
	return applet.CheckTmpfs(dir)
}

// Activated takes the socket that systemd passed (LISTEN_PID, LISTEN_FDS), if
// it did: nil without an error means that it did not. It has to be the one
// listening stream socket at path.
func Activated(getenv func(string) string, path string, logf func(string, ...any)) (*Socket, error) {
	if getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return nil, nil
	}
	bad := func(format string, args ...any) (*Socket, error) {
		return nil, code.Wrap(code.KeySocket, fmt.Errorf("socket activation: "+format, args...))
	}
	if n := getenv("LISTEN_FDS"); n != "1" {
		return bad("%.20q descriptors were passed, want 1", n)
	}
	return fromFD(firstFD, path, logf)
}

func fromFD(fd int, path string, logf func(string, ...any)) (*Socket, error) {
	bad := func(format string, args ...any) (*Socket, error) {
		return nil, code.Wrap(code.KeySocket, fmt.Errorf("socket activation: "+format, args...))
	}
	unix.CloseOnExec(fd)
	f := os.NewFile(uintptr(fd), path)
	if f == nil {
		return bad("descriptor %d is not open", fd)
	}
	defer f.Close() // FileListener works on a copy
	for opt, want := range map[int]int{unix.SO_DOMAIN: unix.AF_UNIX, unix.SO_TYPE: unix.SOCK_STREAM, unix.SO_ACCEPTCONN: 1} {
		if got, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, opt); err != nil || got != want {
			return bad("descriptor %d is not a listening Unix stream socket", fd)
		}
	}
	l, err := net.FileListener(f)
	if err != nil {
		return bad("%w", err)
	}
	ul, ok := l.(*net.UnixListener)
	if !ok || ul.Addr().String() != path {
		l.Close()
		return bad("the socket is at %q, want %q", l.Addr(), path)
	}
	return &Socket{l: ul, logf: logf}, nil
}

// Serve gives key to the first of root's processes that asks for volume, and
// ends. It takes key over: it is wiped when Serve returns, and the socket is
// closed then, for good. An error means that nobody has the whole key.
func (s *Socket) Serve(ctx context.Context, volume string, key *secret.Bytes) error {
	defer key.Zero()
	defer s.Close()
	if key.Len() == 0 {
		return errors.New("there is no key to serve")
	}
	stop := context.AfterFunc(ctx, func() { s.l.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		c, err := s.l.AcceptUnix()
		if err != nil {
			if ctx.Err() != nil {
				return code.Wrap(code.KeySocket, fmt.Errorf("nobody asked for the key of volume %q: %w", volume, context.Cause(ctx)))
			}
			return fmt.Errorf("waiting at the key socket: %w", err)
		}
		if err := checkPeer(c, s.uid, volume); err != nil {
			c.Close()
			s.logf("key socket: turned away: %v", err)
			continue
		}
		return give(ctx, c, volume, key)
	}
}

// give writes the key and closes. It is not tried again: nobody knows how much
// of it the peer has seen.
func give(ctx context.Context, c *net.UnixConn, volume string, key *secret.Bytes) (err error) {
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	c.SetDeadline(time.Now().Add(writeTimeout))
	_, err = c.Write(key.Bytes())
	if err := errors.Join(err, c.Close()); err != nil {
		return code.Wrap(code.KeySocket, fmt.Errorf("giving the key of volume %q: %w", volume, err))
	}
	return nil
}

// Close ends the socket for those who wait in its queue as well, also where
// systemd holds a descriptor of it.
func (s *Socket) Close() error {
	if raw, err := s.l.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) { unix.Shutdown(int(fd), unix.SHUT_RDWR) })
	}
	return s.l.Close()
}

// Ready tells systemd that the unit is up (sd_notify(3)), where it waits for
// that.
func Ready(getenv func(string) string) error {
	path := getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("telling systemd that the key is there: %w", err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("READY=1")); err != nil {
		return fmt.Errorf("telling systemd that the key is there: %w", err)
	}
	return nil
}
