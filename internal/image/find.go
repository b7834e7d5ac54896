package image

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// ErrInput is an input of a record that was not found.
var ErrInput = errors.New("an input of the image was not found")

// none stands for no folder; it comes after every path.
const none = "\xff"

// maxFound bounds how many files of one content are remembered.
const maxFound = 64

// Find puts a record's inputs together from what lies below some folders: each
// is known by its size and SHA-256, and may have another name there. The
// manifest that it gives names the found files, some of them through links in
// stage, a folder of the caller's, because a name is a part of the record.
func Find(r *Record, from []string, stage string) (*Manifest, error) {
	if r.Recipe == nil {
		return nil, ErrNoRecipe
	}
	if err := r.checkInputs(); err != nil {
		return nil, err
	}
	have, err := findFiles(r, from)
	if err != nil {
		return nil, err
	}
	if missing := r.missing(have); len(missing) > 0 {
		return nil, fmt.Errorf("%w below %s: %s", ErrInput, strings.Join(from, ", "), strings.Join(missing, "; "))
	}
	modules, err := r.findFolder(have, Input.ofKernel, r.KernelRelease)
	if err != nil {
		return nil, err
	}
	if modules == none {
		return nil, fmt.Errorf("%w: the image has no module by which the modules' folder could be known", ErrInput)
	}
	firmware := ""
	if r.Recipe.FirmwareDir {
		firmware, err = r.findFolder(have, func(in Input) bool { return in.Role == roleFirmware }, "")
		if err == nil && firmware == none {
			firmware = filepath.Join(stage, "nothing") // it had nothing that a module names
		}
		if err != nil {
			return nil, err
		}
	}
	n := 0
	return r.manifest(func(in Input) (string, error) {
		n++
		dir := filepath.Join(stage, strconv.Itoa(n))
		at, err := filepath.Abs(have[in.SHA256][0])
		if err == nil {
			err = os.Mkdir(dir, 0o700)
		}
		if err == nil {
			err = os.Symlink(at, filepath.Join(dir, in.Name))
		}
		if err != nil {
			return "", fmt.Errorf("naming input %q: %w", in.Name, err)
		}
		return filepath.Join(dir, in.Name), nil
	}, modules, firmware)
}

// findFiles gives the files below the folders by SHA-256. Only files of a
// recorded size are read.
func findFiles(r *Record, from []string) (map[string][]string, error) {
	sizes := map[int64]bool{}
	for _, in := range r.Inputs {
		sizes[in.Size] = true
	}
	have := map[string][]string{}
	for _, dir := range from {
		err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			st, err := os.Stat(p) // a symlink stands for its file
			if err != nil || !st.Mode().IsRegular() || !sizes[st.Size()] {
				return nil
			}
			data, err := readFile(p, maxFile)
			if err != nil {
				return nil // a file that cannot be read is one that is not found
			}
			if sum := outputOf(data).SHA256; len(have[sum]) < maxFound {
				have[sum] = append(have[sum], p)
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("looking for inputs: %w", err)
		}
	}
	return have, nil
}

func (r *Record) missing(have map[string][]string) (out []string) {
	for _, in := range r.Inputs {
		if have[in.SHA256] == nil && in.Role != roleURoot {
			out = append(out, fmt.Sprintf("%s %q, %d bytes, sha256 %s", in.Role, in.Name, in.Size, in.SHA256))
		}
	}
	return out
}

// findFolder gives the folder called base, or any name, that has every input
// of the kind at its place: what else lies there may matter, so that the files
// alone are not enough.
func (r *Record) findFolder(have map[string][]string, kind func(Input) bool, base string) (string, error) {
	var dirs map[string]bool
	for _, in := range r.Inputs {
		if !kind(in) {
			continue
		}
		rel := in.inFolder(r.KernelRelease)
		here, suffix := map[string]bool{}, string(filepath.Separator)+filepath.FromSlash(rel)
		for _, p := range have[in.SHA256] {
			if abs, err := filepath.Abs(p); err == nil {
				p = abs
			}
			dir, ok := strings.CutSuffix(p, suffix)
			if ok && (base == "" || filepath.Base(dir) == base) && (dirs == nil || dirs[dir]) {
				here[dir] = true
			}
		}
		if dirs = here; len(dirs) == 0 {
			return "", fmt.Errorf("%w: no folder %s has %s and the others before it at their places", ErrInput, base, rel)
		}
	}
	return slices.Min(append(slices.Collect(maps.Keys(dirs)), none)), nil
}
