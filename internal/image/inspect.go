package image

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"reflect"
	"strings"

	"attestbox/initramfs/config"
	"attestbox/internal/measure"
)

// ErrNoFirmware says that a digest was not recomputed for want of the firmware.
var ErrNoFirmware = errors.New("the launch digest needs the firmware")

// Report is what Inspect found.
type Report struct {
	Compress    string
	Files       []FileRecord
	Microcode   []FileRecord   // of the archive in front
	Modules     []string       // in load order
	SimModules  []string       // of a simulator image
	Config      *config.Config // nil with ConfigError
	ConfigError string
	Debug       bool
	Simulator   bool
	InitrdHash  [32]byte

	// Of a folder only.
	Record     *Record
	KernelHash [32]byte
	Cmdline    string
	Digest     string // recomputed, hex; empty without firmware
	UKIHash    *[32]byte
	UKIDigest  string   // the same of the unified kernel image
	Mismatches []string // what differs from Record
}

// InspectInitrd lists an initramfs that Build made.
func InspectInitrd(initrd []byte) (*Report, error) {
	early, packed, err := splitEarly(initrd)
	if err != nil {
		return nil, err
	}
	data, kind, err := Decompress(packed)
	if err != nil {
		return nil, err
	}
	a, err := ReadArchive(data)
	if err != nil {
		return nil, err
	}
	list, err := a.Entries()
	if err != nil {
		return nil, err
	}
	r := &Report{Compress: kind, Files: fileRecords(list), InitrdHash: sha256.Sum256(initrd)}
	if early != nil {
		if list, err = early.Entries(); err != nil {
			return nil, err
		}
		r.Microcode = fileRecords(list)
	}
	_, r.Debug = a.Get(debugPath)
	_, r.Simulator = a.Get(simDevicePath)
	r.Modules, r.SimModules = readLines(a, modulesPath), readLines(a, simModulesPath)
	if e, ok := a.Get(config.Path); !ok {
		r.ConfigError = "the image has no " + config.Path
	} else if r.Config, err = config.Parse(e.Data); err != nil {
		r.ConfigError = err.Error()
	}
	return r, nil
}

func readLines(a *Archive, p string) []string {
	e, ok := a.Get(p)
	if !ok || len(e.Data) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(e.Data), "\n"), "\n")
}

// Inspect reads an output folder, recomputes every hash and the launch digest,
// and compares them with image.json. firmware is needed for an image that was
// measured with a real one, else ErrNoFirmware comes with the report.
func Inspect(dir string, firmware []byte) (*Report, error) {
	var files [3][]byte
	for i, name := range []string{InitrdName, KernelName, CmdlineName} {
		var err error
		if files[i], err = readFile(filepath.Join(dir, name), MaxInitrd); err != nil {
			return nil, fmt.Errorf("reading image: %w", err)
		}
	}
	rec, _, err := ReadRecord(dir)
	if err != nil {
		return nil, err
	}
	// An initramfs that cannot be read is one that was changed: its hash is
	// compared all the same.
	r, initrdErr := InspectInitrd(files[0])
	if initrdErr != nil {
		r = &Report{InitrdHash: sha256.Sum256(files[0])}
		r.Mismatches = append(r.Mismatches, fmt.Sprintf("%s: %v", InitrdName, initrdErr))
	}
	r.Record, r.KernelHash, r.Cmdline = rec, sha256.Sum256(files[1]), string(files[2])
	r.compareOutputs(files)
	unified, err := readFile(filepath.Join(dir, UKIName), MaxInitrd+maxKernel)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading image: %w", err)
	} else if err == nil && rec.UKI != nil {
		sum := sha256.Sum256(unified)
		r.UKIHash = &sum
	}
	r.compareUKI(unified, files)
	if initrdErr == nil {
		r.compareContents()
	}
	return r, r.recompute(firmware)
}

func (r *Report) differ(what string, got, want any) {
	if !reflect.DeepEqual(got, want) {
		r.Mismatches = append(r.Mismatches, fmt.Sprintf("%s: found %v, %s says %v", what, got, RecordName, want))
	}
}

func (r *Report) compareOutputs(files [3][]byte) {
	rec := r.Record
	r.differ(InitrdName, outputOf(files[0]), rec.Outputs.Initrd)
	r.differ(KernelName, outputOf(files[1]), rec.Outputs.Kernel)
	r.differ(CmdlineName, outputOf(files[2]), rec.Outputs.Cmdline)
	r.differ("command line", r.Cmdline, rec.Cmdline)
	if k, ok := KernelRelease(files[1]); ok {
		r.differ("kernel release", k, rec.KernelRelease)
	}
	if _, err := Cmdline(r.Cmdline); err != nil {
		r.Mismatches = append(r.Mismatches, err.Error())
	}
}

func (r *Report) compareContents() {
	rec := r.Record
	r.differ("compression", r.Compress, rec.Compress)
	r.differ("microcode", r.Microcode, rec.Microcode)
	r.differ("debug", r.Debug, rec.Debug)
	r.differ("simulator", r.Simulator, rec.Simulator)
	var stage1 *Stage1
	if r.Config != nil && r.Config.Mode == config.Stage1 {
		stage1 = stage1Of(r.Config)
	}
	r.differ("stage 1", stage1, rec.Stage1)
	r.differ("modules", strings.Join(r.Modules, " "), strings.Join(rec.Modules, " "))
	r.differ("simulator's modules", strings.Join(r.SimModules, " "), strings.Join(rec.SimModules, " "))
	want := map[string]FileRecord{}
	for _, f := range rec.Files {
		want[f.Path] = f
	}
	for _, f := range r.Files {
		if w, ok := want[f.Path]; !ok {
			r.Mismatches = append(r.Mismatches, fmt.Sprintf("%s: not in %s", f.Path, RecordName))
		} else {
			r.differ(f.Path, f, w)
		}
		delete(want, f.Path)
	}
	for _, f := range rec.Files {
		if _, missing := want[f.Path]; missing {
			r.Mismatches = append(r.Mismatches, fmt.Sprintf("%s: not in the initramfs", f.Path))
		}
	}
	if r.Config != nil {
		brings := ""
		if id := r.Config.Instance(); !id.IsZero() {
			brings = id.String()
		}
		r.differ("instance ID", brings, rec.InstanceID)
	}
	if r.ConfigError != "" {
		r.Mismatches = append(r.Mismatches, "configuration: "+r.ConfigError)
	}
}

// recompute computes the digest from the files themselves; only the parameters
// of the launch are taken from the record.
func (r *Report) recompute(firmware []byte) error {
	m := *r.Record.Measurement
	switch {
	case firmware == nil && !m.Synthetic:
		return fmt.Errorf("%w whose SHA-256 is %s", ErrNoFirmware, m.Firmware.SHA256)
	case firmware == nil:
		firmware = measure.SyntheticFirmware()
	}
	r.differ("firmware", outputOf(firmware), m.Firmware)
	kernel := Output{SHA256: hex.EncodeToString(r.KernelHash[:])}
	if err := m.compute(firmware, kernel, r.InitrdHash, r.Cmdline); err != nil {
		return err
	}
	r.Digest = m.LaunchDigest
	r.differ("launch digest", r.Digest, r.Record.Measurement.LaunchDigest)
	r.differ("complete", m.Complete, r.Record.Measurement.Complete)
	return r.recomputeUKI(firmware)
}
