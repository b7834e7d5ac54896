package initramfs

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"attestbox/initramfs/config"
)

func ack(t testing.TB, ip net.IP, options ...dhcpv4.Option) *dhcpv4.DHCPv4 {
	t.Helper()
	m, err := dhcpv4.New(dhcpv4.WithYourIP(ip), dhcpv4.WithMessageType(dhcpv4.MessageTypeAck))
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range options {
		m.UpdateOption(o)
	}
	return m
}

// The host writes the lease.
func TestLease(t *testing.T) {
	mask := dhcpv4.OptSubnetMask(net.CIDRMask(24, 32))
	ip := net.IPv4(10, 0, 2, 15)
	a, err := leaseAddress(ack(t, ip, mask,
		dhcpv4.OptRouter(net.IPv4(10, 0, 3, 1), net.IPv4(10, 0, 2, 15), net.IPv4(10, 0, 2, 2), net.IPv4(10, 0, 2, 3)),
		dhcpv4.OptDNS(net.IPv4(127, 0, 0, 1), net.IPv4(10, 0, 2, 3), net.IPv4(1, 1, 1, 1), net.IPv4(1, 1, 1, 2), net.IPv4(1, 1, 1, 3)),
		dhcpv4.OptIPAddressLeaseTime(time.Second)))
	if err != nil {
		t.Fatal(err)
	}
	if a.prefix != netip.MustParsePrefix("10.0.2.15/24") || a.gateway != netip.MustParseAddr("10.0.2.2") || len(a.dns) != 3 ||
		a.dns[0] != netip.MustParseAddr("10.0.2.3") || a.lease != minLease {
		t.Errorf("got %+v", a)
	}
	for name, m := range map[string]*dhcpv4.DHCPv4{
		"no address":   ack(t, net.IPv4zero, mask),
		"loopback":     ack(t, net.IPv4(127, 0, 0, 2), mask),
		"multicast":    ack(t, net.IPv4(224, 0, 0, 1), mask),
		"broadcast":    ack(t, net.IPv4bcast, mask),
		"no mask":      ack(t, ip),
		"mask 0":       ack(t, ip, dhcpv4.OptSubnetMask(net.CIDRMask(0, 32))),
		"mask of gaps": ack(t, ip, dhcpv4.OptSubnetMask(net.IPMask{255, 0, 255, 0})),
	} {
		if a, err := leaseAddress(m); err == nil {
			t.Errorf("%s: accepted as %+v", name, a)
		}
	}
}

func FuzzLease(f *testing.F) {
	f.Add(ack(f, net.IPv4(10, 0, 2, 15), dhcpv4.OptSubnetMask(net.CIDRMask(24, 32)), dhcpv4.OptRouter(net.IPv4(10, 0, 2, 2))).ToBytes())
	f.Fuzz(func(t *testing.T, packet []byte) {
		m, err := dhcpv4.FromBytes(packet)
		if err != nil {
			return
		}
		a, err := leaseAddress(m)
		if err != nil {
			return
		}
		if !a.prefix.IsValid() || !a.prefix.Addr().Is4() || a.gateway.IsValid() && !a.prefix.Masked().Contains(a.gateway) || len(a.dns) > maxDHCPDNS || a.lease < minLease {
			t.Fatalf("accepted %+v", a)
		}
	})
}

func TestStaticAddress(t *testing.T) {
	a, err := staticAddress(config.Network{Method: config.Static, Address: "10.0.2.15/24", Gateway: "10.0.2.2"})
	if err != nil || a.prefix != netip.MustParsePrefix("10.0.2.15/24") || a.gateway != netip.MustParseAddr("10.0.2.2") {
		t.Errorf("%+v, %v", a, err)
	}
	if _, err := staticAddress(config.Network{Method: config.Static, Address: "10.0.2.15"}); err == nil {
		t.Error("an address without prefix was accepted")
	}
}

func TestResolvConf(t *testing.T) {
	in, _, _ := fakeInit(t)
	put(t, in, "/etc/hosts", "")
	dns := []netip.Addr{netip.MustParseAddr("10.0.2.3")}
	for range 2 { // a renewal writes it again
		if err := in.writeResolvConf(dns); err != nil {
			t.Fatal(err)
		}
	}
	wantFile(t, in.path(resolvConf), "nameserver 10.0.2.3\n")
}
