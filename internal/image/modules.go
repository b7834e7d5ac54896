package image

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// ErrNoModule is a module that neither the folder nor the kernel has.
var ErrNoModule = errors.New("no such module")

// The default set of a root disk on virtio-blk with dm-crypt over dm-integrity,
// reached over virtio-net or vsock. What a kernel has built in is left out by itself.
var (
	defaultRequired = []string{"virtio_pci", "virtio_blk", "dm-mod", "dm-crypt", "xts", "dm-integrity", "authenc"}
	// Kernels differ in these: some have them built in without saying so, under
	// another name, or not at all.
	defaultOptional = []string{"ecb", "aes_generic", "aesni-intel", "ext4", "virtio_net",
		"vsock", "vmw_vsock_virtio_transport", "tsm", "tsm_report", "sev-guest"}
	// simModules carry the simulated secure processor; cuse brings fuse where
	// that is a module.
	simModules = []string{"virtio_pci", "virtio_console", "cuse"}
)

// forbidden says why a module must not be in a production image (DESIGN
// section 10: what else the host feeds the guest).
var forbidden = map[string]string{
	"fuse":        "a program could stand in for a device or a file system",
	"cuse":        "a program could stand in for /dev/sev-guest",
	"virtiofs":    "the host would serve files to the guest",
	"qemu_fw_cfg": "the host would feed files to the guest",
	"virtio_rng":  "the host would feed randomness to the guest",
}

// simOnly are the forbidden modules that the simulator's list may hold.
var simOnly = map[string]bool{"fuse": true, "cuse": true}

// builtinName is the kernel's list of the modules that it has built in.
const builtinName = "modules.builtin"

// Module is one module file of a kernel.
type Module struct {
	Name string // kernel's form, with "_"
	Path string // relative to /lib/modules/<release>
	Data []byte // the file as it is
	elf  []byte // Data, unpacked
}

// packed is the module's path and bytes in an archive of this compression. A
// compressed archive holds modules unpacked: the kernel unpacks the archive
// once and faster than each module of a package, in about as many bytes.
func (m *Module) packed(compression string) (string, []byte) {
	if compression == None {
		return m.Path, m.Data
	}
	return m.Path[:strings.LastIndex(m.Path, ".ko")] + ".ko", m.elf
}

// Modules is a folder /lib/modules/<release>, as a package unpacks it: depmod
// need not have run.
type Modules struct {
	dir     string
	files   map[string][]string // by name: paths relative to dir
	builtin map[string]bool
	// builtinList is the file that builtin was read from, nil without one.
	builtinList []byte
	loaded      map[string]*loadedModule
}

type loadedModule struct {
	Module
	info *ModInfo
}

