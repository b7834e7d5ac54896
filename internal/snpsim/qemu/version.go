package qemu

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"time"
)

// ErrNoQEMU says that there is no usable QEMU: not installed, or too old.
var ErrNoQEMU = errors.New("no usable QEMU (7.2 or later; Debian package qemu-system-x86)")

// Oldest QEMU that the simulator is known to work with.
const minMajor, minMinor = 7, 2

var versionRE = regexp.MustCompile(`QEMU emulator version (\d{1,4})\.(\d{1,4})`)

// Find looks the program up in PATH and checks its version.
func Find(ctx context.Context, binary string) (path string, err error) {
	if binary == "" {
		binary = DefaultBinary
	}
	path, err = exec.LookPath(binary)
	if err != nil {
		return "", fmt.Errorf("looking for %q: %w", binary, errors.Join(ErrNoQEMU, err))
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("asking %q for its version: %w", path, err)
	}
	major, minor, err := parseVersion(string(out))
	if err != nil {
		return "", fmt.Errorf("asking %q for its version: %w", path, err)
	}
	if major < minMajor || major == minMajor && minor < minMinor {
		return "", fmt.Errorf("%q is version %d.%d: %w", path, major, minor, ErrNoQEMU)
	}
	return path, nil
}

func parseVersion(s string) (major, minor int, err error) {
	m := versionRE.FindStringSubmatch(s)
	if m == nil {
		return 0, 0, errors.New("unknown answer to --version")
	}
	major, _ = strconv.Atoi(m[1])
	minor, _ = strconv.Atoi(m[2])
	return major, minor, nil
}
