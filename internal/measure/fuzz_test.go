package measure

import (
	"errors"
	"reflect"
	"testing"
)

// place puts the fuzzer's bytes at the end of an image of one to four pages,
// where the tables are.
func place(tail []byte) []byte {
	if len(tail) > 4*PageSize {
		tail = tail[len(tail)-4*PageSize:]
	}
	n := max(1, (len(tail)+PageSize-1)/PageSize)
	b := make([]byte, n*PageSize)
	copy(b[len(b)-len(tail):], tail)
	return b
}

// FuzzParseImage: no panic, bounded memory, and what was understood of an
// accepted image is the same after writing it as tables of our own.
func FuzzParseImage(f *testing.F) {
	fw := SyntheticFirmware()
	f.Add(fw[len(fw)-400:])
	f.Add(fw[len(fw)-32-18:])
	svsm := synthetic
	svsm.HasLaunchOffset, svsm.LaunchOffset, svsm.HasHashTable = true, 0x10, false
	image := make([]byte, PageSize)
	if err := svsm.WriteTables(image); err != nil {
		f.Fatal(err)
	}
	f.Add(image[len(image)-400:])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, tail []byte) {
		b := place(tail)
		img, err := ParseImage(b)
		if err != nil {
			if img != nil || !errors.Is(err, ErrFirmware) {
				t.Fatalf("error %v with image %v", err, img)
			}
			return
		}
		if len(img.Sections) > maxSections {
			t.Fatalf("%d sections", len(img.Sections))
		}
		again := make([]byte, len(b))
		if err := img.WriteTables(again); err != nil {
			t.Fatal(err)
		}
		back, err := ParseImage(again)
		if err != nil || !reflect.DeepEqual(img, back) {
			t.Fatalf("%+v\nread back as %+v, %v", img, back, err)
		}
	})
}

// FuzzLaunch: whatever a launch is made of, there is a digest or one error of
// the package's, never both; and a digest says no more than it covers.
func FuzzLaunch(f *testing.F) {
	add := func(c Config) {
		fw := c.Firmware
		if len(fw) > PageSize && len(fw)%PageSize == 0 {
			fw = fw[len(fw)-PageSize:] // the tables are there
		}
		svsm := c.SVSM
		if len(svsm) > PageSize {
			svsm = svsm[len(svsm)-PageSize:]
		}
		f.Add(fw, svsm, c.Kernel, c.Kernel != nil, c.Initrd, c.Append, c.VCPUs, c.VCPUType, c.VCPUSig, c.GuestFeatures, c.VMM, c.Host, c.VarsSize)
	}
	add(demo())
	for _, change := range []func(*Config){
		func(c *Config) { c.Kernel, c.Initrd, c.Append = nil, nil, "" }, func(c *Config) { c.VMM = EC2 }, func(c *Config) { c.VMM = GCE },
		func(c *Config) { c.Host = HostLinux68 }, func(c *Config) { c.Initrd = nil }, func(c *Config) { c.VCPUType, c.VCPUSig = "", 0xa00f11 },
	} {
		cfg := demo()
		change(&cfg)
		add(cfg)
	}
	for _, r := range refusals(f) {
		cfg := demo()
		r.change(&cfg)
		add(cfg)
	}
	svsm := synthetic
	svsm.HasLaunchOffset, svsm.LaunchOffset = true, 0x10
	image := make([]byte, PageSize)
	if err := svsm.WriteTables(image); err != nil {
		f.Fatal(err)
	}
	add(Config{Firmware: SyntheticFirmware(), SVSM: image, VarsSize: PageSize, VCPUs: 2, VCPUType: "EPYC-Milan"})
	add(Config{Firmware: SyntheticFirmware(), SVSM: image, VarsSize: 1 << 32, VCPUs: 2, VCPUType: "EPYC-Milan"})
	add(Config{Firmware: SyntheticFirmware(), SVSM: image[:100], VCPUs: 1, VCPUType: "EPYC-Milan"})

	f.Fuzz(func(t *testing.T, fw, svsm, kernel []byte, hasKernel bool, initrd []byte, line string, vcpus int, model string, sig uint32, features uint64, vmm, host string, vars uint64) {
		if len(fw)+len(svsm) > 16*PageSize || slow(fw) || slow(svsm) {
			return
		}
		cfg := Config{Firmware: fw, Initrd: initrd, Append: line, VCPUs: vcpus, VCPUType: model, VCPUSig: sig, GuestFeatures: features, VMM: vmm, Host: host}
		if len(initrd) == 0 {
			cfg.Initrd = nil
		}
		if hasKernel {
			cfg.Kernel, cfg.HasKernel = append([]byte{}, kernel...), true
		}
		r, err := SNP(cfg)
		checkError(t, r == nil, err)
		cells, matrixErr := Matrix(cfg, Axes{})
		if err == nil {
			img, parseErr := ParseImage(fw)
			_, known := vcpuTypes[model]
			cloud := vmm == EC2 || vmm == GCE
			switch {
			case parseErr != nil || !img.HasMetadata || vcpus < 1 || vcpus > maxVCPUs || !cloud && !known && sig == 0:
				t.Fatalf("a digest of no launch: %+v", cfg)
			case hasKernel && (img.canHash(true) != nil || r.Hashes == nil):
				t.Fatal("a digest with a kernel that it does not cover")
			case r.Complete && (!hasKernel || cloud || len(kernel) == 0 || len(initrd) == 0), r.Complete != (r.Why == ""):
				t.Fatalf("complete %v, %q", r.Complete, r.Why)
			case matrixErr != nil || len(cells) != 1 || cells[0].Digest != r.Digest || r.Steps[len(r.Steps)-1].After != r.Digest:
				t.Fatalf("matrix %+v, %v", cells, matrixErr)
			}
		} else if matrixErr == nil {
			t.Fatalf("the matrix has what SNP refuses: %v", err)
		}
		for _, legacy := range []func(Config) (*LegacyResult, error){SEV, SEVES} {
			l, err := legacy(cfg)
			checkError(t, l == nil, err)
		}
		cfg.SVSM, cfg.VarsSize = svsm, vars
		r, err = SVSM(cfg)
		checkError(t, r == nil, err)
		if err == nil && r.Complete {
			t.Fatal("complete under an SVSM")
		}
	})
}

// slow says whether sections of gigabytes are asked for: zero pages cost time.
func slow(image []byte) bool {
	img, err := ParseImage(image)
	if err != nil {
		return false
	}
	pages := uint64(0)
	for _, s := range img.Sections {
		pages += uint64(s.Size) / PageSize
	}
	return pages > 4096
}

func checkError(t *testing.T, none bool, err error) {
	t.Helper()
	if none != (err != nil) {
		t.Fatalf("no result: %v, error: %v", none, err)
	}
	if err == nil {
		return
	}
	n := 0
	for _, s := range []error{ErrFirmware, ErrNoKernelHashes, ErrVCPU, ErrConfig} {
		if errors.Is(err, s) {
			n++
		}
	}
	if n != 1 {
		t.Fatalf("%v: %d sentinels", err, n)
	}
}
