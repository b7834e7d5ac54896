package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"attestbox/internal/applet"
	"attestbox/internal/code"
	"attestbox/internal/image"
	"attestbox/internal/image/uroot"
)

const buildExample = "mkimage build -kernel /boot/vmlinuz-6.12.0-amd64 -modules-dir /lib/modules/6.12.0-amd64 " +
	"-guest bin/attestbox-guest -config init.json -out image"

// nameList is a flag of comma-separated names that may be given several times.
type nameList struct{ to *[]string }

func (l nameList) String() string { return "" }
func (l nameList) Set(v string) error {
	for n := range strings.SplitSeq(v, ",") {
		if n = strings.TrimSpace(n); n == "" {
			return errors.New("an empty name in the list")
		} else {
			*l.to = append(*l.to, n)
		}
	}
	return nil
}

func runBuild(_ context.Context, env *applet.Env, args []string) error {
	start := time.Now()
	fs := env.Flags("[-manifest FILE] [flags] -out DIR", buildExample)
	parts := addParts(fs)
	out := fs.String("out", "", "`DIR` that gets initrd, vmlinuz, cmdline and image.json")
	verbose := fs.Bool("v", false, "show each step")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fs.Usage("unexpected argument %q", fs.Arg(0))
	}
	if *out == "" {
		return fs.Usage("-out is missing")
	}
	m, err := parts.read(fs)
	if err != nil {
		return err
	}
	opt, err := buildOptions(env, *verbose)
	if err != nil {
		return err
	}
	if m.Debug {
		fmt.Fprint(env.Stderr, debugWarning)
	}
	img, err := image.Build(m, opt)
	if err != nil {
		return classify(err)
	}
	if err := image.WriteDir(*out, img); err != nil {
		return err
	}
	summary(env, *out, img.Record, time.Since(start))
	return nil
}

// parts are the flags that say what an image is made of.
type parts struct {
	manifest string
	set      image.Manifest
	files    applet.Strings
}

func addParts(fs *applet.FlagSet) *parts {
	p := &parts{}
	set := &p.set
	fs.StringVar(&p.manifest, "manifest", "", "read the parts from this JSON `FILE`; flags override its fields, lists replace them")
	fs.StringVar(&set.Kernel, "kernel", "", "kernel (bzImage)")
	fs.StringVar(&set.ModulesDir, "modules-dir", "", "the kernel's `DIR` /lib/modules/RELEASE; depmod is not needed")
	fs.Var(nameList{&set.Modules}, "module", "`NAMES` of modules, with commas; \"default\" stands for the default set (default: that set)")
	fs.StringVar(&set.Guest, "guest", "", "static guest binary, bin/attestbox-guest")
	fs.Var(nameList{&set.Applets}, "applets", "`NAMES` of the guest's applets that get a symlink (default "+strings.Join(image.DefaultApplets, ",")+")")
	fs.StringVar(&set.Config, "config", "", "configuration of init, `FILE` init.json")
	fs.StringVar(&set.Verity, "verity", "", "write this record of mkimage disk -verity, a `FILE`, into the configuration's root")
	fs.StringVar(&set.InstanceID, "instance-id", "", "make an image of one instance, for hosts that cannot set HOST_DATA: its ID, 64 `HEX` digits, or new")
	fs.Var((*applet.Strings)(&set.Certificates), "cert", "certificate `FILE` for /etc/attestbox/certs; may be repeated")
	fs.Var(&p.files, "file", "a further file or folder, `DST=SRC[:MODE]`; may be repeated")
	fs.StringVar(&set.Append, "append", "", "kernel command line; the required parameters are added to it")
	fs.StringVar(&set.Compress, "compress", "", "zstd, xz, gzip or none (default zstd)")
	fs.BoolVar(&set.Small, "small", false, "zstd at its best level: a smaller image, some ten times slower")
	fs.Var((*applet.Strings)(&set.Microcode), "microcode", "microcode `FILE` of AMD or Intel, to lie in front of the initramfs; may be repeated")
	fs.StringVar(&set.FirmwareDir, "firmware", "", "`DIR` /lib/firmware, for the files that the image's modules name")
	fs.Var(nameList{&set.URoot}, "uroot", "`NAMES` of commands of u-root "+uroot.Version()+" (ip,mount,dhclient,...), built by the go command; a debug image may have gosh")
	fs.BoolVar(&set.UKI, "uki", false, "write linux.efi, too: a unified kernel image for -kernel with SEV hashes, measured as the kernel")
	fs.StringVar(&set.UKIStub, "uki-stub", "", "systemd's EFI stub, a `FILE`, for -uki (default "+image.DefaultUKIStub+")")
	fs.StringVar(&set.SimDevice, "sim-device", "", "make a simulator image with this snp-sim-device `BINARY`")
	fs.BoolVar(&set.Debug, "debug", false, "add a shell that init starts on the console when the boot fails: the image must never be trusted")
	fs.StringVar(&set.Busybox, "busybox", "", "static busybox `FILE` for -debug (or -uroot gosh)")
	fs.StringVar(&set.Firmware, "ovmf", "", "firmware `FILE` of the launch digest (default: synthetic, for the simulator)")
	fs.IntVar(&set.VCPUs, "vcpus", 0, "virtual CPUs of the launch digest (default 1)")
	fs.StringVar(&set.VCPUType, "vcpu-type", "", "QEMU CPU model of the launch digest (default by -product, else EPYC-Milan)")
	fs.StringVar(&set.Product, "product", "", "Milan, Genoa, Bergamo, Siena or Turin: chooses -vcpu-type")
	fs.Uint64Var(&set.GuestFeatures, "guest-features", 0, "SEV_FEATURES of the launch digest (default 0x1)")
	fs.StringVar(&set.VMM, "vmm", "", "VMM of the launch digest: qemu, ec2, gce (default qemu)")
	return p
}

