package measure

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// VMMs: who starts the VM and so fills its VMSAs.
const (
	QEMU = "qemu" // QEMU with KVM
	EC2  = "ec2"  // Amazon EC2
	GCE  = "gce"  // Google Compute Engine
)

// Host generations for QEMU with KVM. The digest depends on the host's kernel
// because KVM copies its idea of the registers into the VMSA.
const (
	// HostLinux69 is Linux 6.9 and later: MXCSR and FCW have their reset
	// values, guest features default to 0x1. The default.
	HostLinux69 = "linux-6.9"
	// HostLinux68 is Linux before 6.9, and the SNP host trees of that time:
	// MXCSR and FCW are zero, guest features default to 0x21 (DebugSwap on).
	HostLinux68 = "linux-6.8"
	// HostCR0NE is HostLinux69 with CR0.NE set in the VMSAs. At least one other
	// tool expects that; no host was seen here that does it.
	HostCR0NE = "cr0-ne"
	// HostSVSMFCW is HostLinux69, and under an SVSM FCW has its reset value too.
	// KVM takes MXCSR and FCW from one reset state, so that is likely; the
	// reference tool has FCW 0 there, and HostLinux69 follows it.
	HostSVSMFCW = "svsm-fcw"
)

const (
	featureSNP       = 0x1  // SEV_FEATURES bit 0, SNPActive
	featureDebugSwap = 0x20 // bit 5, DebugVirtualization
)

// profile is how a VMM (and a host's KVM) fills the VMSAs of a launch.
type profile struct {
	cloud         bool // no kernel of the user's is started, so none is covered
	bspCS, ss, tr uint16
	gpat          uint64
	fixedRDX      bool // rdx is rdx, else the CPUID signature
	rdx           uint64
	mxcsr         uint32
	fcw           uint16
	svsmFCW       uint16
	cr0           uint64 // bits on top of CR0.ET
	features      uint64 // default guest features
	secMemory     PageType
	cpuidLast     bool // CPUID pages after all other sections
}

const (
	resetPAT   = 0x0007040600070406
	resetMXCSR = 0x1f80
	resetFCW   = 0x37f
	cr0ET      = 0x10
	cr0NE      = 0x20
)

var qemuHosts = map[string]profile{
	HostLinux69: {bspCS: 0x9b, ss: 0x93, tr: 0x8b, gpat: resetPAT, mxcsr: resetMXCSR, fcw: resetFCW, features: featureSNP, secMemory: PageZero},
	HostLinux68: {bspCS: 0x9b, ss: 0x93, tr: 0x8b, gpat: resetPAT, features: featureSNP | featureDebugSwap, secMemory: PageZero},
	HostSVSMFCW: {bspCS: 0x9b, ss: 0x93, tr: 0x8b, gpat: resetPAT, mxcsr: resetMXCSR, fcw: resetFCW, svsmFCW: resetFCW, features: featureSNP, secMemory: PageZero},
	HostCR0NE:   {bspCS: 0x9b, ss: 0x93, tr: 0x8b, gpat: resetPAT, mxcsr: resetMXCSR, fcw: resetFCW, cr0: cr0NE, features: featureSNP, secMemory: PageZero},
}

var clouds = map[string]profile{
	EC2: {cloud: true, bspCS: 0x9a, ss: 0x92, tr: 0x83, gpat: resetPAT, fixedRDX: true, rdx: 0x600, features: featureSNP, secMemory: PageZero, cpuidLast: true},
	GCE: {cloud: true, bspCS: 0x9b, ss: 0x93, tr: 0x8b, gpat: 0x00070106, fixedRDX: true, rdx: 0x600, features: featureSNP, secMemory: PageUnmeasured},
}

// VMMs lists the names that Config.VMM takes.
func VMMs() []string { return []string{QEMU, EC2, GCE} }

// Hosts lists the names that Config.Host takes, for QEMU.
func Hosts() []string { return slices.Sorted(maps.Keys(qemuHosts)) }

// HostName is the host profile that the launch is computed for; "" is a cloud's.
func (cfg *Config) HostName() string {
	if cfg.Host == "" && (cfg.VMM == "" || cfg.VMM == QEMU) {
		return HostLinux69
	}
	return cfg.Host
}

// profileOf finds the profile; an empty VMM is QEMU, an empty host Linux 6.9.
func profileOf(vmm, host string) (profile, error) {
	if vmm == "" || vmm == QEMU {
		if host == "" {
			host = HostLinux69
		}
		p, ok := qemuHosts[host]
		if !ok {
			return p, fmt.Errorf("%w: unknown host profile %q (known: %s)", ErrConfig, host, strings.Join(Hosts(), ", "))
		}
		return p, nil
	}
	p, ok := clouds[vmm]
	if !ok {
		return p, fmt.Errorf("%w: unknown VMM %q (known: %s)", ErrConfig, vmm, strings.Join(VMMs(), ", "))
	}
	if host != "" {
		return p, fmt.Errorf("%w: host profile %q is for QEMU, not for %s", ErrConfig, host, vmm)
	}
	return p, nil
}
