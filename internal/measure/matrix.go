package measure

import (
	"fmt"
	"slices"
)

// maxCells bounds a matrix.
const maxCells = 1 << 16

// Axes are the values that a matrix goes through. An empty axis is the value
// in the Config; Types and Sigs are one axis, the types first.
type Axes struct {
	VCPUs    []int
	Types    []string
	Sigs     []uint32
	Features []uint64
	Hosts    []string
}

// Cell is one launch of a matrix and its digest.
type Cell struct {
	VCPUs         int
	VCPUType      string // "" where a signature was given
	VCPUSig       uint32 // 0 where the profile fixes RDX
	GuestFeatures uint64
	Host          string // "" for EC2 and GCE
	Digest        [48]byte
}

// Matrix computes the digests of cfg for every combination of the axes' values,
// hosts outermost, then features, types, vCPUs. What launches share is computed
// once: the files' hashes, the sections per host, the vCPUs' chain per start.
// Every cell is covered as SNP says of any of them: see Result.Complete.
func Matrix(cfg Config, ax Axes) ([]Cell, error) {
	cells, guests, err := ax.cells(cfg)
	if err != nil {
		return nil, err
	}
	img, err := cfg.snpImage()
	if err != nil {
		return nil, err
	}
	hashed, hashes := cfg.prepare(img)
	var c *chain
	for i := 0; i < len(cells); {
		g := guests[cells[i].Host]
		if i == 0 || cells[i].Host != cells[i-1].Host {
			c = hashed.toVCPUs(img, g, hashes)
		}
		start := cells[i].start()
		n := i + 1
		for n < len(cells) && cells[n].start() == start {
			n++
		}
		v := c.start(img, guest{g, cells[i].VCPUSig, cells[i].GuestFeatures})
		run := make([]*Cell, 0, n-i)
		for ; i < n; i++ {
			run = append(run, &cells[i])
		}
		slices.SortFunc(run, func(a, b *Cell) int { return a.VCPUs - b.VCPUs })
		for _, cell := range run {
			v.extend(cell.VCPUs)
			cell.Digest = v.ld
		}
	}
	return cells, nil
}

// start is the cell without what an extension of the chain gives.
func (c Cell) start() Cell {
	c.VCPUs, c.Digest = 0, [48]byte{}
	return c
}

// cells lists the combinations, each of them checked, without digests.
func (ax Axes) cells(cfg Config) ([]Cell, map[string]profile, error) {
	if err := ax.check(); err != nil {
		return nil, nil, err
	}
	hosts, features, vcpus := or(ax.Hosts, cfg.Host), or(ax.Features, cfg.GuestFeatures), or(ax.VCPUs, cfg.VCPUs)
	type start struct {
		name string
		sig  uint32
	}
	var starts []start
	for _, t := range ax.Types {
		starts = append(starts, start{name: t})
	}
	for _, s := range ax.Sigs {
		starts = append(starts, start{sig: s})
	}
	starts = or(starts, start{cfg.VCPUType, cfg.VCPUSig})
	if n := len(hosts) * len(features) * len(vcpus) * len(starts); n > maxCells {
		return nil, nil, fmt.Errorf("%w: a matrix of %d cells, want at most %d", ErrConfig, n, maxCells)
	}
	var cells []Cell
	profiles := map[string]profile{}
	for _, host := range hosts {
		for _, f := range features {
			for _, s := range starts {
				for _, n := range vcpus {
					cfg.Host, cfg.GuestFeatures, cfg.VCPUType, cfg.VCPUSig, cfg.VCPUs = host, f, s.name, s.sig, n
					g, err := cfg.guest()
					if err != nil {
						return nil, nil, err
					}
					cell := Cell{VCPUs: n, VCPUType: s.name, VCPUSig: g.sig, GuestFeatures: g.features, Host: cfg.HostName()}
					profiles[cell.Host] = g.profile
					cells = append(cells, cell)
				}
			}
		}
	}
	return cells, profiles, nil
}

// check refuses a value that is named twice: a slip, and two equal cells.
func (ax *Axes) check() error {
	for _, err := range []error{
		unique("number of vCPUs", ax.VCPUs), unique("vCPU type", ax.Types), unique("signature", ax.Sigs),
		unique("value of guest features", ax.Features), unique("host profile", ax.Hosts),
	} {
		if err != nil {
			return err
		}
	}
	return nil
}

func unique[T comparable](what string, list []T) error {
	seen := make(map[T]bool, len(list))
	for _, v := range list {
		if seen[v] {
			return fmt.Errorf("%w: %s %v appears twice in the matrix", ErrConfig, what, v)
		}
		seen[v] = true
	}
	return nil
}

func or[T any](list []T, single T) []T {
	if len(list) == 0 {
		return []T{single}
	}
	return list
}
