package snpsim

import (
	"context"
	"fmt"

	"attestbox/internal/applet"
	"attestbox/internal/snpsim"
)

func runUpdate(_ context.Context, env *applet.Env, args []string) error {
	fs := env.Flags("update -chip DIR [flags]", "snp-sim update -chip chip -tcb snp=28")
	dir := fs.String("chip", "", "chip `folder`, made by snp-sim init; required")
	tcb := fs.String("tcb", "", "`TCB` as snp=28,microcode=220: current, committed and reported; what is left out stays")
	version := fs.Uint("report-version", 0, "`version` of the reports: 3 or 5 (default: as it is)")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() > 0 || *dir == "" || *tcb == "" && *version == 0 {
		return fs.Usage("update needs -chip DIR and something to change")
	}
	if *version != 0 && *version != 3 && *version != 5 {
		return fs.Usage("-report-version %d, want 3 or 5", *version)
	}
	p, err := loadChip(*dir)
	if err != nil {
		return err
	}
	t, err := parseTCB(p.Product(), p.State().Current, *tcb)
	if err != nil {
		return fs.Usage("-tcb: %v", err)
	}
	p, err = p.SameChip(func(s *snpsim.State) {
		s.Current, s.Committed, s.Reported = t, t, t
		if *version != 0 {
			s.ReportVersion = uint32(*version)
		}
	})
	if err != nil {
		return err
	}
	if err := p.SaveState(*dir); err != nil {
		return err
	}
	fmt.Fprintf(env.Stderr, "%s: the chip in %q now reports %v; its VCEK is another one\n", env.Name, *dir, t)
	return nil
}
