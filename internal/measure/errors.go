package measure

import "errors"

// Sentinels that every error of this package wraps, one each. None of them
// comes with a digest.
var (
	// ErrFirmware: the firmware image, or the SVSM image, is malformed or has
	// no SEV metadata where the mode needs it.
	ErrFirmware = errors.New("firmware not measurable")
	// ErrNoKernelHashes: a kernel is given and the firmware has no table or no
	// page to hold its hash, so that the digest would not cover it.
	ErrNoKernelHashes = errors.New("firmware cannot hash a kernel")
	// ErrVCPU: unknown vCPU type, no signature, or an impossible number.
	ErrVCPU = errors.New("vCPU description not usable")
	// ErrConfig: the rest of the configuration contradicts itself.
	ErrConfig = errors.New("launch description not usable")
	// ErrIGVM: the IGVM file is not for SEV-SNP, or may be loaded in more than
	// one way. A malformed one is igvm.ErrFile.
	ErrIGVM = errors.New("IGVM file not measurable")
)
