package uki

import (
	"bytes"
	"fmt"
	"strings"
)

// Parts are what a unified kernel image is made of.
type Parts struct {
	Kernel  []byte // bzImage with an EFI stub of its own
	Initrd  []byte
	Cmdline string
	Release string // of the kernel
	OSName  string // for boot menus
}

// The sections, in their order in the file. The kernel comes last, because it
// may want memory behind it.
const (
	osrel   = ".osrel"
	cmdline = ".cmdline"
	uname   = ".uname"
	initrd  = ".initrd"
	linux   = ".linux"
)

// stubMark is in the section .sdmagic of systemd's stubs, with the version.
const stubMark = "#### LoaderInfo: systemd-stub "

// StubVersion reads the version of a systemd stub, and refuses another program,
// or a stub that carries something already.
func StubVersion(stub []byte) (string, error) {
	h, err := parse(stub)
	if err != nil {
		return "", err
	}
	for _, s := range h.sections {
		switch s.name {
		case osrel, cmdline, uname, initrd, linux, ".dtb", ".dtbauto", ".ucode", ".splash", ".profile", ".hwids", ".efifw", ".pcrsig", ".pcrpkey":
			return "", fmt.Errorf("the stub has a section %s already", s.name)
		}
	}
	return StubVersionOf(stub)
}

// StubVersionOf reads the version of the stub that is in an image.
func StubVersionOf(image []byte) (string, error) {
	h, err := parse(image)
	if err != nil {
		return "", err
	}
	version := ""
	for _, s := range h.sections {
		if s.name == ".sdmagic" {
			text, _, _ := strings.Cut(string(s.contents(image)), " ####")
			version, _ = strings.CutPrefix(text, stubMark)
			if version == text {
				version = ""
			}
		}
	}
	if version == "" || strings.ContainsFunc(version, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", fmt.Errorf("%w: no systemd stub: it would do with the sections what it likes", ErrFormat)
	}
	return version, nil
}

// Build puts the parts behind a stub. The same parts give the same bytes.
func Build(stub []byte, p Parts) ([]byte, error) {
	if _, err := StubVersion(stub); err != nil {
		return nil, err
	}
	if strings.ContainsAny(p.Release+p.OSName, "\"\\\n\x00`$") || strings.ContainsRune(p.Cmdline, 0) || p.Release == "" {
		return nil, fmt.Errorf("kernel release %q, name %q or command line cannot be written into a section", p.Release, p.OSName)
	}
	// Without this section, a stub takes the command line from its caller.
	if p.Cmdline == "" {
		return nil, fmt.Errorf("a unified kernel image needs a command line of its own")
	}
	return appendSections(stub, []Section{
		{Name: osrel, Data: []byte(fmt.Sprintf("ID=%s\nNAME=%q\nPRETTY_NAME=%q\nVERSION_ID=%q\n", strings.ToLower(p.OSName), p.OSName, p.OSName, p.Release))},
		{Name: cmdline, Data: []byte(p.Cmdline)},
		{Name: uname, Data: []byte(p.Release)},
		{Name: initrd, Data: p.Initrd},
		{Name: linux, Data: p.Kernel},
	})
}

// Read takes a unified kernel image apart. Each of the sections is there once,
// and none that would change what the stub starts.
func Read(image []byte) (*Parts, error) {
	h, err := parse(image)
	if err != nil {
		return nil, err
	}
	p := &Parts{}
	seen := map[string][]byte{}
	for _, s := range h.sections {
		switch s.name {
		case osrel, cmdline, uname, initrd, linux:
			if seen[s.name] != nil {
				return nil, bad("two sections %s", s.name)
			}
			if s.fileSize < s.memSize {
				return nil, bad("section %s is longer in memory than in the file", s.name)
			}
			seen[s.name] = s.contents(image)
		case ".dtb", ".dtbauto", ".ucode", ".profile", ".hwids", ".efifw":
			return nil, bad("a section %s, which would add to what is started", s.name)
		}
	}
	for _, name := range []string{osrel, cmdline, uname, initrd, linux} {
		if len(seen[name]) == 0 {
			return nil, bad("no section %s", name)
		}
	}
	for line := range bytes.SplitSeq(seen[osrel], []byte("\n")) {
		if v, ok := bytes.CutPrefix(line, []byte("NAME=")); ok {
			p.OSName = strings.Trim(string(v), `"`)
		}
	}
	p.Cmdline, p.Release, p.Initrd, p.Kernel = string(seen[cmdline]), string(seen[uname]), seen[initrd], seen[linux]
	return p, nil
}
