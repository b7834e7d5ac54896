package config

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"

	"attestbox/internal/bundle"
	"attestbox/internal/wire"
)

// Bundle is the signed bundle that a Stage1 image starts; docs/bundle.md.
type Bundle struct {
	Device string `json:"device"` // "/dev/vda": the bundle is read from its beginning
	// Key is the owner's bundle key, an Ed25519 public key of 64 hex digits.
	Key  wire.Hex32 `json:"key"`
	Name string     `json:"name"` // a bundle of another name is refused
	// MinVersion is below which no bundle is started. The verifier's floor may
	// be higher, and rises without a new image.
	MinVersion uint64 `json:"min_version"`
}

// Owner is the key that signs bundles.
func (b *Bundle) Owner() ed25519.PublicKey { return b.Key[:] }

// CheckBundleCommandLine judges the command line in a bundle by the rules of what
// it starts: init's, or those of a distribution's own initramfs where it names a
// mapping as its root. The bundle's own initramfs judges it again.
func CheckBundleCommandLine(line string) error {
	_, err := CheckCommandLine(line)
	for w := range strings.FieldsSeq(line) {
		volume, ok := strings.CutPrefix(w, "root=/dev/mapper/")
		if err == nil || !ok || !nameForm(volume) {
			continue
		}
		if CheckStockCommandLine(line, InitramfsTools, volume) == nil || CheckStockCommandLine(line, Dracut, volume) == nil {
			return nil
		}
	}
	return err
}

func (c *Config) checkStage1() error {
	switch {
	case c.Bundle == nil:
		return fmt.Errorf("bundle: needed in mode %q", Stage1)
	case c.Root != nil || c.State != nil || len(c.Programs) > 0:
		return fmt.Errorf("root, state and programs belong to the bundle's own configuration, not to mode %q", Stage1)
	case !deviceForm(c.Bundle.Device):
		return fmt.Errorf("bundle: device %.60q is not a kernel device such as /dev/vda", c.Bundle.Device)
	case c.Bundle.Key.IsZero():
		return errors.New("bundle: the owner's key is missing")
	case !bundle.ValidName(c.Bundle.Name):
		return fmt.Errorf("bundle: name %.40q: want a lower-case letter, then letters, digits, - and _, 32 in all", c.Bundle.Name)
	case !wire.ValidBundleVersion(c.Bundle.MinVersion):
		return fmt.Errorf("bundle: min_version %d, want 1 or more", c.Bundle.MinVersion)
	}
	return nil
}
