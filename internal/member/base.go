package member

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"attestbox/internal/admission"
	"attestbox/internal/code"
	"attestbox/internal/floor"
	"attestbox/internal/secret"
)

// base is a checked Config with the domain's name.
type base struct {
	Config
	domain string
}

func newBase(cfg Config) (*base, error) {
	domain, err := admission.DomainOf(cfg.Policy)
	if err != nil {
		return nil, code.Wrap(code.ConfigBad, err)
	}
	b := &base{Config: cfg, domain: domain}
	if b.RunDir == "" {
		b.RunDir = filepath.Join(RunBase, domain)
	}
	if b.Floor == "" {
		b.Floor = floor.Path
	}
	if b.Now == nil {
		b.Now = time.Now
	}
	if b.Logf == nil {
		b.Logf = func(string, ...any) {}
	}
	return b, nil
}

// floors is the floor of time, of whatever domain taught it, and the policy
// version of this one: versions of different domains do not compare.
func (b *base) floors() (floor.Floor, error) {
	machine, err := floor.Read(b.Floor)
	if err != nil {
		return machine, err
	}
	own, err := floor.Read(filepath.Join(b.RunDir, floorFile))
	if err != nil {
		return own, err
	}
	return floor.Floor{Time: max(machine.Time, own.Time), MinPolicyVersion: own.MinPolicyVersion}, nil
}

// learn raises both files.
func (b *base) learn(f floor.Floor) error {
	if err := os.MkdirAll(b.RunDir, 0o700); err != nil {
		return fmt.Errorf("making the run folder: %w", err)
	}
	if _, err := floor.Raise(filepath.Join(b.RunDir, floorFile), f); err != nil {
		return err
	}
	_, err := floor.Raise(b.Floor, floor.Floor{Time: f.Time})
	return err
}

func (b *base) share() (*secret.Bytes, error) {
	f, err := os.Open(filepath.Join(b.RunDir, shareFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, ErrNoShare
	}
	if err != nil {
		return nil, fmt.Errorf("reading the store's share: %w", err)
	}
	defer f.Close()
	s, err := secret.ReadAll(f, maxShare)
	if err != nil {
		return nil, fmt.Errorf("reading the store's share: %w", err)
	}
	return s, nil
}

// epoch is the least epoch that this boot accepts of the store.
func (b *base) epoch() (uint64, error) {
	text, err := os.ReadFile(filepath.Join(b.RunDir, epochFile))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("reading the store's epoch: %w", err)
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("the store's epoch in %q: %w", b.RunDir, err)
	}
	return n, nil
}
