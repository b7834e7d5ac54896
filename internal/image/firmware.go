package image

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// firmwarePath is where the kernel looks for firmware files.
const firmwarePath = "lib/firmware"

// firmwareForms are the endings under which the kernel finds a file.
var firmwareForms = []string{"", ".zst", ".xz"}

// addFirmware adds the firmware that the modules name. A module names what any
// of its devices may want, and works without most of it: what is missing is noted.
func (b *builder) addFirmware(tree *Modules, mods []Module) error {
	wanted := map[string]string{}
	for _, mod := range mods {
		for _, f := range tree.loaded[mod.Name].info.Firmware {
			wanted[f] = mod.Name
		}
	}
	names := make([]string, 0, len(wanted))
	for f := range wanted {
		names = append(names, f)
	}
	slices.Sort(names)
	for _, name := range names {
		if _, err := CleanPath(name); err != nil {
			return fmt.Errorf("firmware of module %q: %w", wanted[name], err)
		}
		n := 0
		if b.m.FirmwareDir != "" {
			var err error
			if n, err = b.addFirmwareFile(name); err != nil {
				return err
			}
		}
		if n == 0 {
			b.note(fmt.Sprintf("firmware %s, which module %s names, is not in the image", name, wanted[name]))
		}
	}
	return nil
}

// addFirmwareFile adds what a name, which may be a pattern, stands for, and
// says how many files that were.
func (b *builder) addFirmwareFile(name string) (n int, err error) {
	matches := []string{filepath.Join(b.m.FirmwareDir, filepath.FromSlash(name))}
	if strings.ContainsAny(name, "*?[") {
		matches = nil
		for _, form := range firmwareForms {
			found, err := filepath.Glob(filepath.Join(escapeGlob(b.m.FirmwareDir), filepath.FromSlash(name)) + form)
			if err != nil {
				return 0, fmt.Errorf("firmware %q: %w", name, err)
			}
			matches = append(matches, found...)
		}
	}
	for _, m := range matches {
		for _, form := range firmwareForms {
			data, err := readFile(m+form, maxFile)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			} else if err != nil {
				return n, fmt.Errorf("reading firmware: %w", err)
			}
			n++
			rel, err := filepath.Rel(b.m.FirmwareDir, m+form)
			if err != nil {
				return n, err
			}
			to := path.Join(firmwarePath, filepath.ToSlash(rel))
			if _, have := b.a.Get(to); have {
				break // two modules, or a pattern and a name, mean the same file
			}
			if err := refuseKey(m+form, data); err != nil {
				return n, err
			}
			b.input(roleFirmware, m+form, to, data)
			if err := b.a.AddFile(to, 0o644, data); err != nil {
				return n, err
			}
			break
		}
	}
	return n, nil
}

// roleFirmware is the role of a device's firmware; "firmware" is the machine's.
const roleFirmware = "module-firmware"

// escapeGlob makes a folder's name mean itself in a pattern.
func escapeGlob(s string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(s)
}
