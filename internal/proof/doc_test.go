package proof

import (
	"os"
	"strings"
	"testing"
)

// The worked proof of docs/policy.md is the one that is proved.
func TestDocs(t *testing.T) {
	page, err := os.ReadFile("../../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("testdata/hardware.txt")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(page), string(want)+"```\n") {
		t.Error("the page's proof is not testdata/hardware.txt")
	}
}
