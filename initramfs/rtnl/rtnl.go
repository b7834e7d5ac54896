// Package rtnl asks the kernel for the four things that init's network needs, over
// rtnetlink(7): list the links, bring one up, set an address, set the default
// route. One request at a time, each acknowledged; an answer counts only if it
// comes from the kernel and carries the request's number.
package rtnl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Link is a network interface.
type Link struct {
	Index    int
	Name     string
	Loopback bool
	Address  net.HardwareAddr
	Virtual  bool // made by software: a bridge, a tunnel, a dummy
}

// Links lists the interfaces as the kernel does, by index.
func Links() ([]Link, error) {
	dump, err := syscall.NetlinkRIB(unix.RTM_GETLINK, unix.AF_UNSPEC)
	if err != nil {
		return nil, os.NewSyscallError("netlink", err)
	}
	messages, err := syscall.ParseNetlinkMessage(dump)
	if err != nil {
		return nil, os.NewSyscallError("netlink", err)
	}
	var links []Link
	for i := range messages {
		m := &messages[i]
		if m.Header.Type != unix.RTM_NEWLINK || len(m.Data) < unix.SizeofIfInfomsg {
			continue
		}
		attrs, err := syscall.ParseNetlinkRouteAttr(m)
		if err != nil {
			return nil, os.NewSyscallError("netlink", err)
		}
		l := Link{Index: int(native.Uint32(m.Data[4:])), Loopback: native.Uint32(m.Data[8:])&unix.IFF_LOOPBACK != 0}
		for _, a := range attrs {
			switch a.Attr.Type &^ unix.NLA_F_NESTED {
			case unix.IFLA_IFNAME:
				l.Name = unix.ByteSliceToString(a.Value)
			case unix.IFLA_ADDRESS:
				l.Address = a.Value
			case unix.IFLA_LINKINFO:
				l.Virtual = hasKind(a.Value)
			}
		}
		links = append(links, l)
	}
	return links, nil
}

// hasKind says whether the attributes nested in IFLA_LINKINFO name the driver of a
// software device; what is left of a short one says nothing.
func hasKind(info []byte) bool {
	for len(info) >= unix.SizeofRtAttr {
		size := int(native.Uint16(info))
		if size < unix.SizeofRtAttr || size > len(info) {
			return false
		}
		if native.Uint16(info[2:])&^unix.NLA_F_NESTED == unix.IFLA_INFO_KIND {
			return true
		}
		info = info[min(align(size), len(info)):]
	}
	return false
}

// Up brings a link up.
func Up(index int) error {
	return request(unix.RTM_NEWLINK, 0, linkUp(index))
}

func linkUp(index int) []byte {
	m := make([]byte, unix.SizeofIfInfomsg)
	native.PutUint32(m[4:], uint32(index))
	native.PutUint32(m[8:], unix.IFF_UP)
	native.PutUint32(m[12:], unix.IFF_UP) // the flags that change
	return m
}

// SetAddress gives a link an address, or replaces what it says of it.
func SetAddress(index int, prefix netip.Prefix) error {
	return request(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, address(index, prefix))
}

func address(index int, prefix netip.Prefix) []byte {
	a := prefix.Addr()
	m := []byte{family(a), byte(prefix.Bits()), 0, unix.RT_SCOPE_UNIVERSE, 0, 0, 0, 0}
	if a.Is6() {
		m[2] = unix.IFA_F_NODAD // a host could hold detection up for ever
	}
	native.PutUint32(m[4:], uint32(index))
	m = attribute(m, unix.IFA_LOCAL, a.AsSlice())
	m = attribute(m, unix.IFA_ADDRESS, a.AsSlice())
	if a.Is4() && prefix.Bits() < 31 { // RFC 3021
		b := a.As4()
		host := uint32(1)<<(32-prefix.Bits()) - 1
		m = attribute(m, unix.IFA_BROADCAST, binary.BigEndian.AppendUint32(nil, binary.BigEndian.Uint32(b[:])|host))
	}
	return m
}

// SetDefaultRoute sends what goes elsewhere over a gateway.
func SetDefaultRoute(index int, gateway netip.Addr) error {
	return request(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, route(index, gateway))
}

func route(index int, gateway netip.Addr) []byte {
	m := []byte{family(gateway), 0, 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_BOOT, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST, 0, 0, 0, 0}
	m = attribute(m, unix.RTA_GATEWAY, gateway.AsSlice())
	return attribute(m, unix.RTA_OIF, native.AppendUint32(nil, uint32(index)))
}

var native = binary.NativeEndian

func family(a netip.Addr) byte {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func align(n int) int { return (n + unix.NLMSG_ALIGNTO - 1) &^ (unix.NLMSG_ALIGNTO - 1) }

func attribute(m []byte, kind uint16, value []byte) []byte {
	m = native.AppendUint16(m, uint16(unix.SizeofRtAttr+len(value)))
	m = native.AppendUint16(m, kind)
	m = append(m, value...)
	return append(m, make([]byte, align(len(m))-len(m))...)
}

const sequence = 1 // each request has a socket of its own

func message(kind, flags uint16, body []byte) []byte {
	m := native.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
	m = native.AppendUint16(m, kind)
	m = native.AppendUint16(m, unix.NLM_F_REQUEST|unix.NLM_F_ACK|flags)
	m = native.AppendUint32(m, sequence)
	m = native.AppendUint32(m, 0) // to the kernel, which fills our port in
	return append(m, body...)
}

// timeout bounds the wait for an acknowledgement, which the kernel gives at once.
const timeout = 10 * time.Second

func request(kind, flags uint16, body []byte) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	tv := unix.NsecToTimeval(timeout.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	if err := unix.Sendto(fd, message(kind, flags, body), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("sendto", err)
	}
	buf := make([]byte, 8<<10)
	for {
		n, from, err := unix.Recvfrom(fd, buf, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return os.NewSyscallError("recvfrom", err)
		}
		if k, ok := from.(*unix.SockaddrNetlink); !ok || k.Pid != 0 {
			continue // any process may write to our port
		}
		if done, err := acknowledged(buf[:n]); done {
			return err
		}
	}
}

// acknowledged reads an answer: done once it is the one to our request.
func acknowledged(answer []byte) (done bool, err error) {
	if len(answer) < unix.SizeofNlMsghdr {
		return true, errors.New("netlink: short answer")
	}
	if native.Uint32(answer[8:]) != sequence {
		return false, nil
	}
	if kind := native.Uint16(answer[4:]); kind != unix.NLMSG_ERROR || len(answer) < unix.SizeofNlMsghdr+4 {
		return true, fmt.Errorf("netlink: answer of type %d and %d bytes", kind, len(answer))
	}
	if e := int32(native.Uint32(answer[unix.SizeofNlMsghdr:])); e != 0 {
		return true, os.NewSyscallError("netlink", unix.Errno(-e))
	}
	return true, nil
}
