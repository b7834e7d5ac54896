package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"

	"attestbox/internal/applet"
	"attestbox/internal/code"
	"attestbox/internal/measure"
)

// syntheticName stands for the synthetic firmware where a file is named.
const syntheticName = "synthetic"

const measureExample = "mkimage measure -ovmf OVMF.amdsev.fd -kernel vmlinuz -initrd initramfs.img -append 'console=ttyS0' -vcpus 2 -vcpu-type EPYC-Milan"

// The modes.
const (
	modeSNP   = "snp"
	modeSVSM  = "snp:svsm"
	modeChain = "snp:ovmf-hash"
	modeSEVES = "seves"
	modeSEV   = "sev"
)

// modes are the names that they go by, in lower case.
var modes = map[string]string{
	"snp": modeSNP, "sev-snp": modeSNP,
	"snp:svsm": modeSVSM, "sev-snp:svsm": modeSVSM, "sev-snp-svsm": modeSVSM,
	"snp:ovmf-hash": modeChain,
	"seves":         modeSEVES, "sev-es": modeSEVES,
	"sev": modeSEV,
}

// measureFlags is the command line of `mkimage measure`. Where the public tool
// sev-snp-measure has a flag, it has the same name and meaning here.
type measureFlags struct {
	mode, ovmf, kernel, initrd, cmdline, vcpuType, vcpuSig          string
	vmm, host, svsm, varsFile, chain, format, matrix, against, igvm string
	vcpus, family, model, stepping                                  int
	features                                                        string
	varsSize                                                        uint64
	json, explain, dumpVMSA                                         bool

	given map[string]bool
	axes  measure.Axes

	foreign bool // -snp-ovmf-hash is not that of the firmware
}

func (f *measureFlags) register(fs *applet.FlagSet) {
	fs.StringVar(&f.mode, "mode", modeSNP, "snp, snp:svsm, snp:ovmf-hash (the firmware's part alone), seves, sev")
	fs.StringVar(&f.ovmf, "ovmf", "", "firmware `file` (default: a synthetic one, for the simulator)")
	fs.StringVar(&f.kernel, "kernel", "", "kernel `file`, as given to QEMU's -kernel")
	fs.StringVar(&f.initrd, "initrd", "", "initramfs `file`, as given to -initrd")
	fs.StringVar(&f.cmdline, "append", "", "kernel command `line`, as given to -append")
	fs.IntVar(&f.vcpus, "vcpus", 1, "number of vCPUs")
	fs.StringVar(&f.vcpuType, "vcpu-type", "", "QEMU's CPU `model`, for example EPYC-Milan")
	fs.StringVar(&f.vcpuSig, "vcpu-sig", "", "CPUID `signature` instead of -vcpu-type, for example 0xa00f11")
	fs.IntVar(&f.family, "vcpu-family", 0, "CPU `family` instead of -vcpu-type, for example 25")
	fs.IntVar(&f.model, "vcpu-model", 0, "CPU `model`, with -vcpu-family")
	fs.IntVar(&f.stepping, "vcpu-stepping", 0, "CPU `stepping`, with -vcpu-family")
	fs.StringVar(&f.features, "guest-features", "", "SEV_FEATURES of the vCPUs (default: that of -host, 0x1)")
	fs.StringVar(&f.vmm, "vmm", measure.QEMU, "who starts the VM: "+strings.Join(measure.VMMs(), ", "))
	fs.StringVar(&f.vmm, "vmm-type", measure.QEMU, "the same as -vmm")
	fs.StringVar(&f.host, "host", "", "host generation for qemu: "+strings.Join(measure.Hosts(), ", ")+" (default "+measure.HostLinux69+")")
	fs.StringVar(&f.svsm, "svsm", "", "SVSM image `file`, for -mode snp:svsm")
	fs.Uint64Var(&f.varsSize, "vars-size", 0, "`bytes` of the variable store, for -mode snp:svsm")
	fs.StringVar(&f.varsFile, "vars-file", "", "variable store `file`, whose size is taken, instead of -vars-size")
	fs.StringVar(&f.igvm, "igvm", "", "IGVM `file` instead of all that; its digest covers no kernel")
	fs.StringVar(&f.chain, "snp-ovmf-hash", "", "`hex` from -mode snp:ovmf-hash, instead of hashing the firmware; incomplete if it is not that of -ovmf")
	fs.StringVar(&f.matrix, "matrix", "", "print a table of digests for every combination of `axes`, such as\n"+measure.AxesSyntax)
	fs.StringVar(&f.against, "against", "", "compare with an attestation `report` (a file, raw or in hex, or a digest's 96 hex digits) and say\nwhich input differs")
	fs.BoolVar(&f.dumpVMSA, "dump-vmsa", false, "write each vCPU's measured page to vmsa0.bin, vmsa1.bin, ...")
	fs.StringVar(&f.format, "output-format", "hex", "hex or base64")
	fs.BoolVar(&f.json, "json", false, "print everything as JSON")
	fs.BoolVar(&f.explain, "explain", false, "list on stderr every measured range and what it puts in (with -json: in the JSON)")
}

