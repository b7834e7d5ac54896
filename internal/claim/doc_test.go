package claim

import (
	"os"
	"strings"
	"testing"
)

// docs/policy.md names every verb and property, and its example is in the
// language.
func TestDocs(t *testing.T) {
	b, err := os.ReadFile("../../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(b)
	for v := range verbs {
		if !strings.Contains(page, "`"+string(v)+"`") {
			t.Errorf("verb %s is missing", v)
		}
	}
	for _, p := range Properties() {
		if !strings.Contains(page, "`"+p+"`") {
			t.Errorf("property %s is missing", p)
		}
	}
	_, rest, _ := strings.Cut(page, "```policy\n")
	example, _, ok := strings.Cut(rest, "```\n")
	if !ok {
		t.Fatal("no example")
	}
	p, err := Parse([]byte(example))
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Claims()) != 5 {
		t.Errorf("%d claims in the example", len(p.Claims()))
	}
}
