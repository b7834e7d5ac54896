package measure

import (
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"
)

// input is what a neighbour changes. Two changes of one input are never tried
// together.
type input int

const (
	ofCPU input = iota
	ofFeatures
	ofHost
	ofFirmware
	ofAppend
	ofFiles // after the command line: without a kernel there is none
)

// neighbour is a launch with one input changed.
type neighbour struct {
	input input
	text  string // in words of the flags
	apply func(Config) Config
}

type neighbours []neighbour

func (n *neighbours) add(in input, apply func(*Config), format string, a ...any) {
	*n = append(*n, neighbour{in, fmt.Sprintf(format, a...), func(c Config) Config { apply(&c); return c }})
}

// neighbours lists the changes of one input.
func (cfg *Config) neighbours(cpu uint32) neighbours {
	var n neighbours
	cfg.otherCPUs(&n, cpu)
	cfg.otherFeatures(&n)
	cfg.otherHosts(&n)
	cfg.otherFirmware(&n)
	if cfg.Kernel != nil || cfg.KernelHash != nil {
		cfg.otherAppends(&n)
		cfg.otherFiles(&n)
	}
	slices.SortStableFunc(n, func(a, b neighbour) int { return int(a.input - b.input) })
	return n
}

// chips are what -cpu host gives: family, model, and the steppings seen.
var chips = []struct {
	name          string
	family, model uint8
	steppings     []uint8
}{
	{"Naples", 0x17, 0x01, []uint8{1, 2}}, {"Rome", 0x17, 0x31, []uint8{0}}, {"Milan", 0x19, 0x01, []uint8{0, 1, 2}},
	{"Genoa", 0x19, 0x11, []uint8{0, 1, 2}}, {"Bergamo", 0x19, 0xa0, []uint8{0, 1, 2}},
	{"Turin", 0x1a, 0x02, []uint8{0, 1, 2}}, {"Turin Dense", 0x1a, 0x11, []uint8{0, 1, 2}},
}

// otherCPUs names each signature once: the models of QEMU, then chips.
func (cfg *Config) otherCPUs(n *neighbours, cpu uint32) {
	now := cfg.VCPUSig
	was := fmt.Sprintf("%#x", now)
	if cfg.VCPUType != "" {
		now, was = vcpuTypes[cfg.VCPUType], cfg.VCPUType
	}
	seen := map[uint32]bool{now: true}
	other := func(sig uint32, format string, a ...any) {
		if seen[sig] || sig == 0 {
			return
		}
		seen[sig] = true
		n.add(ofCPU, func(c *Config) { c.VCPUType, c.VCPUSig = "", sig }, "%s (not %s)", fmt.Sprintf(format, a...), was)
	}
	for _, name := range VCPUTypes() {
		other(vcpuTypes[name], "-vcpu-type %s", name)
	}
	other(cpu, "-vcpu-sig %#x, that of the report's chip, as -cpu host gives it", cpu)
	for _, c := range chips {
		for _, s := range c.steppings {
			sig := Signature(c.family, c.model, s)
			other(sig, "-vcpu-sig %#x, a %s chip's, as -cpu host gives it", sig, c.name)
		}
	}
}

// knownFeatures are the bits of SEV_FEATURES with a meaning for a guest.
const knownFeatures = 0xd7ff

// otherFeatures are the two usual values and each known bit turned.
func (cfg *Config) otherFeatures(n *neighbours) {
	if cfg.SVSM != nil {
		return // SNPActive alone, see SVSM
	}
	now := cfg.GuestFeatures
	if p, err := profileOf(cfg.VMM, cfg.Host); err == nil && now == 0 {
		now = p.features
	}
	list := []uint64{featureSNP, featureSNP | featureDebugSwap}
	for rest := uint64(knownFeatures &^ featureSNP); rest != 0; rest &= rest - 1 {
		list = append(list, now^1<<bits.TrailingZeros64(rest))
	}
	seen := map[uint64]bool{now: true}
	for _, f := range list {
		if !seen[f] {
			seen[f] = true
			n.add(ofFeatures, func(c *Config) { c.GuestFeatures = f }, "-guest-features %#x (not %#x)", f, now)
		}
	}
}

