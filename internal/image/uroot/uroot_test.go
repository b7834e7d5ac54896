package uroot

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"attestbox/internal/testenv"
)

// The commands are of the version that the rest of the project uses.
func TestPinned(t *testing.T) {
	mod, err := os.ReadFile(filepath.Join(testenv.Root(), "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	if v := Version(); v == "" || !strings.Contains(string(mod), module+" "+v+"\n") {
		t.Errorf("commands.mod has u-root %q, go.mod another", v)
	}
}

func TestCheck(t *testing.T) {
	for _, names := range [][]string{{""}, {"../exp/rush"}, {"ls", "ls"}, {"init"}, {"-o"}, {"a b"}, {"LS"}, {"..."}} {
		if Check(names) == nil {
			t.Errorf("%q accepted", names)
		}
	}
	if err := Check([]string{"ls", "dhclient", "update-rc.d"}); err != nil {
		t.Error(err)
	}
}

func TestNoGo(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if _, err := Build(t.Context(), []string{"ls"}); !errors.Is(err, ErrNoGo) {
		t.Errorf("%v", err)
	}
}

// One program is every command, its bytes depend neither on the order of the
// names nor on folder, umask or environment, and it runs.
func TestBuild(t *testing.T) {
	if testing.Short() {
		t.Skip("it compiles for some seconds")
	}
	one, err := Build(t.Context(), []string{"echo", "basename", "gosh"})
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	t.Setenv("TMPDIR", t.TempDir())
	t.Setenv("GOFLAGS", "-tags=other")
	t.Setenv("GOAMD64", "v3")
	t.Setenv("TZ", "Asia/Tokyo")
	two, err := Build(t.Context(), []string{"gosh", "echo", "basename"})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(one, two) {
		t.Errorf("two builds differ: %d and %d bytes", len(one), len(two))
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "bb"), one, 0o700); err != nil {
		t.Fatal(err)
	}
	for link, to := range map[string]string{"basename": "bb", "gosh": "bb", "sh": "gosh"} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	for _, argv := range [][]string{{"basename", "/a/hello"}, {"sh", "-c", "echo hello"}, {"gosh", "-c", "echo hello"}} {
		if out, err := exec.Command(filepath.Join(dir, argv[0]), argv[1:]...).CombinedOutput(); err != nil || string(out) != "hello\n" {
			t.Errorf("%q: %q, %v", argv, out, err)
		}
	}
	if _, err := Build(t.Context(), []string{"nosuch"}); err == nil || !strings.Contains(err.Error(), "nosuch") {
		t.Errorf("no such command: %v", err)
	}
	if !slices.Contains(Shells, "gosh") {
		t.Error("gosh is a shell")
	}
}
