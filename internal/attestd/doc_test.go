package attestd

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"attestbox/internal/testenv"
)

// The program on the page, in another language, works as it stands there.
func TestPageProgram(t *testing.T) {
	python := testenv.Tool(t, "python3", "python3")
	page, err := os.ReadFile(filepath.Join(testenv.Root(), "docs", "attestd.md"))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile("(?s)```python\n(.*?)```").FindSubmatch(page)
	if m == nil {
		t.Fatal("the page has no program")
	}
	free := make(chan struct{})
	close(free)
	w := newWorld(t, false, func(o *Options) { o.Platform = &stuck{asked: make(chan struct{}, 1), free: free} })
	out, err := exec.Command(python, "-c", string(m[1]), w.socket).CombinedOutput()
	want := "served by " + strconv.Itoa(os.Getuid()) + "\nI am unmeasured\nreport of 1580 characters\n"
	if err != nil || string(out) != want {
		t.Errorf("%v\n%s\nwant\n%s", err, out, want)
	}
	for _, s := range []string{"64 connections, 16 of one user", "60 s for a request", "At the end\nattestd gives running requests 5 s"} {
		if !strings.Contains(string(page), s) {
			t.Errorf("the page does not say %q", s)
		}
	}
	if l := (Limits{}).withDefaults(); l.Connections != 64 || l.PerUser != 16 || l.Idle.Seconds() != 60 || l.Shutdown.Seconds() != 5 {
		t.Errorf("the limits are not the page's: %+v", l)
	}
}
