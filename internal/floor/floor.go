// Package floor keeps what authenticated answers have taught a VM about time
// and policy (DESIGN section 10): the host owns the clock's beginning and may
// keep old answers, so both numbers only ever rise.
//
// The file is /run/attestbox/floor, one JSON object, on tmpfs; init makes it
// before any program starts, and every client of the domain raises it. It is
// not secret, and whoever may write it is root in the VM.
package floor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"attestbox/internal/strictjson"
)

// Path is where init leaves the file.
const Path = "/run/attestbox/floor"

const maxSize = 4096

// Floor is the file.
type Floor struct {
	Time             int64  `json:"time"` // Unix seconds
	MinPolicyVersion uint64 `json:"min_policy_version"`
}

// Max takes the higher of both in each number.
func (f Floor) Max(g Floor) Floor {
	return Floor{max(f.Time, g.Time), max(f.MinPolicyVersion, g.MinPolicyVersion)}
}

// Clock is now, but never below the floor.
func (f Floor) Clock(now time.Time) time.Time {
	if t := time.Unix(f.Time, 0); now.Before(t) {
		return t
	}
	return now
}

// Read reads the file; one that does not exist is the zero floor. A malformed
// one is an error: taking it for zero would lower the floor.
func Read(path string) (Floor, error) {
	var f Floor
	file, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return f, fmt.Errorf("reading the clock's floor: %w", err)
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, maxSize+1))
	if err != nil {
		return f, fmt.Errorf("reading the clock's floor: %w", err)
	}
	if len(b) > maxSize {
		return f, fmt.Errorf("the clock's floor %q is longer than %d bytes", path, maxSize)
	}
	if err := strictjson.Unmarshal(b, &f); err != nil {
		return Floor{}, fmt.Errorf("the clock's floor %q: %w", path, err)
	}
	return f, nil
}

// Raise raises the file to at least f and returns what it holds then. Its
// folder is locked meanwhile, so that two programs that learn at once do not
// lower each other's result.
func Raise(path string, f Floor) (Floor, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return f, fmt.Errorf("raising the clock's floor: %w", err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return f, fmt.Errorf("raising the clock's floor: %w", err)
	}
	defer d.Close()
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX); err != nil {
		return f, fmt.Errorf("locking %q: %w", dir, err)
	}
	old, err := Read(path)
	if err != nil {
		return f, err
	}
	next := old.Max(f)
	if next == old {
		return next, nil
	}
	b, err := json.Marshal(next)
	if err != nil {
		return f, err
	}
	if err := renameio.WriteFile(path, append(b, '\n'), 0o444); err != nil {
		return f, fmt.Errorf("raising the clock's floor: %w", err)
	}
	return next, nil
}