// runMeasure is `mkimage measure`: the launch digest of a VM, before it is
// launched. The digest is the only thing on stdout.
func runMeasure(ctx context.Context, env *applet.Env, args []string) error {
	f := measureFlags{given: make(map[string]bool)}
	fs := env.Flags("[flags]", measureExample)
	f.register(fs)
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fs.Usage("unexpected argument %q", fs.Arg(0))
	}
	fs.Visit(func(g *flag.Flag) { f.given[g.Name] = true })
	if f.given["igvm"] {
		return f.runIGVM(env, fs)
	}
	cfg, mode, err := f.config(fs)
	if err != nil {
		return err
	}
	if f.ovmf == "" {
		fmt.Fprintf(env.Stderr, "%s: no -ovmf: measuring the synthetic firmware; only the simulator reports this digest\n", env.Name)
	}
	var report *reported
	if f.against != "" {
		if report, err = readReported(env, f.against); err != nil {
			return err
		}
	}
	if err := f.load(ctx, cfg, mode); err != nil {
		return explainMeasure(fs, err)
	}
	if f.matrix != "" {
		return explainMeasure(fs, f.printMatrix(env, cfg))
	}
	out := &measured{Mode: mode, Firmware: f.ovmf}
	if synthetic(cfg.Firmware) { // under a file's name, too
		out.Firmware = syntheticName
	}
	if err := out.compute(mode, cfg, f.json); err != nil {
		return explainMeasure(fs, err)
	}
	out.Complete, out.Why = f.covers(out.Complete, out.Why)
	if report != nil {
		if out.Against, err = f.compare(cfg, report); err != nil {
			return explainMeasure(fs, err)
		}
	}
	if f.dumpVMSA {
		if err := out.dump(cfg.VCPUs); err != nil {
			return err
		}
	}
	return f.print(env, out)
}

// covers takes back completeness where the firmware's part is a number only: it
// may be that of firmware which compares no hashes.
func (f *measureFlags) covers(complete bool, why string) (bool, string) {
	if complete && f.foreign {
		return false, "-snp-ovmf-hash is not that of the firmware given: which firmware it is of was not seen"
	}
	return complete, why
}

// synthetic says that these bytes are the synthetic firmware, whatever it is
// called.
func synthetic(firmware []byte) bool { return bytes.Equal(firmware, measure.SyntheticFirmware()) }