// OpenModules lists the module files below dir and reads modules.builtin where
// there is one.
func OpenModules(dir string) (*Modules, error) {
	m := &Modules{dir: dir, files: map[string][]string{}, builtin: map[string]bool{}, loaded: map[string]*loadedModule{}}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if name, ok := ModuleName(p); ok && d.Type().IsRegular() {
			rel, err := filepath.Rel(dir, p)
			if err != nil {
				return err
			}
			m.files[name] = append(m.files[name], filepath.ToSlash(rel))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("listing kernel modules: %w", err)
	}
	raw, err := os.ReadFile(filepath.Join(dir, builtinName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading the list of built-in modules: %w", err)
	}
	m.builtinList = raw
	for sc := bufio.NewScanner(bytes.NewReader(raw)); sc.Scan(); {
		if name, ok := ModuleName(strings.TrimSpace(sc.Text())); ok {
			m.builtin[name] = true
		}
	}
	if len(m.files) == 0 && len(m.builtin) == 0 {
		return nil, fmt.Errorf("listing kernel modules: %q holds neither modules nor modules.builtin: want a folder such as /lib/modules/6.12.0-amd64", dir)
	}
	return m, nil
}

// Has says whether the kernel has a module as a file or built in.
func (m *Modules) Has(name string) bool {
	return m.builtin[normal(name)] || m.files[normal(name)] != nil
}

// Closure gives the named modules and all that they depend on, in an order in
// which they can be loaded: dependencies first, else as named. Built-in ones are
// left out. Soft dependencies are taken where they exist.
func (m *Modules) Closure(names []string) ([]Module, error) {
	w := walk{m: m, state: map[string]int{}}
	for _, n := range names {
		if err := w.visit(normal(n), nil); err != nil {
			return nil, err
		}
	}
	return w.order, nil
}

type walk struct {
	m     *Modules
	state map[string]int // 1 being visited, 2 done
	order []Module
}

func (w *walk) visit(name string, chain []string) error {
	switch w.state[name] {
	case 1:
		return fmt.Errorf("kernel modules depend on each other in a circle: %s", strings.Join(append(chain, name), " -> "))
	case 2:
		return nil
	}
	// A file wins over the list of built-in modules: both at once is a mistake
	// of the folder's maker, and loading one too many only fails with EEXIST.
	if w.m.files[name] == nil && w.m.builtin[name] {
		w.state[name] = 2
		return nil
	}
	mod, err := w.m.load(name)
	if err != nil {
		if len(chain) > 0 {
			err = fmt.Errorf("needed by %s: %w", strings.Join(chain, " -> "), err)
		}
		return err
	}
	w.state[name] = 1
	chain = append(slices.Clip(chain), name)
	for _, d := range mod.info.SoftPre {
		if d = w.m.soft(d); d != "" && w.state[d] != 1 {
			if err := w.visit(d, chain); err != nil {
				return err
			}
		}
	}
	for _, d := range mod.info.Depends {
		if err := w.visit(d, chain); err != nil {
			return err
		}
	}
	w.state[name] = 2
	w.order = append(w.order, mod.Module)
	return nil
}

// soft resolves a soft dependency, which may be a name or one of the crypto
// API's aliases: "crc32c" is served by crc32c_generic. "" if nothing is there.
func (m *Modules) soft(name string) string {
	for _, n := range []string{name, name + "_generic"} {
		if m.Has(n) {
			return n
		}
	}
	return ""
}

func (m *Modules) load(name string) (*loadedModule, error) {
	if l := m.loaded[name]; l != nil {
		return l, nil
	}
	l, err := m.read(name)
	if err == nil {
		m.loaded[name] = l
	}
	return l, err
}

// read reads a module and what it needs. It changes nothing of m.
func (m *Modules) read(name string) (*loadedModule, error) {
	paths := m.files[name]
	switch {
	case len(paths) == 0:
		return nil, fmt.Errorf("module %q: %w in %q, nor in its modules.builtin", name, ErrNoModule, m.dir)
	case len(paths) > 1:
		return nil, fmt.Errorf("module %q is there %d times: %s", name, len(paths), strings.Join(paths, ", "))
	}
	data, err := readFile(filepath.Join(m.dir, filepath.FromSlash(paths[0])), maxModule)
	if err != nil {
		return nil, fmt.Errorf("reading module %q: %w", name, err)
	}
	raw, err := moduleELF(paths[0], data)
	if err != nil {
		return nil, fmt.Errorf("reading module %q: %w", name, err)
	}
	info, err := parseModInfo(paths[0], raw)
	if err != nil {
		return nil, err
	}
	return &loadedModule{Module{name, path.Clean(paths[0]), data, raw}, info}, nil
}

// checkRelease refuses modules of another kernel: they would fail to load, in
// the guest, one by one.
func (m *Modules) checkRelease(mods []Module, release string) error {
	for _, mod := range mods {
		if l := m.loaded[mod.Name]; l != nil && l.info.VerMagic != "" {
			if got, _, _ := strings.Cut(l.info.VerMagic, " "); got != release {
				return fmt.Errorf("module %q is built for kernel %q, the image's kernel is %q", mod.Name, got, release)
			}
		}
	}
	return nil
}

// DefaultModules is the default set for a kernel with these modules.
func (m *Modules) DefaultModules() []string { return m.withOptional(defaultRequired, defaultOptional) }

// stage1Modules is that of a stage 1.
func (m *Modules) stage1Modules() []string { return m.withOptional(stage1Required, stage1Optional) }

func (m *Modules) withOptional(required, optional []string) []string {
	out := slices.Clone(required)
	for _, n := range optional {
		if m.Has(n) {
			out = append(out, n)
		}
	}
	return out
}

// expand replaces the word "default" in a list of names by the default set. No
// list at all is the default.
func expand(names, defaults []string) []string {
	if names == nil {
		return defaults
	}
	var out []string
	for _, n := range names {
		if n == "default" {
			out = append(out, defaults...)
		} else {
			out = append(out, n)
		}
	}
	return out
}

// checkForbidden refuses modules that have no place in the list they are for.
func checkForbidden(mods []Module, sim bool) error {
	for _, m := range mods {
		if why, bad := forbidden[m.Name]; bad && !(sim && simOnly[m.Name]) {
			return fmt.Errorf("module %q must not be in an image: %s", m.Name, why)
		}
	}
	return nil
}
