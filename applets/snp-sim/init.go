package snpsim

import (
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"attestbox/internal/applet"
	"attestbox/internal/snp"
	"attestbox/internal/snpsim"
)

func runInit(_ context.Context, env *applet.Env, args []string) error {
	flags := env.Flags("init -chip DIR [flags]", "snp-sim init -chip chip -product Milan")
	dir := flags.String("chip", "", "`folder` to make; required")
	name := flags.String("product", "Milan", "`product`: Milan, Genoa or Turin")
	version := flags.Uint("report-version", 3, "`version` of the reports: 3 or 5")
	tcb := flags.String("tcb", "", "`TCB` as boot_loader=4,tee=0,snp=27,microcode=219 and on Turin fmc=1; what is left out keeps its default")
	id := flags.String("chip-id", "", "CHIP_ID in `hex`, 64 bytes, on Turin 8 (default: random)")
	like := flags.String("like", "", "another chip of the maker of the one in this `folder`: the same product, ARK and ASK")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 || *dir == "" {
		return flags.Usage("init needs -chip DIR and nothing else")
	}
	given := map[string]bool{}
	flags.Visit(func(f *flag.Flag) { given[f.Name] = true })
	product, err := snp.ParseProduct(*name)
	if err != nil {
		return flags.Usage("%v", err)
	}
	var sibling *snpsim.PSP
	if *like != "" {
		if sibling, err = loadChip(*like); err != nil {
			return err
		}
		if given["product"] && product != sibling.Product() {
			return flags.Usage("-product %s, but the chip in %q is a %s", product, *like, sibling.Product())
		}
		product = sibling.Product()
	}
	if *version != 3 && *version != 5 {
		return flags.Usage("-report-version %d, want 3 or 5", *version)
	}
	var opts []snpsim.Option
	now := snpsim.DefaultState(product).Current
	if sibling != nil {
		now = sibling.State().Current
	}
	if sibling == nil || given["report-version"] {
		opts = append(opts, snpsim.WithReportVersion(uint32(*version)))
	}
	if sibling == nil || *tcb != "" {
		t, err := parseTCB(product, now, *tcb)
		if err != nil {
			return flags.Usage("-tcb: %v", err)
		}
		opts = append(opts, snpsim.WithTCB(t))
	}
	if *id != "" {
		b, err := hex.DecodeString(*id)
		if err != nil || len(b) != product.ChipIDSize() {
			return flags.Usage("-chip-id: want %d bytes in hex", product.ChipIDSize())
		}
		var chipID [64]byte
		copy(chipID[:], b)
		opts = append(opts, snpsim.WithChipID(chipID))
	}
	// Making keys takes seconds: look first.
	if _, err := os.Stat(filepath.Join(*dir, snpsim.FileChip)); !errors.Is(err, fs.ErrNotExist) {
		if err == nil {
			err = fmt.Errorf("making a chip in %q: %w", *dir, snpsim.ErrExists)
		}
		return applet.WithHint(err, "name another folder, or remove this one")
	}
	var p *snpsim.PSP
	if sibling != nil {
		p, err = sibling.AnotherChip(opts...)
	} else {
		fmt.Fprintf(env.Stderr, "%s: making RSA-4096 keys for ARK and ASK, a few seconds\n", env.Name)
		p, err = snpsim.NewPSP(product, opts...)
	}
	if err != nil {
		return err
	}
	if err := p.Save(*dir); err != nil {
		return err
	}
	fmt.Fprintf(env.Stderr, "%s: a simulated %s chip, NOT AMD HARDWARE, is in %q; its root is %s\n",
		env.Name, product, *dir, filepath.Join(*dir, snpsim.FileARK))
	return nil
}

// parseTCB changes a TCB as s says.
func parseTCB(product snp.Product, t snp.TCB, s string) (snp.TCB, error) {
	if s == "" {
		return t, nil
	}
	fields := map[string]*uint8{"boot_loader": &t.BootLoader, "tee": &t.TEE, "snp": &t.SNP, "microcode": &t.Microcode}
	if t.HasFMC {
		fields["fmc"] = &t.FMC
	}
	for part := range strings.SplitSeq(s, ",") {
		name, value, _ := strings.Cut(part, "=")
		field := fields[name]
		if field == nil {
			return t, fmt.Errorf("no field %q, or given twice, on %s", name, product)
		}
		delete(fields, name)
		n, err := strconv.ParseUint(value, 10, 8)
		if err != nil {
			return t, fmt.Errorf("%s: %q is not a number from 0 to 255", name, value)
		}
		*field = uint8(n)
	}
	return t, nil
}
