package image

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

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
	type file struct {
		name string
		data []byte
	}
	files := []file{{InitrdName, img.Initrd}, {KernelName, img.Kernel}, {CmdlineName, []byte(img.Cmdline)}, {RecordName, record}}
	if img.UKI != nil {
		files = slices.Insert(files, 3, file{UKIName, img.UKI})
	}
	pending := make([]*renameio.PendingFile, len(files))
	errs := make([]error, len(files))
	defer func() {
		for _, p := range pending {
			if p != nil {
				p.Cleanup()
			}
		}
	}()
	var wait sync.WaitGroup
	for i, f := range files {
		wait.Go(func() { // the wait for the disk is the same for one and for all
			pending[i], errs[i] = writePending(dir, f.name, f.data)
		})
	}
	wait.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, p := range pending {
		if err := p.CloseAtomicallyReplace(); err != nil {
			return fmt.Errorf("replacing a file of %q: %w", dir, err)
		}
	}
	return nil
}

// writePending writes a file in full, beside the place that it is for.
func writePending(dir, name string, data []byte) (*renameio.PendingFile, error) {
	p, err := renameio.NewPendingFile(filepath.Join(dir, name), renameio.WithTempDir(dir), renameio.WithStaticPermissions(0o644))
	if err != nil {
		return nil, fmt.Errorf("writing %q: %w", name, err)
	}
	if _, err = p.Write(data); err == nil {
		err = p.Sync()
	}
	if err != nil {
		err = fmt.Errorf("writing %q: %w", name, err)
	}
	return p, err
}
