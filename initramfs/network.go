package initramfs

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/renameio/v2"

	"attestbox/initramfs/config"
	"attestbox/initramfs/rtnl"
	"attestbox/internal/code"
)

// resolvConf is where name servers go; /etc/resolv.conf is a link to it, which
// init makes where the image brings no file of its own.
const resolvConf = "/run/attestbox/resolv.conf"

// interfaceWait bounds the wait for a driver to show its interface.
const interfaceWait = 10 * time.Second

// poll is how often a device is looked for. Nothing tells init earlier: the
// kernel's events would have to be looked up by polling first in any case.
const poll = 20 * time.Millisecond

// address is what an interface gets.
type address struct {
	prefix  netip.Prefix
	gateway netip.Addr // invalid: none
	dns     []netip.Addr
	lease   time.Duration // 0: for good
}

// network brings loopback and the configured interface up.
func (in *Init) network(ctx context.Context) (string, error) {
	text, err := in.networkUp(ctx, in.net)
	return text, code.Wrap(code.BootNetwork, err)
}

func (in *Init) networkUp(ctx context.Context, n config.Network) (string, error) {
	links, err := rtnl.Links()
	if err != nil {
		return "", fmt.Errorf("listing interfaces: %w", err)
	}
	for _, l := range links {
		if !l.Loopback {
			continue
		}
		if err := rtnl.Up(l.Index); err != nil {
			return "", fmt.Errorf("bringing %s up: %w", l.Name, err)
		}
	}
	if n.Method == config.None {
		return "none", nil
	}
	link, err := findLink(ctx, n.Interface)
	if err != nil {
		return "", err
	}
	name := link.Name
	if err := rtnl.Up(link.Index); err != nil {
		return "", fmt.Errorf("bringing %s up: %w", name, err)
	}
	var a *address
	if n.Method == config.Static {
		a, err = staticAddress(n)
	} else {
		a, err = in.dhcp(ctx, name)
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	if len(n.DNS) > 0 {
		a.dns = nil
		for _, s := range n.DNS {
			d, err := netip.ParseAddr(s)
			if err != nil {
				return "", err
			}
			a.dns = append(a.dns, d)
		}
	}
	if err := apply(link, a); err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	if err := in.writeResolvConf(a.dns); err != nil {
		return "", fmt.Errorf("writing %s: %w", resolvConf, err)
	}
	return fmt.Sprintf("%s %s by %s", name, a.prefix, n.Method), nil
}

// findLink waits for the named interface, or for the first that is neither
// loopback nor virtual.
func findLink(ctx context.Context, name string) (*rtnl.Link, error) {
	ctx, cancel := context.WithTimeout(ctx, interfaceWait)
	defer cancel()
	for {
		links, err := rtnl.Links()
		if err != nil {
			return nil, fmt.Errorf("listing interfaces: %w", err)
		}
		for _, l := range links { // the kernel lists them by index
			if name == l.Name || name == "" && !l.Loopback && !l.Virtual && len(l.Address) == 6 {
				return &l, nil
			}
		}
		select {
		case <-time.After(poll):
		case <-ctx.Done():
			if name == "" {
				return nil, errors.New("no network interface appeared")
			}
			return nil, fmt.Errorf("network interface %q did not appear", name)
		}
	}
}

func staticAddress(n config.Network) (*address, error) {
	p, err := netip.ParsePrefix(n.Address)
	if err != nil {
		return nil, err
	}
	a := &address{prefix: p}
	if n.Gateway != "" {
		if a.gateway, err = netip.ParseAddr(n.Gateway); err != nil {
			return nil, err
		}
	}
	return a, nil
}

func apply(link *rtnl.Link, a *address) error {
	if err := rtnl.SetAddress(link.Index, a.prefix); err != nil {
		return fmt.Errorf("setting address %s: %w", a.prefix, err)
	}
	if !a.gateway.IsValid() {
		return nil
	}
	if err := rtnl.SetDefaultRoute(link.Index, a.gateway); err != nil {
		return fmt.Errorf("setting the route over %s: %w", a.gateway, err)
	}
	return nil
}

func (in *Init) writeResolvConf(dns []netip.Addr) error {
	if len(dns) == 0 {
		return nil
	}
	var b strings.Builder
	for _, d := range dns {
		fmt.Fprintf(&b, "nameserver %s\n", d)
	}
	file := in.path(resolvConf)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	if err := renameio.WriteFile(file, []byte(b.String()), 0o644); err != nil {
		return err
	}
	link := in.path("/etc/resolv.conf")
	if _, err := os.Lstat(link); err == nil {
		return nil
	}
	// In an image that runs for hours the initramfs is read-only by the time
	// of a renewal, but then the link is there.
	return os.Symlink(resolvConf, link)
}
