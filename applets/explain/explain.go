// Package explain prints what a stable code means and what to do about it.
package explain

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"attestbox/docs"
	"attestbox/internal/applet"
	"attestbox/internal/code"
)

// Applet is `attestbox explain`.
var Applet = applet.Applet{Name: "explain", Summary: "say what an error code means and what to do", Run: run}

func run(_ context.Context, env *applet.Env, args []string) error {
	fs := env.Flags("[CODE]", "attestbox explain launch-refused")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() > 1 {
		return fs.Usage("one code at a time")
	}
	if fs.NArg() == 0 {
		all := code.All()
		slices.Sort(all)
		for _, c := range all {
			meaning, _ := code.Meaning(c)
			fmt.Fprintf(env.Stdout, "%-26s %s\n", c, meaning)
		}
		return nil
	}
	c := code.Code(fs.Arg(0))
	if _, ok := code.Meaning(c); !ok {
		return fs.Usage("there is no code %q; without an argument all of them are listed", c)
	}
	page, err := docs.Errors.ReadFile("errors/" + string(c) + ".md")
	if err != nil {
		return fmt.Errorf("the page of %q is missing from this build: %w", c, err)
	}
	_, err = bytes.NewReader(page).WriteTo(env.Stdout)
	return err
}
