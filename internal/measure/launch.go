package measure

import (
	"crypto/sha256"
	"crypto/sha512"
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
	r := v.result(cfg.VCPUs)
	r.Hashes, r.VCPUSig, r.GuestFeatures = hashes, g.sig, g.features
	if hashes != nil {
		r.Table = uint64(img.HashTableGPA)
	}
	r.Why = cover(hashes, g.profile, cfg.UKI)
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
	return c.startWith(g.real(bspEIP, g.sig, g.features), g.real(img.ResetEIP, g.sig, g.features))
}

func (c *chain) startWith(first, other *vmsaPage) *vcpuChain {
	v := &vcpuChain{chain: chain{ld: c.ld, steps: slices.Clip(c.steps)}, n: 1}
	v.first, v.other = (*[PageSize]byte)(first), (*[PageSize]byte)(other)
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

// result is the launch with n vCPUs.
func (v *vcpuChain) result(n int) *Result {
	if v.extend(n); n > 1 {
		v.done("other processors", PageVMSA, vmsaGPA, uint64(n-1)*PageSize)
		v.contents(v.contentsOther)
	}
	return &Result{Digest: v.ld, Steps: v.steps, First: v.first, Others: v.other}
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
// nothing. The command line is always in the table, an empty one too; a unified
// kernel image has its own, and its own initramfs.
func cover(h *Hashes, p profile, uki bool) string {
	switch {
	case h == nil:
		return whyNoKernel
	case p.cloud:
		return whyCloud
	case h.Kernel == nothing:
		return whyEmpty
	case h.Initrd == nothing && !uki:
		return whyNoInitrd
	}
	return ""
}