// config turns flags into a launch description without reading any file.
func (f *measureFlags) config(fs *applet.FlagSet) (*measure.Config, string, error) {
	mode, ok := modes[strings.ToLower(f.mode)]
	switch {
	case !ok:
		return nil, "", fs.Usage("unknown -mode %q", f.mode)
	case f.format != "hex" && f.format != "base64":
		return nil, "", fs.Usage("unknown -output-format %q", f.format)
	case f.kernel == "" && (f.given["initrd"] || f.given["append"]):
		return nil, "", fs.Usage("-initrd and -append are measured only together with -kernel")
	case (mode == modeSVSM) != (f.svsm != ""):
		return nil, "", fs.Usage("-mode snp:svsm and -svsm need each other")
	case mode == modeSVSM && f.ovmf == "":
		return nil, "", fs.Usage("-mode snp:svsm needs -ovmf")
	case f.given["vars-size"] && f.given["vars-file"]:
		return nil, "", fs.Usage("-vars-size and -vars-file exclude each other")
	case f.matrix != "" && (mode != modeSNP || f.explain || f.dumpVMSA):
		return nil, "", fs.Usage("-matrix is for -mode snp, without -explain and -dump-vmsa")
	case f.against != "" && (mode != modeSNP && mode != modeSVSM || f.matrix != ""):
		return nil, "", fs.Usage("-against is for -mode snp and snp:svsm, without -matrix")
	case f.dumpVMSA && (mode == modeSEV || mode == modeChain):
		return nil, "", fs.Usage("-dump-vmsa: no vCPU is measured in -mode %s", mode)
	case f.chain != "" && mode != modeSNP:
		return nil, "", fs.Usage("-snp-ovmf-hash is for -mode snp")
	case f.given["vmm"] && f.given["vmm-type"]:
		return nil, "", fs.Usage("-vmm and -vmm-type are the same flag")
	}
	cfg := &measure.Config{Append: f.cmdline, HasKernel: f.kernel != "", VCPUs: f.vcpus, VCPUType: f.vcpuType,
		VMM: strings.ToLower(f.vmm), Host: f.host, VarsSize: f.varsSize}
	var err error
	if cfg.VCPUSig, err = f.signature(fs); err != nil {
		return nil, "", err
	}
	if f.given["guest-features"] {
		if cfg.GuestFeatures, err = strconv.ParseUint(f.features, 0, 64); err != nil || cfg.GuestFeatures == 0 {
			return nil, "", fs.Usage("-guest-features %q is not a 64-bit number with bit 0 (SNPActive)", f.features)
		}
	}
	if f.chain != "" {
		raw, err := hex.DecodeString(f.chain)
		if err != nil || len(raw) != 48 {
			return nil, "", fs.Usage("-snp-ovmf-hash wants 96 hex digits")
		}
		cfg.FirmwareChain = (*[48]byte)(raw)
	}
	if f.matrix != "" {
		if f.axes, err = measure.ParseAxes(f.matrix); err != nil {
			return nil, "", fs.Usage("%v", err)
		}
	}
	return cfg, mode, nil
}

// signature is what -vcpu-sig, or -vcpu-family and its two companions, say; 0
// with neither.
func (f *measureFlags) signature(fs *applet.FlagSet) (uint32, error) {
	var sig uint64
	if f.given["vcpu-sig"] {
		var err error
		if sig, err = strconv.ParseUint(f.vcpuSig, 0, 32); err != nil || sig == 0 {
			return 0, fs.Usage("-vcpu-sig %q is not a 32-bit number above 0", f.vcpuSig)
		}
	}
	if !f.given["vcpu-family"] && !f.given["vcpu-model"] && !f.given["vcpu-stepping"] {
		return uint32(sig), nil
	}
	if !f.given["vcpu-family"] || !f.given["vcpu-model"] || !f.given["vcpu-stepping"] {
		return 0, fs.Usage("-vcpu-family, -vcpu-model and -vcpu-stepping need each other")
	}
	if f.family < 1 || f.family > 0xff || f.model < 0 || f.model > 0xff || f.stepping < 0 || f.stepping > 0xf {
		return 0, fs.Usage("no CPU has family %d, model %d, stepping %d", f.family, f.model, f.stepping)
	}
	fms := measure.Signature(uint8(f.family), uint8(f.model), uint8(f.stepping))
	if sig != 0 && uint32(sig) != fms {
		return 0, fs.Usage("-vcpu-sig %#x is not family %d, model %d, stepping %d, which is %#x", sig, f.family, f.model, f.stepping, fms)
	}
	return fms, nil
}

// varsBytes is the size of the variable store.
func (f *measureFlags) varsBytes() (uint64, error) {
	if f.varsFile == "" {
		return f.varsSize, nil
	}
	st, err := os.Stat(f.varsFile)
	if err != nil {
		return 0, fmt.Errorf("measuring: %w", err)
	}
	return uint64(st.Size()), nil
}

// explainMeasure gives an error of the measure package its code and hint.
func explainMeasure(fs *applet.FlagSet, err error) error {
	switch {
	case errors.Is(err, measure.ErrNoKernelHashes):
		return applet.WithHint(applet.Refused(code.MeasureNoHashes, err),
			"use edk2's AmdSevX64 build (Debian: package ovmf-amdsev, file OVMF.amdsev.fd); without -kernel only the firmware is measured")
	case errors.Is(err, measure.ErrFirmware):
		return applet.WithHint(applet.Refused(code.MeasureFirmware, err),
			"SEV-SNP needs an edk2 build with SEV metadata, for example OVMF.amdsev.fd of Debian's ovmf-amdsev")
	case errors.Is(err, measure.ErrVCPU), errors.Is(err, measure.ErrConfig):
		return fs.Usage("%v", err)
	}
	return err
}
