package measure

import "fmt"

// How many vCPUs are tried, by the number of other changes.
var againstVCPUs = [...]int{maxVCPUs, 1024, 256}

// Finding is what Against found out.
type Finding struct {
	// Same: the launch has the digest. Else Changes are those of its inputs that
	// must differ for it to have the digest, in words of mkimage measure's flags;
	// none when no neighbouring launch has it.
	Same    bool
	Changes []string
	Tried   int // digests compared
}

// Against looks for the launch that has the digest: cfg itself, or one that
// differs from it by one input, two, or two and the number of vCPUs. With an
// SVSM in cfg, the launches are those of SVSM. cpu is the CPUID signature of
// the chip, for launches with its own CPU model, or 0.
//
// A digest tells nothing about what it was taken over, so that firmware,
// kernel or initramfs of other contents are not found.
func Against(cfg Config, want [48]byte, cpu uint32) (*Finding, error) {
	if _, err := cfg.guest(); err != nil {
		return nil, err
	}
	s := &search{want: want, prefixes: make(map[prefixKey]*chain)}
	near := cfg.neighbours(cpu) // before Prepare: it knows where the chain is from
	if cfg.SVSM == nil {
		prepared, err := Prepare(cfg)
		if err != nil {
			return nil, err
		}
		cfg = prepared
	} else if _, err := SVSM(cfg); err != nil {
		return nil, err
	}
	s.launch(cfg)
	for _, a := range near {
		s.launch(a.apply(cfg), a.text)
	}
	for i, a := range near {
		for _, b := range near[i+1:] {
			if a.input != b.input {
				s.launch(b.apply(a.apply(cfg)), a.text, b.text)
			}
		}
	}
	return &Finding{Same: s.best != nil && len(s.best) == 0, Changes: s.best, Tried: s.tried}, nil
}

// search is one run of Against.
type search struct {
	want     [48]byte
	best     []string // not nil once found; the fewest changes
	tried    int
	prefixes map[prefixKey]*chain // what many launches share
}

// prefixKey is what a chain depends on until its first VMSA.
type prefixKey struct {
	firmware [48]byte
	size     int
	hashes   Hashes // zero: no kernel
	sec      PageType
	last     bool
	vars     uint64
}

// launch compares one launch, with its number of vCPUs and with others. Once an
// answer was found, only shorter ones are looked for.
func (s *search) launch(cfg Config, changes ...string) {
	if s.best != nil && len(s.best) <= len(changes) {
		return
	}
	v, err := s.start(&cfg)
	if err != nil {
		return // not a launch: for example a kernel, and firmware that cannot hash it
	}
	for n := 1; n <= max(againstVCPUs[len(changes)], cfg.VCPUs); n++ {
		v.extend(n)
		s.tried++
		if v.ld != s.want {
			continue
		}
		if n != cfg.VCPUs {
			changes = append(changes, fmt.Sprintf("-vcpus %d (not %d)", n, cfg.VCPUs))
		}
		if s.best == nil || len(changes) < len(s.best) {
			s.best = append([]string{}, changes...)
		}
		return
	}
}

// start is the launch's chain with its first VMSA.
func (s *search) start(cfg *Config) (*vcpuChain, error) {
	g, err := cfg.guest()
	if err != nil {
		return nil, err
	}
	if cfg.SVSM != nil {
		return s.startSVSM(cfg, g)
	}
	img, err := cfg.snpImage()
	if err != nil {
		return nil, err
	}
	_, hashes := cfg.prepare(img)
	key := prefixKey{firmware: *cfg.FirmwareChain, size: len(cfg.Firmware), sec: g.secMemory, last: g.cpuidLast}
	if hashes != nil {
		key.hashes = *hashes
	}
	c, ok := s.prefixes[key]
	if !ok {
		c = cfg.toVCPUs(img, g.profile, hashes)
		s.prefixes[key] = c
	}
	return c.start(img, g), nil
}

func (s *search) startSVSM(cfg *Config, g guest) (*vcpuChain, error) {
	l, err := cfg.svsm(g)
	if err != nil {
		return nil, err
	}
	key := prefixKey{vars: cfg.VarsSize}
	c, ok := s.prefixes[key]
	if !ok {
		c = l.toVCPUs(cfg, g.profile)
		s.prefixes[key] = c
	}
	return c.startWith(l.vmsa(g), l.vmsa(g)), nil
}
