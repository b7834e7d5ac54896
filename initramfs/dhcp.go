package initramfs

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"

	"attestbox/initramfs/config"
)

const (
	dhcpTry     = 2 * time.Second // wait for one answer
	maxDHCPDNS  = 3               // name servers taken from a lease
	minLease    = time.Minute     // renewals are not made more often than half of it
	defaultTime = time.Hour       // of a lease that names no time
)

// dhcp asks until a server answers or ctx ends. IPv4 only.
func (in *Init) dhcp(ctx context.Context, name string) (*address, error) {
	for {
		a, err := dhcpOnce(ctx, name)
		if err == nil {
			return a, nil
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("no usable DHCP answer: %w", err)
		}
		in.log.debug("network", "DHCP: %v; asking again", err)
		select {
		case <-time.After(dhcpTry / 2):
		case <-ctx.Done():
		}
	}
}

func dhcpOnce(ctx context.Context, name string) (*address, error) {
	c, err := nclient4.New(name, nclient4.WithTimeout(dhcpTry), nclient4.WithRetry(2))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	lease, err := c.Request(ctx, dhcpv4.WithRequestedOptions(dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter, dhcpv4.OptionDomainNameServer))
	if err != nil {
		return nil, err
	}
	return leaseAddress(lease.ACK)
}

// leaseAddress takes address, mask, first router and name servers from an
// answer of the host's, and nothing else: no routes, no names, no files.
func leaseAddress(ack *dhcpv4.DHCPv4) (*address, error) {
	ip, ok := addr4(ack.YourIPAddr)
	if !ok || !ip.IsGlobalUnicast() && !ip.IsLinkLocalUnicast() {
		return nil, fmt.Errorf("lease of address %q", ack.YourIPAddr)
	}
	mask := ack.SubnetMask()
	ones, bits := mask.Size()
	if mask == nil || bits != 32 || ones < 1 || ones > 32 {
		return nil, fmt.Errorf("lease with network mask %q", mask)
	}
	a := &address{prefix: netip.PrefixFrom(ip, ones)}
	for _, r := range ack.Router() {
		if g, ok := addr4(r); ok && g != ip && a.prefix.Masked().Contains(g) {
			a.gateway = g
			break
		}
	}
	for _, s := range ack.DNS() {
		if d, ok := addr4(s); ok && d.IsGlobalUnicast() && len(a.dns) < maxDHCPDNS {
			a.dns = append(a.dns, d)
		}
	}
	a.lease = max(ack.IPAddressLeaseTime(defaultTime), minLease)
	return a, nil
}

func addr4(ip net.IP) (netip.Addr, bool) {
	a, ok := netip.AddrFromSlice(ip.To4())
	return a, ok
}

// renew keeps the lease of a VM that lives in its initramfs. A real system
// that was switched to has its own client.
func (in *Init) renew(ctx context.Context) {
	if in.net.Method != config.DHCP {
		return
	}
	lease := minLease
	for {
		select {
		case <-time.After(lease / 2):
		case <-ctx.Done():
			return
		}
		link, err := findLink(ctx, in.net.Interface)
		if err != nil {
			in.log.step("network", "renewing the lease: %v", err)
			continue
		}
		a, err := in.dhcp(ctx, link.Name)
		if err != nil {
			return // ctx ended
		}
		if err := apply(link, a); err != nil {
			in.log.step("network", "renewing the lease: %v", err)
		}
		lease = a.lease
	}
}
