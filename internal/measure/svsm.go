package measure

import "fmt"

// svsmLaunch is a checked launch under an SVSM.
type svsmLaunch struct {
	image *Image // the SVSM's
	base  uint64 // its first GPA, below 4 GiB
}

// SVSM computes the digest of a SEV-SNP launch under an SVSM (COCONUT-SVSM as
// QEMU starts it): firmware, then the SVSM below the variable store, then the
// SVSM's metadata. Every vCPU starts in the SVSM. It is never Complete.
func SVSM(cfg Config) (*Result, error) {
	g, err := cfg.guest()
	if err != nil {
		return nil, err
	}
	l, err := cfg.svsm(g)
	if err != nil {
		return nil, err
	}
	r := l.toVCPUs(&cfg, g.profile).startWith(l.vmsa(g), l.vmsa(g)).result(cfg.VCPUs)
	r.VCPUSig, r.GuestFeatures, r.Why = g.sig, featureSNP, whySVSM
	return r, nil
}

// svsm checks what such a launch is made of.
func (cfg *Config) svsm(g guest) (*svsmLaunch, error) {
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
	img, err := ParseImage(cfg.SVSM)
	if err != nil {
		return nil, fmt.Errorf("SVSM image: %w", err)
	}
	if !img.HasMetadata || !img.HasLaunchOffset {
		return nil, badImage("the SVSM image has no SEV metadata or no entry")
	}
	fw := firmwareGPA(cfg.Firmware)
	if cfg.VarsSize%PageSize != 0 || cfg.VarsSize > fw || fw-cfg.VarsSize < uint64(len(cfg.SVSM)) {
		return nil, fmt.Errorf("%w: variable store of %d bytes: not whole pages, or no place for the SVSM below it", ErrConfig, cfg.VarsSize)
	}
	l := &svsmLaunch{img, fw - cfg.VarsSize - uint64(len(cfg.SVSM))}
	for _, s := range img.Sections {
		if s.end() > l.base {
			return nil, badImage("SVSM section at %#x reaches into the SVSM", s.GPA)
		}
	}
	return l, nil
}

// toVCPUs is the chain up to the first VMSA.
func (l *svsmLaunch) toVCPUs(cfg *Config, p profile) *chain {
	c := &chain{}
	c.normal("firmware", firmwareGPA(cfg.Firmware), cfg.Firmware)
	c.normal("SVSM", l.base, cfg.SVSM)
	c.sections(l.image, p, nil)
	return c
}

// vmsa is every vCPU's. The reference tool's vectors have SNPActive alone here,
// whatever the caller asks for the guest.
func (l *svsmLaunch) vmsa(g guest) *vmsaPage {
	return g.protected(uint32(l.base)+l.image.LaunchOffset, g.sig, featureSNP)
}
