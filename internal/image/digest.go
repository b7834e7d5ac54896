package image

import (
	"encoding/hex"
	"fmt"

	"attestbox/internal/measure"
)

// measure computes the launch digest of the image. The initramfs was hashed
// while it was written.
func (b *builder) measure(initrd [32]byte) (m *Measurement, firmware []byte, err error) {
	model, err := b.m.vcpuType()
	if err != nil {
		return nil, nil, err
	}
	m = &Measurement{Synthetic: b.m.Firmware == "", VCPUs: max(b.m.VCPUs, 1), VCPUType: model, GuestFeatures: b.m.GuestFeatures, VMM: b.m.VMM}
	if m.Synthetic {
		firmware = measure.SyntheticFirmware()
	} else {
		if firmware, err = readFile(b.m.Firmware, 64<<20); err != nil {
			return nil, nil, fmt.Errorf("reading firmware: %w", err)
		}
		b.input("firmware", b.m.Firmware, "", firmware)
	}
	m.Firmware = outputOf(firmware)
	if err := m.compute(firmware, b.rec.Outputs.Kernel, initrd, b.rec.Cmdline); err != nil {
		return nil, nil, err
	}
	return m, firmware, nil
}

// compute fills in digest and completeness from the other fields.
func (m *Measurement) compute(firmware []byte, kernel Output, initrd [32]byte, cmdline string) error {
	var kernelHash [32]byte
	if n, err := hex.Decode(kernelHash[:], []byte(kernel.SHA256)); err != nil || n != 32 {
		return fmt.Errorf("computing the launch digest: the kernel's hash %q is not a SHA-256", kernel.SHA256)
	}
	if m.GuestFeatures == 0 {
		m.GuestFeatures = 1 // SNPActive alone
	}
	if m.VMM == "" {
		m.VMM = measure.QEMU
	}
	res, err := measure.SNP(measure.Config{
		Firmware: firmware, HasKernel: true, KernelHash: &kernelHash, InitrdHash: &initrd, Append: cmdline,
		VCPUs: m.VCPUs, VCPUType: m.VCPUType, GuestFeatures: m.GuestFeatures, VMM: m.VMM,
	})
	if err != nil {
		return fmt.Errorf("computing the launch digest: %w", err)
	}
	m.LaunchDigest, m.Complete, m.Why = hex.EncodeToString(res.Digest[:]), res.Complete, res.Why
	return nil
}
