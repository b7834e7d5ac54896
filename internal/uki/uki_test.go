package uki

import (
	"bytes"
	"debug/pe"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"attestbox/internal/testenv"
	"attestbox/internal/uki/ukitest"
)

func parts() Parts {
	return Parts{Kernel: bytes.Repeat([]byte("kernel"), 1000), Initrd: bytes.Repeat([]byte("initrd!"), 333), Cmdline: "console=ttyS0 quiet", Release: "6.12.0-test", OSName: "attestbox"}
}

func build(t testing.TB, p Parts) []byte {
	t.Helper()
	b, err := Build(ukitest.Stub(), p)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// What is built is read back, by us and by another reader, and every section
// has memory and bytes of its own.
func TestBuildRead(t *testing.T) {
	want := parts()
	image := build(t, want)
	if again := build(t, want); !bytes.Equal(again, image) {
		t.Error("two builds differ")
	}
	got, err := Read(image)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Kernel, want.Kernel) || !bytes.Equal(got.Initrd, want.Initrd) || got.Cmdline != want.Cmdline || got.Release != want.Release || got.OSName != want.OSName {
		t.Errorf("read %+v", got)
	}
	checkLayout(t, ukitest.Stub(), image, want)
}

// checkLayout reads an image with debug/pe.
func checkLayout(t *testing.T, stub, image []byte, want Parts) {
	t.Helper()
	f, err := pe.NewFile(bytes.NewReader(image))
	if err != nil {
		t.Fatal(err)
	}
	old, err := pe.NewFile(bytes.NewReader(stub))
	if err != nil {
		t.Fatal(err)
	}
	opt := f.OptionalHeader.(*pe.OptionalHeader64)
	var end, fileEnd uint32
	for i, s := range f.Sections {
		if i >= len(old.Sections) {
			if s.VirtualAddress%4096 != 0 || s.Offset%opt.FileAlignment != 0 || s.VirtualAddress < end || s.Offset < fileEnd || s.Characteristics != 0x40000040 {
				t.Errorf("section %s at %#x, in the file at %#x", s.Name, s.VirtualAddress, s.Offset)
			}
		} else if x, y := must(s.Data()), must(old.Sections[i].Data()); !bytes.Equal(x, y) || s.SectionHeader != old.Sections[i].SectionHeader {
			t.Errorf("the stub's section %s was changed", s.Name)
		}
		end, fileEnd = s.VirtualAddress+max(s.VirtualSize, s.Size), s.Offset+s.Size
	}
	if opt.SizeOfImage < end || opt.SizeOfImage%opt.SectionAlignment != 0 || int(fileEnd) != len(image) {
		t.Errorf("size of the image %#x, sections end at %#x", opt.SizeOfImage, end)
	}
	for name, data := range map[string][]byte{".linux": want.Kernel, ".initrd": want.Initrd, ".cmdline": []byte(want.Cmdline), ".uname": []byte(want.Release)} {
		s := f.Section(name)
		if s == nil || int(s.VirtualSize) != len(data) || !bytes.Equal(must(s.Data())[:len(data)], data) {
			t.Errorf("section %s differs", name)
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// objcopy, which people make such images with, gives the same sections behind
// systemd's own stub.
func TestAgainstObjcopy(t *testing.T) {
	objcopy := testenv.Tool(t, "objcopy", "binutils")
	stub, err := os.ReadFile("/usr/lib/systemd/boot/efi/linuxx64.efi.stub")
	if err != nil {
		stub = ukitest.Stub() // laid out like it
	}
	want := parts()
	image, err := Build(stub, want)
	if err != nil {
		t.Fatal(err)
	}
	checkLayout(t, stub, image, want)
	dir := t.TempDir()
	for name, data := range map[string][]byte{"stub": stub, "image": image} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for section, data := range map[string][]byte{".linux": want.Kernel, ".initrd": want.Initrd, ".cmdline": []byte(want.Cmdline), ".uname": []byte(want.Release)} {
		out := filepath.Join(dir, "section")
		if msg, err := exec.Command(objcopy, "-O", "binary", "--only-section="+section, filepath.Join(dir, "image"), out).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, msg)
		}
		if got := must(os.ReadFile(out)); !bytes.HasPrefix(got, data) || !zero(got[len(data):]) {
			t.Errorf("objcopy reads another %s: %d bytes", section, len(got))
		}
	}
}

func TestRefused(t *testing.T) {
	stub := ukitest.Stub()
	for what, change := range map[string]func(stub []byte, p *Parts) []byte{
		"no EFI program":  func([]byte, *Parts) []byte { return []byte("#!/bin/sh") },
		"empty":           func([]byte, *Parts) []byte { return nil },
		"another machine": func(b []byte, _ *Parts) []byte { b[ukitest.PE+4] = 0x4c; return b },
		"not systemd's": func(b []byte, _ *Parts) []byte {
			return bytes.Replace(b, []byte("systemd-stub"), []byte("another-stub"), 1)
		},
		"signed":              func(b []byte, _ *Parts) []byte { b[ukitest.PE+24+112+32] = 1; return b },
		"overlap in memory":   func(b []byte, _ *Parts) []byte { le.PutUint32(b[ukitest.Table+40+12:], 0x1000); return b },
		"overlap in the file": func(b []byte, _ *Parts) []byte { le.PutUint32(b[ukitest.Table+40+20:], 0x400); return b },
		"section cut short":   func(b []byte, _ *Parts) []byte { le.PutUint32(b[ukitest.Table+40+16:], 1<<20); return b },
		"no room":             func(b []byte, _ *Parts) []byte { b[ukitest.Table+3*40] = 1; return b },
		"odd alignment":       func(b []byte, _ *Parts) []byte { le.PutUint32(b[ukitest.PE+24+36:], 513); return b },
		"no command line":     func(b []byte, p *Parts) []byte { p.Cmdline = ""; return b },
		"NUL in it":           func(b []byte, p *Parts) []byte { p.Cmdline = "a\x00b"; return b },
		"no kernel":           func(b []byte, p *Parts) []byte { p.Kernel = nil; return b },
		"release with a line": func(b []byte, p *Parts) []byte { p.Release = "6\n"; return b },
		"a UKI as stub":       func(b []byte, p *Parts) []byte { return must(Build(b, *p)) },
	} {
		p := parts()
		b := change(bytes.Clone(stub), &p)
		if _, err := Build(b, p); err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
}

// A unified kernel image with a second kernel, microcode or profile would start
// something else than its parts.
func TestReadRefused(t *testing.T) {
	image := build(t, parts())
	for _, name := range []string{".linux", ".cmdline", ".ucode", ".dtb", ".profile"} {
		more, err := appendSections(image, []Section{{Name: name, Data: []byte("x")}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Read(more); !errors.Is(err, ErrFormat) {
			t.Errorf("%s added: %v", name, err)
		}
	}
	for _, name := range []string{".linux", ".cmdline", ".initrd", ".uname", ".osrel"} {
		less := bytes.Replace(image, []byte(name), []byte(strings.Repeat("x", len(name))), 1)
		if _, err := Read(less); !errors.Is(err, ErrFormat) {
			t.Errorf("%s gone: %v", name, err)
		}
	}
	for n := 0; n < len(image); n += 97 {
		if _, err := Read(image[:n]); err == nil {
			t.Errorf("accepted when cut to %d of %d bytes", n, len(image))
		}
	}
	if _, err := Read(ukitest.Stub()); !errors.Is(err, ErrFormat) {
		t.Errorf("a stub alone: %v", err)
	}
}

// empty gives an image with one section that has no contents, and says that
// they are far behind the file's end.
func empty(t testing.TB, image []byte, name string) []byte {
	t.Helper()
	h, err := parse(image)
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range h.sections {
		if s.name == name {
			out := bytes.Clone(image)
			raw := out[h.table+i*sectionSize:]
			le.PutUint32(raw[8:], 0)
			le.PutUint32(raw[16:], 0)
			le.PutUint32(raw[20:], 0xfffffff0)
			return out
		}
	}
	t.Fatalf("no section %s", name)
	return nil
}

// A section without contents may say that it is anywhere.
func TestEmptySection(t *testing.T) {
	if _, err := StubVersionOf(empty(t, ukitest.Stub(), ".sdmagic")); !errors.Is(err, ErrFormat) {
		t.Errorf(".sdmagic: %v", err)
	}
	image := build(t, parts())
	for _, name := range []string{".linux", ".cmdline", ".initrd", ".uname", ".osrel"} {
		hostile := empty(t, image, name)
		if _, err := Read(hostile); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
		twice, err := appendSections(hostile, []Section{{Name: name, Data: []byte("x")}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Read(twice); err == nil || !strings.Contains(err.Error(), "two sections") {
			t.Errorf("an empty %s and another: %v", name, err)
		}
	}
}

// Reading neither panics nor reaches out of the file, and what is read as a
// stub and extended is read with the same parts.
func FuzzRead(f *testing.F) {
	f.Add(ukitest.Stub())
	f.Add(build(f, parts()))
	f.Add([]byte("MZ"))
	f.Add(empty(f, ukitest.Stub(), ".sdmagic"))
	f.Add(empty(f, build(f, parts()), ".linux"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if v, err := StubVersionOf(data); err == nil && !bytes.Contains(data, []byte(stubMark+v)) {
			t.Fatalf("version %q is not in the file", v)
		}
		if p, err := Read(data); err == nil && len(p.Kernel)+len(p.Initrd) > len(data) {
			t.Fatal("more than the file holds")
		}
		out, err := Build(data, parts())
		if err != nil {
			return
		}
		p, err := Read(out)
		if err != nil {
			t.Fatalf("built, and not read: %v", err)
		}
		if want := parts(); !bytes.Equal(p.Kernel, want.Kernel) || !bytes.Equal(p.Initrd, want.Initrd) || p.Cmdline != want.Cmdline {
			t.Fatal("other parts")
		}
	})
}
