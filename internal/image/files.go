package image

import (
	"bytes"
	"crypto/x509"
	"debug/buildinfo"
	"debug/elf"
	"encoding/pem"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// addBinary adds a static program. The image has no loader and no libraries,
// so a dynamic one would end the machine with "no such file".
func (b *builder) addBinary(role, src, dst string) error {
	data, err := readFile(src, maxFile)
	if err != nil {
		return fmt.Errorf("reading %s binary: %w", role, err)
	}
	if err := checkStatic(data); err != nil {
		return fmt.Errorf("%s binary %q: %w", role, src, err)
	}
	if err := refuseKey(src, data); err != nil {
		return err
	}
	in := b.input(role, src, dst, data)
	if info, err := buildinfo.Read(bytes.NewReader(data)); err == nil {
		in.Build = info.GoVersion
		for _, s := range info.Settings {
			if s.Key == "-tags" && s.Value != "" {
				in.Build += " -tags " + s.Value
			}
		}
	}
	return b.a.AddFile(dst, 0o755, data)
}

func checkStatic(data []byte) error {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("not an ELF program: %w", err)
	}
	if f.Machine != elf.EM_X86_64 || (f.Type != elf.ET_EXEC && f.Type != elf.ET_DYN) {
		return fmt.Errorf("an ELF file of type %v for %v, want a program for %v", f.Type, f.Machine, elf.EM_X86_64)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("dynamically linked: the image has no libraries (build it with CGO_ENABLED=0)")
		}
	}
	return nil
}

// checkCertificate wants certificates and nothing else: a file that holds a key
// beside them is the classic mistake.
func checkCertificate(name string, data []byte) error {
	if err := refuseKey(name, data); err != nil {
		return err
	}
	if _, err := x509.ParseCertificate(data); err == nil {
		return nil
	}
	n := 0
	for rest := data; ; n++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			if n == 0 || len(bytes.TrimSpace(rest)) != 0 {
				return fmt.Errorf("certificate %q: neither one DER certificate nor PEM certificates alone", name)
			}
			return nil
		}
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("certificate %q: holds a PEM block of type %q", name, block.Type)
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return fmt.Errorf("certificate %q: %w", name, err)
		}
	}
}

func (b *builder) addFiles() error {
	for _, f := range b.m.Files {
		if f.link != "" || f.folder {
			if err := b.addBare(f.Path, f.link); err != nil {
				return err
			}
			continue
		}
		st, err := os.Stat(f.Source)
		if err != nil {
			return fmt.Errorf("adding %q: %w", f.Path, err)
		}
		if !st.IsDir() {
			if err := b.addFile(f.Path, f.Source, f.Mode); err != nil {
				return err
			}
			continue
		}
		if f.Mode != "" {
			return fmt.Errorf("adding %q: %q is a folder, a mode is for a file", f.Path, f.Source)
		}
		if err := b.addTree(f.Path, f.Source); err != nil {
			return err
		}
	}
	return nil
}

// addTree copies a folder: files and symlinks, nothing else. Folders get mode
// 0755, whatever they have on the building machine.
func (b *builder) addTree(dst, src string) error {
	root, err := filepath.EvalSymlinks(src) // WalkDir does not follow its root
	if err != nil {
		return err
	}
	return filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("adding %q: %w", dst, err)
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		to := path.Join(dst, filepath.ToSlash(rel))
		switch {
		case d.IsDir():
			return b.addBare(to, "")
		case d.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			return b.addBare(to, target)
		}
		return b.addFile(to, p, "")
	})
}

// addBare adds what has no contents: a symlink, or without a target a folder.
func (b *builder) addBare(dst, target string) error {
	clean, err := CleanPath(dst)
	if err != nil {
		return err
	}
	if target == "" {
		if e, ok := b.a.Get(clean); ok && e.Mode&TypeMask == TypeDir {
			return nil
		}
		b.recipeFile(clean)
		return b.a.AddDir(clean, 0o755)
	}
	if err := b.checkPlace(dst, target); err != nil {
		return err
	}
	b.recipeFile(clean)
	return b.a.AddSymlink(clean, target)
}

