package applet

import (
	"errors"
	"flag"
	"fmt"
	"strconv"
	"strings"
)

// FlagSet is a flag.FlagSet whose errors are usage errors and whose -h prints
// synopsis, example and flags.
type FlagSet struct {
	*flag.FlagSet
	env               *Env
	synopsis, example string
}

// Flags makes the applet's flag set. The synopsis follows the applet's name,
// for example "[flags] DEVICE"; the example is a whole command line.
func (e *Env) Flags(synopsis, example string) *FlagSet {
	fs := &FlagSet{FlagSet: flag.NewFlagSet(e.Name, flag.ContinueOnError), env: e, synopsis: synopsis, example: example}
	fs.SetOutput(&strings.Builder{}) // Print, not the flag package, talks to the user
	fs.FlagSet.Usage = func() {}
	return fs
}

// Parse parses args. -h prints the help to stdout and returns ErrHelp; a wrong
// flag is a usage error with the example as its hint.
func (fs *FlagSet) Parse(args []string) error {
	err := fs.FlagSet.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fs.help()
		return ErrHelp
	case err != nil:
		return fs.Usage("%v", err)
	}
	return nil
}

// Usage is a usage error with the example as its hint.
func (fs *FlagSet) Usage(format string, a ...any) error {
	return WithHint(Usage(format, a...), "for example: "+fs.example+" (or -h)")
}

func (fs *FlagSet) help() {
	w := fs.env.Stdout
	fmt.Fprintf(w, "usage: %s %s\n\nexample:\n  %s\n", fs.env.Name, fs.synopsis, fs.example)
	fs.SetOutput(w)
	any := false
	fs.VisitAll(func(*flag.Flag) { any = true })
	if any {
		fmt.Fprintln(w, "\nflags:")
		fs.PrintDefaults()
	}
}

// Strings is a flag that may be given several times.
type Strings []string

func (s *Strings) String() string     { return strings.Join(*s, ",") }
func (s *Strings) Set(v string) error { *s = append(*s, v); return nil }

// ParseMiB reads a size such as 512M or 2G into MiB.
func ParseMiB(s string) (int, error) {
	unit := 1
	n, ok := strings.CutSuffix(s, "G")
	if ok {
		unit = 1024
	} else {
		n = strings.TrimSuffix(s, "M")
	}
	v, err := strconv.ParseUint(n, 10, 20)
	if err != nil || v == 0 {
		return 0, fmt.Errorf("%q is not a size such as 512M or 2G", s)
	}
	return int(v) * unit, nil
}
