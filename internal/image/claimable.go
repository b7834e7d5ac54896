package image

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"path/filepath"

	"attestbox/internal/applet"
	"attestbox/internal/code"
	"attestbox/internal/measure"
)

// Claimable is Inspect for a digest that is to be trusted, registered or
// launched: it refuses, with code.MeasurementIncomplete, a folder whose files
// are not those of its record, a debug image, and a digest that does not cover
// kernel, initramfs and command line. There is no way around it. dir may name
// the folder's image.json.
func Claimable(dir string, firmware []byte) (*Report, error) {
	if filepath.Base(dir) == RecordName {
		dir = filepath.Dir(dir)
	}
	refuse := func(format string, a ...any) (*Report, error) {
		return nil, applet.Refused(code.MeasurementIncomplete, fmt.Errorf("image %q: "+format, append([]any{dir}, a...)...))
	}
	r, err := Inspect(dir, firmware)
	switch {
	case errors.Is(err, ErrNoFirmware):
		_, err = refuse("%w", err)
		return nil, applet.WithHint(err, "name the firmware file with -ovmf")
	case err != nil:
		return nil, applet.WithHint(fmt.Errorf("image %q: %w", dir, err), "make the folder with: mkimage build -out DIR ...")
	case r.Debug || r.Record.Debug:
		return refuse("it has a debug shell and must never be trusted")
	case len(r.Mismatches) > 0:
		_, err = refuse("its files are not what its record says: %s", r.Mismatches[0])
		return nil, applet.WithHint(err, "build it again")
	case r.Digest == "":
		return refuse("it has no launch digest")
	case !r.Record.Measurement.Complete: // compared with the recomputed one
		return refuse("its launch digest is incomplete: %s", r.Record.Measurement.Why)
	}
	return r, nil
}

// Synthetic says that the digest is over the synthetic firmware, which has tables
// and no code: nothing in it compares the hashes. The record may name the file of
// it as any other firmware.
func (r *Report) Synthetic() bool {
	m := r.Record.Measurement
	return m.Synthetic || m.Firmware == outputOf(measure.SyntheticFirmware())
}

// Launch describes the launch that was measured, for digests of the same files
// launched in another way. firmware is nil for the synthetic one.
func (r *Report) Launch(firmware []byte) measure.Config {
	if firmware == nil {
		firmware = measure.SyntheticFirmware()
	}
	m := r.Record.Measurement
	return measure.Config{Firmware: firmware, HasKernel: true, KernelHash: &r.KernelHash, InitrdHash: &r.InitrdHash, Append: r.Cmdline,
		VCPUs: m.VCPUs, VCPUType: m.VCPUType, GuestFeatures: m.GuestFeatures, VMM: m.VMM}
}

// ClaimableUKI refuses what Claimable refuses, for the folder's unified kernel
// image, and gives the digest of its launch.
func (r *Report) ClaimableUKI() (digest string, err error) {
	u := r.Record.UKI
	switch {
	case u == nil, r.UKIDigest == "":
		return "", applet.WithHint(applet.Refused(code.MeasurementIncomplete, errors.New("the image has no unified kernel image")), "build it with -uki")
	case !u.Complete: // compared with the recomputed one
		return "", applet.Refused(code.MeasurementIncomplete, fmt.Errorf("the launch digest of %s is incomplete: %s", UKIName, u.Why))
	}
	return r.UKIDigest, nil
}

// LaunchUKI is Launch with the unified kernel image as the kernel, and neither
// initramfs nor command line beside it.
func (r *Report) LaunchUKI(firmware []byte) measure.Config {
	cfg := r.Launch(firmware)
	empty := sha256.Sum256(nil)
	cfg.UKI, cfg.KernelHash, cfg.InitrdHash, cfg.Append = true, r.UKIHash, &empty, ""
	return cfg
}
