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

// settings has the go command read a file of settings, with the caches as before.
func settings(t *testing.T, text string) {
	t.Helper()
	for _, name := range []string{"GOCACHE", "GOMODCACHE", "GOPATH"} {
		out, err := exec.Command("go", "env", name).Output()
		if err != nil {
			t.Fatal(err)
		}
		t.Setenv(name, strings.TrimSpace(string(out)))
	}
	home := t.TempDir()
	if err := os.MkdirAll(filepath.Join(home, ".config", "go"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(home, ".config", "go", "env"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("HOME", home)
	t.Setenv("XDG_CONFIG_HOME", "")
}

// Where sources come from may be said in the file of settings; nothing else.
func TestSettings(t *testing.T) {
	settings(t, "GOPROXY=https://proxy.example\nGOFIPS140=latest\nGOEXPERIMENT=jsonv2\nGOFLAGS=-tags=other\n")
	t.Setenv("GOSUMDB", "off")
	goTool, err := exec.LookPath("go")
	if err != nil {
		t.Fatal(err)
	}
	env, err := environment(t.Context(), goTool, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"GOPROXY=https://proxy.example", "GOSUMDB=off", "GOENV=off"} {
		if !slices.Contains(env, want) {
			t.Errorf("no %s in %q", want, env)
		}
	}
	cmd := exec.Command(goTool, "env", "GOFIPS140", "GOEXPERIMENT", "GOFLAGS")
	cmd.Env = env
	if out, err := cmd.Output(); err != nil || string(out) != "off\n\n-mod=readonly\n" {
		t.Errorf("%q, %v", out, err)
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
	settings(t, "GOFIPS140=latest\n")
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
