package measure

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// Every cell is the digest of its launch alone, in the order of the axes.
func TestMatrix(t *testing.T) {
	ax := Axes{VCPUs: []int{4, 1, 2, 16}, Types: []string{"EPYC-Milan", "EPYC-Genoa"}, Sigs: []uint32{0xb00f21},
		Features: []uint64{0x1, 0x21}, Hosts: []string{HostLinux68, HostLinux69}}
	cells, err := Matrix(demo(), ax)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[[48]byte]bool{}
	i := 0
	for _, host := range ax.Hosts {
		for _, f := range ax.Features {
			for _, s := range []Config{{VCPUType: "EPYC-Milan"}, {VCPUType: "EPYC-Genoa"}, {VCPUSig: 0xb00f21}} {
				for _, n := range ax.VCPUs {
					cfg := demo()
					cfg.Host, cfg.GuestFeatures, cfg.VCPUType, cfg.VCPUSig, cfg.VCPUs = host, f, s.VCPUType, s.VCPUSig, n
					r := snp(t, cfg)
					want := Cell{VCPUs: n, VCPUType: s.VCPUType, VCPUSig: r.VCPUSig, GuestFeatures: f, Host: host, Digest: r.Digest}
					if cells[i] != want {
						t.Errorf("cell %d: %+v\nwant %+v", i, cells[i], want)
					}
					seen[r.Digest] = true
					i++
				}
			}
		}
	}
	if len(cells) != i || len(seen) != i {
		t.Errorf("%d cells, %d digests, want %d of each", len(cells), len(seen), i)
	}
}

// An empty axis is the value of the launch; a prepared launch gives the same.
func TestMatrixDefaults(t *testing.T) {
	want := snp(t, demo()).Digest
	prepared, err := Prepare(demo())
	if err != nil || prepared.Kernel != nil || prepared.Initrd != nil {
		t.Fatalf("%+v, %v", prepared, err)
	}
	if got := snp(t, prepared); got.Digest != want || !reflect.DeepEqual(got.Steps, snp(t, demo()).Steps) {
		t.Errorf("prepared: %x, want %x", got.Digest, want)
	}
	for _, cfg := range []Config{demo(), prepared} {
		cells, err := Matrix(cfg, Axes{})
		if err != nil || len(cells) != 1 || cells[0] != (Cell{2, "EPYC-Milan", sigMilan, 1, HostLinux69, want}) {
			t.Errorf("%+v, %v", cells, err)
		}
	}
	cloud := demo()
	cloud.VMM, cloud.VCPUType = EC2, ""
	cells, err := Matrix(cloud, Axes{VCPUs: []int{2}})
	if err != nil || len(cells) != 1 || cells[0] != (Cell{2, "", 0, 1, "", snp(t, cloud).Digest}) {
		t.Errorf("%+v, %v", cells, err)
	}
}

func TestMatrixRefused(t *testing.T) {
	many := make([]int, maxVCPUs)
	for i := range many {
		many[i] = i + 1
	}
	var features []uint64
	for i := range uint64(17) {
		features = append(features, 2*i+1)
	}
	for _, tc := range []struct {
		name string
		want error
		ax   Axes
	}{
		{"unknown type", ErrVCPU, Axes{Types: []string{"EPYC-Milan", "host"}}},
		{"zero vCPUs", ErrVCPU, Axes{VCPUs: []int{1, 0}}},
		{"unknown host", ErrConfig, Axes{Hosts: []string{"linux-2.4"}}},
		{"features without SNP", ErrConfig, Axes{Features: []uint64{1, 2}}},
		{"a value twice", ErrConfig, Axes{VCPUs: []int{1, 2, 1}}},
		{"too many", ErrConfig, Axes{VCPUs: many, Features: features}},
	} {
		if cells, err := Matrix(demo(), tc.ax); cells != nil || !errors.Is(err, tc.want) {
			t.Errorf("%s: %d cells, %v; want %v", tc.name, len(cells), err, tc.want)
		}
	}
	cfg := demo()
	cfg.Firmware = make([]byte, syntheticSize)
	if cells, err := Matrix(cfg, Axes{}); cells != nil || !errors.Is(err, ErrFirmware) {
		t.Errorf("firmware without tables: %d cells, %v", len(cells), err)
	}
}

func TestParseAxes(t *testing.T) {
	got, err := ParseAxes(AxesSyntax)
	want := Axes{VCPUs: []int{1, 2, 3, 4, 5, 6, 7, 8, 16}, Types: []string{"EPYC-Milan", "EPYC-Genoa"},
		Sigs: []uint32{0xa00f11}, Features: []uint64{0x1, 0x21}, Hosts: []string{HostLinux69, HostLinux68}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	for _, s := range []string{
		"", "vcpus", "vcpus=", "vcpus=1,", "vcpus=0", "vcpus=4-2", "vcpus=1-", "vcpus=-1", "vcpus=1-5000", "vcpus=0x2", "vcpus=1-3,2",
		"cpus=1", "vcpus=1:", "vcpus=1:vcpus=2", "types=EPYC,EPYC", "sigs=0", "sigs=EPYC", "sigs=0x100000000",
		"features=0", "features=all", "hosts=a,,b",
	} {
		if ax, err := ParseAxes(s); !errors.Is(err, ErrConfig) {
			t.Errorf("%q: %+v, %v", s, ax, err)
		}
	}
}

// FuzzParseAxes: no panic, bounded, and what was understood reads back.
func FuzzParseAxes(f *testing.F) {
	f.Add(AxesSyntax)
	f.Add("vcpus=1-4096")
	f.Add("vcpus=1:")
	f.Add("types=,")
	f.Fuzz(func(t *testing.T, s string) {
		ax, err := ParseAxes(s)
		if err != nil {
			if !errors.Is(err, ErrConfig) {
				t.Fatal(err)
			}
			return
		}
		var parts []string
		part := func(name string, list any) {
			if v := reflect.ValueOf(list); v.Len() > 0 {
				var words []string
				for i := range v.Len() {
					words = append(words, fmt.Sprint(v.Index(i)))
				}
				parts = append(parts, name+"="+strings.Join(words, ","))
			}
		}
		part("vcpus", ax.VCPUs)
		part("types", ax.Types)
		part("sigs", ax.Sigs)
		part("features", ax.Features)
		part("hosts", ax.Hosts)
		back, err := ParseAxes(strings.Join(parts, ":"))
		if err != nil || !reflect.DeepEqual(ax, back) {
			t.Fatalf("%+v read back as %+v, %v", ax, back, err)
		}
	})
}
