package main

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"

	"attestbox/internal/applet"
	"attestbox/internal/code"
	"attestbox/internal/measure"
)

// maxFirmwareFile bounds what is read of a firmware or SVSM image, in bytes.
const maxFirmwareFile = 64 << 20

// syntheticName stands for the synthetic firmware where a file is named.
const syntheticName = "synthetic"

const measureExample = "mkimage measure -ovmf OVMF.amdsev.fd -kernel vmlinuz -initrd initramfs.img -append 'console=ttyS0' -vcpus 2 -vcpu-type EPYC-Milan"

// The modes, each with the names that it goes by.
const (
	modeSNP   = "snp"
	modeSVSM  = "snp:svsm"
	modeChain = "snp:ovmf-hash"
	modeSEVES = "seves"
	modeSEV   = "sev"
)

var modes = map[string]string{
	"snp": modeSNP, "sev-snp": modeSNP,
	"snp:svsm": modeSVSM, "sev-snp-svsm": modeSVSM,
	"snp:ovmf-hash": modeChain,
	"seves":         modeSEVES, "sev-es": modeSEVES,
	"sev": modeSEV,
}

// measureFlags is the command line of `mkimage measure`.
type measureFlags struct {
	mode, ovmf, kernel, initrd, cmdline, vcpuType, vcpuSig string
	vmm, host, svsm, chain, format                         string
	vcpus                                                  int
	features                                               string
	varsSize                                               uint64
	json, explain                                          bool
}

// measured is the answer, as -json prints it.
type measured struct {
	Mode           string         `json:"mode"`
	Digest         string         `json:"digest"` // hex
	Complete       bool           `json:"complete"`
	Why            string         `json:"why,omitempty"`
	Firmware       string         `json:"firmware"` // path, or "synthetic"
	FirmwareSHA256 string         `json:"firmware_sha256"`
	KernelSHA256   string         `json:"kernel_sha256,omitempty"`
	InitrdSHA256   string         `json:"initrd_sha256,omitempty"`
	CmdlineSHA256  string         `json:"cmdline_sha256,omitempty"`
	Append         *string        `json:"append,omitempty"`
	VCPUs          int            `json:"vcpus,omitempty"`
	VCPUType       string         `json:"vcpu_type,omitempty"`
	VCPUSig        string         `json:"vcpu_sig,omitempty"`
	GuestFeatures  string         `json:"guest_features,omitempty"`
	VMM            string         `json:"vmm,omitempty"`
	Host           string         `json:"host,omitempty"`
	Steps          []measuredStep `json:"steps,omitempty"` // with -explain
}

type measuredStep struct {
	What  string `json:"what"`
	Page  string `json:"page"`
	GPA   string `json:"gpa"`
	Size  uint64 `json:"size"`
	After string `json:"after"`
}

// runMeasure is `mkimage measure`: the launch digest of a VM, before it is
// launched. The digest is the only thing on stdout.
func runMeasure(ctx context.Context, env *applet.Env, args []string) error {
	var f measureFlags
	fs := env.Flags("[flags]", measureExample)
	fs.StringVar(&f.mode, "mode", modeSNP, "snp, snp:svsm, snp:ovmf-hash (the firmware's part alone), seves, sev")
	fs.StringVar(&f.ovmf, "ovmf", "", "firmware `file` (default: a synthetic one, for the simulator)")
	fs.StringVar(&f.kernel, "kernel", "", "kernel `file`, as given to QEMU's -kernel")
	fs.StringVar(&f.initrd, "initrd", "", "initramfs `file`, as given to -initrd")
	fs.StringVar(&f.cmdline, "append", "", "kernel command `line`, as given to -append")
	fs.IntVar(&f.vcpus, "vcpus", 1, "number of vCPUs")
	fs.StringVar(&f.vcpuType, "vcpu-type", "", "QEMU's CPU `model`, for example EPYC-Milan")
	fs.StringVar(&f.vcpuSig, "vcpu-sig", "", "CPUID `signature` instead of -vcpu-type, for example 0xa00f11")
	fs.StringVar(&f.features, "guest-features", "0", "SEV_FEATURES of the vCPUs; 0 is the default of -host")
	fs.StringVar(&f.vmm, "vmm", measure.QEMU, "who starts the VM: "+strings.Join(measure.VMMs(), ", "))
	fs.StringVar(&f.host, "host", "", "host generation for qemu: "+strings.Join(measure.Hosts(), ", ")+" (default "+measure.HostLinux69+")")
	fs.StringVar(&f.svsm, "svsm", "", "SVSM image `file`, for -mode snp:svsm")
	fs.Uint64Var(&f.varsSize, "vars-size", 0, "`bytes` of the variable store, for -mode snp:svsm")
	fs.StringVar(&f.chain, "snp-ovmf-hash", "", "`hex` from -mode snp:ovmf-hash, instead of hashing the firmware")
	fs.StringVar(&f.format, "output-format", "hex", "hex or base64")
	fs.BoolVar(&f.json, "json", false, "print everything as JSON")
	fs.BoolVar(&f.explain, "explain", false, "list every measured range on stderr (with -json: in the JSON)")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fs.Usage("unexpected argument %q", fs.Arg(0))
	}
	given := make(map[string]bool)
	fs.Visit(func(g *flag.Flag) { given[g.Name] = true })
	cfg, mode, err := f.config(fs, given)
	if err != nil {
		return err
	}
	if err := f.load(ctx, cfg, given); err != nil {
		return err
	}
	out := &measured{Mode: mode, Firmware: f.ovmf}
	if f.ovmf == "" {
		out.Firmware = syntheticName
		fmt.Fprintf(env.Stderr, "%s: no -ovmf: measuring the synthetic firmware; only the simulator reports this digest\n", env.Name)
	}
	if err := out.compute(mode, cfg); err != nil {
		return explainMeasure(fs, err)
	}
	return f.print(env, out)
}

