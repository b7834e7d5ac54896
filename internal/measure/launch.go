package measure

import (
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"slices"
)

const (
	whyNoKernel = "no kernel given: the digest covers the firmware alone, and whatever that boots"
	whyEmpty    = "the kernel is an empty file"
	whyNoInitrd = "no initramfs given, or an empty one"
	whyCloud    = "a cloud starts its own firmware and takes no kernel from you: nothing says that its table of hashes is yours"
	whySVSM     = "an SVSM launch has no kernel-hashes page"
	whyLegacy   = "not an SEV-SNP digest: there is no signed report that shows it"
)

var nothing = sha256.Sum256(nil)

// SNP computes the digest of a SEV-SNP launch. Errors wrap one of the
// package's sentinels; with an error there is no digest.
func SNP(cfg Config) (*Result, error) {
	img, err := cfg.snpImage()
	if err != nil {
		return nil, err
	}
	g, err := cfg.guest()
	if err != nil {
		return nil, err
	}
	hashed, hashes := cfg.prepare(img)
	c := hashed.toVCPUs(img, g.profile, hashes)
	v := c.start(img, g)
	if v.extend(cfg.VCPUs); cfg.VCPUs > 1 {
		v.done("other processors", PageVMSA, vmsaGPA, uint64(cfg.VCPUs-1)*PageSize)
		v.contents(v.contentsOther)
	}
	r := &Result{Digest: v.ld, Steps: v.steps, Hashes: hashes, VCPUSig: g.sig, GuestFeatures: g.features}
	r.First, r.Others = v.first, v.other
	if hashes != nil {
		r.Table = uint64(img.HashTableGPA)
	}
	r.Why = cover(hashes, g.profile)
	r.Complete = r.Why == ""
	return r, nil
}

// Prepare gives the same SEV-SNP launch with its files hashed: the firmware's
// chain and hashes in place of kernel and initramfs. Digests of it, with other
// vCPUs or another command line, then cost microseconds. What says how the
// vCPUs start is neither needed nor checked.
func Prepare(cfg Config) (Config, error) {
	img, err := cfg.snpImage()
	if err != nil {
		return Config{}, err
	}
	hashed, _ := cfg.prepare(img)
	return *hashed, nil
}

// snpImage checks what an SNP launch is made of, but its vCPUs.
func (cfg *Config) snpImage() (*Image, error) {
	if err := cfg.noSVSM(); err != nil {
		return nil, err
	}
	img, err := cfg.image()
	if err != nil {
		return nil, err
	}
	if !img.HasMetadata {
		return nil, badImage("no SEV metadata: this build cannot start an SNP guest")
	}
	if !img.HasResetEIP {
		return nil, badImage("no reset block: the start address of further vCPUs is unknown")
	}
	withKernel, err := cfg.hasKernel()
	if err != nil || !withKernel {
		return img, err
	}
	return img, img.canHash(true)
}

// prepare hashes what snpImage has checked. The hashes are nil without a kernel.
func (cfg Config) prepare(img *Image) (*Config, *Hashes) {
	withKernel := cfg.Kernel != nil || cfg.KernelHash != nil
	wait := cfg.hashAsync(withKernel)
	if cfg.FirmwareChain == nil {
		c := &chain{}
		c.normal("firmware", firmwareGPA(cfg.Firmware), cfg.Firmware)
		cfg.FirmwareChain = &c.ld
	}
	hashes := wait()
	if withKernel {
		cfg.Kernel, cfg.KernelHash = nil, &hashes.Kernel
		cfg.Initrd, cfg.InitrdHash = nil, &hashes.Initrd
	}
	return &cfg, hashes
}

// toVCPUs is the chain of a prepared launch up to its first VMSA.
func (cfg *Config) toVCPUs(img *Image, p profile, hashes *Hashes) *chain {
	c := &chain{ld: *cfg.FirmwareChain}
	c.done("firmware", PageNormal, firmwareGPA(cfg.Firmware), uint64(len(cfg.Firmware)))
	c.sections(img, p, hashes)
	return c
}

// vcpuChain is a chain that has reached its VMSAs. A launch with more vCPUs is
// one with fewer, extended.
type vcpuChain struct {
	chain
	first, other  *[PageSize]byte // the VMSAs: the boot processor's, and the rest's
	contentsOther [48]byte
	n             int
}

// start copies c and measures the boot processor.
func (c *chain) start(img *Image, g guest) *vcpuChain {
	v := &vcpuChain{chain: chain{ld: c.ld, steps: slices.Clip(c.steps)}, n: 1}
	v.first = (*[PageSize]byte)(g.real(bspEIP, g.sig, g.features))
	v.other = (*[PageSize]byte)(g.real(img.ResetEIP, g.sig, g.features))
	v.contentsOther = sha512.Sum384(v.other[:])
	v.vmsas("boot processor", v.first, 1)
	return v
}

// extend measures processors until there are n.
func (v *vcpuChain) extend(n int) {
	for ; v.n < n; v.n++ {
		v.page(PageVMSA, vmsaGPA, &v.contentsOther)
	}
}

// SVSM computes the digest of a SEV-SNP launch under an SVSM (COCONUT-SVSM as
// QEMU starts it): firmware, then the SVSM below the variable store, then the
// SVSM's metadata. Every vCPU starts in the SVSM. It is never Complete.
func SVSM(cfg Config) (*Result, error) {
	g, err := cfg.guest()
	if err != nil {
		return nil, err
	}
	if _, err := cfg.image(); err != nil {
		return nil, err
	}
	if g.fixedRDX {
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
	c.sections(svsm, g.profile, nil)
	eip := uint32(base) + svsm.LaunchOffset // base is below 4 GiB
	// The reference tool's vectors have SNPActive alone here, whatever the
	// caller asks for the guest.
	vmsa := (*[PageSize]byte)(g.protected(eip, g.sig, featureSNP))
	c.vmsas("processors", vmsa, cfg.VCPUs)
	return &Result{Digest: c.ld, Steps: c.steps, Why: whySVSM, VCPUSig: g.sig, GuestFeatures: featureSNP, First: vmsa, Others: vmsa}, nil
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
func cover(h *Hashes, p profile) string {
	switch {
	case h == nil:
		return whyNoKernel
	case p.cloud:
		return whyCloud
	case h.Kernel == nothing:
		return whyEmpty
	case h.Initrd == nothing:
		return whyNoInitrd
	}
	return ""
}
