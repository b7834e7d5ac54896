package measure

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// maxVCPUs is KVM's limit (KVM_MAX_VCPUS with the largest build option).
const maxVCPUs = 4096

// CPUID signatures (Fn0000_0001_EAX) of QEMU's EPYC models.
const (
	sigNaples = 0x800f12 // family 17h model 01h stepping 2
	sigRome   = 0x830f10 // family 17h model 31h stepping 0
	sigMilan  = 0xa00f11 // family 19h model 01h stepping 1
	sigGenoa  = 0xa10f10 // family 19h model 11h stepping 0
	sigTurin  = 0xb00f00 // family 1Ah model 00h stepping 0
)

// vcpuTypes are the EPYC models of QEMU up to 11.1, asked of QEMU itself.
var vcpuTypes = map[string]uint32{
	"EPYC": sigNaples, "EPYC-IBPB": sigNaples,
	"EPYC-v1": sigNaples, "EPYC-v2": sigNaples, "EPYC-v3": sigNaples, "EPYC-v4": sigNaples, "EPYC-v5": sigNaples,
	"EPYC-Rome": sigRome, "EPYC-Rome-v1": sigRome, "EPYC-Rome-v2": sigRome, "EPYC-Rome-v3": sigRome,
	"EPYC-Rome-v4": sigRome, "EPYC-Rome-v5": sigRome,
	"EPYC-Milan": sigMilan, "EPYC-Milan-v1": sigMilan, "EPYC-Milan-v2": sigMilan, "EPYC-Milan-v3": sigMilan,
	"EPYC-Milan-v4": sigMilan,
	"EPYC-Genoa":    sigGenoa, "EPYC-Genoa-v1": sigGenoa, "EPYC-Genoa-v2": sigGenoa, "EPYC-Genoa-v3": sigGenoa,
	"EPYC-Turin": sigTurin, "EPYC-Turin-v1": sigTurin, "EPYC-Turin-v2": sigTurin,
}

// VCPUTypes lists the names that Config.VCPUType takes: QEMU's, exact case.
func VCPUTypes() []string { return slices.Sorted(maps.Keys(vcpuTypes)) }

// VCPUSig is the CPUID signature of a QEMU CPU model. The error wraps ErrVCPU.
func VCPUSig(name string) (uint32, error) {
	sig, ok := vcpuTypes[name]
	if !ok {
		return 0, fmt.Errorf("%w: unknown vCPU type %q (known: %s)", ErrVCPU, name, strings.Join(VCPUTypes(), ", "))
	}
	return sig, nil
}

// Signature is the CPUID signature of a family, model and stepping (each the
// full value, as AMD writes them: family 0x19, model 0x11), publication 25481.
func Signature(family, model, stepping uint8) uint32 {
	low, high := uint32(family), uint32(0)
	if family > 0xf {
		low, high = 0xf, uint32(family)-0xf
	}
	return high<<20 | uint32(model>>4)<<16 | low<<8 | uint32(model&0xf)<<4 | uint32(stepping&0xf)
}

// vcpu returns the number of vCPUs and the signature that enters the VMSA.
func (cfg *Config) vcpu(p profile) (sig uint32, err error) {
	if cfg.VCPUs < 1 || cfg.VCPUs > maxVCPUs {
		return 0, fmt.Errorf("%w: %d vCPUs, want 1 to %d", ErrVCPU, cfg.VCPUs, maxVCPUs)
	}
	sig = cfg.VCPUSig
	if cfg.VCPUType != "" {
		named, err := VCPUSig(cfg.VCPUType)
		if err != nil {
			return 0, err
		}
		if sig != 0 && sig != named {
			return 0, fmt.Errorf("%w: vCPU type %s has signature %#x, not %#x", ErrVCPU, cfg.VCPUType, named, sig)
		}
		sig = named
	}
	if p.fixedRDX {
		return 0, nil
	}
	if sig == 0 {
		return 0, fmt.Errorf("%w: neither vCPU type nor signature given", ErrVCPU)
	}
	return sig, nil
}