func (b *builder) recipeFile(clean string) {
	b.rec.Recipe.Files = append(b.rec.Recipe.Files, "/"+clean)
}

// addFile adds one file. Of the source's mode only the owner's execute bit
// counts: the others depend on the builder's umask.
func (b *builder) addFile(dst, src, mode string) error {
	st, err := os.Stat(src)
	if err != nil {
		return fmt.Errorf("adding %q: %w", dst, err)
	}
	data, err := readFile(src, maxFile)
	if err != nil {
		return fmt.Errorf("adding %q: %w", dst, err)
	}
	if err := refuseKey(src, data); err != nil {
		return err
	}
	if err := b.checkPlace(dst, ""); err != nil {
		return err
	}
	if !b.m.Debug && bytes.Contains(data, []byte("BusyBox v")) {
		return fmt.Errorf("%w: %q is a busybox, which is a shell: only a debug image may have one (-debug)", ErrRefused, src)
	}
	perm := uint32(0o644)
	if st.Mode()&0o100 != 0 {
		perm = 0o755
	}
	if mode != "" {
		if perm, err = parseMode(mode); err != nil {
			return fmt.Errorf("adding %q: %w", dst, err)
		}
	}
	b.input("file", src, dst, data)
	b.recipeFile(strings.TrimPrefix(dst, "/"))
	return b.a.AddFile(dst, perm, data)
}

// shells are names under which a shell is called.
var shells = []string{"ash", "bash", "busybox", "csh", "dash", "elvish", "fish", "gosh", "hush", "ksh", "mksh", "rush", "sash", "sh", "tcsh", "toybox", "zsh"}

// checkPlace refuses files that an image must not have, or that stand for what
// this program writes itself.
func (b *builder) checkPlace(dst, target string) error {
	p, err := CleanPath(dst)
	if err != nil {
		return err
	}
	for _, reserved := range []string{debugPath, simDevicePath} {
		if p == reserved {
			return fmt.Errorf("%w: %q is this program's to write", ErrRefused, dst)
		}
	}
	if strings.HasPrefix(p, "etc/snp-sim/") {
		return fmt.Errorf("%w: %q belongs to the simulator", ErrRefused, dst)
	}
	if !b.m.Debug && (slices.Contains(shells, path.Base(p)) || target != "" && slices.Contains(shells, path.Base(target))) {
		return fmt.Errorf("%w: %q is a shell: only a debug image may have one (-debug)", ErrRefused, dst)
	}
	if name, ok := ModuleName(p); ok {
		if why, bad := forbidden[name]; bad {
			return fmt.Errorf("%w: module %q: %s", ErrRefused, dst, why)
		}
	}
	return nil
}

func fileRecords(list []Entry) []FileRecord {
	out := make([]FileRecord, len(list))
	for i, e := range list {
		r := FileRecord{Path: "/" + e.Path, Mode: ModeString(e.Mode)}
		switch e.Mode & TypeMask {
		case TypeRegular:
			o := outputOf(e.Data)
			r.Size, r.SHA256 = o.Size, o.SHA256
		case TypeSymlink:
			r.Target = string(e.Data)
		case TypeChar:
			r.Device = fmt.Sprintf("%d:%d", e.Major, e.Minor)
		}
		out[i] = r
	}
	return out
}

// ModeString is st_mode as ls prints it.
func ModeString(mode uint32) string {
	s := []byte("?rwxrwxrwx")
	switch mode & TypeMask {
	case TypeRegular:
		s[0] = '-'
	case TypeDir:
		s[0] = 'd'
	case TypeSymlink:
		s[0] = 'l'
	case TypeChar:
		s[0] = 'c'
	}
	for i := range 9 {
		if mode&(1<<(8-i)) == 0 {
			s[1+i] = '-'
		}
	}
	for _, x := range []struct {
		bit   uint32
		at    int
		set   byte
		unset byte
	}{{0o4000, 3, 's', 'S'}, {0o2000, 6, 's', 'S'}, {0o1000, 9, 't', 'T'}} {
		if mode&x.bit != 0 {
			if s[x.at] == 'x' {
				s[x.at] = x.set
			} else {
				s[x.at] = x.unset
			}
		}
	}
	return string(s)
}
