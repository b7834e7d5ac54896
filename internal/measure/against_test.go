package measure

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// against looks for a launch's digest from cfg.
func against(t *testing.T, cfg, report Config) *Finding {
	t.Helper()
	launch := SNP
	if report.SVSM != nil {
		launch = SVSM
	}
	r, err := launch(report)
	if err != nil {
		t.Fatal(err)
	}
	f, err := Against(cfg, r.Digest, 0)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// What was launched differently is named in the flags' words.
func TestAgainst(t *testing.T) {
	withVars := func(c *Config) { c.Firmware = append(make([]byte, 0x20000), c.Firmware...) }
	for _, tc := range []struct {
		name   string
		mine   func(*Config) // how the digest was computed
		launch func(*Config) // how the VM was launched
		want   []string
	}{
		{"the same", nil, func(*Config) {}, nil},
		{"another number of vCPUs", nil, func(c *Config) { c.VCPUs = 7 }, []string{"-vcpus 7 (not 2)"}},
		{"very many vCPUs", nil, func(c *Config) { c.VCPUs = 4096 }, []string{"-vcpus 4096 (not 2)"}},
		{"vCPU type", nil, func(c *Config) { c.VCPUType = "EPYC-Turin" }, []string{"-vcpu-type EPYC-Turin (not EPYC-Milan)"}},
		{"the host's CPU", nil, func(c *Config) { c.VCPUType, c.VCPUSig = "", 0xb00f21 }, []string{"-vcpu-sig 0xb00f21, a Turin chip's, as -cpu host gives it (not EPYC-Milan)"}},
		{"DebugSwap", nil, func(c *Config) { c.GuestFeatures = 0x21 }, []string{"-guest-features 0x21 (not 0x1)"}},
		{"SecureTSC", nil, func(c *Config) { c.GuestFeatures = 0x201 }, []string{"-guest-features 0x201 (not 0x1)"}},
		{"older host", nil, func(c *Config) { c.Host = HostLinux68 }, []string{"-host linux-6.8 (not linux-6.9)"}},
		{"CR0.NE", nil, func(c *Config) { c.Host = HostCR0NE }, []string{"-host cr0-ne (not linux-6.9)"}},
		{"ec2", nil, func(c *Config) { c.VMM = EC2 }, []string{"-vmm ec2 (not qemu)"}},
		{"from a cloud", func(c *Config) { c.VMM = GCE }, func(c *Config) { c.VMM = "" }, []string{"-vmm qemu -host linux-6.9 (not -vmm gce)"}},
		{"newline", nil, func(c *Config) { c.Append += "\n" }, []string{"-append with a newline at its end"}},
		{"no newline", func(c *Config) { c.Append += "\n" }, func(c *Config) { c.Append = "console=ttyS0" }, []string{"-append without the newline at its end"}},
		{"space", nil, func(c *Config) { c.Append += " " }, []string{"-append with a space at its end"}},
		{"no command line", nil, func(c *Config) { c.Append = "" }, []string{"-append missing, or empty"}},
		{"quotes", nil, func(c *Config) { c.Append = "'" + c.Append + "'" }, []string{"-append with the quotes ' around it"}},
		{"a word less", func(c *Config) { c.Append = "quiet console=ttyS0 ro" }, func(c *Config) { c.Append = "quiet ro" }, []string{`-append without "console=ttyS0"`}},
		{"no initramfs", nil, func(c *Config) { c.Initrd = nil }, []string{"-initrd missing, or an empty file"}},
		{"empty initramfs", nil, func(c *Config) { c.Initrd = []byte{} }, []string{"-initrd missing, or an empty file"}},
		{"swapped", nil, func(c *Config) { c.Kernel, c.Initrd = c.Initrd, c.Kernel }, []string{"-kernel and -initrd swapped"}},
		{"no kernel", nil, func(c *Config) { c.Kernel, c.Initrd, c.Append = nil, nil, "" }, []string{"no -kernel: QEMU was started without it, or without kernel-hashes=on, so that the digest covers the firmware alone"}},
		{"a foreign chain", func(c *Config) { c.FirmwareChain = &[48]byte{1} }, func(*Config) {}, []string{"-snp-ovmf-hash is not that of -ovmf: leave it out"}},
		{"the variable store too", withVars, func(*Config) {}, []string{"-ovmf without its first 131072 bytes, the variable store"}},
		{"the simulator", func(c *Config) { c.Firmware = append(make([]byte, PageSize), c.Firmware...) }, func(*Config) {}, []string{"no -ovmf: the simulator's synthetic firmware"}},
		{"type and number", nil, func(c *Config) { c.VCPUType, c.VCPUs = "EPYC-Genoa", 4 }, []string{"-vcpu-type EPYC-Genoa (not EPYC-Milan)", "-vcpus 4 (not 2)"}},
		{"features and newline", nil, func(c *Config) { c.GuestFeatures, c.Append = 0x21, c.Append+"\n" }, []string{"-guest-features 0x21 (not 0x1)", "-append with a newline at its end"}},
		{"three", nil, func(c *Config) { c.VCPUType, c.Append, c.VCPUs = "EPYC-Rome", c.Append+" ", 200 },
			[]string{"-vcpu-type EPYC-Rome (not EPYC-Milan)", "-append with a space at its end", "-vcpus 200 (not 2)"}},
		{"another kernel", nil, func(c *Config) { c.Kernel = []byte("vmlinuz") }, nil},
		{"another initramfs", nil, func(c *Config) { c.Initrd = []byte("initramfs") }, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			mine, report := demo(), demo()
			if tc.mine != nil {
				tc.mine(&mine)
			}
			tc.launch(&report)
			f := against(t, mine, report)
			if !slices.Equal(f.Changes, tc.want) || f.Same != (tc.name == "the same") {
				t.Errorf("same %v, %q; want %q", f.Same, f.Changes, tc.want)
			}
		})
	}
}

