package measure

import (
	"crypto/sha256"
	"fmt"
)

// SEV computes the digest of a SEV launch: SHA-256 over the firmware and the
// table of hashes. vCPUs do not enter it.
func SEV(cfg Config) (*LegacyResult, error) { return cfg.legacy(false) }

// SEVES computes the digest of a SEV-ES launch: as SEV, then the VMSAs, whose
// SEV_FEATURES are 0.
func SEVES(cfg Config) (*LegacyResult, error) { return cfg.legacy(true) }

func (cfg Config) legacy(es bool) (*LegacyResult, error) {
	var p profile
	var sig uint32
	img, err := cfg.image()
	if err != nil {
		return nil, err
	}
	if es {
		if p, err = profileOf(cfg.VMM, cfg.Host); err != nil {
			return nil, err
		}
		if sig, err = cfg.vcpu(p); err != nil {
			return nil, err
		}
		if !img.HasResetEIP {
			return nil, badImage("no reset block: the start address of further vCPUs is unknown")
		}
	}
	if cfg.FirmwareChain != nil {
		return nil, fmt.Errorf("%w: a precomputed firmware chain is for SNP only", ErrConfig)
	}
	if err := cfg.noSVSM(); err != nil {
		return nil, err
	}
	withKernel, err := cfg.hasKernel()
	if err != nil {
		return nil, err
	}
	if withKernel {
		if err := img.canHash(false); err != nil {
			return nil, err
		}
	}
	wait := cfg.hashAsync(withKernel)
	h := sha256.New()
	h.Write(cfg.Firmware)
	r := &LegacyResult{Hashes: wait(), Why: whyLegacy}
	if r.Hashes != nil {
		t := r.Hashes.Table()
		h.Write(t[:])
	}
	if es {
		h.Write(p.real(bspEIP, sig, 0)[:])
		ap := p.real(img.ResetEIP, sig, 0)
		for range cfg.VCPUs - 1 {
			h.Write(ap[:])
		}
	}
	h.Sum(r.Digest[:0])
	return r, nil
}
