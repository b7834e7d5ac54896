// Package policy is the applet of a domain's owner: it makes the policy key,
// writes claims into policy.txt, signs them, and says what would be proved from
// them. Glue and flags; the language is in internal/claim, the proofs in
// internal/proof.
package policy

import (
	"context"
	"fmt"
	"io"
	"strings"

	"attestbox/internal/applet"
)

// Applet is `policy`.
var Applet = applet.Applet{
	Name:    "policy",
	Summary: "write, sign and explain the policy of a security domain",
	Run:     run,
}

type command struct {
	name, summary string
	run           func(ctx context.Context, env *applet.Env, args []string) error
}

func commands() []command {
	return []command{
		{"init", "make a domain: policy key, policy certificate, policy.txt", runInit},
		{"add", "add claims from a file that was written by hand", runAdd},
		{"allow", "trust a measurement", runAllow},
		{"import", "trust what an image's claim file or image.json names", runImport},
		{"trust-root", "trust a hardware root, or a simulated enclave's key", runTrustRoot},
		{"require", "require properties of a platform", runRequire},
		{"grant", "let a measurement read, write or serve, or a key serve", runGrant},
		{"renew", "an instance that was seen as a new image does not go back to an old one", runRenew},
		{"succeed", "let a new image open the stores of an old one", runSucceed},
		{"delegate", "let an issuer's key sign admission certificates", runDelegate},
		{"revoke", "revoke a measurement, key, chip, claim or certificate", runRevoke},
		{"sign", "number the drafts and write policy.signed", runSign},
		{"show", "print the policy and what is due", runShow},
		{"explain", "say what a report proves, or the first thing that fails", runExplain},
		{"diff", "compare two policies claim by claim", runDiff},
	}
}

func run(ctx context.Context, env *applet.Env, args []string) error {
	if len(args) == 0 {
		list(env.Stderr)
		return applet.Usage("which command?")
	}
	switch args[0] {
	case "-h", "-help", "--help", "help":
		list(env.Stdout)
		return nil
	}
	for _, c := range commands() {
		if c.name == args[0] {
			sub := *env
			sub.Name = env.Name + " " + c.name
			return c.run(ctx, &sub, args[1:])
		}
	}
	var names []string
	for _, c := range commands() {
		names = append(names, c.name)
	}
	return applet.WithHint(applet.Usage("there is no command %.40q", args[0]), "one of "+strings.Join(names, ", "))
}

func list(w io.Writer) {
	fmt.Fprintf(w, "usage: policy COMMAND [flags] (each takes -h)\n\ncommands:\n")
	for _, c := range commands() {
		fmt.Fprintf(w, "  %-12s %s\n", c.name, c.summary)
	}
}

// parse is fs.Parse with flags and arguments in any order; "--" ends the flags.
func parse(fs *applet.FlagSet, args []string) (positional []string, err error) {
	for {
		if err := fs.Parse(args); err != nil {
			return nil, err
		}
		rest := fs.Args()
		if len(rest) == 0 {
			return positional, nil
		}
		if n := len(args) - len(rest); n > 0 && args[n-1] == "--" {
			return append(positional, rest...), nil
		}
		positional = append(positional, rest[0])
		args = rest[1:]
	}
}
