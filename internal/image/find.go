package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// ErrInput is an input of a record that was not found.
var ErrInput = errors.New("an input of the image was not found")

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
	modules, err := r.findModules(have)
	if err != nil {
		return nil, err
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
	}, modules)
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
		if have[in.SHA256] == nil {
			out = append(out, fmt.Sprintf("%s %q, %d bytes, sha256 %s", in.Role, in.Name, in.Size, in.SHA256))
		}
	}
	return out
}

// findModules gives the folder that has every module at its place: which other
// modules lie there may matter, so that the files alone are not enough.
func (r *Record) findModules(have map[string][]string) (string, error) {
	var dirs map[string]bool
	for _, in := range r.Inputs {
		if !in.found() {
			continue
		}
		here, suffix := map[string]bool{}, string(filepath.Separator)+filepath.FromSlash(in.inModules(r.KernelRelease))
		for _, p := range have[in.SHA256] {
			if abs, err := filepath.Abs(p); err == nil {
				p = abs
			}
			dir, ok := strings.CutSuffix(p, suffix)
			if ok && filepath.Base(dir) == r.KernelRelease && (dirs == nil || dirs[dir]) {
				here[dir] = true
			}
		}
		if dirs = here; len(dirs) == 0 {
			return "", fmt.Errorf("%w: no folder %s has %s and the modules before it at their places", ErrInput, r.KernelRelease, in.inModules(r.KernelRelease))
		}
	}
	first := ""
	for d := range dirs {
		if first == "" || d < first {
			first = d
		}
	}
	if first == "" {
		return "", fmt.Errorf("%w: the image has no module by which the modules' folder could be known", ErrInput)
	}
	return first, nil
}
