package keysocket

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// purpose stands between the random prefix and the volume's name. What asks
// for something else has other words there: "/cryptsetup-tpm2/" and its kin
// want a sealed blob of that name and not the key.
const purpose = "/cryptsetup/"

// maxPrefix is the length of the random prefix: a 64-bit number as lower-case
// hexadecimal digits without leading zeros.
const maxPrefix = 16

// ParsePeer reads the address that systemd-cryptsetup binds its socket to
// before it connects, as the kernel holds it: sun_path without padding, which
// begins with a zero byte. It returns the volume that is asked for.
func ParsePeer(sunPath []byte) (volume string, err error) {
	if len(sunPath) == 0 || sunPath[0] != 0 {
		return "", errors.New("the peer's address is not abstract")
	}
	prefix, rest, found := strings.Cut(string(sunPath[1:]), "/")
	if !found || len(prefix) == 0 || len(prefix) > maxPrefix || prefix[0] == '0' && len(prefix) > 1 ||
		strings.Trim(prefix, "0123456789abcdef") != "" {
		return "", errors.New("the peer's address lacks the random prefix")
	}
	volume, found = strings.CutPrefix("/"+rest, purpose)
	if !found {
		return "", errors.New("the peer asks for something else than a volume's key")
	}
	if volume == "" || strings.ContainsAny(volume, "/\x00") {
		return "", errors.New("the peer names no volume")
	}
	return volume, nil
}

// checkPeer says whether the other end of c is root's and asks for volume.
func checkPeer(c *net.UnixConn, uid uint32, volume string) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var credErr, nameErr error
	var name []byte
	err = raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		name, nameErr = peerName(fd)
	})
	if err := errors.Join(err, credErr, nameErr); err != nil {
		return fmt.Errorf("asking the kernel for the peer: %w", err)
	}
	if cred.Uid != uid {
		return fmt.Errorf("the peer is user %d, want %d", cred.Uid, uid)
	}
	asked, err := ParsePeer(name)
	if err != nil {
		return err
	}
	if asked != volume {
		return fmt.Errorf("the peer asks for volume %.80q, this is %q", asked, volume)
	}
	return nil
}

// peerName is getpeername as it is. The net and unix packages write an abstract
// address with an @, so that it looks like a path that begins with one, and
// stop at a zero byte within.
func peerName(fd uintptr) ([]byte, error) {
	var sa unix.RawSockaddrUnix
	size := uint32(unsafe.Sizeof(sa))
	_, _, errno := unix.Syscall(unix.SYS_GETPEERNAME, fd, uintptr(unsafe.Pointer(&sa)), uintptr(unsafe.Pointer(&size)))
	if errno != 0 {
		return nil, errno
	}
	const family = unsafe.Sizeof(sa.Family)
	if uintptr(size) < family || uintptr(size) > unsafe.Sizeof(sa) || sa.Family != unix.AF_UNIX {
		return nil, errors.New("the peer is no Unix socket")
	}
	name := make([]byte, uintptr(size)-family)
	for i := range name {
		name[i] = byte(sa.Path[i])
	}
	return name, nil
}