// read gives the manifest that flags and file make together.
func (p *parts) read(fs *applet.FlagSet) (*image.Manifest, error) {
	for _, f := range p.files {
		pf, err := image.ParseFile(f)
		if err != nil {
			return nil, fs.Usage("-file: %v", err)
		}
		p.set.Files = append(p.set.Files, pf)
	}
	if p.set.InstanceID == "new" {
		var id [32]byte
		rand.Read(id[:])
		p.set.InstanceID = hex.EncodeToString(id[:])
	}
	m, err := readManifest(p.manifest, &p.set)
	if err != nil {
		return nil, err
	}
	if err := m.Check(); err != nil {
		return nil, fs.Usage("%v", err)
	}
	return m, nil
}

const debugWarning = `
  *** DEBUG IMAGE ***********************************************************
  ***  It gives a root shell to whoever has the console: the host.        ***
  ***  Never trust its measurement, never register it with a real secret. ***
  ***************************************************************************

`

// readManifest reads the file, if any, and lays the flags over it.
func readManifest(name string, set *image.Manifest) (*image.Manifest, error) {
	if name == "" {
		return set, nil
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("reading manifest: %w", err)
	}
	m, err := image.ParseManifest(data, filepath.Dir(name))
	if err != nil {
		return nil, applet.Fail(code.ConfigBad, fmt.Errorf("manifest %q: %w", name, err))
	}
	m.Override(set)
	return m, nil
}

func buildOptions(env *applet.Env, verbose bool) (image.Options, error) {
	var opt image.Options
	if s := env.Getenv("SOURCE_DATE_EPOCH"); s != "" {
		n, err := strconv.ParseUint(s, 10, 32)
		if err != nil {
			return opt, applet.Usage("SOURCE_DATE_EPOCH %q is not a time in seconds", s)
		}
		opt.SourceDateEpoch = uint32(n)
	}
	opt.Progress = steps(env, verbose)
	return opt, nil
}

// steps shows each step of a build, on a terminal or where that is asked for.
func steps(env *applet.Env, verbose bool) func(string) {
	if !verbose && !isTerminal(env) {
		return nil
	}
	return func(step string) { fmt.Fprintf(env.Stderr, "%s: %s\n", env.Name, step) }
}

func isTerminal(env *applet.Env) bool {
	f, ok := env.Stderr.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// classify gives exit codes and hints to what the user can act on.
func classify(err error) error {
	switch {
	case errors.Is(err, image.ErrPrivateKey):
		return applet.WithHint(applet.Refused(code.ImagePrivateKey, err), "an image is public to the host: let the verifier release the key, or leave it out")
	case errors.Is(err, image.ErrRefused):
		return applet.Refused(code.ImageRefused, err)
	case errors.Is(err, image.ErrCmdline):
		return applet.Refused(code.ImageCmdline, err)
	case errors.Is(err, uroot.ErrNoGo):
		return applet.WithHint(err, "install Go (https://go.dev/dl/); the sources come from the module cache or GOPROXY, and are compared with pinned hashes")
	case errors.Is(err, image.ErrNoModule):
		return applet.WithHint(applet.Fail(code.ImageModule, err), "is -modules-dir the whole folder of this kernel, with its modules.builtin?")
	}
	return err
}

func summary(env *applet.Env, out string, r *image.Record, took time.Duration) {
	p := func(format string, a ...any) { fmt.Fprintf(env.Stderr, format+"\n", a...) }
	p("initrd    %9d bytes  sha256 %s  (%s, %d entries, %d modules)", r.Outputs.Initrd.Size, r.Outputs.Initrd.SHA256, r.Compress, len(r.Files), len(r.Modules))
	p("vmlinuz   %9d bytes  sha256 %s  (%s)", r.Outputs.Kernel.Size, r.Outputs.Kernel.SHA256, r.KernelRelease)
	p("cmdline   %9d bytes  %s", r.Outputs.Cmdline.Size, r.Cmdline)
	if r.InstanceID != "" {
		p("instance  %s", r.InstanceID)
	}
	m := r.Measurement
	firmware := "firmware " + m.Firmware.SHA256[:16]
	if m.Synthetic {
		firmware = "synthetic firmware, for the simulator only"
	}
	p("digest for %d vCPU %s, %s", m.VCPUs, m.VCPUType, firmware)
	if !m.Complete {
		p("INCOMPLETE digest: %s", m.Why)
	}
	if s := r.Stage1; s != nil {
		p("stage 1: starts bundles %q of version %d and later, signed by key %s", s.Name, s.MinVersion, s.Key)
	}
	if u := r.UKI; u != nil {
		p("linux.efi %9d bytes  sha256 %s  (stub %s)", u.Size, u.SHA256, u.Stub)
		p("digest with linux.efi as the kernel: %s", u.LaunchDigest)
	}
	for _, n := range r.Notes {
		p("note: %s", n)
	}
	if r.Debug {
		p("DEBUG IMAGE: never to be trusted")
	}
	p("wrote %s in %d ms", out, took.Milliseconds())
	fmt.Fprintln(env.Stdout, m.LaunchDigest)
}
