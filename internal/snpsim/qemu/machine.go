// Package qemu builds and runs one QEMU machine for the simulator: a Linux
// kernel booted directly, a serial console, a QMP monitor, named virtio-serial
// ports, virtio-blk disks, and user networking or none at all.
//
// Software emulation (TCG) is the default and needs no rights. Every channel to
// QEMU is an inherited socket pair and kernel and initramfs are sealed memory
// files, so nothing is named in a file system, nothing can be swapped between
// measuring and booting, and nothing is left behind. QEMU dies with the
// process that started it.
//
// It does not measure: what is booted is what Machine holds, and package
// measure computes the digest over the same bytes. It does not give a guest
// any protection from its host; see docs/simulator-run.md.
package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strconv"
	"strings"
)

// Network devices of a machine.
const (
	NetNone = "none" // no network device at all
	NetUser = "user" // virtio-net behind QEMU's user networking; the host's loopback is 10.0.2.2
)

// Defaults of a Machine's zero fields.
const (
	DefaultBinary    = "qemu-system-x86_64"
	DefaultMemoryMiB = 512
	// DefaultCPU leaves out cmpxchg16b, which QEMU 7.2's emulation gets wrong:
	// guests double-fault at random with it. And rep stosb, by which a kernel with
	// init_on_free clears pages: minutes for those that held a program's code.
	DefaultCPU = "EPYC-Milan,-cx16,-erms,-fsrm"
)

// MaxCommandLine is the longest kernel command line taken, in bytes; x86 Linux
// reads 2047 (COMMAND_LINE_SIZE, less its NUL).
const MaxCommandLine = 2047

// Disk is a raw image that the guest sees as a virtio-blk device, /dev/vda,
// vdb and so on in the order given.
type Disk struct {
	Path     string
	ReadOnly bool
}

// Port is a virtio-serial port. The guest finds it by Name in
// /sys/class/virtio-ports/*/name. Serve runs until the machine ends, with the
// host's end of the port; ctx ends with the machine.
type Port struct {
	Name  string
	Serve func(ctx context.Context, conn net.Conn)
}

// Machine is a machine to be started. Kernel is required.
type Machine struct {
	Binary    string // QEMU program; default DefaultBinary in PATH
	KVM       bool   // use the host's KVM in place of emulation
	CPU       string // QEMU -cpu; default DefaultCPU, or "host" with KVM
	VCPUs     int    // default 1
	MemoryMiB int    // default DefaultMemoryMiB

	Kernel []byte // bzImage
	Initrd []byte // may be empty
	Append string // kernel command line

	Disks []Disk
	Net   string // NetNone (default) or NetUser
	Ports []Port

	// VhostVsock, when set, gives the machine a vhost-user-vsock device and
	// serves its backend on the connection, as vhostvsock.Server.ServeConn does.
	VhostVsock func(ctx context.Context, conn *net.UnixConn) error

	// ConsoleOut receives the console line by line, control characters
	// replaced; Timestamps puts the seconds since the start before each line.
	ConsoleOut io.Writer
	Timestamps bool

	// QMPPath, when set, is a Unix socket on which QEMU serves a second QMP
	// monitor to other programs.
	QMPPath string

	// Args are appended to QEMU's command line as they are (tests).
	Args []string
}

// fds numbers the descriptors that QEMU inherits.
type fds struct {
	kernel, initrd, console, qmp, vsock int
	ports                               []int
}

