package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"attestbox/initramfs/config"
	"attestbox/internal/applet"
	"attestbox/internal/code"
	"attestbox/internal/image"
)

func runInspect(_ context.Context, env *applet.Env, args []string) error {
	fs := env.Flags("[-ovmf FILE] [-json] DIR | INITRD", "mkimage inspect image")
	ovmf := fs.String("ovmf", "", "the firmware `FILE` that the image was measured with")
	asJSON := fs.Bool("json", false, "print JSON")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() != 1 {
		return fs.Usage("want one image folder or initrd")
	}
	var firmware []byte
	if *ovmf != "" {
		var err error
		if firmware, err = os.ReadFile(*ovmf); err != nil {
			return fmt.Errorf("reading firmware: %w", err)
		}
	}
	r, err := inspect(fs.Arg(0), firmware)
	if r == nil {
		return err
	}
	if *asJSON {
		enc := json.NewEncoder(env.Stdout)
		enc.SetIndent("", "  ")
		if err := enc.Encode(r); err != nil {
			return err
		}
	} else {
		printReport(env.Stdout, r)
	}
	if len(r.Mismatches) > 0 {
		more := ""
		if n := len(r.Mismatches) - 1; n > 0 {
			more = fmt.Sprintf(" (and %d more)", n)
		}
		return applet.WithHint(applet.Refused(code.ImageDigest, fmt.Errorf("image differs from its record: %s%s", r.Mismatches[0], more)),
			"build it again from its inputs; do not register its digest")
	}
	if errors.Is(err, image.ErrNoFirmware) {
		return applet.WithHint(err, "name the firmware with -ovmf FILE")
	}
	return err
}

// inspect may return a report and an error together.
func inspect(name string, firmware []byte) (*image.Report, error) {
	st, err := os.Stat(name)
	if err != nil {
		return nil, fmt.Errorf("reading image: %w", err)
	}
	if st.IsDir() {
		return image.Inspect(name, firmware)
	}
	if st.Size() > image.MaxInitrd {
		return nil, fmt.Errorf("reading image: %q has %d bytes, more than %d", name, st.Size(), image.MaxInitrd)
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("reading image: %w", err)
	}
	return image.InspectInitrd(data)
}

// harmless keeps an image by somebody else from writing to the terminal as it likes.
func harmless(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}

func printReport(w io.Writer, r *image.Report) {
	p := func(format string, a ...any) {
		fmt.Fprintln(w, harmless(fmt.Sprintf(format, a...)))
	}
	for _, f := range r.Microcode {
		if f.SHA256 != "" {
			p("in front: %s %d bytes  sha256 %s", f.Path, f.Size, f.SHA256)
		}
	}
	p("files (%s)", r.Compress)
	for _, f := range r.Files {
		switch {
		case f.Target != "":
			p("  %s %9s  %s -> %s", f.Mode, "", f.Path, f.Target)
		case f.Device != "":
			p("  %s %9s  %s", f.Mode, f.Device, f.Path)
		case f.SHA256 != "":
			p("  %s %9d  %s  sha256 %s", f.Mode, f.Size, f.Path, f.SHA256)
		default:
			p("  %s %9s  %s", f.Mode, "", f.Path)
		}
	}
	p("\nmodules, in load order: %s", strings.Join(r.Modules, " "))
	if r.Simulator {
		p("SIMULATOR IMAGE: a program in it stands in for the secure processor, with modules: %s", strings.Join(r.SimModules, " "))
	}
	if r.Debug {
		p("DEBUG IMAGE: it has a shell and must never be trusted")
	}
	printConfig(p, r)
	if r.Record != nil {
		printDigest(p, r)
	}
}

func printConfig(p func(string, ...any), r *image.Report) {
	p("\nconfiguration %s", config.Path)
	if r.Config == nil {
		p("  unusable: %s", r.ConfigError)
		return
	}
	c := r.Config
	p("  mode     %s", c.Mode)
	p("  servers  %s", strings.Join(c.Servers, " "))
	if id := c.Instance(); !id.IsZero() {
		p("  instance %s, and HOST_DATA must be zeros", id)
	}
	for _, pin := range c.Pins {
		p("  pin      %s", pin)
	}
	if c.Policy != "" {
		p("  policy   %s", c.Policy)
	}
	net := c.Network.Method
	if c.Network.Address != "" {
		net += " " + c.Network.Address
	}
	p("  network  %s", net)
	p("  timeout  %s", time.Duration(c.Timeout))
	p("  min time %s", time.Unix(c.MinTime, 0).UTC().Format(time.RFC3339))
	if c.Root != nil {
		p("  root     %s as %s, %s, then %s", c.Root.Device, c.Root.Name, c.Root.FSType, c.Root.Init)
	}
	if b := c.Bundle; b != nil {
		p("  STAGE 1  starts bundles %q of version %d and later on %s, signed by key %s", b.Name, b.MinVersion, b.Device, b.Key)
	}
	for _, prog := range c.Programs {
		need := "optional"
		if prog.Required {
			need = "required"
		}
		p("  program  %s: %s as %s, restart %s, %s", prog.Name, strings.Join(prog.Argv, " "), prog.User, prog.Restart, need)
	}
	if c.State != nil {
		p("  state    %s at %s", c.State.Type, c.State.Path)
	}
}

// printDigest says what the digest is made of and whether it is what the
// record says.
func printDigest(p func(string, ...any), r *image.Report) {
	m := r.Record.Measurement
	p("\nwhy the digest is what it is")
	for _, in := range r.Record.Inputs {
		if in.Role != "module" {
			p("  input    %-11s %s  sha256 %s  %s", in.Role, in.Name, in.SHA256, in.Build)
		}
	}
	firmware := "sha256 " + m.Firmware.SHA256
	if m.Synthetic {
		firmware += "  (synthetic: for the simulator)"
	}
	p("  measured firmware    %s", firmware)
	p("  measured kernel      sha256 %x  (%s)", r.KernelHash, r.Record.KernelRelease)
	p("  measured initramfs   sha256 %x", r.InitrdHash)
	p("  measured cmdline     %s", r.Cmdline)
	p("  measured processors  %d x %s, features %#x, %s", m.VCPUs, m.VCPUType, m.GuestFeatures, m.VMM)
	p("  recorded digest      %s", m.LaunchDigest)
	p("  recomputed digest    %s", recomputed(r.Digest, m.LaunchDigest))
	if !m.Complete {
		p("  INCOMPLETE: %s", m.Why)
	}
	if u := r.Record.UKI; u != nil {
		p("  unified kernel       sha256 %s  (stub %s)", u.SHA256, u.Stub)
		p("  its recorded digest  %s", u.LaunchDigest)
		p("  its digest           %s", recomputed(r.UKIDigest, u.LaunchDigest))
	}
	for _, n := range r.Record.Notes {
		p("  note: %s", n)
	}
	for _, x := range r.Mismatches {
		p("  MISMATCH %s", x)
	}
}

// recomputed says how a digest computed from the files, if it was, compares with
// the record's.
func recomputed(digest, recorded string) string {
	switch digest {
	case "":
		return "not computed"
	case recorded:
		return "the same"
	}
	return digest + "  DIFFERS"
}
