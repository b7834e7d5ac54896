package snpsim

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"attestbox/internal/applet"
	"attestbox/internal/measure"
	"attestbox/internal/snpsim"
	"attestbox/internal/snpsim/qemu"
	"attestbox/internal/snpsim/vhostvsock"
)

// portName is the virtio-serial port that snp-sim-device looks for.
const portName = "attestbox.snp-sim"

// maxInput bounds each file that is read into memory to be measured and booted.
const maxInput = 1 << 30

// launch is one boot: what is measured, what is booted, what the host says.
type launch struct {
	measured measure.Config
	machine  qemu.Machine
	guest    snpsim.GuestConfig

	vsock   *vhostvsock.Server // nil without a vsock device
	inbound []inbound
	typed   io.Reader // into the console; nil: nothing
	logf    func(string, ...any)
}

// read reads every file once. The same slices are measured and booted.
func (l *launch) read(f *runFlags) error {
	var err error
	if l.machine.Kernel, err = readInput("kernel", f.kernel); err != nil {
		return err
	}
	l.measured.Kernel = l.machine.Kernel
	if f.initrd != "" {
		if l.machine.Initrd, err = readInput("initramfs", f.initrd); err != nil {
			return err
		}
		l.measured.Initrd = l.machine.Initrd
	}
	if f.ovmf == "" {
		l.measured.Firmware = measure.SyntheticFirmware()
	} else if l.measured.Firmware, err = readInput("firmware", f.ovmf); err != nil {
		return err
	}
	for _, d := range l.machine.Disks {
		if _, err := os.Stat(d.Path); err != nil {
			return fmt.Errorf("opening disk image: %w", err)
		}
	}
	return nil
}

func readInput(what, path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", what, err)
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, maxInput+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading %s: %w", what, err)
	case len(b) == 0:
		return nil, fmt.Errorf("reading %s %q: it is empty", what, path)
	case len(b) > maxInput:
		return nil, fmt.Errorf("reading %s %q: more than %d bytes", what, path, maxInput)
	}
	return b, nil
}

// tell says what was measured, before the boot.
func (l *launch) tell(w io.Writer, f *runFlags, psp *snpsim.PSP, g *snpsim.Guest, r *measure.Result) {
	say := func(format string, a ...any) { fmt.Fprintf(w, "snp-sim: "+format+"\n", a...) }
	id := psp.ChipID()
	say("simulated %s chip %x..., NOT AMD HARDWARE", psp.Product(), id[:8])
	if f.ovmf == "" {
		say("measured firmware: synthetic, %d bytes, sha256 %x", len(l.measured.Firmware), sha256.Sum256(l.measured.Firmware))
	} else {
		say("measured firmware: %s, %d bytes, sha256 %x; it is measured, not booted", f.ovmf, len(l.measured.Firmware), sha256.Sum256(l.measured.Firmware))
	}
	say("measured kernel: %s, %d bytes, sha256 %x", f.kernel, len(l.machine.Kernel), sha256.Sum256(l.machine.Kernel))
	if f.initrd != "" {
		say("measured initramfs: %s, %d bytes, sha256 %x", f.initrd, len(l.machine.Initrd), sha256.Sum256(l.machine.Initrd))
	}
	say("measured command line: %q", f.cmdline)
	say("measured vCPUs: %d of type %s", f.vcpus, f.vcpuType)
	if f.debugMeasure {
		for _, s := range r.Steps {
			say("  %#012x +%#-9x %-10v %-24s -> %x...", s.GPA, s.Size, s.Page, s.What, s.After[:8])
		}
	}
	say("launch digest: %x", r.Digest)
	if !r.Complete {
		say("INCOMPLETE digest: %s", r.Why)
	}
	say("host data: %x, guest policy: %#x", g.Config.HostData, g.Config.Policy)
	if f.id.block != "" {
		say("ID block: image ID %x, SVN %d, ID key %x...", g.Config.ImageID, g.Config.SVN, g.Config.IDKeyDigest[:8])
	}
	if g.Config.HostData == [32]byte{} {
		say("HOST_DATA is all zeros: no verifier takes that, unless the image brings its instance ID; give -host-data")
	}
}

// boot runs the machine to its end.
func boot(ctx context.Context, env *applet.Env, timeout time.Duration, l *launch, g *snpsim.Guest) error {
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, timeout, fmt.Errorf("the guest was still running after %v", timeout))
		defer cancel()
	}
	m := l.machine
	m.Ports = []qemu.Port{{Name: portName, Serve: func(ctx context.Context, c net.Conn) {
		if err := g.Serve(ctx, c); err != nil && ctx.Err() == nil {
			fmt.Fprintf(env.Stderr, "snp-sim: serving the guest's reports: %v\n", err)
		}
	}}}
	stop, err := l.listenInbound(ctx)
	if err != nil {
		return err
	}
	defer stop()
	start := time.Now()
	vm, err := m.Start(ctx)
	if err != nil {
		if errors.Is(err, qemu.ErrNoQEMU) {
			return applet.WithHint(err, "apt-get install qemu-system-x86")
		}
		return err
	}
	fmt.Fprintf(env.Stderr, "snp-sim: QEMU runs as process %d\n", vm.PID())
	if l.typed != nil {
		go io.Copy(vm.Console, l.typed) // until either ends; what the console does not take is lost
	}
	if err := vm.Wait(); err != nil {
		return err
	}
	fmt.Fprintf(env.Stderr, "snp-sim: the guest powered off after %.1f s\n", time.Since(start).Seconds())
	return nil
}
