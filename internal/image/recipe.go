package image

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
)

// Recipe is what was asked for, as far as the rest of the record does not say
// it: with the inputs it is enough to build the image again.
type Recipe struct {
	Modules []string `json:"modules,omitempty"` // names, "default" for the default set; absent = none
	Applets []string `json:"applets"`
	Small   bool     `json:"small,omitempty"`

	URoot       []string `json:"uroot,omitempty"`        // commands, as named
	FirmwareDir bool     `json:"firmware_dir,omitempty"` // there was one
	Files       []string `json:"files,omitempty"`        // paths in the image that -file made, folders and symlinks too
}

func recipeOf(m *Manifest) *Recipe {
	r := &Recipe{Modules: m.Modules, Applets: m.Applets, Small: m.Small, URoot: m.URoot, FirmwareDir: m.FirmwareDir != ""}
	if r.Modules == nil {
		r.Modules = []string{"default"}
	}
	if r.Applets == nil {
		r.Applets = DefaultApplets
	}
	return r
}

// ErrNoRecipe is a record that does not say how its image was built.
var ErrNoRecipe = errors.New("the record does not say how the image was built")

// manifest puts the record's manifest together again from found inputs. stage
// gives the path of an input under its recorded name.
func (r *Record) manifest(stage func(in Input) (string, error), modulesDir, firmwareDir string) (*Manifest, error) {
	if r.Recipe == nil || r.Measurement == nil {
		return nil, ErrNoRecipe
	}
	m := &Manifest{
		FirmwareDir: firmwareDir,
		ModulesDir:  modulesDir, Modules: append([]string{}, r.Recipe.Modules...), Applets: r.Recipe.Applets, Append: r.Cmdline, Compress: r.Compress, Small: r.Recipe.Small, URoot: r.Recipe.URoot, InstanceID: r.InstanceID,
		Debug: r.Debug, VCPUs: r.Measurement.VCPUs, VCPUType: r.Measurement.VCPUType,
		GuestFeatures: r.Measurement.GuestFeatures, VMM: r.Measurement.VMM,
	}
	files := map[string]string{} // where the source of a path in the image is
	for _, in := range r.Inputs {
		if in.found() || in.Role == roleURoot {
			continue
		}
		at, err := stage(in)
		if err != nil {
			return nil, err
		}
		switch in.Role {
		case "kernel":
			m.Kernel = at
		case "guest":
			m.Guest = at
		case "config":
			m.Config = at
		case "verity":
			m.Verity = at
		case "sim-device":
			m.SimDevice = at
		case "busybox":
			m.Busybox = at
		case "firmware":
			m.Firmware = at
		case "certificate":
			m.Certificates = append(m.Certificates, at)
		case "uki-stub":
			m.UKI, m.UKIStub = true, at
		case "microcode":
			m.Microcode = append(m.Microcode, at)
		case "file":
			files[in.Path] = at
		default:
			return nil, fmt.Errorf("%w: an input of role %q is unknown to this program", ErrNoRecipe, in.Role)
		}
	}
	for _, p := range r.Recipe.Files {
		f, err := r.recipeFile(p, files[p])
		if err != nil {
			return nil, err
		}
		m.Files = append(m.Files, f)
	}
	return m, nil
}

// recipeFile is one path that -file made, with its mode spelled out: of the
// source's own mode nothing is taken.
func (r *Record) recipeFile(p, source string) (File, error) {
	i := slices.IndexFunc(r.Files, func(f FileRecord) bool { return f.Path == p })
	if i < 0 {
		return File{}, fmt.Errorf("%w: %q is not among its files", ErrNoRecipe, p)
	}
	rec := r.Files[i]
	mode, err := parseModeString(rec.Mode)
	if err != nil {
		return File{}, fmt.Errorf("%w: %q: %w", ErrNoRecipe, p, err)
	}
	f := File{Path: p, Source: source, Mode: fmt.Sprintf("%04o", mode&0o7777)}
	switch mode & TypeMask {
	case TypeDir:
		f.Mode, f.folder = "", true
	case TypeSymlink:
		f.Mode, f.link = "", rec.Target
	case TypeRegular:
		if source == "" {
			return File{}, fmt.Errorf("%w: %q has no input", ErrNoRecipe, p)
		}
	default:
		return File{}, fmt.Errorf("%w: %q is neither file, folder nor symlink", ErrNoRecipe, p)
	}
	return f, nil
}

// parseModeString reads what ModeString wrote.
func parseModeString(s string) (uint32, error) {
	types := map[byte]uint32{'-': TypeRegular, 'd': TypeDir, 'l': TypeSymlink, 'c': TypeChar}
	if len(s) == 10 {
		mode := types[s[0]]
		for i := range 9 {
			switch c := s[1+i]; {
			case c == 'S' || c == 'T':
				mode |= 0o4000 >> (i / 3)
			case c == 's' || c == 't':
				mode |= 0o4000>>(i/3) | 1<<(8-i)
			case c != '-':
				mode |= 1 << (8 - i)
			}
		}
		if mode&TypeMask != 0 && ModeString(mode) == s {
			return mode, nil
		}
	}
	return 0, fmt.Errorf("mode %.20q is none", s)
}

// found says that an input lies in the modules' or the firmware's folder, where
// its path says.
func (in Input) found() bool { return in.ofKernel() || in.Role == roleFirmware }

func (in Input) ofKernel() bool { return in.Role == "module" || in.Role == "builtin" }

// inFolder is the path of such an input below its folder.
func (in Input) inFolder(release string) string {
	switch in.Role {
	case "builtin":
		return builtinName
	case roleFirmware:
		rel, _ := strings.CutPrefix(in.Path, "/"+firmwarePath+"/")
		return rel
	}
	rel, _ := strings.CutPrefix(in.Path, "/lib/modules/"+release+"/")
	return path.Join(path.Dir(rel), in.Name) // in the image it may lie unpacked
}

// checkInputs refuses names in a record that would lead out of a folder.
func (r *Record) checkInputs() error {
	if r.KernelRelease == "" || path.Base(r.KernelRelease) != r.KernelRelease || r.KernelRelease == ".." || r.KernelRelease == "." {
		return fmt.Errorf("%w: kernel release %.80q", ErrNoRecipe, r.KernelRelease)
	}
	for _, in := range r.Inputs {
		if in.Name == "" || in.Name == "." || in.Name == ".." || path.Base(in.Name) != in.Name {
			return fmt.Errorf("%w: input %.80q is no plain name", ErrNoRecipe, in.Name)
		}
		if in.found() {
			if _, err := CleanPath(in.inFolder(r.KernelRelease)); err != nil {
				return fmt.Errorf("%w: %s at %.80q", ErrNoRecipe, in.Role, in.Path)
			}
		}
	}
	return nil
}
