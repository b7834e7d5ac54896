package measure

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"sync"
)

// Config describes a launch.
type Config struct {
	Firmware []byte // the image that ends at 4 GiB; required

	// FirmwareChain is the digest after the firmware's pages, from
	// FirmwareChain, so that they need not be hashed again. SNP only. Firmware
	// is still needed for its tables; that both belong together is the
	// caller's word.
	FirmwareChain *[48]byte

	// The kernel, as the whole file or as its SHA-256, never both. nil and nil
	// is a launch without -kernel; a non-nil empty slice is an empty file.
	// HasKernel only guards against a forgotten one: with neither it fails.
	Kernel     []byte
	KernelHash *[32]byte
	HasKernel  bool
	UKI        bool // the kernel is what the function UKI says true of
	// The initramfs, in the same way.
	Initrd     []byte
	InitrdHash *[32]byte
	Append     string // kernel command line, without a NUL

	VCPUs    int
	VCPUType string // QEMU's name, or
	VCPUSig  uint32 // the CPUID signature; not needed for EC2 and GCE

	GuestFeatures uint64 // SEV_FEATURES of the VMSA; 0 is the profile's default
	VMM           string // QEMU (default), EC2, GCE
	Host          string // host profile for QEMU, default HostLinux69

	SVSM     []byte // SVSM image, for SVSM only
	VarsSize uint64 // bytes of the variable store between SVSM and firmware
}

// Result is a launch digest and what it covers.
type Result struct {
	Digest [48]byte // MEASUREMENT, as the report will show it
	Steps  []Step   // every range in the order of measuring
	Hashes *Hashes  // what the kernel-hashes page holds; nil without a kernel
	Table  uint64   // GPA of the table of hashes; 0 without a kernel

	// What entered the VMSAs. VCPUSig is 0 where the profile fixes RDX.
	VCPUSig       uint32
	GuestFeatures uint64
	First, Others *[PageSize]byte // the boot processor's VMSA, and every other's

	// Complete: kernel, initramfs and command line are all covered by a
	// kernel-hashes page. If not, Why says what is missing, and no claim may be
	// made of the digest.
	Complete bool
	Why      string
}

// LegacyResult is the launch digest of SEV and SEV-ES: SHA-256 over what was
// loaded. It is never complete: those platforms have no signed report.
type LegacyResult struct {
	Digest        [32]byte
	Parts         []Part // what was hashed, in that order
	Hashes        *Hashes
	VCPUSig       uint32          // SEV-ES: as in Result
	First, Others *[PageSize]byte // SEV-ES: as in Result
	Why           string
}

// Part is one piece of what a LegacyResult's digest is taken over.
type Part struct {
	What  string
	Size  uint64
	After [32]byte // the digest if it ended here
}

func firmwareGPA(firmware []byte) uint64 { return 1<<32 - uint64(len(firmware)) }

// guest is how the vCPUs of an SNP launch start.
type guest struct {
	profile
	sig      uint32
	features uint64
}

func (cfg *Config) guest() (g guest, err error) {
	if g.profile, err = profileOf(cfg.VMM, cfg.Host); err != nil {
		return g, err
	}
	if g.sig, err = cfg.vcpu(g.profile); err != nil {
		return g, err
	}
	if g.features = cfg.GuestFeatures; g.features == 0 {
		g.features = g.profile.features
	}
	if g.features&featureSNP == 0 {
		return g, fmt.Errorf("%w: guest features %#x lack SNPActive (bit 0)", ErrConfig, g.features)
	}
	return g, nil
}

func (cfg *Config) image() (*Image, error) {
	if cfg.Firmware == nil {
		return nil, fmt.Errorf("%w: no firmware given", ErrConfig)
	}
	return ParseImage(cfg.Firmware)
}

func (cfg *Config) noSVSM() error {
	if cfg.SVSM != nil || cfg.VarsSize != 0 {
		return fmt.Errorf("%w: an SVSM or its variable store given for a launch without one", ErrConfig)
	}
	return nil
}

// hasKernel says whether a kernel is measured, and refuses halves.
func (cfg *Config) hasKernel() (bool, error) {
	given := cfg.Kernel != nil || cfg.KernelHash != nil
	switch {
	case cfg.Kernel != nil && cfg.KernelHash != nil, cfg.Initrd != nil && cfg.InitrdHash != nil:
		return false, fmt.Errorf("%w: kernel or initramfs given both as bytes and as a hash", ErrConfig)
	case cfg.HasKernel && !given:
		return false, fmt.Errorf("%w: a kernel is announced and not given", ErrConfig)
	case !given && (cfg.Initrd != nil || cfg.InitrdHash != nil || cfg.Append != ""):
		return false, fmt.Errorf("%w: initramfs or command line given without a kernel would not be measured", ErrConfig)
	case strings.ContainsRune(cfg.Append, 0):
		return false, fmt.Errorf("%w: the command line contains a NUL", ErrConfig)
	}
	return given, nil
}

// canHash checks that the firmware takes a table of hashes; for SNP it also
// needs the section whose page holds it.
func (img *Image) canHash(snp bool) error {
	if !img.HasHashTable || img.HashTableGPA == 0 {
		return fmt.Errorf("%w: its footer names no table of hashes, so a kernel would start unmeasured", ErrNoKernelHashes)
	}
	if img.HashTableSize < hashTableSize {
		return badImage("table of hashes of %d bytes, want %d", img.HashTableSize, hashTableSize)
	}
	if !snp {
		return nil
	}
	s, ok := img.section(SectionKernelHashes)
	if !ok {
		return fmt.Errorf("%w: its SEV metadata has no kernel-hashes section", ErrNoKernelHashes)
	}
	if s.GPA != img.HashTableGPA&^(PageSize-1) || img.HashTableGPA%PageSize > PageSize-hashTableSize {
		return badImage("table of hashes at %#x is not inside the kernel-hashes page at %#x", img.HashTableGPA, s.GPA)
	}
	return nil
}

// hashAsync hashes kernel and initramfs beside the caller's own work; the
// returned function waits. Without a kernel it returns nil.
func (cfg *Config) hashAsync(withKernel bool) func() *Hashes {
	if !withKernel {
		return func() *Hashes { return nil }
	}
	h := &Hashes{Initrd: nothing, Cmdline: HashCmdline(cfg.Append)}
	var wg sync.WaitGroup
	if cfg.InitrdHash != nil {
		h.Initrd = *cfg.InitrdHash
	} else if len(cfg.Initrd) > 0 {
		wg.Go(func() { h.Initrd = sha256.Sum256(cfg.Initrd) })
	}
	return func() *Hashes {
		if cfg.KernelHash != nil {
			h.Kernel = *cfg.KernelHash
		} else {
			h.Kernel = sha256.Sum256(cfg.Kernel)
		}
		wg.Wait()
		return h
	}
}
