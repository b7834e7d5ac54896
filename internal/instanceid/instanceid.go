// Package instanceid is where a running VM finds the instance ID that its image
// brings, if it brings one: init writes /run/attestbox/instance from the
// measured configuration, before any program starts. Without the file the ID is
// HOST_DATA. The file selects and proves nothing: the verifier releases to an ID
// only what its measurement may have.
package instanceid

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"

	"attestbox/internal/code"
	"attestbox/internal/wire"
)

// Path is where init leaves the file: 64 hex digits and a newline.
const Path = "/run/attestbox/instance"

// Write is init's.
func Write(path string, id wire.Hex32) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return renameio.WriteFile(path, []byte(id.String()+"\n"), 0o444)
}

// Read gives the image's ID; zeros where the image brings none. A malformed file
// is an error: another ID would be taken in its place.
func Read(path string) (id wire.Hex32, err error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return id, nil
	}
	if err != nil {
		return id, fmt.Errorf("reading the image's instance ID: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 128))
	if err == nil {
		err = id.UnmarshalText([]byte(strings.TrimSuffix(string(b), "\n")))
	}
	if err == nil && id.IsZero() {
		err = errors.New("it is all zeros")
	}
	if err != nil {
		return wire.Hex32{}, code.Wrap(code.ConfigBad, fmt.Errorf("reading the image's instance ID from %q: %w", path, err))
	}
	return id, nil
}
