package image

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"attestbox/initramfs/config"
)

// ErrRefused is an input that must not go into an image.
var ErrRefused = errors.New("refused as a part of an image")

// Paths in an image that init and the simulator's device read.
const (
	guestPath      = "bin/attestbox"
	modulesPath    = "etc/attestbox/modules"
	debugPath      = "etc/attestbox/debug"
	certsPath      = "etc/attestbox/certs"
	simDevicePath  = "bin/snp-sim-device"
	simModulesPath = "etc/snp-sim/modules"
)

// Limits of single inputs, in bytes.
const (
	maxKernel = 256 << 20
	maxFile   = 512 << 20
)

// Image is a finished image.
type Image struct {
	Initrd  []byte
	Kernel  []byte
	Cmdline string // exact bytes, without newline or NUL
	UKI     []byte // nil without one
	Record  *Record
}

// Options are what does not come from the manifest.
type Options struct {
	SourceDateEpoch uint32       // time of every entry, seconds since 1970
	Progress        func(string) // called before each step; may be nil
}

type builder struct {
	m       *Manifest
	opt     Options
	cfg     *config.Config
	release string
	kernel  []byte
	modules *opened
	early   []byte // the archive in front of the initramfs
	a       Archive
	rec     *Record
}

// Build makes an image. Nothing is written to disk: see WriteDir.
func Build(m *Manifest, opt Options) (*Image, error) {
	if err := m.Check(); err != nil {
		return nil, err
	}
	if opt.Progress == nil {
		opt.Progress = func(string) {}
	}
	b := &builder{m: m, opt: opt, a: Archive{MTime: opt.SourceDateEpoch}, rec: &Record{
		Format: 1, Tool: thisTool(m.Compress), Debug: m.Debug, Simulator: m.SimDevice != "", SourceDateEpoch: opt.SourceDateEpoch,
		Recipe: recipeOf(m),
	}}
	b.modules = openAhead(m.ModulesDir, m.Modules)
	for _, step := range []struct {
		what string
		run  func() error
	}{
		{"kernel", b.readKernel},
		{"base and guest binary", b.addBase},
		{"configuration", b.addConfig},
		{"command line", b.addCmdline},
		{"kernel modules", b.addModules},
		{"stage 1", b.checkStage1},
		{"commands of u-root", b.addURoot},
		{"files", b.addFiles},
		{"microcode", b.addMicrocode},
	} {
		opt.Progress(step.what)
		if err := step.run(); err != nil {
			return nil, err
		}
	}
	if err := b.checkPrograms(); err != nil {
		return nil, err
	}
	if err := b.checkPolicy(); err != nil {
		return nil, err
	}
	opt.Progress("packing")
	initrd, sum, err := b.pack()
	if err != nil {
		return nil, err
	}
	b.rec.Outputs = Outputs{
		Initrd:  Output{int64(len(initrd)), hex.EncodeToString(sum[:])},
		Kernel:  b.rec.Outputs.Kernel,
		Cmdline: outputOf([]byte(b.rec.Cmdline)),
	}
	opt.Progress("launch digest")
	var firmware []byte
	if b.rec.Measurement, firmware, err = b.measure(sum); err != nil {
		return nil, err
	}
	unified, err := b.addUKI(initrd, firmware)
	if err != nil {
		return nil, err
	}
	slices.Sort(b.rec.Recipe.Files)
	slices.SortStableFunc(b.rec.Inputs, func(x, y Input) int { return strings.Compare(x.Path, y.Path) })
	return &Image{Initrd: initrd, Kernel: b.kernel, Cmdline: b.rec.Cmdline, UKI: unified, Record: b.rec}, nil
}

// pack compresses the archive and hashes the result on the way out.
func (b *builder) pack() ([]byte, [32]byte, error) {
	list, err := b.a.Entries()
	if err != nil {
		return nil, [32]byte{}, err
	}
	b.rec.Files = fileRecords(list)
	if b.rec.Compress = b.m.Compress; b.rec.Compress == "" {
		b.rec.Compress = Zstd
	}
	var out bytes.Buffer
	h := sha256.New()
	w := io.MultiWriter(&out, h)
	if _, err := w.Write(b.early); err != nil {
		return nil, [32]byte{}, err
	}
	z, err := compressor(w, b.rec.Compress, b.m.Small)
	if err != nil {
		return nil, [32]byte{}, err
	}
	if err := b.a.Write(z); err != nil {
		return nil, [32]byte{}, fmt.Errorf("packing initramfs: %w", err)
	}
	if err := z.Close(); err != nil {
		return nil, [32]byte{}, fmt.Errorf("packing initramfs: %w", err)
	}
	return out.Bytes(), [32]byte(h.Sum(nil)), nil
}

func (b *builder) addCmdline() (err error) {
	if b.cfg.Mode == config.Stage1 {
		b.rec.Cmdline, err = Stage1Cmdline(b.m.Append, b.release)
		return err
	}
	b.rec.Cmdline, err = Cmdline(b.m.Append)
	return err
}

