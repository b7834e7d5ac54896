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
	r := &LegacyResult{Why: whyLegacy, VCPUSig: sig}
	h := sha256.New()
	part := func(what string, data []byte, n int) {
		for range n {
			h.Write(data)
		}
		r.Parts = append(r.Parts, Part{What: what, Size: uint64(n) * uint64(len(data)), After: [32]byte(h.Sum(nil))})
	}
	part("firmware", cfg.Firmware, 1)
	if r.Hashes = wait(); r.Hashes != nil {
		t := r.Hashes.Table()
		part("table of hashes", t[:], 1)
	}
	if es {
		r.First, r.Others = (*[PageSize]byte)(p.real(bspEIP, sig, 0)), (*[PageSize]byte)(p.real(img.ResetEIP, sig, 0))
		part("boot processor", r.First[:], 1)
		if cfg.VCPUs > 1 {
			part("other processors", r.Others[:], cfg.VCPUs-1)
		}
	}
	h.Sum(r.Digest[:0])
	return r, nil
}
