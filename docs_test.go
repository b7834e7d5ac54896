package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Every row of the threat page names a test that exists, or says "not yet".
func TestThreatsPage(t *testing.T) {
	page, err := os.ReadFile("docs/threats.md")
	if err != nil {
		t.Fatal(err)
	}
	link := regexp.MustCompile("`([a-z0-9/-]+):(Test[A-Za-z0-9_]+)`")
	rows := 0
	for _, line := range strings.Split(string(page), "\n") {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| attack ") {
			continue
		}
		rows++
		cells := strings.Split(strings.Trim(line, "|"), "|")
		last := cells[len(cells)-1]
		links := link.FindAllStringSubmatch(last, -1)
		if len(links) == 0 && !strings.Contains(last, "not yet") {
			t.Errorf("no test and no \"not yet\": %s", line)
		}
		for _, l := range links {
			if !hasTest(t, l[1], l[2]) {
				t.Errorf("%s has no %s: %s", l[1], l[2], line)
			}
		}
	}
	if rows < 30 {
		t.Errorf("only %d rows were seen", rows)
	}
}

func hasTest(t *testing.T, dir, name string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		src, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(src), "\nfunc "+name+"(t *testing.T) {") {
			return true
		}
	}
	return false
}

// Relative links in the pages lead somewhere.
func TestLinks(t *testing.T) {
	pages, _ := filepath.Glob("docs/*.md")
	pages = append(pages, "README.md", "LIMITATIONS.md", "BENCHMARKS.md", "CHANGELOG.md")
	link := regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)
	for _, p := range pages {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, m := range link.FindAllStringSubmatch(string(b), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(p), m[1])); err != nil {
				t.Errorf("%s: %v", p, err)
			}
		}
	}
}
