package measure

import (
	"crypto/sha256"
	"fmt"
)

const (
	whyNoKernel = "no kernel given: the digest covers the firmware alone, and whatever that boots"
	whyEmpty    = "the kernel is an empty file"
	whyNoInitrd = "no initramfs given, or an empty one"
	whySVSM     = "an SVSM launch has no kernel-hashes page"
	whyLegacy   = "not an SEV-SNP digest: there is no signed report that shows it"
)

var nothing = sha256.Sum256(nil)

// SNP computes the digest of a SEV-SNP launch. Errors wrap one of the
// package's sentinels; with an error there is no digest.
func SNP(cfg Config) (*Result, error) {
	img, p, sig, features, err := cfg.prepare()
	if err != nil {
		return nil, err
	}
	if err := cfg.noSVSM(); err != nil {
		return nil, err
	}
	if !img.HasMetadata {
		return nil, badImage("no SEV metadata: this build cannot start an SNP guest")
	}
	if !img.HasResetEIP {
		return nil, badImage("no reset block: the start address of further vCPUs is unknown")
	}
	withKernel, err := cfg.hasKernel()
	if err != nil {
		return nil, err
	}
	if withKernel {
		if err := img.canHash(true); err != nil {
			return nil, err
		}
	}

	c := &chain{}
	wait := cfg.hashAsync(withKernel)
	if cfg.FirmwareChain != nil {
		c.ld = *cfg.FirmwareChain
		c.done("firmware (precomputed)", PageNormal, firmwareGPA(cfg.Firmware), uint64(len(cfg.Firmware)))
	} else {
		c.normal("firmware", firmwareGPA(cfg.Firmware), cfg.Firmware)
	}
	hashes := wait()

	c.sections(img, p, hashes)
	c.vmsas("boot processor", (*[PageSize]byte)(p.real(bspEIP, sig, features)), 1)
	c.vmsas("other processors", (*[PageSize]byte)(p.real(img.ResetEIP, sig, features)), cfg.VCPUs-1)

	r := &Result{Digest: c.ld, Steps: c.steps, Hashes: hashes, VCPUSig: sig, GuestFeatures: features}
	if withKernel {
		r.Table = uint64(img.HashTableGPA)
	}
	r.Why = cover(hashes)
	r.Complete = r.Why == ""
	return r, nil
}

// SVSM computes the digest of a SEV-SNP launch under an SVSM (COCONUT-SVSM as
// QEMU starts it): firmware, then the SVSM below the variable store, then the
// SVSM's metadata. Every vCPU starts in the SVSM. It is never Complete.
func SVSM(cfg Config) (*Result, error) {
	_, p, sig, _, err := cfg.prepare()
	if err != nil {
		return nil, err
	}
	if p.fixedRDX {
		return nil, fmt.Errorf("%w: SVSM is known for QEMU only, not for %s", ErrConfig, cfg.VMM)
	}
	if withKernel, err := cfg.hasKernel(); err != nil {
		return nil, err
	} else if withKernel {
		return nil, fmt.Errorf("%w: %s", ErrNoKernelHashes, whySVSM)
	}
	if cfg.FirmwareChain != nil {
		return nil, fmt.Errorf("%w: a precomputed firmware chain is for SNP without an SVSM", ErrConfig)
	}
	svsm, err := ParseImage(cfg.SVSM)
	if err != nil {
		return nil, fmt.Errorf("SVSM image: %w", err)
	}
	if !svsm.HasMetadata || !svsm.HasLaunchOffset {
		return nil, badImage("the SVSM image has no SEV metadata or no entry")
	}
	fw := firmwareGPA(cfg.Firmware)
	if cfg.VarsSize%PageSize != 0 || cfg.VarsSize > fw || fw-cfg.VarsSize < uint64(len(cfg.SVSM)) {
		return nil, fmt.Errorf("%w: variable store of %d bytes leaves no place for the SVSM", ErrConfig, cfg.VarsSize)
	}
	base := fw - cfg.VarsSize - uint64(len(cfg.SVSM))
	for _, s := range svsm.Sections {
		if s.end() > base {
			return nil, badImage("SVSM section at %#x reaches into the SVSM", s.GPA)
		}
	}

	c := &chain{}
	c.normal("firmware", fw, cfg.Firmware)
	c.normal("SVSM", base, cfg.SVSM)
	c.sections(svsm, p, nil)
	eip := uint32(base) + svsm.LaunchOffset // base is below 4 GiB
	// The reference tool's vectors have SNPActive alone here, whatever the
	// caller asks for the guest.
	c.vmsas("processors", (*[PageSize]byte)(p.protected(eip, sig, featureSNP)), cfg.VCPUs)
	return &Result{Digest: c.ld, Steps: c.steps, Why: whySVSM, VCPUSig: sig, GuestFeatures: featureSNP}, nil
}

// FirmwareChain is the digest after the pages of an SNP launch's firmware, to
// be kept and given as Config.FirmwareChain.
func FirmwareChain(firmware []byte) ([48]byte, error) {
	img, err := ParseImage(firmware)
	if err != nil {
		return [48]byte{}, err
	}
	if !img.HasMetadata {
		return [48]byte{}, badImage("no SEV metadata: this build cannot start an SNP guest")
	}
	c := &chain{}
	c.normal("firmware", firmwareGPA(firmware), firmware)
	return c.ld, nil
}

// sections measures the metadata's sections.
func (c *chain) sections(img *Image, p profile, hashes *Hashes) {
	var last []Section
	for _, s := range img.Sections {
		gpa, size := uint64(s.GPA), uint64(s.Size)
		switch {
		case s.Type == SectionSECMemory:
			c.empty(s.Type.String(), p.secMemory, gpa, size)
		case s.Type == SectionSecrets:
			c.empty(s.Type.String(), PageSecrets, gpa, size)
		case s.Type == SectionCPUID && p.cpuidLast:
			last = append(last, s)
		case s.Type == SectionCPUID:
			c.empty(s.Type.String(), PageCPUID, gpa, size)
		case s.Type == SectionKernelHashes && hashes != nil:
			c.normal(s.Type.String(), gpa, hashes.page(img.HashTableGPA)[:])
		case s.Type == SectionKernelHashes:
			c.empty(s.Type.String()+" (none)", PageZero, gpa, size)
		default:
			c.empty(s.Type.String(), PageZero, gpa, size)
		}
	}
	for _, s := range last {
		c.empty(s.Type.String(), PageCPUID, uint64(s.GPA), uint64(s.Size))
	}
}

// cover says what of kernel, initramfs and command line is missing; "" is
// nothing. The command line is always in the table, an empty one too.
func cover(h *Hashes) string {
	switch {
	case h == nil:
		return whyNoKernel
	case h.Kernel == nothing:
		return whyEmpty
	case h.Initrd == nothing:
		return whyNoInitrd
	}
	return ""
}
