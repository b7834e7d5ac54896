package snpsim

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"attestbox/internal/applet"
	"attestbox/internal/measure"
	"attestbox/internal/snpsim"
	"attestbox/internal/snpsim/qemu"
)

const runExample = `snp-sim run -chip chip -image out/web -host-data new -net user`

// runFlags are the flags of `snp-sim run`.
type runFlags struct {
	chip, image                           string
	kernel, initrd, cmdline, ovmf         string
	vcpus                                 int
	vcpuType, hostData, policy            string
	guestFeatures                         string
	disks, roDisks, forwards, listens     applet.Strings
	vsockCID                              uint64
	net, memory, qmp, console, qemuBinary string
	timeout                               time.Duration
	kvm, timestamps, debugMeasure, typed  bool
	id                                    idFlags
}

func (f *runFlags) register(fs *applet.FlagSet) {
	fs.StringVar(&f.chip, "chip", "", "chip `folder`, made by snp-sim init; required")
	fs.StringVar(&f.image, "image", "", "image `folder` of mkimage build, in place of -kernel, -initrd and -append")
	fs.StringVar(&f.kernel, "kernel", "", "kernel `file` (bzImage), booted directly; required without -image")
	fs.StringVar(&f.initrd, "initrd", "", "initramfs `file`")
	fs.StringVar(&f.cmdline, "append", "", "kernel command `line`")
	fs.StringVar(&f.ovmf, "ovmf", "", "firmware `file` to measure; it is not booted (default: a synthetic one)")
	fs.IntVar(&f.vcpus, "vcpus", 1, "number of vCPUs, booted and measured")
	fs.StringVar(&f.vcpuType, "vcpu-type", "EPYC-Milan", "QEMU CPU `model` to measure")
	fs.StringVar(&f.guestFeatures, "guest-features", "0", "SEV_FEATURES to measure; 0 is the profile's default")
	fs.StringVar(&f.hostData, "host-data", "", "HOST_DATA, 32 bytes in `hex`: the instance ID; new makes one")
	fs.StringVar(&f.policy, "policy", "", "guest policy in `hex` (default 0x30000)")
	f.id.register(fs)
	fs.Var(&f.disks, "disk", "raw disk image `file`, a virtio-blk device; may be repeated")
	fs.Var(&f.roDisks, "disk-readonly", "the same, read-only; these come after the writable ones")
	fs.StringVar(&f.net, "net", qemu.NetNone, "`network`: user (the host's loopback is 10.0.2.2) or none")
	fs.Var(&f.forwards, "vsock-forward", "give the guest a vsock device; what it connects to CID 2 at this port goes to `PORT=HOST:PORT` or PORT=unix:PATH; may be repeated")
	fs.Var(&f.listens, "vsock-listen", "the other way: what connects to the host at this address goes to the guest's vsock port, `HOST:PORT=GUESTPORT` or unix:PATH=GUESTPORT; may be repeated")
	fs.Uint64Var(&f.vsockCID, "vsock-cid", 3, "the guest's vsock `CID`")
	fs.StringVar(&f.memory, "memory", "512M", "memory `size`, with suffix M or G")
	fs.DurationVar(&f.timeout, "timeout", 5*time.Minute, "end the machine after this `time`; 0 is never")
	fs.StringVar(&f.qmp, "qmp", "", "serve QEMU's monitor (QMP) on the Unix socket `path`")
	fs.StringVar(&f.console, "console", "-", "write the guest's console to `file`; - is stdout")
	fs.BoolVar(&f.typed, "stdin", false, "type what comes on stdin into the console")
	fs.BoolVar(&f.timestamps, "timestamps", false, "put the seconds since the start before each console line")
	fs.StringVar(&f.qemuBinary, "qemu", qemu.DefaultBinary, "QEMU `program`")
	fs.BoolVar(&f.kvm, "kvm", false, "use the host's KVM in place of emulation")
	fs.BoolVar(&f.debugMeasure, "debug-measure", false, "print every range that was measured")
}

// Run is `snp-sim run`: it measures an image and boots exactly the same bytes
// in QEMU, beside a simulated secure processor that reports what was measured.
func Run(ctx context.Context, env *applet.Env, args []string) error {
	var f runFlags
	fs := env.Flags("run -chip DIR {-image DIR | -kernel FILE} [flags]", runExample)
	f.register(fs)
	if err := fs.Parse(args); err != nil {
		return err
	}
	// The machine's devices talk beside this goroutine.
	quiet := *env
	quiet.Stderr = &oneAtATime{w: env.Stderr}
	env = &quiet
	launch, err := f.parse(fs, env.Stderr)
	if err != nil {
		return err
	}
	psp, err := snpsim.Load(f.chip)
	if err != nil {
		return applet.WithHint(err, "make a chip with: snp-sim init -chip "+f.chip)
	}
	if err := launch.read(&f); err != nil {
		return err
	}
	result, err := measure.SNP(launch.measured)
	if err != nil {
		return fmt.Errorf("measuring the launch: %w", err)
	}
	launch.guest.Measurement = result.Digest
	guest, err := f.id.launch(psp, launch.guest)
	if err != nil {
		return err
	}
	launch.tell(env.Stderr, &f, psp, guest, result)

	out, closeOut, err := f.openConsole(env)
	if err != nil {
		return err
	}
	defer closeOut()
	launch.machine.ConsoleOut = out
	if f.typed {
		launch.typed = env.Stdin
	}
	err = boot(ctx, env, f.timeout, launch, guest)
	return errors.Join(err, closeOut())
}

