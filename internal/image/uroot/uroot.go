// Package uroot builds commands of u-root into one static program, by u-root's
// own tool for that, makebb of gobusybox. Both come as sources of pinned versions
// through the go command: a module of its own, commands.mod and commands.sum
// beside this file, names them with everything that they need. So nothing of them
// is linked into mkimage, and nothing that mkimage needs changes their bytes.
package uroot

import (
	"bytes"
	"context"
	_ "embed" // the module's two files
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

var (
	//go:embed commands.mod
	modFile []byte
	//go:embed commands.sum
	sumFile []byte
)

const (
	module = "github.com/u-root/u-root"
	makebb = "github.com/u-root/gobusybox/src/cmd/makebb"
)

// ErrNoGo is a machine without the go command.
var ErrNoGo = errors.New("commands of u-root are built by the go command, which is not in PATH")

// ErrCommand is a name that is no command of u-root's.
var ErrCommand = errors.New("not a command of u-root's cmds/core")

// Shells are the commands that run others as they are told.
var Shells = []string{"gosh"}

// Version is the pinned version of u-root.
func Version() string {
	for line := range strings.Lines(string(modFile)) {
		if f := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "require ")); len(f) >= 2 && f[0] == module {
			return f[1]
		}
	}
	return ""
}

// Check refuses names that cannot be commands, before anything is built.
func Check(names []string) error {
	for i, n := range names {
		bad := strings.ContainsFunc(n, func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '_' && r != '.'
		})
		switch {
		case n == "" || bad || n[0] == '.' || n[0] == '-':
			return fmt.Errorf("%.40q is %w", n, ErrCommand)
		case n == "init" || n == "sluinit":
			return fmt.Errorf("u-root's %s would stand in for the image's own init", n)
		case slices.Contains(names[:i], n):
			return fmt.Errorf("u-root's %s is named twice", n)
		}
	}
	return nil
}

// Build gives a static program for x86-64 that is every one of the commands, by
// the name that it is called by. The same versions of Go and u-root give the same
// bytes, whatever the order of the names. The go command's caches are used; what
// is not in them is fetched as it is set up to, and compared with commands.sum.
func Build(ctx context.Context, names []string) ([]byte, error) {
	if err := Check(names); err != nil {
		return nil, err
	}
	goTool, err := exec.LookPath("go")
	if err != nil {
		return nil, ErrNoGo
	}
	top, err := os.MkdirTemp("", "mkimage-uroot-")
	if err != nil {
		return nil, fmt.Errorf("building commands of u-root: %w", err)
	}
	defer os.RemoveAll(top)
	// The go command ignores a module that lies in TMPDIR itself.
	dir, tmp := filepath.Join(top, "module"), filepath.Join(top, "tmp")
	if err := errors.Join(os.Mkdir(dir, 0o700), os.Mkdir(tmp, 0o700)); err != nil {
		return nil, fmt.Errorf("building commands of u-root: %w", err)
	}
	for name, data := range map[string][]byte{"go.mod": modFile, "go.sum": sumFile} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			return nil, fmt.Errorf("building commands of u-root: %w", err)
		}
	}
	bb := filepath.Join(top, "bb")
	// With -a, makebb's default, the same bytes come five times slower.
	args := []string{"run", makebb, "-go-extra-args=-a=false", "-go-extra-args=-buildvcs=false", "-o", bb}
	sorted := slices.Sorted(slices.Values(names))
	for _, n := range sorted {
		args = append(args, module+"/cmds/core/"+n)
	}
	cmd := exec.CommandContext(ctx, goTool, args...)
	cmd.Dir = dir
	if cmd.Env, err = environment(ctx, goTool, tmp); err != nil {
		return nil, fmt.Errorf("building commands of u-root: %w", err)
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("building commands of u-root %s (%s): %w: %s", Version(), strings.Join(sorted, ","), err, tail(out))
	}
	data, err := os.ReadFile(bb)
	if err != nil {
		return nil, fmt.Errorf("building commands of u-root: %w: %s", err, tail(out))
	}
	return data, nil
}

// passed are the variables of the caller's that say where programs, caches and
// sources are. No other one reaches the build.
var passed = []string{"PATH", "HOME", "XDG_CACHE_HOME", "GOROOT",
	"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR"}

// asked are those settings of the go command that mean the same, from the
// caller's variables or its file of settings (go env -w). The build has that file
// turned off: GOEXPERIMENT, GOFIPS140 and others in it would change its bytes.
var asked = []string{"GOPATH", "GOCACHE", "GOMODCACHE", "GOPROXY", "GOSUMDB", "GONOSUMDB", "GOPRIVATE"}

func environment(ctx context.Context, goTool, tmp string) ([]string, error) {
	ask := exec.CommandContext(ctx, goTool, append([]string{"env", "-json"}, asked...)...)
	ask.Dir, ask.Env = tmp, append(os.Environ(), "GOTOOLCHAIN=local", "GOWORK=off", "GOFLAGS=")
	out, err := ask.Output()
	if err != nil {
		return nil, fmt.Errorf("asking the go command for its settings: %w", err)
	}
	settings := map[string]string{}
	if err := json.Unmarshal(out, &settings); err != nil {
		return nil, fmt.Errorf("asking the go command for its settings: %w", err)
	}
	env := []string{"GOOS=linux", "GOARCH=amd64", "GOAMD64=v1", "CGO_ENABLED=0", "GOFLAGS=-mod=readonly", "GOTOOLCHAIN=local", "GOWORK=off",
		"GO111MODULE=on", "GOENV=off", "GOEXPERIMENT=", "GODEBUG=", "LC_ALL=C", "TMPDIR=" + tmp}
	for _, name := range asked {
		if v := settings[name]; v != "" {
			env = append(env, name+"="+v)
		}
	}
	for _, name := range passed {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env, nil
}

// tail is the end of what a tool said, on one line.
func tail(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(bytes.ToValidUTF8(out, []byte("?")))), "\n")
	return strings.Join(lines[max(0, len(lines)-3):], "; ")
}
