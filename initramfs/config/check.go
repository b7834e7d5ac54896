package config

import (
	"errors"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"

	"attestbox/internal/wire"
)

// Bounds of lists.
const (
	maxServers  = 8
	maxPins     = 8
	maxPrograms = 64
	maxArgs     = 256
	maxDNS      = 3
	maxOptions  = 16
)

// FSTypes are the file systems that a disk may hold. btrfs is not among them: it
// gathers its devices by UUID, so that a decoy disk could become a part of it.
var FSTypes = []string{"erofs", "ext4", "squashfs", "xfs"}

// ReadOnlyFSTypes are those that the kernel never writes: no boot counter can be
// in them.
var ReadOnlyFSTypes = []string{"erofs", "squashfs"}

func (c *Config) check() error {
	if c.Mode != SwitchRoot && c.Mode != Run && c.Mode != Stage1 {
		return fmt.Errorf("mode %q is none of %q, %q and %q", c.Mode, SwitchRoot, Run, Stage1)
	}
	if err := c.checkCommon(); err != nil {
		return err
	}
	if c.Mode == Stage1 {
		return c.checkStage1()
	}
	if c.Bundle != nil {
		return fmt.Errorf("bundle belongs to mode %q", Stage1)
	}
	if c.Mode == SwitchRoot {
		return c.checkSwitchRoot()
	}
	return c.checkRun()
}

func (c *Config) checkCommon() error {
	if err := c.Network.check(); err != nil {
		return fmt.Errorf("network: %w", err)
	}
	if err := c.checkServers(); err != nil {
		return err
	}
	if c.InstanceID != nil && c.InstanceID.IsZero() {
		return errors.New("instance_id: zeros are refused everywhere")
	}
	if c.MinTime < 0 || c.MinTime > 1<<33 {
		return fmt.Errorf("min_time %d is not a time in Unix seconds", c.MinTime)
	}
	return nil
}

func (c *Config) checkServers() error {
	if len(c.Servers) > maxServers || len(c.Pins) > maxPins {
		return fmt.Errorf("%d servers and %d pins, at most %d and %d", len(c.Servers), len(c.Pins), maxServers, maxPins)
	}
	if c.Policy != "" && c.Policy != PolicyPath {
		return fmt.Errorf("policy: %.80q, want %q", c.Policy, PolicyPath)
	}
	if len(c.Servers) == 0 {
		if c.Mode == Stage1 {
			return errors.New("servers: nothing starts without a verifier's go, so at least one is needed")
		}
		if c.Mode == SwitchRoot || c.State != nil && c.State.Type == StateDisk {
			return errors.New("servers: a disk is to be opened, so at least one verifier is needed")
		}
		if len(c.Pins) > 0 || c.Policy != "" {
			return errors.New("pins or policy without servers")
		}
		return nil
	}
	if len(c.Pins) == 0 && c.Policy == "" {
		return errors.New("pins: at least one verifier key has to be pinned, or the policy certificate that trusts it")
	}
	for i, s := range c.Servers {
		tcp, err := checkServer(s)
		if err != nil {
			return fmt.Errorf("servers[%d]: %w", i, err)
		}
		if tcp && c.Network.Method == None {
			return fmt.Errorf("servers[%d]: %q needs a network, but network.method is %q", i, s, None)
		}
		if slices.Contains(c.Servers[:i], s) {
			return fmt.Errorf("servers[%d]: %q is listed twice", i, s)
		}
	}
	for i, p := range c.Pins {
		if p == (wire.Pin{}) || slices.Contains(c.Pins[:i], p) {
			return fmt.Errorf("pins[%d]: zero, or listed twice", i)
		}
	}
	return nil
}

// checkServer checks one server address and says whether it is reached by TCP.
func checkServer(s string) (tcp bool, err error) {
	scheme, rest, _ := strings.Cut(s, "://")
	i := strings.LastIndexByte(rest, ':')
	if i < 0 || scheme != "tcp" && scheme != "vsock" {
		return false, fmt.Errorf("%.80q is neither tcp://HOST:PORT nor vsock://CID:PORT", s)
	}
	host, port := rest[:i], rest[i+1:]
	bits := 16
	if scheme == "vsock" {
		bits = 32
	}
	if n, err := strconv.ParseUint(port, 10, bits); err != nil || n == 0 || strconv.FormatUint(n, 10) != port {
		return false, fmt.Errorf("%.80q: %.20q is not a port", s, port)
	}
	if scheme == "vsock" {
		if n, err := strconv.ParseUint(host, 10, 32); err != nil || n == 1<<32-1 || strconv.FormatUint(n, 10) != host {
			return false, fmt.Errorf("%.80q: %.20q is not a context ID", s, host)
		}
		return false, nil
	}
	if inner, ok := strings.CutPrefix(host, "["); ok {
		a, err := netip.ParseAddr(strings.TrimSuffix(inner, "]"))
		if err != nil || !a.Is6() || a.Zone() != "" || !strings.HasSuffix(inner, "]") {
			return false, fmt.Errorf("%.80q: %.60q is not an IPv6 address", s, host)
		}
		return true, nil
	}
	if !hostForm(host) {
		return false, fmt.Errorf("%.80q: %.60q is not a host", s, host)
	}
	return true, nil
}

