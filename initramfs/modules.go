package initramfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"attestbox/internal/code"
)

// modulesFile lists the modules in load order, one path per line, relative to
// /lib/modules/<release>.
const modulesFile = "/etc/attestbox/modules"

// moduleInitCompressedFile is MODULE_INIT_COMPRESSED_FILE of linux/module.h:
// the kernel unpacks the file itself.
const moduleInitCompressedFile = 4

// loadModules loads what the image lists. A module that is loaded or built in
// already (EEXIST), and one whose hardware is absent (ENODEV), are not errors:
// what is missing for real shows in the step that needs it.
func (in *Init) loadModules() (loaded int, err error) {
	list, err := os.ReadFile(in.path(modulesFile))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, code.Wrap(code.BootModule, err)
	}
	names, err := parseModules(string(list))
	if err != nil {
		return 0, code.Wrap(code.BootModule, fmt.Errorf("%s: %w", modulesFile, err))
	}
	release, err := in.sys.Release()
	if err != nil {
		return 0, code.Wrap(code.BootModule, err)
	}
	for _, name := range names {
		err := in.loadModule(filepath.Join(in.path("/lib/modules"), release, name), name)
		switch {
		case err == nil:
			loaded++
		case errors.Is(err, unix.EEXIST):
		case errors.Is(err, unix.ENODEV):
			in.log.debug("modules", "%s: no such hardware", name)
		case errors.Is(err, os.ErrNotExist):
			return loaded, code.Wrap(code.BootModule, fmt.Errorf("module %s for kernel %s: %w", name, release, err))
		default:
			return loaded, code.Wrap(code.BootModule, fmt.Errorf("loading module %s: %w", name, err))
		}
	}
	return loaded, nil
}

func (in *Init) loadModule(file, name string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	flags := 0
	if !strings.HasSuffix(name, ".ko") {
		flags = moduleInitCompressedFile
	}
	return in.sys.LoadModule(f, flags)
}

func parseModules(list string) ([]string, error) {
	var names []string
	for line := range strings.Lines(list) {
		name := strings.TrimSuffix(line, "\n")
		if name == "" {
			continue
		}
		if !fs.ValidPath(name) || strings.ContainsRune(name, 0) {
			return nil, fmt.Errorf("%.80q is not a clean relative path", name)
		}
		if !strings.HasSuffix(name, ".ko") && !strings.HasSuffix(name, ".ko.xz") && !strings.HasSuffix(name, ".ko.zst") && !strings.HasSuffix(name, ".ko.gz") {
			return nil, fmt.Errorf("%.80q is not a kernel module", name)
		}
		names = append(names, name)
	}
	return names, nil
}
