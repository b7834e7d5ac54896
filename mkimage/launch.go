package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"attestbox/internal/applet"
	"attestbox/internal/code"
	"attestbox/internal/idblock"
	"attestbox/internal/image"
	"attestbox/internal/snp"
)

const launchExample = `eval "$(mkimage launch -ovmf OVMF.amdsev.fd -instance $ID -disk disk.img -net user image)"`

// The forms that a launch is printed in.
const (
	formatShell   = "shell"
	formatArgs    = "args"
	formatLibvirt = "libvirt"
)

// launch is one start of an image, as it was measured.
type launch struct {
	dir, name       string
	ovmf            string
	report          *image.Report
	hostData        [32]byte
	policy          snp.GuestPolicy
	idBlock, idAuth []byte // raw; nil without
	authorKey       bool
	memory          int // MiB
	disks, roDisks  []string
	net             string
	unified         bool   // linux.efi, alone
	digest          string // of this launch, hex
	vsockCID        uint64
	cbitpos         int
	reducedBits     int
	program         string

	// simulated
	chip                  string
	idBlockFile, authFile string
	forwards              []string
}

type launchFlags struct {
	launch
	instance, policyHex, memoryText, format string
	vcpus                                   int
	vcpuType                                string
	simulated                               bool
	diskList, roDiskList, forwardList       applet.Strings
}

// runLaunch is `mkimage launch`: the command that starts an image exactly as it
// was measured. It starts nothing itself.
func runLaunch(_ context.Context, env *applet.Env, args []string) error {
	var f launchFlags
	fs := env.Flags("-instance ID [-ovmf FILE] [flags] IMAGE", launchExample)
	fs.StringVar(&f.ovmf, "ovmf", "", "the firmware `FILE` that the image was measured with")
	fs.StringVar(&f.instance, "instance", "", "instance ID, 64 `HEX` digits, for HOST_DATA; not needed where the image brings one")
	fs.StringVar(&f.policyHex, "policy", "", "guest policy in `HEX` (default 0x30000, or the ID block's)")
	fs.StringVar(&f.idBlockFile, "id-block", "", "ID block `FILE`, 96 bytes, from mkimage id-block")
	fs.StringVar(&f.authFile, "id-auth", "", "its authentication `FILE`, 4096 bytes")
	fs.IntVar(&f.vcpus, "vcpus", 0, "number of vCPUs; refused unless it is what was measured")
	fs.StringVar(&f.vcpuType, "vcpu-type", "", "CPU `MODEL`; refused unless it is what was measured")
	fs.StringVar(&f.memoryText, "memory", "2G", "memory `SIZE`, with suffix M or G")
	fs.Var(&f.diskList, "disk", "raw disk image or device `FILE`, a virtio-blk device; may be repeated")
	fs.Var(&f.roDiskList, "disk-readonly", "the same, read-only; these come after the writable ones")
	fs.StringVar(&f.net, "net", "none", "`NETWORK`: user or none")
	fs.Uint64Var(&f.vsockCID, "vsock-cid", 0, "give the VM a vsock device with this `CID`")
	fs.StringVar(&f.format, "format", formatShell, "shell, args (one argument a line) or libvirt (a domain for virsh define)")
	fs.StringVar(&f.name, "name", "", "the libvirt domain's `NAME` (default: the image folder's)")
	fs.StringVar(&f.program, "qemu", "qemu-system-x86_64", "QEMU `PROGRAM`")
	fs.IntVar(&f.cbitpos, "cbitpos", 51, "position of the C-bit, a `NUMBER` of the host's processor")
	fs.IntVar(&f.reducedBits, "reduced-phys-bits", 1, "physical address bits that encryption takes, a `NUMBER` of the host's processor")
	fs.BoolVar(&f.unified, "uki", false, "start linux.efi, the image's unified kernel image, which has a launch digest of its own")
	fs.BoolVar(&f.simulated, "simulated", false, "print the command for the simulator: snp-sim run")
	fs.StringVar(&f.chip, "chip", "", "with -simulated: the chip's `DIR`")
	fs.Var(&f.forwardList, "vsock-forward", "with -simulated: `PORT=HOST:PORT`, see snp-sim run; may be repeated")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if err := f.check(fs); err != nil {
		return err
	}
	if err := f.open(env); err != nil {
		return err
	}
	text, err := f.print()
	if err != nil {
		return err
	}
	if note := forSimulator(f.report); note != "" && !f.simulated {
		fmt.Fprintf(env.Stderr, "%s: %s\n", env.Name, note)
	}
	_, err = io.WriteString(env.Stdout, text)
	return err
}

