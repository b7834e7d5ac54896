package image

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"attestbox/internal/image/imagetest"
)

func amdMicrocode(n int) []byte { return append([]byte("DMA\x00"), bytes.Repeat([]byte{0xaa}, n)...) }

func intelMicrocode(n int) []byte {
	b := make([]byte, 48, 48+n)
	binary.LittleEndian.PutUint32(b, 1)
	binary.LittleEndian.PutUint32(b[20:], 1)
	return append(b, bytes.Repeat([]byte{0xbb}, n)...)
}

// Microcode lies uncompressed in front, in files that the kernel knows, Intel's
// where the processor can take it, and is read back.
func TestMicrocode(t *testing.T) {
	dir, m := inputs(t)
	plain := build(t, m)
	for i, n := range []int{0, 1, 2, 3, 4, 8, 12, 13} {
		ok(t, os.WriteFile(dir+"/amd1.bin", amdMicrocode(n), 0o644), os.WriteFile(dir+"/amd2.bin", amdMicrocode(7), 0o644),
			os.WriteFile(dir+"/06-8f-08", intelMicrocode(n), 0o600))
		m.Microcode = []string{dir + "/amd2.bin", dir + "/06-8f-08", dir + "/amd1.bin"}
		m.Compress = []string{Zstd, None}[i%2]
		img := build(t, m)
		early, rest, err := splitEarly(img.Initrd)
		ok(t, err)
		amd, _ := early.Get(microcodeAMD)
		intel, _ := early.Get(microcodeIntel)
		if !bytes.Equal(amd.Data, append(amdMicrocode(7), amdMicrocode(n)...)) || !bytes.Equal(intel.Data, intelMicrocode(n)) {
			t.Errorf("%d: %q, %q", n, amd.Data, intel.Data)
		}
		if at := bytes.Index(img.Initrd, intelMicrocode(n)); at%16 != 0 {
			t.Errorf("%d: Intel's microcode lies at %d", n, at)
		}
		if m.Compress == Zstd && !bytes.Equal(rest, plain.Initrd) {
			t.Errorf("%d: what follows is another initramfs", n)
		}
		r, err := InspectInitrd(img.Initrd)
		ok(t, err)
		if !slices.Equal(r.Microcode, img.Record.Microcode) || !slices.Equal(r.Files, img.Record.Files) || r.Compress != m.Compress {
			t.Errorf("%d: read as %+v", n, r)
		}
		if img.Record.Measurement.LaunchDigest == plain.Record.Measurement.LaunchDigest {
			t.Error("the digest does not cover it")
		}
		verify(t, dir, m)
	}
	m.Microcode = []string{dir + "/vmlinuz"}
	if _, err := Build(m, Options{}); err == nil || !strings.Contains(err.Error(), "neither AMD's nor Intel's") {
		t.Errorf("a kernel as microcode: %v", err)
	}
	// An init in front of the initramfs would not be the one that is inspected.
	front := &Archive{}
	ok(t, front.AddFile("init", 0o755, []byte("x")), front.AddFile(microcodeAMD, 0o644, amdMicrocode(1)))
	if _, err := InspectInitrd(append(write(t, front), plain.Initrd...)); !errors.Is(err, ErrForeign) {
		t.Errorf("an init in front: %v", err)
	}
}

// Firmware comes with the modules that name it, a pattern stands for what
// matches, and what is not there is said.
func TestFirmware(t *testing.T) {
	dir, m := inputs(t)
	tree := m.ModulesDir + "/kernel/drivers/net/"
	ok(t, os.WriteFile(tree+"nic.ko", imagetest.Module("depends=", "firmware=nic/a.bin", "firmware=nic/b*.bin", "firmware=nic/gone.bin", "firmware=nic/c.bin",
		"vermagic="+imagetest.Release+" SMP "), 0o644),
		os.MkdirAll(dir+"/fw/nic", 0o755), os.WriteFile(dir+"/fw/nic/a.bin.zst", []byte("a packed"), 0o600), os.WriteFile(dir+"/fw/nic/b1.bin", []byte("b1"), 0o644),
		os.WriteFile(dir+"/fw/nic/b2.bin.xz", []byte("b2"), 0o644), os.Symlink("b1.bin", dir+"/fw/nic/c.bin"), os.WriteFile(dir+"/fw/nic/other", []byte("x"), 0o644))
	m.Modules, m.FirmwareDir = []string{"default", "nic"}, dir+"/fw"
	img := build(t, m)
	var got []string
	for _, f := range img.Record.Files {
		if strings.HasPrefix(f.Path, "/lib/firmware/") && f.SHA256 != "" {
			got = append(got, f.Path)
		}
	}
	if want := []string{"/lib/firmware/nic/a.bin.zst", "/lib/firmware/nic/b1.bin", "/lib/firmware/nic/b2.bin.xz", "/lib/firmware/nic/c.bin"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if notes := strings.Join(img.Record.Notes, "\n"); notes != "firmware nic/gone.bin, which module nic names, is not in the image" {
		t.Errorf("notes %q", notes)
	}
	verify(t, dir, m)
	m.FirmwareDir = dir + "/lib" // nothing that is wanted lies there
	if img := build(t, m); len(img.Record.Notes) != 4 {
		t.Errorf("notes %q", img.Record.Notes)
	}
	verify(t, dir, m)
	m.FirmwareDir = ""
	verify(t, dir, m)
	ok(t, os.WriteFile(tree+"nic.ko", imagetest.Module("depends=", "firmware=../../etc/shadow", "vermagic="+imagetest.Release+" SMP "), 0o644))
	if _, err := Build(m, Options{}); err == nil || !strings.Contains(err.Error(), "not a plain path") {
		t.Errorf("firmware outside its folder: %v", err)
	}
}
