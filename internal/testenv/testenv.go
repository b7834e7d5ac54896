// Package testenv finds what tests need from outside the repository, and makes
// a missing piece a failure where it must not be one (CI).
package testenv

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
)

// CI says whether a missing tool or vector fails the test: ATTESTBOX_CI=1.
func CI() bool { return os.Getenv("ATTESTBOX_CI") == "1" }

// Skip skips the test with what is missing and how to get it, or fails it in CI.
func Skip(t testing.TB, missing string) {
	t.Helper()
	if CI() {
		t.Fatalf("missing in CI: %s", missing)
	}
	t.Skipf("missing: %s", missing)
}

// OnlyLong leaves a test to `make test-long`.
func OnlyLong(t testing.TB) {
	t.Helper()
	if !Long() {
		t.Skip("a long test: make test-long, or ATTESTBOX_LONG=1")
	}
}

// Root is the repository's root folder.
func Root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(filepath.Dir(file)))
}

// Tool finds a program in PATH or in the system folders that a user's PATH may
// lack, and calls Skip without it.
func Tool(t testing.TB, name, pkg string) string {
	t.Helper()
	if p, err := exec.LookPath(name); err == nil {
		return p
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin"} {
		p := filepath.Join(dir, name)
		if st, err := os.Stat(p); err == nil && st.Mode()&0o111 != 0 {
			return p
		}
	}
	Skip(t, name+" (Debian package "+pkg+")")
	return ""
}

// Shared is the path of a file below ../shared beside the repository, where
// vectors made elsewhere lie; ATTESTBOX_SHARED names another place.
func Shared(t testing.TB, rel string) string {
	t.Helper()
	base := os.Getenv("ATTESTBOX_SHARED")
	if base == "" {
		base = filepath.Join(filepath.Dir(Root()), "shared")
	}
	p := filepath.Join(base, rel)
	if _, err := os.Stat(p); err != nil {
		Skip(t, "test vector "+rel+", expected in "+base+" (set ATTESTBOX_SHARED for another place)")
	}
	return p
}

// Long says whether the tests are to run that cost minutes each: matrices of
// distributions and attacks on them (scripts/test.sh long, ATTESTBOX_LONG=1).
func Long() bool { return os.Getenv("ATTESTBOX_LONG") == "1" }