// check is what needs no file.
func (f *launchFlags) check(fs *applet.FlagSet) error {
	var err error
	switch {
	case fs.NArg() != 1:
		return fs.Usage("want one image folder")
	case (f.idBlockFile == "") != (f.authFile == ""):
		return fs.Usage("-id-block and -id-auth go together")
	case f.net != "none" && f.net != "user":
		return fs.Usage("-net %q is neither user nor none", f.net)
	case f.format != formatShell && f.format != formatArgs && f.format != formatLibvirt:
		return fs.Usage("unknown -format %q", f.format)
	case f.simulated && f.chip == "":
		return fs.Usage("-simulated needs -chip DIR")
	case f.simulated && f.unified:
		return fs.Usage("the simulator boots no EFI program: -uki is for real machines")
	case f.simulated && f.format == formatLibvirt:
		return fs.Usage("libvirt does not start the simulator")
	case !f.simulated && (f.chip != "" || len(f.forwardList) > 0):
		return fs.Usage("-chip and -vsock-forward are for -simulated")
	case f.vsockCID != 0 && (f.vsockCID < 3 || f.vsockCID >= 1<<32-1):
		return fs.Usage("-vsock-cid is from 3 to 4294967294")
	case f.cbitpos < 0 || f.reducedBits < 0:
		return fs.Usage("-cbitpos and -reduced-phys-bits are not negative")
	}
	if f.memory, err = applet.ParseMiB(f.memoryText); err != nil {
		return fs.Usage("-memory: %v", err)
	}
	if f.policyHex != "" {
		p, err := strconv.ParseUint(strings.TrimPrefix(f.policyHex, "0x"), 16, 64)
		if err != nil {
			return fs.Usage("-policy %q is not 64 bits in hex", f.policyHex)
		}
		f.policy = snp.GuestPolicy(p)
	}
	f.dir, f.disks, f.roDisks, f.forwards = fs.Arg(0), f.diskList, f.roDiskList, f.forwardList
	if f.name == "" {
		f.name = imageName(f.dir)
	}
	return f.checkInstance(fs)
}

func (f *launchFlags) checkInstance(fs *applet.FlagSet) error {
	if f.instance == "" {
		return nil // the image may bring it
	}
	id, err := hex.DecodeString(strings.ToLower(f.instance))
	if err != nil || len(id) != 32 {
		return fs.Usage("-instance %.80q is not 64 hex digits", f.instance)
	}
	f.hostData = [32]byte(id)
	if f.hostData == [32]byte{} {
		return applet.Refused(code.IDZero, fmt.Errorf("-instance: an ID of zeros is refused everywhere"))
	}
	return nil
}

func differs(format string, a ...any) error {
	return applet.WithHint(applet.Refused(code.LaunchDiffers, fmt.Errorf(format, a...)),
		"nothing is ever released to another launch than the one that was measured; measure what you want with mkimage build")
}

