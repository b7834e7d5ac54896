package image

import (
	"os"
	"testing"

	"attestbox/internal/testenv"
)

// BenchmarkBuild is the packing of a real kernel's modules with the guest binary
// (bin/attestbox-guest, or ATTESTBOX_GUEST): scripts/kernel.sh names the kernel.
func BenchmarkBuild(b *testing.B) {
	kernel, modules := os.Getenv("ATTESTBOX_KERNEL"), os.Getenv("ATTESTBOX_MODULES")
	if kernel == "" || modules == "" {
		testenv.Skip(b, "a kernel: eval \"export $(scripts/kernel.sh)\"")
	}
	_, m := inputs(b)
	m.Kernel, m.ModulesDir, m.Guest = kernel, modules, testenv.Root()+"/bin/attestbox-guest"
	for b.Loop() {
		if _, err := Build(m, Options{}); err != nil {
			b.Fatal(err)
		}
	}
}