// config turns flags into a launch description without reading any file.
func (f *measureFlags) config(fs *applet.FlagSet, given map[string]bool) (*measure.Config, string, error) {
	mode, ok := modes[f.mode]
	if !ok {
		return nil, "", fs.Usage("unknown -mode %q", f.mode)
	}
	if f.format != "hex" && f.format != "base64" {
		return nil, "", fs.Usage("unknown -output-format %q", f.format)
	}
	if f.kernel == "" && (given["initrd"] || given["append"]) {
		return nil, "", fs.Usage("-initrd and -append are measured only together with -kernel")
	}
	if (mode == modeSVSM) != (f.svsm != "") {
		return nil, "", fs.Usage("-mode snp:svsm and -svsm need each other")
	}
	if mode == modeSVSM && f.ovmf == "" {
		return nil, "", fs.Usage("-mode snp:svsm needs -ovmf")
	}
	cfg := &measure.Config{Append: f.cmdline, HasKernel: f.kernel != "", VCPUs: f.vcpus, VCPUType: f.vcpuType,
		VMM: f.vmm, Host: f.host, VarsSize: f.varsSize}
	sig, err := strconv.ParseUint(orZero(f.vcpuSig), 0, 32)
	if err != nil {
		return nil, "", fs.Usage("-vcpu-sig %q is not a 32-bit number", f.vcpuSig)
	}
	cfg.VCPUSig = uint32(sig)
	if cfg.GuestFeatures, err = strconv.ParseUint(orZero(f.features), 0, 64); err != nil {
		return nil, "", fs.Usage("-guest-features %q is not a 64-bit number", f.features)
	}
	if f.chain != "" {
		raw, err := hex.DecodeString(f.chain)
		if err != nil || len(raw) != 48 {
			return nil, "", fs.Usage("-snp-ovmf-hash wants 96 hex digits")
		}
		if mode != modeSNP {
			return nil, "", fs.Usage("-snp-ovmf-hash is for -mode snp")
		}
		cfg.FirmwareChain = (*[48]byte)(raw)
	}
	return cfg, mode, nil
}

func orZero(s string) string {
	if s == "" {
		return "0"
	}
	return s
}

// load reads firmware and SVSM and hashes kernel and initramfs beside that.
func (f *measureFlags) load(ctx context.Context, cfg *measure.Config, given map[string]bool) (err error) {
	type hashed struct {
		sum *[32]byte
		err error
	}
	initrd := make(chan hashed, 1)
	go func() {
		var h hashed
		if f.initrd != "" {
			h.sum, h.err = hashFile(ctx, f.initrd)
		}
		initrd <- h
	}()
	defer func() {
		h := <-initrd
		if err == nil {
			cfg.InitrdHash, err = h.sum, h.err
		}
	}()
	cfg.Firmware = measure.SyntheticFirmware()
	if f.ovmf != "" {
		if cfg.Firmware, err = readBounded(f.ovmf); err != nil {
			return err
		}
	}
	if f.svsm != "" {
		if cfg.SVSM, err = readBounded(f.svsm); err != nil {
			return err
		}
	}
	if f.kernel != "" {
		if cfg.KernelHash, err = hashFile(ctx, f.kernel); err != nil {
			return err
		}
	}
	return nil
}

