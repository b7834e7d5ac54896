package main

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/google/renameio/v2"

	"attestbox/internal/applet"
	"attestbox/internal/measure"
)

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

	Against *measuredAgainst `json:"against,omitempty"` // with -against

	first, others *[measure.PageSize]byte
}

// measuredStep is one range of pages; of SEV and SEV-ES, one piece of what was
// hashed.
type measuredStep struct {
	What     string `json:"what"`
	Page     string `json:"page,omitempty"`
	GPA      string `json:"gpa,omitempty"`
	Size     uint64 `json:"size"`
	Contents string `json:"contents,omitempty"` // SHA-384 of the page, where one content entered
	After    string `json:"after"`
}

// compute fills in the digest and what it was made of.
func (out *measured) compute(mode string, cfg *measure.Config, hashFirmware bool) error {
	if hashFirmware {
		sum := sha256.Sum256(cfg.Firmware)
		out.FirmwareSHA256 = hex.EncodeToString(sum[:])
	}
	var hashes *measure.Hashes
	var sig uint32
	var features uint64
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
		out.Digest, hashes, out.Complete, out.Why = hex.EncodeToString(r.Digest[:]), r.Hashes, r.Complete, r.Why
		sig, features, out.first, out.others = r.VCPUSig, r.GuestFeatures, r.First, r.Others
		out.Steps = measuredSteps(r.Steps)
	case modeChain:
		chain, err := measure.FirmwareChain(cfg.Firmware)
		if err != nil {
			return err
		}
		out.Digest, out.Why = hex.EncodeToString(chain[:]), "the firmware's part alone: for -snp-ovmf-hash, never reported by hardware"
	case modeSEV, modeSEVES:
		launch := measure.SEV
		if mode == modeSEVES {
			launch = measure.SEVES
		}
		r, err := launch(*cfg)
		if err != nil {
			return err
		}
		out.Digest, hashes, out.Why = hex.EncodeToString(r.Digest[:]), r.Hashes, r.Why
		sig, out.first, out.others = r.VCPUSig, r.First, r.Others
		for _, p := range r.Parts {
			out.Steps = append(out.Steps, measuredStep{What: p.What, Size: p.Size, After: hex.EncodeToString(p.After[:])})
		}
	}
	out.note(mode, cfg, hashes, sig, features)
	return nil
}

func measuredSteps(steps []measure.Step) (out []measuredStep) {
	for _, s := range steps {
		step := measuredStep{What: s.What, Page: s.Page.String(), GPA: fmt.Sprintf("%#x", s.GPA), Size: s.Size, After: hex.EncodeToString(s.After[:])}
		if s.Contents != nil {
			step.Contents = hex.EncodeToString(s.Contents[:])
		}
		out = append(out, step)
	}
	return out
}

// note records the inputs that entered.
func (out *measured) note(mode string, cfg *measure.Config, hashes *measure.Hashes, sig uint32, features uint64) {
	if hashes != nil {
		out.KernelSHA256 = hex.EncodeToString(hashes.Kernel[:])
		out.InitrdSHA256 = hex.EncodeToString(hashes.Initrd[:])
		out.CmdlineSHA256 = hex.EncodeToString(hashes.Cmdline[:])
		out.Append = &cfg.Append
	}
	if mode == modeChain || mode == modeSEV {
		return
	}
	out.VCPUs, out.VCPUType, out.VMM, out.Host = cfg.VCPUs, cfg.VCPUType, cfg.VMM, cfg.HostName()
	if sig != 0 {
		out.VCPUSig = fmt.Sprintf("%#x", sig)
	}
	if features != 0 {
		out.GuestFeatures = fmt.Sprintf("%#x", features)
	}
}

// print writes the answer, and on stderr what it does not cover. A report of
// another digest is an error, with the answer in JSON only.
func (f *measureFlags) print(env *applet.Env, out *measured) error {
	warnIncomplete(env, out.Complete, out.Why)
	if f.explain && !f.json {
		out.explain(env.Stderr)
	}
	if !f.explain {
		out.Steps = nil
	}
	return f.answer(env, out, out.Digest, out.Against)
}

// answer prints the JSON, or the digest if no report has another.
func (f *measureFlags) answer(env *applet.Env, out any, digest string, a *measuredAgainst) error {
	var differs error
	if a != nil {
		for _, n := range a.Notes {
			fmt.Fprintf(env.Stderr, "%s: of the report: %s\n", env.Name, n)
		}
		differs = a.refusal(digest)
	}
	switch {
	case f.json:
		if err := printJSON(env.Stdout, out); err != nil {
			return err
		}
	case differs == nil:
		if _, err := fmt.Fprintln(env.Stdout, f.text(digest)); err != nil {
			return err
		}
	}
	return differs
}

func warnIncomplete(env *applet.Env, complete bool, why string) {
	if !complete {
		fmt.Fprintf(env.Stderr, "%s: INCOMPLETE: %s; no claim may be made of this digest\n", env.Name, why)
	}
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// text is a hex digest in the format asked for.
func (f *measureFlags) text(digest string) string {
	if f.format == "hex" {
		return digest
	}
	raw, _ := hex.DecodeString(digest) // it was encoded here
	return base64.StdEncoding.EncodeToString(raw)
}

// explainSteps lists what was measured.
func explainSteps(w io.Writer, steps []measuredStep) {
	short := func(s string) string {
		if s == "" {
			return "-"
		}
		return s[:16] + "..."
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "GPA\tBYTES\tPAGES\tWHAT\tCONTENTS\tDIGEST AFTER")
	for _, s := range steps {
		gpa, page := s.GPA, s.Page
		if gpa == "" {
			gpa, page = "-", "-"
		}
		fmt.Fprintf(tw, "%s\t%d\t%s\t%s\t%s\t%s\n", gpa, s.Size, page, s.What, short(s.Contents), short(s.After))
	}
	tw.Flush()
}

// explain lists what was measured, and what the table of hashes holds.
func (out *measured) explain(w io.Writer) {
	explainSteps(w, out.Steps)
	if out.Append != nil {
		fmt.Fprintf(w, "table of hashes, SHA-256:\n  command line %s, of %q and a NUL\n  initramfs    %s\n  kernel       %s\n",
			out.CmdlineSHA256, *out.Append, out.InitrdSHA256, out.KernelSHA256)
	}
	if out.VCPUs > 0 {
		sig, features := out.VCPUSig, out.GuestFeatures
		if sig == "" {
			sig = "fixed by " + out.VMM
		}
		if features == "" {
			features = "0x0"
		}
		fmt.Fprintf(w, "vCPUs: %d, signature %s, SEV_FEATURES %s; -dump-vmsa writes their pages\n", out.VCPUs, sig, features)
	}
}

// dump writes the vCPUs' pages to the working directory, as the public tool
// does.
func (out *measured) dump(vcpus int) error {
	page := out.first
	for i := range vcpus {
		if err := renameio.WriteFile(fmt.Sprintf("vmsa%d.bin", i), page[:], 0o644); err != nil {
			return fmt.Errorf("writing the vCPUs' pages: %w", err)
		}
		page = out.others
	}
	return nil
}
