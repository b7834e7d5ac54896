package rtnl

import (
	"encoding/hex"
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"attestbox/internal/testenv"
)

// The bytes are little-endian, as on every machine that this runs on.
func TestMessages(t *testing.T) {
	for name, c := range map[string]struct {
		got  []byte
		want string
	}{
		"up": {message(unix.RTM_NEWLINK, 0, linkUp(2)), "20000000 1000 0500 01000000 00000000 0000 0000 02000000 01000000 01000000"},
		"address": {address(2, netip.MustParsePrefix("10.0.2.15/24")),
			"02 18 00 00 02000000 0800 0200 0a00020f 0800 0100 0a00020f 0800 0400 0a0002ff"},
		"address of two": {address(2, netip.MustParsePrefix("10.0.2.15/31")), "02 1f 00 00 02000000 0800 0200 0a00020f 0800 0100 0a00020f"},
		"address of six": {address(3, netip.MustParsePrefix("fd00::2/64")),
			"0a 40 02 00 03000000 1400 0200 fd000000000000000000000000000002 1400 0100 fd000000000000000000000000000002"},
		"route":  {route(2, netip.MustParseAddr("10.0.2.2")), "02 00 00 00 fe 03 00 01 00000000 0800 0500 0a000202 0800 0400 02000000"},
		"padded": {attribute(nil, 3, []byte("lo\x00")), "0700 0300 6c6f0000"},
	} {
		if got, want := hex.EncodeToString(c.got), strings.ReplaceAll(c.want, " ", ""); got != want {
			t.Errorf("%s:\ngot  %s\nwant %s", name, got, want)
		}
	}
}

func TestAcknowledged(t *testing.T) {
	answer := func(kind uint16, seq uint32, result int32) []byte {
		m := message(kind, 0, native.AppendUint32(nil, uint32(result)))
		native.PutUint32(m[8:], seq)
		return m
	}
	for name, c := range map[string]struct {
		answer []byte
		done   bool
		err    error
	}{
		"done":           {answer(unix.NLMSG_ERROR, sequence, 0), true, nil},
		"refused":        {answer(unix.NLMSG_ERROR, sequence, -int32(unix.ENODEV)), true, unix.ENODEV},
		"another's":      {answer(unix.NLMSG_ERROR, sequence+1, 0), false, nil},
		"of other kind":  {answer(unix.RTM_NEWLINK, sequence, 0), true, errAny},
		"short":          {answer(unix.NLMSG_ERROR, sequence, 0)[:18], true, errAny},
		"shorter":        {nil, true, errAny},
		"without number": {answer(unix.NLMSG_ERROR, sequence, 0)[:11], true, errAny},
	} {
		done, err := acknowledged(c.answer)
		if done != c.done || !errors.Is(err, c.err) && (c.err != errAny || err == nil) {
			t.Errorf("%s: done %v, %v", name, done, err)
		}
	}
}

var errAny = errors.New("any")

func TestKind(t *testing.T) {
	kind := attribute(nil, unix.IFLA_INFO_KIND, []byte("bridge"))
	other := attribute(nil, unix.IFLA_INFO_DATA, []byte{1, 2, 3, 4, 5})
	for name, c := range map[string]struct {
		info []byte
		want bool
	}{
		"kind":       {kind, true},
		"second":     {append(slices.Clone(other), kind...), true},
		"other":      {other, false},
		"none":       {nil, false},
		"short":      {kind[:3], false},
		"too long":   {[]byte{9, 0, 1, 0, 'x'}, false},
		"no size":    {[]byte{0, 0, 1, 0}, false},
		"cut behind": {append(slices.Clone(other[:9]), kind[:2]...), false},
	} {
		if got := hasKind(c.info); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func FuzzKind(f *testing.F) {
	f.Add(attribute(nil, unix.IFLA_INFO_KIND, []byte("dummy")))
	f.Add([]byte{5, 0, 2, 0, 1, 0, 0, 0, 4, 0, 1, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		hasKind(b)
		acknowledged(b)
	})
}

// In a network namespace of its own, which ends with its thread.
func TestNamespace(t *testing.T) {
	unshared := make(chan error)
	go func() {
		defer close(unshared)
		runtime.LockOSThread() // and never back
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			unshared <- err
			return
		}
		inNamespace(t)
	}()
	if err := <-unshared; err != nil {
		testenv.Skip(t, "root, for a network namespace: "+err.Error())
	}
}

func inNamespace(t *testing.T) {
	links, err := Links()
	if err != nil {
		t.Error(err)
		return
	}
	i := slices.IndexFunc(links, func(l Link) bool { return l.Name == "lo" })
	if i < 0 || !links[i].Loopback || links[i].Virtual || links[i].Index != 1 {
		t.Errorf("links %+v", links)
		return
	}
	for range 2 { // a renewal says it all again
		for _, err := range []error{
			Up(1), SetAddress(1, netip.MustParsePrefix("10.9.8.7/24")), SetDefaultRoute(1, netip.MustParseAddr("10.9.8.1")),
		} {
			if err != nil {
				t.Error(err)
			}
		}
	}
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Error(err)
		return
	}
	addrs, err := lo.Addrs()
	if err != nil || lo.Flags&net.FlagUp == 0 || !slices.ContainsFunc(addrs, func(a net.Addr) bool { return a.String() == "10.9.8.7/24" }) {
		t.Errorf("lo is %v with %v, %v", lo.Flags, addrs, err)
	}
	routes, err := os.ReadFile("/proc/thread-self/net/route")
	if err != nil || strings.Count(string(routes), "lo\t00000000\t0108090A\t0003\t") != 1 {
		t.Errorf("routes %s, %v", routes, err)
	}
	for name, c := range map[string]struct{ got, want error }{
		"no link":            {Up(999), unix.ENODEV},
		"no link's address":  {SetAddress(999, netip.MustParsePrefix("10.9.8.7/24")), unix.ENODEV},
		"gateway out of way": {SetDefaultRoute(1, netip.MustParseAddr("192.0.2.1")), unix.ENETUNREACH},
	} {
		if !errors.Is(c.got, c.want) {
			t.Errorf("%s: %v, want %v", name, c.got, c.want)
		}
	}
	m := attribute(make([]byte, unix.SizeofIfInfomsg), unix.IFLA_IFNAME, []byte("b0\x00"))
	m = attribute(m, unix.IFLA_LINKINFO, attribute(nil, unix.IFLA_INFO_KIND, []byte("dummy")))
	if err := request(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, m); err != nil {
		t.Logf("no dummy link on this kernel: %v", err)
		return
	}
	if links, err = Links(); err != nil || !slices.ContainsFunc(links, func(l Link) bool { return l.Name == "b0" && l.Virtual && len(l.Address) == 6 }) {
		t.Errorf("links %+v, %v", links, err)
	}
}
