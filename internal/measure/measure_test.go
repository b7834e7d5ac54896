package measure

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
)

func snp(t testing.TB, cfg Config) *Result {
	t.Helper()
	r, err := SNP(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Everything that a host could change in a launch changes the digest.
func TestAnyChangeChangesTheDigest(t *testing.T) {
	seen := map[[48]byte]string{snp(t, demo()).Digest: "the launch itself"}
	for _, tc := range []struct {
		name   string
		change func(*Config)
	}{
		{"kernel: one bit", func(c *Config) { c.Kernel = []byte("kernem") }},
		{"kernel: one byte more", func(c *Config) { c.Kernel = []byte("kernel\x00") }},
		{"initramfs: one bit", func(c *Config) { c.Initrd = []byte("initre") }},
		{"initramfs: absent", func(c *Config) { c.Initrd = nil }},
		{"kernel and initramfs swapped", func(c *Config) { c.Kernel, c.Initrd = c.Initrd, c.Kernel }},
		{"command line: one letter", func(c *Config) { c.Append = "console=ttyS1" }},
		{"command line: trailing space", func(c *Config) { c.Append += " " }},
		{"command line: empty", func(c *Config) { c.Append = "" }},
		{"one vCPU more", func(c *Config) { c.VCPUs++ }},
		{"one vCPU fewer", func(c *Config) { c.VCPUs-- }},
		{"vCPU type", func(c *Config) { c.VCPUType = "EPYC-Genoa" }},
		{"guest features", func(c *Config) { c.GuestFeatures = 0x21 }},
		{"ec2", func(c *Config) { c.VMM = EC2 }},
		{"gce", func(c *Config) { c.VMM = GCE }},
		{"older host", func(c *Config) { c.Host = HostLinux68; c.GuestFeatures = 1 }},
		{"CR0.NE", func(c *Config) { c.Host = HostCR0NE }},
		{"no kernel", func(c *Config) { c.Kernel, c.Initrd, c.Append = nil, nil, "" }},
		{"firmware: larger", func(c *Config) { c.Firmware = append(make([]byte, PageSize), c.Firmware...) }},
	} {
		cfg := demo()
		tc.change(&cfg)
		r := snp(t, cfg)
		if other, ok := seen[r.Digest]; ok {
			t.Errorf("%s: same digest as %s", tc.name, other)
		}
		seen[r.Digest] = tc.name
	}
}

// A flipped byte of the firmware is a refusal or another digest: one per page
// of its code, and each of its tables.
func TestFlippedFirmwareByte(t *testing.T) {
	cfg := demo()
	want := snp(t, cfg).Digest
	fw := cfg.Firmware
	var offs []int
	for p := 0; p < len(fw); p += PageSize {
		offs = append(offs, p+p/PageSize)
	}
	for off := len(fw) - 400; off < len(fw); off++ {
		offs = append(offs, off)
	}
	refused := 0
	for _, off := range offs {
		cfg.Firmware = bytes.Clone(fw)
		cfg.Firmware[off] ^= 0x01
		r, err := SNP(cfg)
		switch {
		case err != nil:
			refused++
			if !errors.Is(err, ErrFirmware) && !errors.Is(err, ErrNoKernelHashes) {
				t.Errorf("byte %#x: %v, without a sentinel", off, err)
			}
		case r.Digest == want:
			t.Errorf("byte %#x: same digest", off)
		}
	}
	if refused < 20 {
		t.Errorf("%d flips refused, want the tables' checks to refuse more", refused)
	}
}

func TestComplete(t *testing.T) {
	for _, tc := range []struct {
		name     string
		change   func(*Config)
		complete bool
		why      string
	}{
		{"all", func(*Config) {}, true, ""},
		{"empty command line", func(c *Config) { c.Append = "" }, true, ""},
		{"as hashes", func(c *Config) {
			k, i := sha256.Sum256(c.Kernel), sha256.Sum256(c.Initrd)
			c.Kernel, c.Initrd, c.KernelHash, c.InitrdHash = nil, nil, &k, &i
		}, true, ""},
		{"no initramfs", func(c *Config) { c.Initrd = nil }, false, whyNoInitrd},
		{"empty initramfs", func(c *Config) { c.Initrd = []byte{} }, false, whyNoInitrd},
		{"hash of an empty initramfs", func(c *Config) { c.Initrd, c.InitrdHash = nil, &nothing }, false, whyNoInitrd},
		{"empty kernel", func(c *Config) { c.Kernel = []byte{} }, false, whyEmpty},
		{"no kernel", func(c *Config) { c.Kernel, c.Initrd, c.Append = nil, nil, "" }, false, whyNoKernel},
		{"EC2", func(c *Config) { c.VMM = EC2 }, false, whyCloud},
		{"GCE", func(c *Config) { c.VMM = GCE }, false, whyCloud},
		{"GCE, no kernel", func(c *Config) { c.VMM, c.Kernel, c.Initrd, c.Append = GCE, nil, nil, "" }, false, whyNoKernel},
	} {
		cfg := demo()
		tc.change(&cfg)
		if r := snp(t, cfg); r.Complete != tc.complete || r.Why != tc.why {
			t.Errorf("%s: complete %v, %q; want %v, %q", tc.name, r.Complete, r.Why, tc.complete, tc.why)
		}
	}
}

// A unified kernel image covers what else would be missing, and nothing more.
func TestUKIComplete(t *testing.T) {
	cfg := demo()
	cfg.Kernel, cfg.Initrd, cfg.Append, cfg.UKI = []byte("a unified kernel image"), nil, "", true
	if r := snp(t, cfg); !r.Complete || r.Why != "" {
		t.Errorf("complete %v, %q", r.Complete, r.Why)
	}
	plain := cfg
	plain.UKI = false
	if r := snp(t, plain); r.Complete || r.Digest != snp(t, cfg).Digest {
		t.Errorf("taken for a kernel: complete %v", r.Complete)
	}
	for _, change := range []func(*Config){
		func(c *Config) { c.VMM = EC2 }, func(c *Config) { c.Kernel = []byte{} }, func(c *Config) { c.Kernel, c.UKI = nil, true },
	} {
		c := cfg
		change(&c)
		if r, err := SNP(c); err == nil && r.Complete {
			t.Errorf("complete: %+v", c)
		}
	}
}

// Hashing beforehand gives the digest of hashing at once.
func TestPrecomputed(t *testing.T) {
	cfg := demo()
	want := snp(t, cfg)
	k, i := sha256.Sum256(cfg.Kernel), sha256.Sum256(cfg.Initrd)
	chain, err := FirmwareChain(cfg.Firmware)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Kernel, cfg.Initrd, cfg.KernelHash, cfg.InitrdHash, cfg.FirmwareChain = nil, nil, &k, &i, &chain
	if got := snp(t, cfg); got.Digest != want.Digest || *got.Hashes != *want.Hashes {
		t.Errorf("digest %x, want %x", got.Digest, want.Digest)
	}
	if want.Steps[0].After != chain {
		t.Error("the firmware's step does not end in the firmware's chain")
	}
	if last := want.Steps[len(want.Steps)-1]; last.After != want.Digest {
		t.Error("the last step does not end in the digest")
	}
}

func TestRefused(t *testing.T) {
	for _, tc := range refusals(t) {
		t.Run(tc.name, func(t *testing.T) {
			cfg := demo()
			tc.change(&cfg)
			if r, err := SNP(cfg); !errors.Is(err, tc.want) || r != nil {
				t.Errorf("result %v, error %v; want %v", r, err, tc.want)
			}
			if cells, err := Matrix(cfg, Axes{}); !errors.Is(err, tc.want) || cells != nil {
				t.Errorf("matrix: %v, error %v; want %v", cells, err, tc.want)
			}
			if f, err := Against(cfg, [48]byte{}, 0); !errors.Is(err, tc.want) || f != nil {
				if cfg.SVSM == nil { // with one, it is a launch under it
					t.Errorf("against: %v, error %v; want %v", f, err, tc.want)
				}
			}
		})
	}
}

func TestRefusedSVSM(t *testing.T) {
	svsm := synthetic
	svsm.HasLaunchOffset, svsm.LaunchOffset = true, 0x10
	image := make([]byte, syntheticSize)
	if err := svsm.WriteTables(image); err != nil {
		t.Fatal(err)
	}
	good := Config{Firmware: SyntheticFirmware(), SVSM: image, VarsSize: PageSize, VCPUs: 2, VCPUType: "EPYC-Milan"}
	r, err := SVSM(good)
	if err != nil || r.Complete || r.Why != whySVSM {
		t.Fatalf("good call: %+v, %v", r, err)
	}
	for _, tc := range []struct {
		name   string
		want   error
		change func(*Config)
	}{
		{"no SVSM", ErrFirmware, func(c *Config) { c.SVSM = nil }},
		{"SVSM without entry", ErrFirmware, func(c *Config) { c.SVSM = c.Firmware }},
		{"kernel", ErrNoKernelHashes, func(c *Config) { c.Kernel = []byte("kernel") }},
		{"cloud", ErrConfig, func(c *Config) { c.VMM = GCE }},
		{"variable store of half a page", ErrConfig, func(c *Config) { c.VarsSize = 2048 }},
		{"variable store of 4 GiB", ErrConfig, func(c *Config) { c.VarsSize = 1 << 32 }},
		{"no place for the SVSM", ErrConfig, func(c *Config) { c.VarsSize = 1<<32 - 2*syntheticSize + PageSize }},
		{"sections reach into the SVSM", ErrFirmware, func(c *Config) { c.VarsSize = 1<<32 - 0x830000 }},
		{"firmware chain", ErrConfig, func(c *Config) { c.FirmwareChain = new([48]byte) }},
	} {
		cfg := good
		tc.change(&cfg)
		if r, err := SVSM(cfg); !errors.Is(err, tc.want) || r != nil {
			t.Errorf("%s: result %v, error %v; want %v", tc.name, r, err, tc.want)
		}
	}
}

func TestRefusedLegacy(t *testing.T) {
	plain := make([]byte, PageSize) // no footer
	if _, err := SEV(Config{Firmware: plain}); err != nil {
		t.Errorf("SEV needs no table without a kernel: %v", err)
	}
	if _, err := SEV(Config{Firmware: plain, Kernel: []byte("k")}); !errors.Is(err, ErrNoKernelHashes) {
		t.Errorf("SEV, kernel, no table: %v", err)
	}
	if _, err := SEVES(Config{Firmware: plain, VCPUs: 1, VCPUType: "EPYC"}); !errors.Is(err, ErrFirmware) {
		t.Errorf("SEV-ES without a reset block: %v", err)
	}
	if _, err := SEVES(Config{Firmware: SyntheticFirmware(), VCPUType: "EPYC"}); !errors.Is(err, ErrVCPU) {
		t.Errorf("SEV-ES without vCPUs: %v", err)
	}
	r, err := SEVES(Config{Firmware: SyntheticFirmware(), Kernel: []byte("k"), VCPUs: 2, VCPUType: "EPYC"})
	if err != nil || r.Why != whyLegacy {
		t.Errorf("SEV-ES: %+v, %v", r, err)
	}
}

// The worked example of PAGE_INFO: the first page of a launch, all zeros, at
// GPA 0x800000, as a zero page.
func TestPageInfoExample(t *testing.T) {
	c := &chain{}
	c.page(PageZero, 0x800000, nil)
	info, err := hex.DecodeString(strings.Repeat("00", 96) + "7000" + "03" + "00" + "000000" + "00" + "0000800000000000")
	if err != nil || len(info) != pageInfoSize {
		t.Fatal(len(info), err)
	}
	d := &chain{}
	d.ld = sha512.Sum384(info)
	if c.ld != d.ld {
		t.Errorf("digest %x, want %x", c.ld, d.ld)
	}
}

func TestHashTableExample(t *testing.T) {
	h := Hashes{Kernel: [32]byte{31: 3}, Initrd: [32]byte{31: 2}, Cmdline: [32]byte{31: 1}}
	zeros := strings.Repeat("00", 31)
	want := "06d63894224fc94cb479a793d411fd21" + "a800" +
		"d82dd09720bd944caa78e7714d36ab2a" + "3200" + zeros + "01" +
		"31f7ba442f3ad74b9af141e29169781d" + "3200" + zeros + "02" +
		"3794e74dd2ab7f42b835d5b172d2045b" + "3200" + zeros + "03" +
		strings.Repeat("00", 8)
	got := h.Table()
	if hex.EncodeToString(got[:]) != want {
		t.Errorf("table %x\nwant  %s", got, want)
	}
}

func TestVCPUSignatures(t *testing.T) {
	for _, tc := range []struct {
		prefix                  string
		family, model, stepping uint8
	}{
		{"EPYC", 23, 1, 2}, {"EPYC-IBPB", 23, 1, 2}, {"EPYC-v", 23, 1, 2}, {"EPYC-Rome", 23, 49, 0},
		{"EPYC-Milan", 25, 1, 1}, {"EPYC-Genoa", 25, 17, 0}, {"EPYC-Turin", 26, 0, 0},
	} {
		n := 0
		for _, name := range VCPUTypes() {
			if name != tc.prefix && (tc.prefix == "EPYC" || !strings.HasPrefix(name, tc.prefix)) {
				continue
			}
			n++
			if sig, err := VCPUSig(name); err != nil || sig != Signature(tc.family, tc.model, tc.stepping) {
				t.Errorf("%s: %#x, %v", name, sig, err)
			}
		}
		if n == 0 {
			t.Errorf("no vCPU type begins with %s", tc.prefix)
		}
	}
	if got := Signature(15, 0x41, 1); got != 0x40f11 {
		t.Errorf("family 0Fh: %#x", got)
	}
}

func TestGUIDString(t *testing.T) {
	const s = "96b582de-1fb2-45f7-baea-a366c55a082d"
	if got := mustGUID(s).String(); got != s {
		t.Errorf("%s, want %s", got, s)
	}
}
