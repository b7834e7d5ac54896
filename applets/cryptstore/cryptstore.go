// Package cryptstore is the applet over internal/cryptstore: a sealed file of
// typed, versioned secrets, in a VM or on the owner's machine. Flags and glue.
package cryptstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"attestbox/internal/applet"
	"attestbox/internal/code"
	"attestbox/internal/cryptstore"
	"attestbox/internal/platform"
	"attestbox/internal/platform/sevguest"
	"attestbox/internal/store"
)

// Applet is `cryptstore`.
var Applet = applet.Applet{Name: "cryptstore", Summary: "keep secrets in a sealed file", Run: run}

// opener finds the secure processor; tests have one of their own.
type opener func() (platform.Platform, error)

type command struct {
	name, summary string
	run           func(ctx context.Context, c *call, args []string) error
}

// call is one call of a command.
type call struct {
	env *applet.Env
	snp opener
	source
}

func commands() []command {
	return []command{
		{"init", "make an empty store", runInit},
		{"put", "write a new version of an entry", runPut},
		{"get", "read an entry", runGet},
		{"list", "list all entries", runList},
		{"versions", "print the earliest and the latest version of an entry", runVersions},
		{"generate", "make a key; the public half goes to stdout", runGenerate},
		{"rotate", "make the next version of a key that was generated", runRotate},
		{"delete", "delete one version of an entry, or all", runDelete},
		{"export", "encrypt an exportable entry to a recipient", runExport},
		{"import", "take an exported entry", runImport},
		{"rekey", "encrypt everything with a new key, sealed anew", runRekey},
		{"check", "open every entry, and say what seals the store", runCheck},
		{"platform-key", "make the key of a simulated enclave", runPlatformKey},
	}
}

func run(ctx context.Context, env *applet.Env, args []string) error {
	return runOn(ctx, env, args, sevguest.Open)
}

// runOn is the applet on the secure processor that open finds.
func runOn(ctx context.Context, env *applet.Env, args []string, open opener) error {
	if len(args) == 0 {
		list(env.Stderr)
		return applet.Usage("which command?")
	}
	switch args[0] {
	case "-h", "-help", "--help", "help":
		list(env.Stdout)
		return nil
	}
	var names []string
	for _, c := range commands() {
		if c.name == args[0] {
			sub := *env
			sub.Name = env.Name + " " + c.name
			return exit(c.run(ctx, &call{env: &sub, snp: open}, args[1:]))
		}
		names = append(names, c.name)
	}
	return applet.WithHint(applet.Usage("there is no command %.40q", args[0]), "one of "+strings.Join(names, ", "))
}

func list(w io.Writer) {
	fmt.Fprintf(w, "usage: cryptstore COMMAND [flags] (each takes -h)\n\ncommands:\n")
	for _, c := range commands() {
		fmt.Fprintf(w, "  %-16s %s\n", c.name, c.summary)
	}
}

// exit gives an error its exit code: what a retry cannot mend is refused.
func exit(err error) error {
	c, _ := code.Of(err)
	switch {
	case errors.Is(err, cryptstore.ErrSealed), errors.Is(err, cryptstore.ErrTampered), errors.Is(err, cryptstore.ErrRollback),
		errors.Is(err, cryptstore.ErrNotExportable), errors.Is(err, cryptstore.ErrExport):
		return applet.WithHint(applet.Refused(c, err), "attestbox explain "+string(c))
	case errors.Is(err, store.ErrExists):
		return applet.WithHint(err, "another -name, or another file")
	case errors.Is(err, store.ErrNotFound):
		return applet.WithHint(err, "make it with: cryptstore init")
	}
	return err
}
