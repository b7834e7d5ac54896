package image

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"fmt"
	"slices"

	"attestbox/internal/image/uroot"
)

// urootPath is the program that is every command of u-root's in the image.
const urootPath = "bin/bb"

// roleURoot is an input that is built and not found.
const roleURoot = "uroot"

// addURoot adds commands of u-root's, each a symlink to one program. One that is
// a shell is for a debug image, and is its /bin/sh where there is no busybox.
func (b *builder) addURoot() error {
	if len(b.m.URoot) == 0 {
		return nil
	}
	if err := uroot.Check(b.m.URoot); err != nil {
		return err
	}
	for _, name := range b.m.URoot {
		if !b.m.Debug && (slices.Contains(uroot.Shells, name) || slices.Contains(shells, name)) {
			return fmt.Errorf("%w: u-root's %s is a shell: only a debug image may have one (-debug)", ErrRefused, name)
		}
		if err := b.a.AddSymlink("bin/"+name, "bb"); err != nil {
			return err
		}
	}
	data, err := uroot.Build(context.Background(), b.m.URoot)
	if err != nil {
		return err
	}
	if err := checkStatic(data); err != nil {
		return fmt.Errorf("commands of u-root: %w", err)
	}
	in := b.input(roleURoot, urootPath, urootPath, data)
	if info, err := buildinfo.Read(bytes.NewReader(data)); err == nil {
		in.Build = info.GoVersion + ", "
	}
	in.Build += "u-root " + uroot.Version()
	return b.a.AddFile(urootPath, 0o755, data)
}

// shellOf is the shell among commands of u-root's, "" without one.
func shellOf(commands []string) string {
	for _, s := range uroot.Shells {
		if slices.Contains(commands, s) {
			return s
		}
	}
	return ""
}