func (m *Machine) withDefaults() (*Machine, error) {
	c := *m
	if c.Binary == "" {
		c.Binary = DefaultBinary
	}
	if c.CPU == "" {
		c.CPU = DefaultCPU
		if c.KVM {
			c.CPU = "host"
		}
	}
	if c.VCPUs == 0 {
		c.VCPUs = 1
	}
	if c.MemoryMiB == 0 {
		c.MemoryMiB = DefaultMemoryMiB
	}
	if c.Net == "" {
		c.Net = NetNone
	}
	switch {
	case len(c.Kernel) == 0:
		return nil, errors.New("starting QEMU: no kernel given")
	case len(c.Append) > MaxCommandLine:
		return nil, fmt.Errorf("starting QEMU: kernel command line has %d bytes, at most %d are allowed", len(c.Append), MaxCommandLine)
	case strings.ContainsRune(c.Append, 0):
		return nil, errors.New("starting QEMU: kernel command line contains a NUL byte")
	case c.VCPUs < 1 || c.VCPUs > 255:
		return nil, fmt.Errorf("starting QEMU: %d vCPUs, want 1 to 255", c.VCPUs)
	case c.MemoryMiB < 64 || c.MemoryMiB > 1<<20:
		return nil, fmt.Errorf("starting QEMU: %d MiB of memory, want 64 to %d", c.MemoryMiB, 1<<20)
	case c.Net != NetNone && c.Net != NetUser:
		return nil, fmt.Errorf("starting QEMU: unknown network %q, want %q or %q", c.Net, NetNone, NetUser)
	}
	for _, p := range c.Ports {
		if p.Name == "" || strings.ContainsAny(p.Name, ",\x00") || p.Serve == nil {
			return nil, fmt.Errorf("starting QEMU: virtio-serial port %q needs a name without commas and a server", p.Name)
		}
	}
	return &c, nil
}

// args is QEMU's command line without the program, for the inherited
// descriptors f.
func (m *Machine) args(f fds) []string {
	accel := "tcg"
	if m.KVM {
		accel = "kvm"
	}
	machine := "q35,accel=" + accel
	mem := strconv.Itoa(m.MemoryMiB) + "M"
	a := []string{"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-name", "snp-sim"}
	if m.VhostVsock != nil {
		// The backend reads the guest's rings: the memory has to be shared.
		a = append(a, "-object", "memory-backend-memfd,id=ram,share=on,size="+mem)
		machine += ",memory-backend=ram"
	}
	a = append(a, "-machine", machine, "-cpu", m.CPU, "-smp", strconv.Itoa(m.VCPUs), "-m", mem,
		"-kernel", fdPath(f.kernel))
	if len(m.Initrd) > 0 {
		a = append(a, "-initrd", fdPath(f.initrd))
	}
	if m.Append != "" {
		a = append(a, "-append", m.Append)
	}
	a = append(a, chardev("console", f.console)...)
	a = append(a, "-serial", "chardev:console")
	a = append(a, chardev("qmp", f.qmp)...)
	a = append(a, "-mon", "chardev=qmp,mode=control")
	if m.QMPPath != "" {
		a = append(a, "-qmp", "unix:"+commas(m.QMPPath)+",server=on,wait=off")
	}
	for i, d := range m.Disks {
		id := fmt.Sprintf("disk%d", i)
		a = append(a, "-blockdev", blockdev(id, d), "-device", "virtio-blk-pci,drive="+id)
	}
	if m.Net == NetUser {
		// romfile= empty: no network boot, and no need for its package.
		a = append(a, "-netdev", "user,id=net0", "-device", "virtio-net-pci,netdev=net0,romfile=")
	}
	if len(m.Ports) > 0 {
		a = append(a, "-device", "virtio-serial-pci,id=serial0")
		for i, p := range m.Ports {
			id := fmt.Sprintf("port%d", i)
			a = append(a, chardev(id, f.ports[i])...)
			a = append(a, "-device", "virtserialport,bus=serial0.0,chardev="+id+",name="+p.Name)
		}
	}
	if m.VhostVsock != nil {
		a = append(a, chardev("vsock0", f.vsock)...)
		a = append(a, "-device", "vhost-user-vsock-pci,chardev=vsock0")
	}
	return append(a, m.Args...)
}

func fdPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

func chardev(id string, fd int) []string {
	return []string{"-chardev", "socket,id=" + id + ",fd=" + strconv.Itoa(fd)}
}

// commas doubles commas, as QEMU's option syntax wants them in values.
func commas(s string) string { return strings.ReplaceAll(s, ",", ",,") }

// blockdev describes a raw image in JSON, so that no file name can add options.
func blockdev(id string, d Disk) string {
	path, err := filepath.Abs(d.Path)
	if err != nil {
		path = d.Path
	}
	b, _ := json.Marshal(map[string]any{
		"driver": "raw", "node-name": id, "read-only": d.ReadOnly, "discard": "unmap",
		"file": map[string]any{"driver": "file", "filename": path, "read-only": d.ReadOnly, "auto-read-only": false},
	})
	return string(b)
}