func (b *builder) readKernel() (err error) {
	if b.kernel, err = readFile(b.m.Kernel, maxKernel); err != nil {
		return fmt.Errorf("reading kernel: %w", err)
	}
	if len(b.kernel) == 0 {
		return fmt.Errorf("reading kernel: %q is empty", b.m.Kernel)
	}
	in := b.input("kernel", b.m.Kernel, "", b.kernel)
	b.rec.Outputs.Kernel = Output{in.Size, in.SHA256}
	dir, err := filepath.Abs(b.m.ModulesDir)
	if err != nil {
		return err
	}
	b.release = filepath.Base(dir)
	if r, ok := KernelRelease(b.kernel); ok {
		if r != b.release {
			return fmt.Errorf("kernel %q is release %q, its modules would be those of %q", b.m.Kernel, r, b.release)
		}
	} else {
		b.note("the kernel is no bzImage: its release is taken from the modules' folder")
	}
	b.rec.KernelRelease = b.release
	return nil
}

// addBase adds the folders, device nodes and the guest binary with its names.
// It is the whole base: no default of a library goes in.
func (b *builder) addBase() error {
	for _, d := range []struct {
		path string
		perm uint32
	}{{"dev", 0o755}, {"proc", 0o555}, {"sys", 0o555}, {"run", 0o755}, {"sysroot", 0o755}, {"tmp", 0o1777}} {
		if err := b.a.AddDir(d.path, d.perm); err != nil {
			return err
		}
	}
	if err := b.a.AddChar("dev/console", 0o600, 5, 1); err != nil {
		return err
	}
	if err := b.a.AddChar("dev/null", 0o666, 1, 3); err != nil {
		return err
	}
	if err := b.addBinary("guest", b.m.Guest, guestPath); err != nil {
		return err
	}
	applets := b.m.Applets
	if applets == nil {
		applets = DefaultApplets
	}
	if !slices.Contains(applets, "init") {
		return fmt.Errorf("the list of applets lacks init, which starts the machine")
	}
	for _, name := range applets {
		if strings.ContainsAny(name, "/.") || name == "" {
			return fmt.Errorf("applet %q is not a plain name", name)
		}
		if err := b.a.AddSymlink("bin/"+name, "attestbox"); err != nil {
			return err
		}
	}
	target := guestPath
	if b.m.SimDevice != "" {
		target = simDevicePath
		if err := b.addBinary("sim-device", b.m.SimDevice, simDevicePath); err != nil {
			return err
		}
	}
	if b.m.Debug {
		if err := b.addDebug(); err != nil {
			return err
		}
	}
	return b.a.AddSymlink("init", target)
}

// addDebug adds a shell and the mark at which init starts it when a boot fails.
// The mark is a file of the image, so the digest is another one.
func (b *builder) addDebug() error {
	shell := shellOf(b.m.URoot)
	if b.m.Busybox != "" {
		if err := b.addBinary("busybox", b.m.Busybox, "bin/busybox"); err != nil {
			return err
		}
		shell = "busybox"
	}
	if err := b.a.AddSymlink("bin/sh", shell); err != nil {
		return err
	}
	return b.a.AddFile(debugPath, 0o644, []byte("debug image: never to be trusted\n"))
}

func (b *builder) addConfig() error {
	data, err := readFile(b.m.Config, config.MaxSize)
	if err != nil {
		return fmt.Errorf("reading configuration: %w", err)
	}
	if err := refuseKey(b.m.Config, data); err != nil {
		return err
	}
	b.input("config", b.m.Config, config.Path, data)
	if b.m.Verity != "" {
		if data, err = b.addVerity(data); err != nil {
			return err
		}
	}
	if b.m.InstanceID != "" {
		if data, err = withInstanceID(data, b.m.InstanceID); err != nil {
			return fmt.Errorf("configuration %q: %w", b.m.Config, err)
		}
	}
	if b.cfg, err = config.Parse(data); err != nil {
		return fmt.Errorf("configuration %q: %w", b.m.Config, err)
	}
	if id := b.cfg.Instance(); !id.IsZero() {
		b.rec.InstanceID = id.String()
		b.note("one instance alone: the image brings its ID, and HOST_DATA must be zeros")
	}
	given := len(data)
	if data, err = withMinTime(data, b.opt.SourceDateEpoch); err != nil {
		return fmt.Errorf("configuration %q: %w", b.m.Config, err)
	}
	if len(data) != given {
		b.note(minTimeNote(b.opt.SourceDateEpoch))
	}
	if err := b.a.AddFile(config.Path, 0o644, data); err != nil {
		return err
	}
	for _, c := range b.m.Certificates {
		data, err := readFile(c, 1<<20)
		if err != nil {
			return fmt.Errorf("reading certificate: %w", err)
		}
		if err := checkCertificate(c, data); err != nil {
			return err
		}
		p := certsPath + "/" + filepath.Base(c)
		b.input("certificate", c, p, data)
		if err := b.a.AddFile(p, 0o644, data); err != nil {
			return err
		}
	}
	return nil
}