func (n *Network) check() error {
	if n.Interface != "" && !ifaceForm(n.Interface) {
		return fmt.Errorf("%.40q is not an interface name", n.Interface)
	}
	if len(n.DNS) > maxDNS {
		return fmt.Errorf("%d DNS servers, at most %d", len(n.DNS), maxDNS)
	}
	for _, d := range n.DNS {
		if a, err := netip.ParseAddr(d); err != nil || a.Zone() != "" {
			return fmt.Errorf("DNS server %.60q is not an address", d)
		}
	}
	switch n.Method {
	case DHCP:
		if n.Address != "" || n.Gateway != "" {
			return fmt.Errorf("address and gateway belong to method %q", Static)
		}
	case None:
		if n.Address != "" || n.Gateway != "" || n.Interface != "" || len(n.DNS) > 0 {
			return fmt.Errorf("method %q takes no other key", None)
		}
	case Static:
		p, err := netip.ParsePrefix(n.Address)
		if err != nil {
			return fmt.Errorf("address %.60q is not ADDRESS/PREFIX", n.Address)
		}
		if n.Gateway == "" {
			return nil
		}
		g, err := netip.ParseAddr(n.Gateway)
		if err != nil || g.Zone() != "" {
			return fmt.Errorf("gateway %.60q is not an address", n.Gateway)
		}
		if !p.Masked().Contains(g) || g == p.Addr() {
			return fmt.Errorf("gateway %s is not another address in %s", g, p.Masked())
		}
	default:
		return fmt.Errorf("method %.20q is not %q, %q or %q", n.Method, DHCP, Static, None)
	}
	return nil
}

func (c *Config) checkSwitchRoot() error {
	if len(c.Programs) > 0 {
		return fmt.Errorf("programs belong to mode %q", Run)
	}
	if c.Root == nil {
		return fmt.Errorf("root: needed in mode %q", SwitchRoot)
	}
	if err := checkDisk(c.Root.Device, c.Root.Name, c.Root.FSType, c.Root.Options); err != nil {
		return fmt.Errorf("root: %w", err)
	}
	if !cleanPath(c.Root.Init) {
		return fmt.Errorf("root: init %.80q is not a clean absolute path", c.Root.Init)
	}
	if c.Root.Verity != nil {
		return c.checkVerity()
	}
	if c.State != nil {
		return fmt.Errorf("state belongs to mode %q, or beside a root with verity", Run)
	}
	return nil
}

func (c *Config) checkVerity() error {
	if err := c.Root.Verity.Check(); err != nil {
		return fmt.Errorf("root: verity: %w", err)
	}
	if slices.Contains(c.Root.Options, "rw") {
		return errors.New(`root: options: a root with verity is never mounted "rw"`)
	}
	s := c.State
	if s == nil {
		return nil
	}
	if s.Type != StateDisk {
		return fmt.Errorf("state: beside a root with verity it is of type %q", StateDisk)
	}
	if s.Device == c.Root.Device || s.Name == c.Root.Name {
		return errors.New("state: device and name must not be those of the root")
	}
	return s.check()
}

func (c *Config) checkRun() error {
	if c.Root != nil {
		return fmt.Errorf("root belongs to mode %q", SwitchRoot)
	}
	if len(c.Programs) == 0 || len(c.Programs) > maxPrograms {
		return fmt.Errorf("%d programs, want 1 to %d", len(c.Programs), maxPrograms)
	}
	for i := range c.Programs {
		p := &c.Programs[i]
		if err := p.check(); err != nil {
			return fmt.Errorf("programs[%d]: %w", i, err)
		}
		if slices.ContainsFunc(c.Programs[:i], func(o Program) bool { return o.Name == p.Name }) {
			return fmt.Errorf("programs[%d]: name %q is used twice", i, p.Name)
		}
		if len(p.Secrets) > 0 && len(c.Servers) == 0 {
			return fmt.Errorf("programs[%d]: secrets without servers to release them", i)
		}
	}
	return c.State.check()
}

