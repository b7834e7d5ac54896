package measure

import (
	"crypto/sha256"
	"testing"
)

// big is a launch of realistic size: 4 MiB firmware, 11.6 MB kernel, 50 MB
// initramfs.
func big(b *testing.B) Config {
	b.Helper()
	fw := make([]byte, 4<<20)
	tail := SyntheticFirmware()
	copy(fw[len(fw)-len(tail):], tail)
	cfg := demo()
	cfg.Firmware, cfg.Kernel, cfg.Initrd = fw, make([]byte, 11_600_000), make([]byte, 50_000_000)
	return cfg
}

func BenchmarkDigest(b *testing.B) {
	cfg := big(b)
	b.SetBytes(int64(len(cfg.Firmware) + len(cfg.Kernel) + len(cfg.Initrd)))
	for b.Loop() {
		if _, err := SNP(cfg); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkFloor is the hash of the initramfs alone, which is one chain.
func BenchmarkFloor(b *testing.B) {
	initrd := big(b).Initrd
	b.SetBytes(int64(len(initrd)))
	for b.Loop() {
		sha256.Sum256(initrd)
	}
}

func BenchmarkFirmwareChain(b *testing.B) {
	cfg := big(b)
	b.SetBytes(int64(len(cfg.Firmware)))
	for b.Loop() {
		if _, err := FirmwareChain(cfg.Firmware); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkAppendOnly is a new digest when nothing but the command line
// changed.
func BenchmarkAppendOnly(b *testing.B) {
	cfg := big(b)
	first, err := SNP(cfg)
	if err != nil {
		b.Fatal(err)
	}
	chain, err := FirmwareChain(cfg.Firmware)
	if err != nil {
		b.Fatal(err)
	}
	cfg.FirmwareChain, cfg.KernelHash, cfg.InitrdHash = &chain, &first.Hashes.Kernel, &first.Hashes.Initrd
	cfg.Kernel, cfg.Initrd = nil, nil
	for b.Loop() {
		if _, err := SNP(cfg); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkMatrix is a matrix of 100 cells from the files on: compare with
// BenchmarkDigest.
func BenchmarkMatrix(b *testing.B) {
	cfg := big(b)
	ax, err := ParseAxes("vcpus=1-25:types=EPYC-Milan,EPYC-Genoa:features=0x1,0x21")
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if cells, err := Matrix(cfg, ax); err != nil || len(cells) != 100 {
			b.Fatal(len(cells), err)
		}
	}
}

// BenchmarkAgainst is the longest search: a digest that no launch near has.
func BenchmarkAgainst(b *testing.B) {
	cfg, err := Prepare(big(b))
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if f, err := Against(cfg, [48]byte{1}, 0); err != nil || f.Same {
			b.Fatal(f, err)
		}
	}
}
