// Package verifier is the applet of the owner's side of an attested launch: it
// keeps what VMs may be told, appraises their evidence and releases their
// secrets. Glue and flags; the work is in internal/server and internal/appraise.
package verifier

import (
	"context"
	"fmt"
	"io"
	"strings"

	"attestbox/internal/applet"
	"attestbox/internal/server"
	"attestbox/internal/servercmd"
)

// Applet is `verifier`.
var Applet = applet.Applet{
	Name:    "verifier",
	Summary: "appraise VMs and release their secrets (server and its state)",
	Run:     run,
}

type command struct {
	name, summary string
	run           func(ctx context.Context, env *applet.Env, args []string) error
}

func commands() []command {
	return []command{
		{"init", "make a state folder with a new key; prints the pin for images", runInit},
		{"pin", "print the pin again", runPin},
		{"add-instance", "register a VM: its launch digest, disk key, header and secrets", runAddInstance},
		{"instance", "list, show, allow, approve, reject, rotate, disk, bundle-floor, clear, decommission", runInstance},
		{"policy", "show or set the appraisal policy and trusted roots", runPolicy},
		{"add-endorsement", "keep VEK certificates and revocation lists for reports that bring none", runAddEndorsement},
		{"serve", "answer VMs", runServe},
		{"explain", "say why an exchange ended as it did", servercmd.Explain},
		{"appraise", "appraise a report offline, for people", Appraise},
		{"backup-key", "make the key that backups are encrypted to", runBackupKey},
		{"backup", "write the whole state, encrypted", runBackup},
		{"restore", "make a state folder from a backup", runRestore},
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
	return applet.WithHint(applet.Usage("there is no command %.40q", args[0]), "one of "+names())
}

func names() string {
	var n []string
	for _, c := range commands() {
		n = append(n, c.name)
	}
	return strings.Join(n, ", ")
}

func list(w io.Writer) {
	fmt.Fprintf(w, "usage: verifier COMMAND [flags] (each takes -h)\n\ncommands:\n")
	for _, c := range commands() {
		fmt.Fprintf(w, "  %-16s %s\n", c.name, c.summary)
	}
}

func runServe(ctx context.Context, env *applet.Env, args []string) error {
	return servercmd.Serve(ctx, env, args, servercmd.ServeOptions{Roles: []string{server.RoleLaunch}})
}