func (cfg *Config) otherHosts(n *neighbours) {
	vmm, host := cfg.VMM, cfg.HostName()
	if vmm == "" {
		vmm = QEMU
	}
	for _, h := range Hosts() {
		switch {
		case h == HostSVSMFCW && cfg.SVSM == nil: // without an SVSM it is linux-6.9
		case vmm == QEMU && h != host:
			n.add(ofHost, func(c *Config) { c.Host = h }, "-host %s (not %s)", h, host)
		case vmm != QEMU:
			n.add(ofHost, func(c *Config) { c.VMM, c.Host = QEMU, h }, "-vmm qemu -host %s (not -vmm %s)", h, vmm)
		}
	}
	for _, v := range VMMs() {
		if v != QEMU && v != vmm && cfg.SVSM == nil {
			n.add(ofHost, func(c *Config) { c.VMM, c.Host = v, "" }, "-vmm %s (not %s)", v, vmm)
		}
	}
}

// Sizes of the variable store at the start of edk2's images.
var varsSizes = []int{0x84000, 0x40000, 0x20000}

// otherFirmware is the firmware that the given file is easily taken for.
func (cfg *Config) otherFirmware(n *neighbours) {
	if cfg.SVSM != nil {
		for _, size := range append([]int{0}, varsSizes...) {
			if uint64(size) != cfg.VarsSize {
				n.add(ofFirmware, func(c *Config) { c.VarsSize = uint64(size) }, "-vars-size %d (not %d)", size, cfg.VarsSize)
			}
		}
		return
	}
	other := func(firmware []byte, format string, a ...any) {
		chain, err := FirmwareChain(firmware)
		if err == nil && (cfg.FirmwareChain == nil || chain != *cfg.FirmwareChain) {
			n.add(ofFirmware, func(c *Config) { c.Firmware, c.FirmwareChain = firmware, &chain }, format, a...)
		}
	}
	if cfg.FirmwareChain != nil {
		other(cfg.Firmware, "-snp-ovmf-hash is not that of -ovmf: leave it out")
	}
	for _, size := range varsSizes {
		if len(cfg.Firmware) > size+PageSize {
			other(cfg.Firmware[size:], "-ovmf without its first %d bytes, the variable store", size)
		}
	}
	synthetic := SyntheticFirmware()
	if string(synthetic) != string(cfg.Firmware) {
		other(synthetic, "no -ovmf: the simulator's synthetic firmware")
	}
}

// maxWords bounds the words of a command line that are left out in turn.
const maxWords = 100

// otherAppends are the slips of quoting and of files with a last newline.
func (cfg *Config) otherAppends(n *neighbours) {
	seen := map[string]bool{cfg.Append: true}
	other := func(line, format string, a ...any) {
		if !seen[line] {
			seen[line] = true
			n.add(ofAppend, func(c *Config) { c.Append = line }, format, a...)
		}
	}
	line := cfg.Append
	other(strings.TrimSuffix(line, "\n"), "-append without the newline at its end")
	other(strings.TrimRight(line, "\r\n"), "-append without the newlines at its end")
	other(strings.TrimRight(line, " \t\r\n"), "-append without the space at its end")
	other(strings.TrimSpace(line), "-append without the space around it")
	other(strings.Join(strings.Fields(line), " "), "-append with single spaces between its words")
	other(line+"\n", "-append with a newline at its end")
	other(line+" ", "-append with a space at its end")
	other(line+"\r\n", "-append with a carriage return and a newline at its end")
	other(line+"\\n", "-append with a backslash and an n at its end")
	other(" "+line, "-append with a space at its start")
	other("", "-append missing, or empty")
	for _, q := range []string{`"`, `'`} {
		other(q+line+q, "-append with the quotes %s around it", q)
		other(strings.TrimSuffix(strings.TrimPrefix(line, q), q), "-append without the quotes %s around it", q)
	}
	words := strings.Split(line, " ")
	for i, w := range words[:min(len(words), maxWords)] {
		other(strings.Join(slices.Concat(words[:i], words[i+1:]), " "), "-append without %s", strconv.Quote(w))
	}
}

// otherFiles are kernel and initramfs missing or taken for each other.
func (cfg *Config) otherFiles(n *neighbours) {
	n.add(ofFiles, func(c *Config) { c.InitrdHash = nil }, "-initrd missing, or an empty file")
	n.add(ofFiles, func(c *Config) {
		c.KernelHash, c.InitrdHash = c.InitrdHash, c.KernelHash
	}, "-kernel and -initrd swapped")
	n.add(ofFiles, func(c *Config) { c.InitrdHash = c.KernelHash }, "-initrd the file of -kernel")
	n.add(ofFiles, func(c *Config) { c.KernelHash = &nothing }, "-kernel an empty file")
	n.add(ofFiles, func(c *Config) { c.KernelHash, c.InitrdHash, c.Append, c.HasKernel = nil, nil, "", false },
		"no -kernel: QEMU was started without it, or without kernel-hashes=on, so that the digest covers the firmware alone")
}
