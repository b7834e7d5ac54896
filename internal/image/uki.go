package image

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"attestbox/internal/measure"
	"attestbox/internal/uki"
)

// DefaultUKIStub is where Debian's package systemd-boot-efi has systemd's stub.
const DefaultUKIStub = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub"

// UKIName is the unified kernel image in an output folder.
const UKIName = "linux.efi"

// UKI is the unified kernel image: the same kernel, initramfs and command line in
// one EFI program, started with -kernel and nothing else, and measured as the
// kernel.
type UKI struct {
	Output
	Stub string `json:"stub"` // version of systemd's stub

	LaunchDigest string `json:"launch_digest"` // as in measurement, of this launch
	Complete     bool   `json:"complete"`
	Why          string `json:"why,omitempty"`
}

// addUKI makes the unified kernel image from what was measured for -kernel,
// -initrd and -append.
func (b *builder) addUKI(initrd, firmware []byte) ([]byte, error) {
	if !b.m.UKI {
		return nil, nil
	}
	name := b.m.UKIStub
	if name == "" {
		name = DefaultUKIStub
	}
	stub, err := readFile(name, 16<<20)
	if err != nil {
		return nil, fmt.Errorf("reading EFI stub (Debian package systemd-boot-efi, or -uki-stub): %w", err)
	}
	b.input("uki-stub", name, "", stub)
	version, err := uki.StubVersion(stub)
	if err != nil {
		return nil, fmt.Errorf("EFI stub %q: %w", name, err)
	}
	image, err := uki.Build(stub, uki.Parts{Kernel: b.kernel, Initrd: initrd, Cmdline: b.rec.Cmdline, Release: b.release, OSName: "attestbox"})
	if err != nil {
		return nil, fmt.Errorf("making unified kernel image: %w", err)
	}
	b.rec.UKI = &UKI{Output: outputOf(image), Stub: version}
	return image, b.rec.UKI.measure(b.rec.Measurement, firmware)
}

// measure computes the digest of a launch with the image as the kernel: the
// initramfs and the command line of that launch are empty, which the table of
// hashes says, so that the firmware refuses others. With an empty command line
// the stub takes its own.
func (u *UKI) measure(m *Measurement, firmware []byte) error {
	var kernel [32]byte
	if n, err := hex.Decode(kernel[:], []byte(u.SHA256)); err != nil || n != 32 {
		return fmt.Errorf("computing the launch digest: %q is not a SHA-256", u.SHA256)
	}
	empty := sha256.Sum256(nil)
	res, err := measure.SNP(measure.Config{
		Firmware: firmware, HasKernel: true, UKI: true, KernelHash: &kernel, InitrdHash: &empty,
		VCPUs: m.VCPUs, VCPUType: m.VCPUType, GuestFeatures: m.GuestFeatures, VMM: m.VMM,
	})
	if err != nil {
		return fmt.Errorf("computing the launch digest: %w", err)
	}
	u.LaunchDigest, u.Complete, u.Why = hex.EncodeToString(res.Digest[:]), res.Complete, res.Why
	return nil
}

// compareUKI compares what is in a unified kernel image with the files beside it.
func (r *Report) compareUKI(image []byte, files [3][]byte) {
	if r.Record.UKI == nil {
		return
	}
	if image == nil {
		r.Mismatches = append(r.Mismatches, UKIName+": it is missing")
		return
	}
	r.differ(UKIName, outputOf(image), r.Record.UKI.Output)
	p, err := uki.Read(image)
	if err != nil {
		r.Mismatches = append(r.Mismatches, fmt.Sprintf("%s: %v", UKIName, err))
		return
	}
	r.differ("kernel in "+UKIName, outputOf(p.Kernel), outputOf(files[1]))
	r.differ("initramfs in "+UKIName, outputOf(p.Initrd), outputOf(files[0]))
	r.differ("command line in "+UKIName, p.Cmdline, string(files[2]))
	r.differ("kernel release in "+UKIName, p.Release, r.Record.KernelRelease)
	version, err := uki.StubVersionOf(image)
	if err != nil {
		r.Mismatches = append(r.Mismatches, fmt.Sprintf("%s: %v", UKIName, err))
		return
	}
	r.differ("stub of "+UKIName, version, r.Record.UKI.Stub)
}

// recomputeUKI does for the unified kernel image what recompute does.
func (r *Report) recomputeUKI(firmware []byte) error {
	if r.Record.UKI == nil || r.UKIHash == nil {
		return nil
	}
	u := UKI{Output: Output{SHA256: hex.EncodeToString(r.UKIHash[:])}}
	if err := u.measure(r.Record.Measurement, firmware); err != nil {
		return err
	}
	r.UKIDigest = u.LaunchDigest
	r.differ("launch digest of "+UKIName, u.LaunchDigest, r.Record.UKI.LaunchDigest)
	r.differ("complete, of "+UKIName, u.Complete, r.Record.UKI.Complete)
	return nil
}
