package qemu

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestArgs(t *testing.T) {
	m, err := (&Machine{
		Kernel: []byte("k"), Initrd: []byte("i"), Append: "console=ttyS0 a,b",
		Disks: []Disk{{Path: "/x/a,b.img"}, {Path: "/y", ReadOnly: true}}, Net: NetUser,
		Ports:      []Port{{Name: "p", Serve: func(context.Context, net.Conn) {}}},
		VhostVsock: func(context.Context, *net.UnixConn) error { return nil }, QMPPath: "/q,x",
	}).withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Join(m.args(fds{kernel: 3, initrd: 4, console: 5, qmp: 6, vsock: 7, ports: []int{8}}), " ")
	for _, want := range []string{
		"-machine q35,accel=tcg,memory-backend=ram", "memory-backend-memfd,id=ram,share=on,size=512M",
		"-cpu EPYC-Milan,-cx16,-erms,-fsrm", "-smp 1", "-no-reboot", "-nodefaults", "-kernel /proc/self/fd/3", "-initrd /proc/self/fd/4",
		"-append console=ttyS0 a,b", `"filename":"/x/a,b.img"`, `"read-only":true`, "virtio-net-pci,netdev=net0,romfile=",
		"socket,id=port0,fd=8", "vhost-user-vsock-pci,chardev=vsock0", "-qmp unix:/q,,x,server=on,wait=off",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("arguments lack %q:\n%s", want, got)
		}
	}
	m, err = (&Machine{Kernel: []byte("k"), KVM: true}).withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	bare := m.args(fds{kernel: 3, console: 4, qmp: 5})
	for _, bad := range []string{"-netdev", "-initrd", "-append", "-object"} {
		if slices.Contains(bare, bad) {
			t.Errorf("a bare machine has %s: %v", bad, bare)
		}
	}
	if s := strings.Join(bare, " "); !strings.Contains(s, "accel=kvm") || !strings.Contains(s, "-cpu host") {
		t.Errorf("KVM machine: %s", s)
	}
}

func TestRefusedMachines(t *testing.T) {
	k := []byte("k")
	for name, m := range map[string]Machine{
		"no kernel":    {},
		"long append":  {Kernel: k, Append: strings.Repeat("x", MaxCommandLine+1)},
		"NUL append":   {Kernel: k, Append: "a\x00b"},
		"vcpus":        {Kernel: k, VCPUs: -1},
		"memory":       {Kernel: k, MemoryMiB: 1},
		"network":      {Kernel: k, Net: "tap"},
		"port comma":   {Kernel: k, Ports: []Port{{Name: "a,b", Serve: func(context.Context, net.Conn) {}}}},
		"port no func": {Kernel: k, Ports: []Port{{Name: "a"}}},
	} {
		if _, err := m.Start(t.Context()); err == nil {
			t.Errorf("%s: started", name)
		}
	}
	if _, err := (&Machine{Kernel: k, Binary: "no-such-qemu"}).Start(t.Context()); !errors.Is(err, ErrNoQEMU) {
		t.Errorf("no QEMU: %v", err)
	}
}

func TestVersion(t *testing.T) {
	for in, want := range map[string][2]int{
		"QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)": {7, 2},
		"QEMU emulator version 10.0.2\n":                     {10, 0},
	} {
		a, b, err := parseVersion(in)
		if err != nil || a != want[0] || b != want[1] {
			t.Errorf("%q: %d.%d %v", in, a, b, err)
		}
	}
	if _, _, err := parseVersion("bash: not found"); err == nil {
		t.Error("nonsense has a version")
	}
}

func TestConsole(t *testing.T) {
	ours, theirs := net.Pipe()
	var out bytes.Buffer
	c := newConsole(ours, time.Now(), &out, false)
	done := make(chan struct{})
	go func() { c.read(); close(done) }()
	if _, err := io.WriteString(theirs, "one\r\n\x1b[2Jtwo\x07\xff\nlogin: "); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	for _, want := range []string{"one", "two", "login: "} {
		if line, err := c.WaitFor(ctx, want); err != nil || !strings.Contains(line, want) {
			t.Errorf("WaitFor(%q) = %q, %v", want, line, err)
		}
	}
	soon, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := c.WaitFor(soon, "three"); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled wait: %v", err)
	}
	theirs.Close()
	<-done
	if _, err := c.WaitFor(ctx, "three"); !errors.Is(err, ErrConsoleEnded) {
		t.Errorf("wait after the end: %v", err)
	}
	if got := out.String(); got != "one\n[2Jtwo?\nlogin: \n" {
		t.Errorf("output %q", got)
	}
	if got := c.Lines(); len(got) != 3 {
		t.Errorf("lines %q", got)
	}
}

// A guest that writes without end fills neither memory nor a line.
func TestConsoleBounded(t *testing.T) {
	ours, theirs := net.Pipe()
	c := newConsole(ours, time.Now(), nil, false)
	done := make(chan struct{})
	go func() { c.read(); close(done) }()
	chunk := bytes.Repeat([]byte("x"), 1<<20)
	for range 12 {
		if _, err := theirs.Write(chunk); err != nil {
			t.Fatal(err)
		}
	}
	theirs.Close()
	<-done
	kept := 0
	for _, l := range c.Lines() {
		if len(l) > maxConsoleLine {
			t.Fatalf("a line of %d bytes was kept", len(l))
		}
		kept += len(l)
	}
	if kept > maxConsoleKept || c.dropped == 0 {
		t.Errorf("%d bytes kept, %d lines dropped", kept, c.dropped)
	}
}

func TestQMP(t *testing.T) {
	ours, theirs := net.Pipe()
	events := make(chan Event, 1)
	q := newQMP(ours, func(e Event) { events <- e })
	go func() {
		io.WriteString(theirs, `{"QMP": {"version": {}, "capabilities": []}}`+"\n")
		d := json.NewDecoder(theirs)
		for {
			var m struct{ Execute, ID string }
			if d.Decode(&m) != nil {
				return
			}
			switch m.Execute {
			case "query-status":
				io.WriteString(theirs, `{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}}`+"\n")
				io.WriteString(theirs, `{"id": "`+m.ID+`", "return": {"status": "running"}}`+"\n")
			case "die":
				theirs.Close()
			default:
				io.WriteString(theirs, `{"id": "`+m.ID+`", "error": {"class": "CommandNotFound", "desc": "no"}}`+"\n")
			}
		}
	}()
	ctx := t.Context()
	if s, err := q.Status(ctx); err != nil || s != "running" {
		t.Errorf("status %q, %v", s, err)
	}
	if r := shutdownReason(<-events); r != "guest-reset" {
		t.Errorf("reason %q", r)
	}
	var qe *QMPError
	if _, err := q.Execute(ctx, "nothing", nil); !errors.As(err, &qe) || qe.Command != "nothing" {
		t.Errorf("refused command: %v", err)
	}
	if _, err := q.Execute(ctx, "die", nil); !errors.Is(err, ErrQMPClosed) {
		t.Errorf("dead monitor: %v", err)
	}
}