// oneAtATime is a writer for several goroutines.
type oneAtATime struct {
	mu sync.Mutex
	w  io.Writer
}

func (o *oneAtATime) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.w.Write(p)
}

// parse checks the flags, and reads the command line of an image.
func (f *runFlags) parse(fs *applet.FlagSet, log io.Writer) (*launch, error) {
	l := &launch{}
	switch {
	case fs.NArg() > 0:
		return nil, fs.Usage("unexpected argument %q", fs.Arg(0))
	case f.chip == "":
		return nil, fs.Usage("-chip is required")
	case f.image != "" && (f.kernel != "" || f.initrd != "" || f.cmdline != ""):
		return nil, fs.Usage("-image excludes -kernel, -initrd and -append")
	case f.kernel == "" && f.image == "":
		return nil, fs.Usage("-image or -kernel is required")
	case f.net != qemu.NetNone && f.net != qemu.NetUser:
		return nil, fs.Usage("-net %q is neither user nor none", f.net)
	case f.timeout < 0:
		return nil, fs.Usage("-timeout %v is negative", f.timeout)
	}
	if err := f.id.check(fs); err != nil {
		return nil, err
	}
	if f.image != "" {
		line, err := readInput("command line", filepath.Join(f.image, "cmdline"))
		if err != nil {
			return nil, applet.WithHint(err, "make an image with: mkimage build -out "+f.image)
		}
		f.kernel, f.initrd, f.cmdline = filepath.Join(f.image, "vmlinuz"), filepath.Join(f.image, "initrd"), string(line)
	}
	if len(f.cmdline) > qemu.MaxCommandLine {
		return nil, fs.Usage("-append has %d bytes; Linux reads %d", len(f.cmdline), qemu.MaxCommandLine)
	}
	if f.hostData == "new" {
		rand.Read(l.guest.HostData[:])
	} else if f.hostData != "" {
		b, err := hex.DecodeString(f.hostData)
		if err != nil || len(b) != 32 {
			return nil, fs.Usage("-host-data is not 32 bytes in hex")
		}
		l.guest.HostData = [32]byte(b)
	}
	if f.policy != "" {
		p, err := strconv.ParseUint(strings.TrimPrefix(f.policy, "0x"), 16, 64)
		if err != nil || p == 0 {
			return nil, fs.Usage("-policy %q is not a guest policy of 64 bits in hex", f.policy)
		}
		l.guest.Policy = p
	}
	features, err := strconv.ParseUint(f.guestFeatures, 0, 64)
	if err != nil {
		return nil, fs.Usage("-guest-features %q is not a number", f.guestFeatures)
	}
	if _, err := measure.VCPUSig(f.vcpuType); err != nil {
		return nil, fs.Usage("-vcpu-type: %v", err)
	}
	memory, err := applet.ParseMiB(f.memory)
	if err != nil {
		return nil, fs.Usage("-memory: %v", err)
	}
	l.measured = measure.Config{HasKernel: true, Append: f.cmdline, VCPUs: f.vcpus, VCPUType: f.vcpuType, GuestFeatures: features}
	l.machine = qemu.Machine{Binary: f.qemuBinary, KVM: f.kvm, VCPUs: f.vcpus, MemoryMiB: memory, Append: f.cmdline,
		Net: f.net, Timestamps: f.timestamps, QMPPath: f.qmp}
	for _, d := range f.disks {
		l.machine.Disks = append(l.machine.Disks, qemu.Disk{Path: d})
	}
	for _, d := range f.roDisks {
		l.machine.Disks = append(l.machine.Disks, qemu.Disk{Path: d, ReadOnly: true})
	}
	return l, f.parseVsock(fs, l, log)
}

// openConsole opens where the console goes. close may be called twice.
func (f *runFlags) openConsole(env *applet.Env) (out io.Writer, close func() error, err error) {
	if f.console == "-" {
		return env.Stdout, func() error { return nil }, nil
	}
	file, err := os.Create(f.console)
	if err != nil {
		return nil, nil, fmt.Errorf("opening the console's file: %w", err)
	}
	closed := false
	return file, func() error {
		if closed {
			return nil
		}
		closed = true
		return file.Close()
	}, nil
}