func (b *builder) addModules() error {
	tree, err := b.modules.wait()
	if err != nil {
		return err
	}
	if tree.builtinList != nil {
		b.input("builtin", builtinName, "", tree.builtinList)
	}
	defaults := append(tree.DefaultModules(), b.fileSystems()...)
	if b.cfg.Mode == config.Stage1 {
		defaults = tree.stage1Modules()
	}
	mods, err := tree.Closure(expand(b.m.Modules, defaults))
	if err != nil {
		return err
	}
	if err := checkForbidden(mods, false); err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	var sim []Module
	if b.m.SimDevice != "" {
		if sim, err = tree.Closure(simModules); err != nil {
			return fmt.Errorf("modules of the simulated device: %w", err)
		}
		if err := checkForbidden(sim, true); err != nil {
			return fmt.Errorf("%w: %w", ErrRefused, err)
		}
	}
	for i, mod := range append(slices.Clone(mods), sim...) {
		file, data := mod.packed(b.m.Compress)
		p := "lib/modules/" + b.release + "/" + file
		if _, have := b.a.Get(p); i >= len(mods) && have {
			continue // in both lists
		}
		b.input("module", mod.Path, p, mod.Data)
		if err := b.a.AddFile(p, 0o644, data); err != nil {
			return err
		}
	}
	if err := tree.checkRelease(append(slices.Clone(mods), sim...), b.release); err != nil {
		return err
	}
	b.rec.Modules = b.modulePaths(mods)
	if err := b.a.AddFile(modulesPath, 0o644, lines(b.rec.Modules)); err != nil {
		return err
	}
	if b.m.SimDevice != "" {
		b.rec.SimModules = b.modulePaths(sim)
		if err := b.a.AddFile(simModulesPath, 0o644, lines(b.rec.SimModules)); err != nil {
			return err
		}
	}
	if err := b.addFirmware(tree, append(slices.Clone(mods), sim...)); err != nil {
		return err
	}
	b.hardware(tree, mods)
	return nil
}

// hardware records whether real SNP can be used with this kernel and list.
func (b *builder) hardware(tree *Modules, mods []Module) {
	has := func(n string) bool {
		return tree.builtin[normal(n)] || slices.ContainsFunc(mods, func(m Module) bool { return m.Name == normal(n) })
	}
	tsm := has("tsm") || has("tsm_report")
	b.rec.SNPHardware = has("sev-guest")
	switch {
	case b.rec.SNPHardware:
	case tree.Has("sev-guest"):
		b.note("the list of modules leaves out sev-guest: for the simulator only")
	case tsm:
		b.note(fmt.Sprintf("kernel %s has no sev-guest: for the simulator only; real SNP needs 6.12 or later", short(b.release)))
	default:
		b.note(fmt.Sprintf("kernel %s has neither sev-guest nor tsm: for the simulator only; real SNP needs 6.12 or later", short(b.release)))
	}
}

// fileSystems are those that the configuration mounts.
func (b *builder) fileSystems() (out []string) {
	if b.cfg.Root != nil {
		out = append(out, b.cfg.Root.FSType)
		if b.cfg.Root.Verity != nil {
			out = append(out, "dm-verity")
		}
	}
	if b.cfg.State != nil && b.cfg.State.FSType != "" {
		out = append(out, b.cfg.State.FSType)
	}
	return out
}

// checkPrograms finds programs of a run image that are not in the image.
func (b *builder) checkPrograms() error {
	for _, p := range b.cfg.Programs {
		file := strings.TrimPrefix(p.Argv[0], "/")
		for range 8 {
			e, ok := b.a.Get(file)
			if !ok {
				return fmt.Errorf("configuration %q: program %q: %q is not in the image", b.m.Config, p.Name, p.Argv[0])
			}
			if e.Mode&TypeMask != TypeSymlink {
				if e.Mode&TypeMask != TypeRegular || e.Mode&0o111 == 0 {
					return fmt.Errorf("configuration %q: program %q: %q is not an executable file", b.m.Config, p.Name, p.Argv[0])
				}
				break
			}
			if t := string(e.Data); path.IsAbs(t) {
				file = strings.TrimPrefix(path.Clean(t), "/")
			} else {
				file = path.Join(path.Dir(file), t)
			}
		}
	}
	return nil
}

func (b *builder) note(s string) { b.rec.Notes = append(b.rec.Notes, s) }

// input records a file that was read. Inputs are sorted by their path in the
// image; those that do not go in come first, in a fixed order.
func (b *builder) input(role, name, imagePath string, data []byte) *Input {
	out := outputOf(data)
	in := Input{Role: role, Name: filepath.Base(name), Size: out.Size, SHA256: out.SHA256}
	if imagePath != "" {
		in.Path = "/" + strings.TrimPrefix(imagePath, "/")
	}
	b.rec.Inputs = append(b.rec.Inputs, in)
	return &b.rec.Inputs[len(b.rec.Inputs)-1]
}

func (b *builder) modulePaths(mods []Module) []string {
	out := make([]string, len(mods))
	for i := range mods {
		out[i], _ = mods[i].packed(b.m.Compress)
	}
	return out
}

func lines(s []string) []byte {
	if len(s) == 0 {
		return nil
	}
	return []byte(strings.Join(s, "\n") + "\n")
}
