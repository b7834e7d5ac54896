package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"attestbox/initramfs/config"
	"attestbox/internal/applet"
	"attestbox/internal/claim"
	"attestbox/internal/code"
	"attestbox/internal/image"
	"attestbox/internal/measure"
)

const claimExample = "mkimage claim -ovmf OVMF.amdsev.fd image > web.claims   # then: policy add -dir bank web.claims"

// claimed is one measurement to be trusted.
type claimed struct {
	name, digest string // digest in hex
	how          string // the launch that it is of
}

// runClaim is `mkimage claim`: the lines of a policy that trust an image. The
// digest comes from the image's files, never from its record alone.
func runClaim(_ context.Context, env *applet.Env, args []string) error {
	fs := env.Flags("[-ovmf FILE] [-uki] [-matrix AXES] [-name NAME] [-days N] [-from TIME] [-simulator] IMAGE", claimExample)
	ovmf := fs.String("ovmf", "", "the firmware `FILE` that the image was measured with")
	name := fs.String("name", "", "call the measurement `NAME` in the policy (default: the image folder's)")
	days := fs.Int("days", 90, "the claim is in force for `N` days")
	unified := fs.Bool("uki", false, "of a launch of linux.efi, the image's unified kernel image")
	matrix := fs.String("matrix", "", "a claim for every combination of `AXES`, such as\n"+measure.AxesSyntax)
	start := fs.String("from", "", "from this `TIME`, such as 2026-01-31 or 2026-01-31T12:00:00Z (default: now)")
	simulator := fs.Bool("simulator", false, "a claim for the simulator: of a digest over the synthetic firmware, too")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() != 1 {
		return fs.Usage("want one image folder")
	}
	if *days < 1 || *days > 3660 {
		return fs.Usage("-days is from 1 to 3660")
	}
	from := time.Now().UTC().Truncate(time.Second)
	if *start != "" {
		var err error
		if from, err = claim.ParseTime(*start); err != nil {
			return fs.Usage("-from: %v", err)
		}
	}
	dir := fs.Arg(0)
	if *name == "" {
		*name = imageName(dir)
	}
	if err := claim.CheckName(*name); err != nil {
		return fs.Usage("-name: %v", err)
	}
	var axes measure.Axes
	var err error
	if *matrix != "" {
		if axes, err = measure.ParseAxes(*matrix); err != nil {
			return fs.Usage("-matrix: %v", err)
		}
	}
	firmware, r, err := claimable(dir, *ovmf)
	if err != nil {
		return err
	}
	if r.Synthetic() && !*simulator {
		return errSynthetic("build the image with the firmware that is launched, -ovmf FILE")
	}
	m := r.Record.Measurement
	digest, cfg := r.Digest, r.Launch(firmware)
	if *unified {
		if digest, err = r.ClaimableUKI(); err != nil {
			return err
		}
		cfg = r.LaunchUKI(firmware)
	}
	list := []claimed{{*name, digest, fmt.Sprintf("%d x %s, features %#x, %s", m.VCPUs, m.VCPUType, m.GuestFeatures, m.VMM)}}
	if *matrix != "" {
		if list, err = claimCells(cfg, axes, *name); err != nil {
			return explainMeasure(fs, err)
		}
	}
	if note := forSimulator(r); note != "" {
		fmt.Fprintf(env.Stderr, "%s: %s\n", env.Name, note)
	}
	_, err = io.WriteString(env.Stdout, claimText(r, *unified, list, from, from.AddDate(0, 0, *days)))
	return err
}

