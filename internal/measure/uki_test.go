package measure_test

import (
	"bytes"
	"errors"
	"testing"

	"attestbox/internal/measure"
	"attestbox/internal/measure/measuretest"
)

var ukiSections = []string{".text", ".linux", ".initrd", ".cmdline"}

func TestUKI(t *testing.T) {
	whole := measuretest.PE(ukiSections)
	emptyFirst := measuretest.PE([]string{".initrd", ".linux", ".initrd", ".cmdline"})
	clear(emptyFirst[64+24+16+8:][:4]) // the first section's size in memory
	for _, tc := range []struct {
		name string
		file []byte
		want bool
		err  error
	}{
		{"a unified kernel image", whole, true, nil},
		{"a kernel", measuretest.PE([]string{".setup", ".text"}), false, nil},
		{"no PE", []byte("kernel"), false, nil},
		{"empty", nil, false, nil},
		{"no initramfs", measuretest.PE([]string{".linux", ".cmdline"}), false, measure.ErrConfig},
		{"no command line", measuretest.PE([]string{".linux", ".initrd"}), false, measure.ErrConfig},
		{"an empty initramfs", measuretest.PE(ukiSections, ".initrd"), false, measure.ErrConfig},
		{"cut short", whole[:len(whole)-1], false, nil},
		{"an empty section first", emptyFirst, false, measure.ErrConfig},
	} {
		if got, err := measure.UKI(bytes.NewReader(tc.file), int64(len(tc.file))); got != tc.want || !errors.Is(err, tc.err) {
			t.Errorf("%s: %v, %v; want %v, %v", tc.name, got, err, tc.want, tc.err)
		}
	}
}

// FuzzUKI: no panic, bounded memory, and a file cut short is none.
func FuzzUKI(f *testing.F) {
	f.Add(measuretest.PE(ukiSections))
	f.Add(measuretest.PE([]string{".text"}))
	f.Add(measuretest.PE(ukiSections, ".cmdline"))
	f.Add([]byte("MZ"))
	f.Fuzz(func(t *testing.T, b []byte) {
		ok, err := measure.UKI(bytes.NewReader(b), int64(len(b)))
		if ok && err != nil || err != nil && !errors.Is(err, measure.ErrConfig) {
			t.Fatal(ok, err)
		}
		if ok && (len(b) < 64+24+3*40 || string(b[:2]) != "MZ") {
			t.Fatalf("%d bytes are a unified kernel image", len(b))
		}
	})
}
