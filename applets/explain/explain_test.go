package explain

import (
	"bytes"
	"context"
	"io/fs"
	"strings"
	"testing"

	"attestbox/docs"
	"attestbox/internal/applet"
	"attestbox/internal/code"
)

func explain(args ...string) (string, error) {
	var out bytes.Buffer
	err := run(context.Background(), &applet.Env{Name: "explain", Stdout: &out, Stderr: &out}, args)
	return out.String(), err
}

// Every code has its page with cause, check and command, and no page is
// without a code.
func TestEveryCodeIsExplained(t *testing.T) {
	for _, c := range code.All() {
		out, err := explain(string(c))
		if err != nil {
			t.Error(err)
			continue
		}
		for _, want := range []string{"# " + string(c) + "\n", "Cause", "Check", "Command"} {
			if !strings.Contains(out, want) {
				t.Errorf("docs/errors/%s.md lacks %q", c, want)
			}
		}
	}
	pages, err := fs.Glob(docs.Errors, "errors/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pages {
		c := code.Code(strings.TrimSuffix(strings.TrimPrefix(p, "errors/"), ".md"))
		if _, ok := code.Meaning(c); !ok && c != "README" {
			t.Errorf("%s explains a code that does not exist", p)
		}
	}
}

func TestUnknownCode(t *testing.T) {
	if _, err := explain("no-such"); applet.ExitCode(err) != applet.ExitUsage {
		t.Errorf("%v", err)
	}
	if out, err := explain(); err != nil || !strings.Contains(out, "launch-refused") {
		t.Errorf("list: %q, %v", out, err)
	}
}
