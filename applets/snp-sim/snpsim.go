// Package snpsim is the applet snp-sim: a simulated AMD secure processor and
// host for machines without SEV-SNP. `init` makes a chip, `update` gives it
// other firmware, `show` prints it, `report` signs a report as that chip, and `run` boots an image in QEMU beside
// it. Its root is its own: no verifier trusts it unless told to.
package snpsim

import (
	"context"
	"fmt"

	"attestbox/internal/applet"
)

// Applet is snp-sim.
var Applet = applet.Applet{Name: "snp-sim", Summary: "simulated AMD secure processor and host: init, update, show, report, run", Run: dispatch}

var commands = []struct {
	name, summary string
	run           func(context.Context, *applet.Env, []string) error
}{
	{"init", "make a chip with a root of its own", runInit},
	{"update", "change a chip's TCB or report version, as new firmware does", runUpdate},
	{"show", "print a chip's identity, TCB and files", runShow},
	{"report", "sign an attestation report as the chip", runReport},
	{"run", "measure an image and boot it in QEMU beside the chip", Run},
}

func dispatch(ctx context.Context, env *applet.Env, args []string) error {
	if len(args) > 0 {
		for _, c := range commands {
			if c.name == args[0] {
				return c.run(ctx, env, args[1:])
			}
		}
	}
	fs := env.Flags("init|update|show|report|run [flags]", "snp-sim init -chip chip -product Milan")
	if err := fs.Parse(args); err != nil {
		if err == applet.ErrHelp {
			fmt.Fprintln(env.Stdout, "\ncommands:")
			for _, c := range commands {
				fmt.Fprintf(env.Stdout, "  %-8s %s\n", c.name, c.summary)
			}
		}
		return err
	}
	if fs.NArg() == 0 {
		return fs.Usage("say what to do: init, update, show, report or run")
	}
	return fs.Usage("there is no command %q", fs.Arg(0))
}
