package measure

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"attestbox/internal/testenv"
)

// The example of docs/measure.md computes the digest without a line of ours.
func TestDocsExample(t *testing.T) {
	python := testenv.Tool(t, "python3", "python3")
	page, err := os.ReadFile(filepath.Join(testenv.Root(), "docs/measure.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, code, found := strings.Cut(string(page), "```python\n")
	code, _, end := strings.Cut(code, "```\n")
	if !found || !end {
		t.Fatal("docs/measure.md has no example in Python")
	}
	cmd := exec.CommandContext(t.Context(), python, "-I", "-c", code)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil || strings.TrimSpace(string(out)) != goldenDigest {
		t.Errorf("printed %q, %v; want %s", out, err, goldenDigest)
	}
}