// claimCells are the launches of a matrix, each with a name of its own. What a
// digest covers is the same for every cell: see measure.Matrix.
func claimCells(cfg measure.Config, axes measure.Axes, base string) ([]claimed, error) {
	res, err := measure.SNP(cfg)
	switch {
	case err != nil:
		return nil, err
	case !res.Complete:
		return nil, applet.Refused(code.MeasurementIncomplete, fmt.Errorf("the launch digest is incomplete: %s", res.Why))
	}
	cells, err := measure.Matrix(cfg, axes)
	if err != nil {
		return nil, err
	}
	list := make([]claimed, len(cells))
	for i, c := range cells {
		model := c.VCPUType
		if model == "" {
			model = fmt.Sprintf("%#x", c.VCPUSig)
		}
		name := base
		for _, part := range []struct {
			varies bool
			text   string
		}{{len(axes.VCPUs) > 0, fmt.Sprint(c.VCPUs)}, {len(axes.Types)+len(axes.Sigs) > 0, model},
			{len(axes.Features) > 0, fmt.Sprintf("%#x", c.GuestFeatures)}, {len(axes.Hosts) > 0, c.Host}} {
			if part.varies {
				name += "-" + part.text
			}
		}
		if err := claim.CheckName(name); err != nil {
			return nil, applet.WithHint(err, "choose a shorter one with -name")
		}
		list[i] = claimed{name, hex.EncodeToString(c.Digest[:]), fmt.Sprintf("%d x %s, features %#x, %s", c.VCPUs, model, c.GuestFeatures, c.Host)}
	}
	return list, nil
}

// claimable reads an image folder whose digest may be trusted, and the firmware
// that it was measured with.
func claimable(dir, ovmf string) (firmware []byte, r *image.Report, err error) {
	if ovmf != "" {
		if firmware, err = readBounded(ovmf); err != nil {
			return nil, nil, err
		}
	}
	r, err = image.Claimable(dir, firmware)
	return firmware, r, err
}

// errSynthetic refuses a digest that hardware must not be trusted for.
func errSynthetic(hint string) error {
	return applet.WithHint(applet.Refused(code.MeasurementIncomplete, errors.New("the digest is over the synthetic firmware, which has tables and no code: nothing in it compares the hashes")),
		hint+"; for snp-sim give -simulator")
}

// imageName is what an image folder, or the one of an image.json, is called.
func imageName(dir string) string {
	if filepath.Base(dir) == image.RecordName {
		dir = filepath.Dir(dir)
	}
	if abs, err := filepath.Abs(dir); err == nil {
		dir = abs
	}
	return filepath.Base(dir)
}

// forSimulator says why hardware never reports an image's digest, or "".
func forSimulator(r *image.Report) string {
	switch {
	case r.Synthetic():
		return "SYNTHETIC FIRMWARE: only the simulator reports this digest"
	case r.Simulator:
		return "SIMULATOR IMAGE: a program in it stands in for the secure processor"
	}
	return ""
}

// claimText prints declarations and drafts that say their time, for `policy
// add`.
func claimText(r *image.Report, unified bool, list []claimed, from, to time.Time) string {
	var b strings.Builder
	p := func(format string, a ...any) { fmt.Fprintf(&b, format+"\n", a...) }
	out := r.Record.Outputs
	p("# Computed by mkimage claim from the image's files: kernel %s,", printable(r.Record.KernelRelease))
	p("# vmlinuz sha256 %s,", out.Kernel.SHA256)
	p("# initrd sha256 %s,", out.Initrd.SHA256)
	p("# command line %s,", printable(r.Cmdline))
	p("# firmware sha256 %s.", r.Record.Measurement.Firmware.SHA256)
	if unified {
		p("# Launched as %s, sha256 %s, alone.", image.UKIName, r.Record.UKI.SHA256)
	}
	if note := forSimulator(r); note != "" {
		p("# %s", note)
	}
	if r.Config.Mode == config.Stage1 {
		p("# STAGE 1: it starts what the owner signed as a bundle, above the verifier's floor.")
	}
	for _, c := range list {
		p("# %s", c.how)
		p("measurement %s %s", c.name, c.digest)
		st := claim.Statement{Clause: claim.Clause{Subject: claim.Measurement{Digest: c.digest}, Verb: claim.IsTrusted}}
		draft := claim.Claim{Statement: st, NotBefore: from, NotAfter: to}
		p("%s", &draft)
		if id := r.Config.Instance(); !id.IsZero() {
			st.Clause = claim.Clause{Subject: claim.Measurement{Digest: c.digest, Instance: id.String()}, Verb: claim.TakesIDFromImage}
			p("%s", &claim.Claim{Statement: st, NotBefore: from, NotAfter: to})
		}
	}
	return b.String()
}

// printable keeps text of the image inside its comment.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f {
			return '?'
		}
		return r
	}, s)
}