func (p *Program) check() error {
	if !nameForm(p.Name) {
		return fmt.Errorf("name %.40q: want a lower-case letter, then letters, digits, - and _, 32 in all", p.Name)
	}
	if len(p.Argv) == 0 || len(p.Argv) > maxArgs || !cleanPath(p.Argv[0]) {
		return errors.New("argv: begins with the program's absolute path, 256 words at most")
	}
	for _, a := range p.Argv {
		if strings.ContainsRune(a, 0) {
			return errors.New("argv: NUL byte")
		}
	}
	if _, _, err := p.IDs(); err != nil {
		return err
	}
	switch p.Restart {
	case RestartNever, RestartOnFailure, RestartAlways:
	default:
		return fmt.Errorf("restart %.20q is not %q, %q or %q", p.Restart, RestartNever, RestartOnFailure, RestartAlways)
	}
	if p.Wait && p.Restart == RestartAlways {
		return fmt.Errorf("wait: a program with restart %q never ends", RestartAlways)
	}
	if len(p.Secrets) > wire.MaxSecrets {
		return fmt.Errorf("%d secrets, at most %d", len(p.Secrets), wire.MaxSecrets)
	}
	for i, s := range p.Secrets {
		if !wire.ValidSecretName(s) || slices.Contains(p.Secrets[:i], s) {
			return fmt.Errorf("secret name %.40q is invalid or given twice", s)
		}
	}
	return nil
}

// IDs are the program's user and group.
func (p *Program) IDs() (uid, gid uint32, err error) { return ParseUser(p.User) }

// IDs are the owner of the state folder.
func (s *State) IDs() (uid, gid uint32, err error) { return ParseUser(s.Owner) }

// ParseUser reads "root" or "UID:GID".
func ParseUser(user string) (uid, gid uint32, err error) {
	if user == "root" {
		return 0, 0, nil
	}
	u, g, _ := strings.Cut(user, ":")
	un, uerr := strconv.ParseUint(u, 10, 31)
	gn, gerr := strconv.ParseUint(g, 10, 31)
	if uerr != nil || gerr != nil || fmt.Sprintf("%d:%d", un, gn) != user {
		return 0, 0, fmt.Errorf(`user %.40q is neither "root" nor UID:GID in numbers`, user)
	}
	return uint32(un), uint32(gn), nil
}

func (s *State) check() error {
	if s == nil {
		return nil
	}
	if !cleanPath(s.Path) || slices.Contains(reservedDirs, "/"+strings.SplitN(s.Path[1:], "/", 2)[0]) {
		return fmt.Errorf("state: path %.80q is not a clean absolute path outside %s", s.Path, strings.Join(reservedDirs, " "))
	}
	if _, _, err := s.IDs(); err != nil {
		return fmt.Errorf("state: owner: %w", err)
	}
	switch s.Type {
	case StateTmpfs:
		if s.Device != "" || s.Name != "" || s.FSType != "" || len(s.Options) > 0 {
			return fmt.Errorf("state: device, name, fstype and options belong to type %q", StateDisk)
		}
		if !sizeForm(s.Size) {
			return fmt.Errorf("state: size %.20q is not a number with K, M or G", s.Size)
		}
	case StateDisk:
		if s.Size != "" {
			return fmt.Errorf("state: size belongs to type %q", StateTmpfs)
		}
		if err := checkDisk(s.Device, s.Name, s.FSType, s.Options); err != nil {
			return fmt.Errorf("state: %w", err)
		}
	default:
		return fmt.Errorf("state: type %.20q is neither %q nor %q", s.Type, StateTmpfs, StateDisk)
	}
	return nil
}

// reservedDirs belong to the initramfs itself; nothing is mounted over them.
var reservedDirs = []string{"/bin", "/dev", "/etc", "/init", "/lib", "/proc", "/run", "/sbin", "/sys", "/sysroot", "/usr"}

func checkDisk(device, name, fstype string, options []string) error {
	switch {
	case !deviceForm(device):
		return fmt.Errorf("device %.60q is not a kernel device such as /dev/vda or /dev/nvme0n1p2", device)
	case !nameForm(name) || name == "control":
		return fmt.Errorf("name %.40q is not a mapping's name", name)
	case !slices.Contains(FSTypes, fstype):
		return fmt.Errorf("fstype %.20q is none of %s", fstype, strings.Join(FSTypes, ", "))
	case len(options) > maxOptions:
		return fmt.Errorf("%d options, at most %d", len(options), maxOptions)
	}
	for i, o := range options {
		if !optionForm(o) || slices.Contains(options[:i], o) {
			return fmt.Errorf("option %.80q is malformed or given twice", o)
		}
		if slices.Contains(remountOptions, o) {
			return fmt.Errorf("option %q is not one for a first mount", o)
		}
	}
	return nil
}

// remountOptions change what a mount is, so they have no place here.
var remountOptions = []string{"bind", "move", "rbind", "remount"}

func cleanPath(p string) bool {
	return len(p) > 1 && len(p) < 256 && p[0] == '/' && path.Clean(p) == p && !strings.ContainsRune(p, 0)
}
