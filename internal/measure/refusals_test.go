package measure

import (
	"slices"
	"testing"
)

// refusal is a launch that has no digest, as a change of demo.
type refusal struct {
	name   string
	want   error
	change func(*Config)
}

// refusals are all kinds of them. Each is a seed of FuzzLaunch too.
func refusals(t testing.TB) []refusal {
	t.Helper()
	without := func(change func(*Image)) []byte {
		img := synthetic
		img.Sections = slices.Clone(img.Sections)
		change(&img)
		b := make([]byte, syntheticSize)
		if err := img.WriteTables(b); err != nil {
			t.Fatal(err)
		}
		return b
	}
	// patched changes bytes of the synthetic firmware's tables, found by what is
	// there; off is from there.
	patched := func(what string, off int, b ...byte) []byte {
		fw := SyntheticFirmware()
		at := lastIndex(fw, what)
		if at < 0 {
			t.Fatalf("no %q in the synthetic firmware", what)
		}
		copy(fw[at+off:], b)
		return fw
	}
	hash := [32]byte{1}
	return []refusal{
		{"no firmware", ErrConfig, func(c *Config) { c.Firmware = nil }},
		{"empty firmware", ErrFirmware, func(c *Config) { c.Firmware = []byte{} }},
		{"half a page", ErrFirmware, func(c *Config) { c.Firmware = c.Firmware[2048:] }},
		{"no footer", ErrFirmware, func(c *Config) { c.Firmware = make([]byte, syntheticSize) }},
		{"no SEV metadata", ErrFirmware, func(c *Config) { c.Firmware = without(func(i *Image) { i.HasMetadata = false }) }},
		{"no reset block", ErrFirmware, func(c *Config) { c.Firmware = without(func(i *Image) { i.HasResetEIP = false }) }},
		{"no hash table", ErrNoKernelHashes, func(c *Config) { c.Firmware = without(func(i *Image) { i.HasHashTable = false }) }},
		{"hash table at 0", ErrNoKernelHashes, func(c *Config) { c.Firmware = without(func(i *Image) { i.HashTableGPA = 0 }) }},
		{"hash table too small", ErrFirmware, func(c *Config) { c.Firmware = without(func(i *Image) { i.HashTableSize = 168 }) }},
		{"hash table on another page", ErrFirmware, func(c *Config) { c.Firmware = without(func(i *Image) { i.HashTableGPA = 0x811c00 }) }},
		{"hash table across the page's end", ErrFirmware, func(c *Config) { c.Firmware = without(func(i *Image) { i.HashTableGPA = 0x810f80 }) }},
		{"no hashes section", ErrNoKernelHashes, func(c *Config) { c.Firmware = without(func(i *Image) { i.Sections = slices.Delete(i.Sections, 5, 6) }) }},
		{"unknown section", ErrFirmware, func(c *Config) { c.Firmware = without(func(i *Image) { i.Sections[0].Type = 7 }) }},
		{"section of no size", ErrFirmware, func(c *Config) { c.Firmware = without(func(i *Image) { i.Sections[0].Size = 0 }) }},
		{"section unaligned", ErrFirmware, func(c *Config) { c.Firmware = without(func(i *Image) { i.Sections[0].GPA += 8 }) }},
		{"sections overlap", ErrFirmware, func(c *Config) { c.Firmware = without(func(i *Image) { i.Sections[0].Size += PageSize * 2 }) }},
		{"section in the firmware", ErrFirmware, func(c *Config) {
			c.Firmware = without(func(i *Image) { i.Sections[6] = Section{0xfffff000, 0x1000, SectionSECMemory} })
		}},
		{"section past 4 GiB", ErrFirmware, func(c *Config) {
			c.Firmware = without(func(i *Image) { i.Sections[6] = Section{0xfffff000, 0xfffff000, SectionSECMemory} })
		}},
		{"two pages of hashes", ErrFirmware, func(c *Config) {
			c.Firmware = without(func(i *Image) { i.Sections[4] = Section{0x80f000, 0x1000, SectionKernelHashes} })
		}},
		{"no sections", ErrFirmware, func(c *Config) { c.Firmware = without(func(i *Image) { i.Sections = nil }) }},
		{"zero vCPUs", ErrVCPU, func(c *Config) { c.VCPUs = 0 }},
		{"negative vCPUs", ErrVCPU, func(c *Config) { c.VCPUs = -1 }},
		{"too many vCPUs", ErrVCPU, func(c *Config) { c.VCPUs = maxVCPUs + 1 }},
		{"unknown vCPU type", ErrVCPU, func(c *Config) { c.VCPUType = "host" }},
		{"vCPU type in other case", ErrVCPU, func(c *Config) { c.VCPUType = "epyc-milan" }},
		{"no vCPU type", ErrVCPU, func(c *Config) { c.VCPUType = "" }},
		{"vCPU type and another signature", ErrVCPU, func(c *Config) { c.VCPUSig = sigRome }},
		{"features without SNP", ErrConfig, func(c *Config) { c.GuestFeatures = 0x20 }},
		{"unknown VMM", ErrConfig, func(c *Config) { c.VMM = "xen" }},
		{"unknown host", ErrConfig, func(c *Config) { c.Host = "linux-2.4" }},
		{"host of a cloud", ErrConfig, func(c *Config) { c.VMM, c.Host = EC2, HostLinux68 }},
		{"kernel twice", ErrConfig, func(c *Config) { c.KernelHash = &hash }},
		{"initramfs twice", ErrConfig, func(c *Config) { c.InitrdHash = &hash }},
		{"kernel forgotten", ErrConfig, func(c *Config) { c.Kernel, c.Initrd, c.Append, c.HasKernel = nil, nil, "", true }},
		{"initramfs without kernel", ErrConfig, func(c *Config) { c.Kernel, c.Append = nil, "" }},
		{"command line without kernel", ErrConfig, func(c *Config) { c.Kernel, c.Initrd = nil, nil }},
		{"NUL in the command line", ErrConfig, func(c *Config) { c.Append = "quiet\x00init=/bin/sh" }},
		{"SVSM in a launch without one", ErrConfig, func(c *Config) { c.SVSM = []byte{1} }},

		{"wrong signature of the metadata", ErrFirmware, func(c *Config) { c.Firmware = patched("ASEV", 0, 'X') }},
		{"metadata longer than the image", ErrFirmware, func(c *Config) { c.Firmware = patched("ASEV", 4, 0, 0, 0xff) }},
		{"metadata of version 2", ErrFirmware, func(c *Config) { c.Firmware = patched("ASEV", 8, 2) }},
		{"metadata of version 0", ErrFirmware, func(c *Config) { c.Firmware = patched("ASEV", 8, 0) }},
		{"more sections than bytes", ErrFirmware, func(c *Config) { c.Firmware = patched("ASEV", 12, 200) }},
		{"2^32-1 sections", ErrFirmware, func(c *Config) { c.Firmware = patched("ASEV", 12, 0xff, 0xff, 0xff, 0xff) }},
		{"metadata before the image", ErrFirmware, func(c *Config) { c.Firmware = patched(string(guidSEVMetadata[:]), -6, 0xff, 0xff, 0xff, 0x7f) }},
		{"metadata's entry cut", ErrFirmware, func(c *Config) { c.Firmware = patched(string(guidSEVMetadata[:]), -2, 21, 0) }},
		{"entry of no size", ErrFirmware, func(c *Config) { c.Firmware = patched(string(guidResetBlock[:]), -2, 0, 0) }},
		{"entry larger than the table", ErrFirmware, func(c *Config) { c.Firmware = patched(string(guidResetBlock[:]), -2, 0xff, 0xff) }},
		{"entry twice", ErrFirmware, func(c *Config) { c.Firmware = patched(string(guidSecretBlock[:]), 0, guidHashTable[:]...) }},
		{"footer larger than the image", ErrFirmware, func(c *Config) { c.Firmware = patched(string(guidFooter[:]), -2, 0xff, 0xff) }},
		{"footer of no size", ErrFirmware, func(c *Config) { c.Firmware = patched(string(guidFooter[:]), -2, 0, 0) }},
		{"stray bytes in the footer", ErrFirmware, func(c *Config) {
			fw := SyntheticFirmware()
			fw[lastIndex(fw, string(guidFooter[:]))-2]++
			c.Firmware = fw
		}},
	}
}

func lastIndex(b []byte, s string) int {
	for i := len(b) - len(s); i >= 0; i-- {
		if string(b[i:i+len(s)]) == s {
			return i
		}
	}
	return -1
}
