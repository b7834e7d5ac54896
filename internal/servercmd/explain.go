package servercmd

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"attestbox/internal/applet"
	"attestbox/internal/code"
	"attestbox/internal/server"
	"attestbox/internal/wire"
)

// Explain is the command explain.
func Explain(_ context.Context, env *applet.Env, args []string) error {
	var sf StateFlags
	fs := env.Flags("-state DIR [-json] EXCHANGE-ID | last", env.Name+" -state /var/lib/attestbox 8f0c6c1d6f2f4a7e9b1f0d3c5a7b9e11")
	sf.Register(fs) // the seal key is taken and not needed
	asJSON := fs.Bool("json", false, "print JSON")
	if err := fs.Parse(args); err != nil {
		return err
	}
	switch {
	case sf.Dir == "":
		return fs.Usage("-state is missing")
	case fs.NArg() != 1:
		return fs.Usage("want one exchange ID (the guest prints it), or last")
	}
	path := filepath.Join(sf.Dir, DecisionsFile)
	var found []server.Decision
	if fs.Arg(0) == "last" {
		if err := server.EachDecision(path, func(d *server.Decision) { found = []server.Decision{*d} }); err != nil {
			return err
		}
	} else {
		var x wire.ExchangeID
		if err := x.UnmarshalText([]byte(strings.ToLower(fs.Arg(0)))); err != nil {
			return fs.Usage("exchange ID: %v", err)
		}
		var err error
		if found, err = server.FindDecisions(path, x); err != nil {
			return err
		}
	}
	if len(found) == 0 {
		return applet.WithHint(fmt.Errorf("no decision about exchange %s in %q", fs.Arg(0), path), "old ones go first under load; the server's log may still have it")
	}
	if *asJSON {
		return PrintJSON(env.Stdout, found)
	}
	for i := range found {
		PrintDecision(env.Stdout, &found[i])
	}
	return nil
}

// PrintDecision prints a decision for people.
func PrintDecision(w io.Writer, d *server.Decision) {
	fmt.Fprintf(w, "exchange     %s\ntime         %s\npeer         %s\n", d.Exchange, d.Time, d.Peer)
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(w, "%-12s %s\n", name, value)
		}
	}
	line("protocol", d.Protocol)
	line("domain", d.Domain)
	line("role", d.Role)
	line("instance", d.ID)
	if d.BundleVersion != 0 {
		line("bundle", fmt.Sprintf("version %d, %s", d.BundleVersion, d.Bundle))
	}
	line("hardware", d.Root)
	line("chip", d.Chip)
	line("launch", d.Measurement)
	line("REPORT_ID", d.ReportID)
	if d.Boot != 0 {
		line("boot", fmt.Sprint(d.Boot))
	}
	line("outcome", d.Outcome)
	line("request", strings.TrimSpace(d.Op+" "+d.Secret))
	line("certificate", d.Serial)
	line("proof", d.ProofDigest)
	verdict := d.Decision
	if d.Code != "" {
		verdict += ": " + string(d.Code)
		if m, ok := code.Meaning(d.Code); ok {
			verdict += ", " + m
		}
	}
	line("decision", verdict)
	line("because", d.Reason)
	line("alert", d.Alert)
	if d.Sent != "" && d.Sent != d.Code {
		line("guest sees", string(d.Sent))
	}
	for _, f := range d.Findings {
		fmt.Fprintf(w, "  %s\n    found  %s\n    wanted %s\n", f.Field, f.Found, f.Want)
		if f.Note != "" {
			fmt.Fprintf(w, "    note   %s\n", f.Note)
		}
	}
	if d.Checked > 0 {
		fmt.Fprintf(w, "%d fields were checked, %d refused\n", d.Checked, len(d.Findings))
	}
}
