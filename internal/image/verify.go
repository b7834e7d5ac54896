package image

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"attestbox/internal/strictjson"
)

// Verified is what Verify found.
type Verified struct {
	Tools       []string // versions that are not the recorded ones; they may explain other bytes
	Differences []string // in the order of the build: inputs, contents, outputs, digest
	Absent      []string // outputs that are not beside the record: compared by their hash
	Image       *Image   // as it was built again
}

// ReadRecord reads image.json of an output folder, or the file itself, and
// says in which folder the outputs are.
func ReadRecord(name string) (*Record, string, error) {
	raw, err := readFile(filepath.Join(name, RecordName), maxRecord)
	dir := name
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		dir = filepath.Dir(name)
		raw, err = readFile(name, maxRecord)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", fmt.Errorf("reading image: %q has no %s: not an output folder of mkimage build", name, RecordName)
	} else if err != nil {
		return nil, "", fmt.Errorf("reading image: %w", err)
	}
	rec, err := parseRecord(raw)
	return rec, dir, err
}

// maxRecord bounds image.json.
const maxRecord = 64 << 20

func parseRecord(raw []byte) (*Record, error) {
	rec := &Record{}
	if err := strictjson.Unmarshal(raw, rec); err != nil {
		return nil, fmt.Errorf("reading %q: %w", RecordName, err)
	}
	if rec.Format != 1 || rec.Measurement == nil {
		return nil, fmt.Errorf("reading %q: format %d, want 1 with a measurement", RecordName, rec.Format)
	}
	return rec, nil
}

// Verify builds an image again from its inputs and compares: the record's
// fields, and the files in dir byte by byte. The time of the entries is the
// record's.
func Verify(rec *Record, dir string, m *Manifest, opt Options) (*Verified, error) {
	opt.SourceDateEpoch = rec.SourceDateEpoch
	img, err := Build(m, opt)
	if err != nil {
		return nil, fmt.Errorf("building the image again: %w", err)
	}
	v := &Verified{Image: img}
	v.compareTools(rec, img.Record)
	v.compareInputs(rec, img.Record)
	v.compareFiles(rec, img.Record)
	for _, o := range []struct {
		name      string
		data      []byte
		got, want Output
	}{
		{InitrdName, img.Initrd, img.Record.Outputs.Initrd, rec.Outputs.Initrd},
		{KernelName, img.Kernel, img.Record.Outputs.Kernel, rec.Outputs.Kernel},
		{CmdlineName, []byte(img.Cmdline), img.Record.Outputs.Cmdline, rec.Outputs.Cmdline},
	} {
		v.differ(o.name, o.got, o.want)
		if err := v.compareOutput(dir, o.name, o.data); err != nil {
			return nil, err
		}
	}
	if rec.UKI != nil && img.UKI != nil {
		v.differ(UKIName, img.Record.UKI.Output, rec.UKI.Output)
		if err := v.compareOutput(dir, UKIName, img.UKI); err != nil {
			return nil, err
		}
	}
	return v, v.compareRest(rec, img.Record)
}

func (v *Verified) differ(what string, got, want any) {
	if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w {
		v.Differences = append(v.Differences, fmt.Sprintf("%s: built %s, %s says %s", what, g, RecordName, w))
	}
}

func (v *Verified) compareTools(want, got *Record) {
	for _, t := range []struct{ what, got, want string }{
		{"mkimage", got.Tool.Version, want.Tool.Version}, {"Go", got.Tool.Go, want.Tool.Go},
		{"compression library", got.Tool.Compress, want.Tool.Compress},
	} {
		if t.got != t.want {
			v.Tools = append(v.Tools, fmt.Sprintf("%s: this is %s, the image was built by %s", t.what, t.got, t.want))
		}
	}
}

