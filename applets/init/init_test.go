package init

import (
	"context"
	"errors"
	"strings"
	"testing"

	"attestbox/internal/applet"
)

func call(args ...string) (string, error) {
	var out, errs strings.Builder
	env := &applet.Env{Name: "init", Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs, Getenv: func(string) string { return "" }}
	err := Applet.Run(context.Background(), env, args)
	return out.String(), err
}

// Anywhere but in process 1 init does nothing and says so.
func TestNotProcessOne(t *testing.T) {
	for _, args := range [][]string{nil, {"single"}, {"-x"}} {
		if _, err := call(args...); applet.ExitCode(err) != applet.ExitUsage {
			t.Errorf("%q: %v", args, err)
		}
	}
	out, err := call("-h")
	if !errors.Is(err, applet.ErrHelp) || !strings.Contains(out, "usage: init") {
		t.Errorf("-h: %q, %v", out, err)
	}
}