// open reads the image and refuses a launch that its digest is not of.
func (f *launchFlags) open(env *applet.Env) error {
	_, r, err := claimable(f.dir, f.ovmf)
	if err != nil {
		return err
	}
	f.report, f.digest = r, r.Digest
	if f.unified {
		if f.digest, err = r.ClaimableUKI(); err != nil {
			return err
		}
	}
	if err := attachedBundle(r.Config.Bundle, slices.Concat(f.disks, f.roDisks)); err != nil {
		return err
	}
	if err := f.sourceOfID(); err != nil {
		return err
	}
	m := r.Record.Measurement
	switch {
	case m.Synthetic && f.ovmf == "" && !f.simulated:
		return applet.WithHint(applet.Refused(code.MeasurementIncomplete, fmt.Errorf("image %q was measured with the synthetic firmware, which no machine can start", f.dir)),
			"build it with -ovmf OVMF.amdsev.fd, or print the simulator's command with -simulated")
	case f.vcpus != 0 && f.vcpus != m.VCPUs:
		return differs("the image was measured with %d vCPUs, -vcpus says %d", m.VCPUs, f.vcpus)
	case f.vcpuType != "" && f.vcpuType != m.VCPUType:
		return differs("the image was measured with %s, -vcpu-type says %s", m.VCPUType, f.vcpuType)
	}
	if f.idBlockFile != "" {
		if err := f.openIDBlock(); err != nil {
			return err
		}
	}
	if f.policy == 0 {
		f.policy = snp.PolicyReserved1 | snp.PolicySMT
	}
	switch p := f.policy; {
	case p.Debug(), p.MigrateMA():
		return differs("the guest policy %#x lets the host read or move the VM: every verifier refuses it", uint64(p))
	case p&snp.PolicyReserved1 == 0:
		return applet.Usage("-policy %#x: bit 17 must be one", uint64(p))
	}
	if m.GuestFeatures != 1 {
		fmt.Fprintf(env.Stderr, "%s: the image was measured with SEV_FEATURES %#x: the host's KVM must set these, QEMU's command line does not\n", env.Name, m.GuestFeatures)
	}
	return nil
}

// sourceOfID: HOST_DATA, or the image, never both.
func (f *launchFlags) sourceOfID() error {
	baked := f.report.Config.Instance()
	switch {
	case baked.IsZero() && f.hostData == [32]byte{}:
		return applet.WithHint(applet.Usage("-instance is missing: the ID that verifier add-instance printed"), "for example: "+launchExample)
	case !baked.IsZero() && f.hostData != [32]byte{} && f.hostData != [32]byte(baked):
		return differs("the image brings the instance ID %s, -instance says %x", baked, f.hostData)
	case !baked.IsZero():
		f.hostData = [32]byte{} // zeros, or the guest refuses
	}
	return nil
}

// openIDBlock reads the ID block, which must be one for this launch.
func (f *launchFlags) openIDBlock() error {
	var err error
	if f.idBlock, err = applet.ReadFile(nil, f.idBlockFile, idblock.BlockSize); err != nil {
		return err
	}
	if f.idAuth, err = applet.ReadFile(nil, f.authFile, idblock.AuthSize); err != nil {
		return err
	}
	block, err := idblock.ParseBlock(f.idBlock)
	if err != nil {
		return fmt.Errorf("%q: %w", f.idBlockFile, err)
	}
	auth, err := idblock.ParseAuth(f.idAuth)
	if err != nil {
		return fmt.Errorf("%q: %w", f.authFile, err)
	}
	if err := auth.Verify(block); err != nil {
		return fmt.Errorf("%q: %w", f.authFile, err)
	}
	if f.authorKey = auth.AuthorKey != nil; f.authorKey {
		if err := auth.VerifyAuthor(); err != nil {
			return fmt.Errorf("%q: %w", f.authFile, err)
		}
	}
	switch {
	case hex.EncodeToString(block.LaunchDigest[:]) != f.digest:
		return differs("%q is of the launch digest %x, the image's is %s", f.idBlockFile, block.LaunchDigest, f.digest)
	case f.policy != 0 && f.policy != block.Policy:
		return differs("%q is of the guest policy %#x, -policy says %#x", f.idBlockFile, uint64(block.Policy), uint64(f.policy))
	}
	f.policy = block.Policy
	return nil
}

// print gives the launch in the form that was asked for.
func (f *launchFlags) print() (string, error) {
	if f.format == formatLibvirt {
		return f.domain()
	}
	argv := f.qemu()
	if f.simulated {
		argv = f.simulator()
	}
	for _, a := range argv {
		if strings.ContainsAny(a, "\n\x00") {
			return "", fmt.Errorf("%q cannot be said in a line", a)
		}
	}
	if f.format == formatArgs {
		return strings.Join(argv, "\n") + "\n", nil
	}
	return shellLine(argv) + "\n", nil
}