func (v *Verified) compareInputs(want, got *Record) {
	// One input is known by its role and its place; several of one role that go
	// nowhere are told apart by their names.
	key := func(in Input) string {
		k := in.Role
		if in.Path != "" {
			k += " " + in.Path
		}
		return k
	}
	old := map[string][]Input{}
	for _, in := range want.Inputs {
		old[key(in)] = append(old[key(in)], in)
	}
	for _, in := range got.Inputs {
		k := key(in)
		if len(old[k]) == 0 {
			v.Differences = append(v.Differences, fmt.Sprintf("input %s: %q was not an input of the recorded image", k, in.Name))
			continue
		}
		v.differ("input "+k, describe(in), describe(old[k][0]))
		old[k] = old[k][1:]
	}
	for _, in := range want.Inputs {
		if k := key(in); len(old[k]) > 0 {
			v.Differences = append(v.Differences, fmt.Sprintf("input %s: %q is missing", k, in.Name))
			old[k] = old[k][1:]
		}
	}
}

func describe(in Input) string {
	s := fmt.Sprintf("%q, %d bytes, sha256 %s", in.Name, in.Size, in.SHA256)
	if in.Build != "" {
		s += ", " + in.Build
	}
	return s
}

func (v *Verified) compareFiles(want, got *Record) {
	old := map[string]FileRecord{}
	for _, f := range want.Files {
		old[f.Path] = f
	}
	for _, f := range got.Files {
		if w, ok := old[f.Path]; !ok {
			v.Differences = append(v.Differences, f.Path+": not in the recorded image")
		} else if f != w {
			v.differ(f.Path, f, w)
		}
		delete(old, f.Path)
	}
	for _, f := range want.Files {
		if _, missing := old[f.Path]; missing {
			v.Differences = append(v.Differences, f.Path+": not in the image that was built")
		}
	}
}

// compareOutput compares an output with the file in dir, byte by byte.
func (v *Verified) compareOutput(dir, name string, built []byte) error {
	file, err := readFile(filepath.Join(dir, name), MaxInitrd)
	if errors.Is(err, fs.ErrNotExist) {
		v.Absent = append(v.Absent, name)
		return nil
	} else if err != nil {
		return fmt.Errorf("reading image: %w", err)
	}
	if bytes.Equal(file, built) {
		return nil
	}
	at := 0
	for at < min(len(file), len(built)) && file[at] == built[at] {
		at++
	}
	v.Differences = append(v.Differences, fmt.Sprintf("file %s: another byte at offset %d (%d bytes, built %d)", name, at, len(file), len(built)))
	return nil
}

// compareRest compares what has no comparison of its own: the measurement
// first, field by field, then every other field of the record.
func (v *Verified) compareRest(want, got *Record) error {
	for _, m := range []struct {
		what      string
		got, want any
	}{
		{"firmware", got.Measurement.Firmware, want.Measurement.Firmware},
		{"virtual CPUs", got.Measurement.VCPUs, want.Measurement.VCPUs},
		{"CPU model", got.Measurement.VCPUType, want.Measurement.VCPUType},
		{"features", got.Measurement.GuestFeatures, want.Measurement.GuestFeatures},
		{"VMM", got.Measurement.VMM, want.Measurement.VMM},
		{"launch digest", got.Measurement.LaunchDigest, want.Measurement.LaunchDigest},
		{"command line", got.Cmdline, want.Cmdline},
		{"modules", strings.Join(got.Modules, " "), strings.Join(want.Modules, " ")},
		{"notes", strings.Join(got.Notes, "; "), strings.Join(want.Notes, "; ")},
	} {
		v.differ(m.what, m.got, m.want)
	}
	if len(v.Differences) > 0 {
		return nil
	}
	a, b := *got, *want
	// Who built it may differ, and so may the words of the question.
	a.Tool, b.Tool, a.Recipe, b.Recipe = Tool{}, Tool{}, nil, nil
	x, err := a.Marshal()
	if err != nil {
		return err
	}
	y, err := b.Marshal()
	if err != nil {
		return err
	}
	gl, wl := strings.Split(string(x), "\n"), strings.Split(string(y), "\n")
	for i := range min(len(gl), len(wl)) {
		if gl[i] != wl[i] {
			v.differ("record", strings.TrimSpace(gl[i]), strings.TrimSpace(wl[i]))
			return nil
		}
	}
	v.differ("record", len(gl), len(wl))
	return nil
}
