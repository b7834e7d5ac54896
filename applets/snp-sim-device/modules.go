package snpsimdevice

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// ModuleList names the modules to load, one path per line in load order,
// relative to /lib/modules/<release>: the form of /etc/attestbox/modules.
const ModuleList = "etc/snp-sim/modules"

// loadModules loads what ModuleList below root names. Modules that are in the
// kernel already are fine; no list means that the kernel has them built in.
func loadModules(root string) error {
	list, err := os.ReadFile(filepath.Join(root, ModuleList))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	paths, err := parseModuleList(string(list))
	if err != nil {
		return err
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return fmt.Errorf("asking for the kernel's release: %w", err)
	}
	dir := filepath.Join(root, "lib/modules", unix.ByteSliceToString(u.Release[:]))
	for _, p := range paths {
		if err := loadModule(filepath.Join(dir, p)); err != nil {
			return err
		}
	}
	return nil
}

func parseModuleList(list string) ([]string, error) {
	var paths []string
	for line := range strings.Lines(list) {
		p := strings.TrimSuffix(line, "\n")
		if !filepath.IsLocal(p) || filepath.Clean(p) != p {
			return nil, fmt.Errorf("%s: %q is not a path below /lib/modules", ModuleList, p)
		}
		paths = append(paths, p)
	}
	return paths, nil
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("loading a module: %w", err)
	}
	defer f.Close()
	flags := 0
	if !strings.HasSuffix(path, ".ko") { // .ko.xz, .ko.zst, .ko.gz: the kernel's matter
		flags = unix.MODULE_INIT_COMPRESSED_FILE
	}
	if err := unix.FinitModule(int(f.Fd()), "", flags); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("loading module %q: %w", path, err)
	}
	return nil
}
