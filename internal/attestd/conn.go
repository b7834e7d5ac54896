package attestd

import (
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// errStranger is a request that was not written by the process that connected.
var errStranger = errors.New("written by another process than the one that connected")

// conn reads from a socket with SO_PASSCRED and checks who wrote each chunk.
// The kernel never joins what two processes wrote (unix(7), SCM_CREDENTIALS).
type conn struct {
	*net.UnixConn
	pid int // the only one that may write
}

func (c *conn) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	// Room for the credentials and nothing else: descriptors that a caller
	// passes are closed by the kernel, and their loss shows as MSG_CTRUNC.
	oob := make([]byte, unix.CmsgSpace(unix.SizeofUcred))
	n, oobn, flags, _, err := c.ReadMsgUnix(b, oob)
	switch {
	case errors.Is(err, io.EOF) || err == nil && n == 0:
		return 0, io.EOF
	case err != nil:
		return 0, err
	}
	if flags&unix.MSG_CTRUNC != 0 {
		return 0, fmt.Errorf("%w: more than data was sent", ErrMalformed)
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(msgs) != 1 {
		return 0, fmt.Errorf("%w: no credentials", errStranger)
	}
	cred, err := unix.ParseUnixCredentials(&msgs[0])
	if err != nil || int(cred.Pid) != c.pid {
		return 0, errStranger
	}
	return n, nil
}

// passCredentials makes the kernel say who writes.
func passCredentials(c *net.UnixConn) error {
	return control(c, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 1) })
}

func control(c *net.UnixConn, f func(fd int) error) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var ferr error
	if err := raw.Control(func(fd uintptr) { ferr = f(int(fd)) }); err != nil {
		return err
	}
	return ferr
}

// send writes one frame and its body, bounded in time.
func (c *conn) send(timeout time.Duration, v any, body []byte) error {
	b, err := frame(v, MaxResponse)
	if err != nil {
		return err
	}
	if err := c.SetWriteDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	if _, err := c.Write(b); err != nil || len(body) == 0 {
		return err
	}
	_, err = c.Write(body)
	return err
}