// Every neighbour, taken as the report, is found with one change, whose words
// need not be the same where two changes are one launch.
func TestAgainstEveryNeighbour(t *testing.T) {
	for _, mine := range []Config{demo(), {Firmware: SyntheticFirmware(), VCPUs: 3, VCPUSig: sigGenoa}, svsmDemo(t)} {
		prepared := mine
		if mine.SVSM == nil {
			var err error
			if prepared, err = Prepare(mine); err != nil {
				t.Fatal(err)
			}
		}
		for _, n := range mine.neighbours(0x123456) {
			launch, report := SNP, n.apply(prepared)
			if mine.SVSM != nil {
				launch = SVSM
			}
			r, err := launch(report)
			if err != nil {
				t.Fatal(n.text, err)
			}
			f, err := Against(mine, r.Digest, 0x123456)
			if err != nil || len(f.Changes) != 1 && !f.Same {
				t.Errorf("%s: found %+v, %v", n.text, f, err)
			}
		}
	}
}

func svsmDemo(t *testing.T) Config {
	t.Helper()
	img := synthetic
	img.HasLaunchOffset, img.LaunchOffset = true, 0x10
	image := make([]byte, syntheticSize)
	if err := img.WriteTables(image); err != nil {
		t.Fatal(err)
	}
	return Config{Firmware: SyntheticFirmware(), SVSM: image, VarsSize: PageSize, VCPUs: 2, VCPUType: "EPYC-Milan"}
}

func TestAgainstReport(t *testing.T) {
	report := demo()
	report.VCPUType, report.VCPUSig = "", 0xc00f10
	f, err := Against(demo(), snp(t, report).Digest, 0xc00f10)
	if err != nil || len(f.Changes) != 1 || !strings.Contains(f.Changes[0], "that of the report's chip") {
		t.Errorf("the chip's own signature: %+v, %v", f, err)
	}
	start := time.Now()
	f, err = Against(demo(), [48]byte{1}, 0)
	if err != nil || f.Same || f.Changes != nil || f.Tried < 100_000 || f.Tried > 1_000_000 {
		t.Errorf("a digest of nothing: %+v, %v", f, err)
	}
	t.Logf("%d digests in %v", f.Tried, time.Since(start))
	for _, change := range []func(*Config){
		func(c *Config) { c.VCPUType = "host" }, func(c *Config) { c.VCPUs = 0 }, func(c *Config) { c.Firmware = make([]byte, PageSize) },
	} {
		cfg := demo()
		change(&cfg)
		if f, err := Against(cfg, [48]byte{1}, 0); err == nil {
			t.Errorf("no launch of ours: %+v", f)
		}
	}
}
