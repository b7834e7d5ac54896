package image

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
)

// WriteDir puts an image into a folder as initrd, vmlinuz, cmdline and
// image.json. All four are written out in full before the first takes its
// place, and image.json takes its place last; other files of the folder stay.
func WriteDir(dir string, img *Image) error {
	record, err := img.Record.Marshal()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("making output folder: %w", err)
	}
	var pending []*renameio.PendingFile
	defer func() {
		for _, p := range pending {
			p.Cleanup()
		}
	}()
	for _, f := range []struct {
		name string
		data []byte
	}{{InitrdName, img.Initrd}, {KernelName, img.Kernel}, {CmdlineName, []byte(img.Cmdline)}, {RecordName, record}} {
		p, err := renameio.NewPendingFile(filepath.Join(dir, f.name), renameio.WithTempDir(dir), renameio.WithStaticPermissions(0o644))
		if err != nil {
			return fmt.Errorf("writing %q: %w", f.name, err)
		}
		pending = append(pending, p)
		if _, err := p.Write(f.data); err != nil {
			return fmt.Errorf("writing %q: %w", f.name, err)
		}
		if err := p.Sync(); err != nil {
			return fmt.Errorf("writing %q: %w", f.name, err)
		}
	}
	for _, p := range pending {
		if err := p.CloseAtomicallyReplace(); err != nil {
			return fmt.Errorf("replacing a file of %q: %w", dir, err)
		}
	}
	return nil
}