// compute fills in the digest and what it was made of.
func (out *measured) compute(mode string, cfg *measure.Config) error {
	sum := sha256.Sum256(cfg.Firmware)
	out.FirmwareSHA256 = hex.EncodeToString(sum[:])
	var digest []byte
	var hashes *measure.Hashes
	sig, features := cfg.VCPUSig, uint64(0)
	switch mode {
	case modeSNP, modeSVSM:
		launch := measure.SNP
		if mode == modeSVSM {
			launch = measure.SVSM
		}
		r, err := launch(*cfg)
		if err != nil {
			return err
		}
		digest, hashes, out.Complete, out.Why = r.Digest[:], r.Hashes, r.Complete, r.Why
		sig, features = r.VCPUSig, r.GuestFeatures
		for _, s := range r.Steps {
			out.Steps = append(out.Steps, measuredStep{s.What, s.Page.String(), fmt.Sprintf("%#x", s.GPA), s.Size, hex.EncodeToString(s.After[:])})
		}
	case modeChain:
		chain, err := measure.FirmwareChain(cfg.Firmware)
		if err != nil {
			return err
		}
		digest, out.Why = chain[:], "the firmware's part alone: for -snp-ovmf-hash, never reported by hardware"
	case modeSEV, modeSEVES:
		launch := measure.SEV
		if mode == modeSEVES {
			launch = measure.SEVES
		}
		r, err := launch(*cfg)
		if err != nil {
			return err
		}
		digest, hashes, out.Why = r.Digest[:], r.Hashes, r.Why
	}
	out.Digest = hex.EncodeToString(digest)
	if hashes != nil {
		out.KernelSHA256 = hex.EncodeToString(hashes.Kernel[:])
		out.InitrdSHA256 = hex.EncodeToString(hashes.Initrd[:])
		out.CmdlineSHA256 = hex.EncodeToString(hashes.Cmdline[:])
		out.Append = &cfg.Append
	}
	if mode == modeChain || mode == modeSEV {
		return nil
	}
	out.VCPUs, out.VCPUType, out.VMM, out.Host = cfg.VCPUs, cfg.VCPUType, cfg.VMM, cfg.Host
	if out.Host == "" && cfg.VMM == measure.QEMU {
		out.Host = measure.HostLinux69
	}
	if sig != 0 {
		out.VCPUSig = fmt.Sprintf("%#x", sig)
	}
	if features != 0 {
		out.GuestFeatures = fmt.Sprintf("%#x", features)
	}
	return nil
}

// print writes the answer, and on stderr what it does not cover.
func (f *measureFlags) print(env *applet.Env, out *measured) error {
	if !out.Complete {
		fmt.Fprintf(env.Stderr, "%s: INCOMPLETE: %s; no claim may be made of this digest\n", env.Name, out.Why)
	}
	if f.explain && !f.json {
		w := tabwriter.NewWriter(env.Stderr, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "GPA\tBYTES\tPAGES\tWHAT\tDIGEST AFTER")
		for _, s := range out.Steps {
			fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s...\n", s.GPA, s.Size, s.Page, s.What, s.After[:16])
		}
		w.Flush()
	}
	if !f.explain {
		out.Steps = nil
	}
	if f.json {
		enc := json.NewEncoder(env.Stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(out)
	}
	text := out.Digest
	if f.format == "base64" {
		raw, err := hex.DecodeString(out.Digest)
		if err != nil {
			return err
		}
		text = base64.StdEncoding.EncodeToString(raw)
	}
	_, err := fmt.Fprintln(env.Stdout, text)
	return err
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

// hashFile is the SHA-256 of a file, read as a stream.
func hashFile(ctx context.Context, path string) (*[32]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("measuring: %w", err)
	}
	defer file.Close()
	h := sha256.New()
	buf := make([]byte, 1<<20)
	for {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("measuring %q: %w", path, err)
		}
		n, err := file.Read(buf)
		h.Write(buf[:n])
		if errors.Is(err, io.EOF) {
			return (*[32]byte)(h.Sum(nil)), nil
		}
		if err != nil {
			return nil, fmt.Errorf("measuring %q: %w", path, err)
		}
	}
}

// readBounded reads a firmware or SVSM image.
func readBounded(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading firmware: %w", err)
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, maxFirmwareFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading firmware %q: %w", path, err)
	}
	if len(b) > maxFirmwareFile {
		return nil, fmt.Errorf("reading firmware %q: more than %d bytes", path, maxFirmwareFile)
	}
	return b, nil
}
