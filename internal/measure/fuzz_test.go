package measure

import (
	"errors"
	"reflect"
	"testing"
)

// place puts the fuzzer's bytes at the end of an image of one to four pages,
// where the tables are.
func place(tail []byte) []byte {
	if len(tail) > 4*PageSize {
		tail = tail[len(tail)-4*PageSize:]
	}
	n := max(1, (len(tail)+PageSize-1)/PageSize)
	b := make([]byte, n*PageSize)
	copy(b[len(b)-len(tail):], tail)
	return b
}

// FuzzParseImage: no panic, bounded memory, and what was understood of an
// accepted image is the same after writing it as tables of our own.
func FuzzParseImage(f *testing.F) {
	fw := SyntheticFirmware()
	f.Add(fw[len(fw)-400:])
	f.Add(fw[len(fw)-32-18:])
	svsm := synthetic
	svsm.HasLaunchOffset, svsm.LaunchOffset, svsm.HasHashTable = true, 0x10, false
	image := make([]byte, PageSize)
	if err := svsm.WriteTables(image); err != nil {
		f.Fatal(err)
	}
	f.Add(image[len(image)-400:])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, tail []byte) {
		b := place(tail)
		img, err := ParseImage(b)
		if err != nil {
			if img != nil || !errors.Is(err, ErrFirmware) {
				t.Fatalf("error %v with image %v", err, img)
			}
			return
		}
		if len(img.Sections) > maxSections {
			t.Fatalf("%d sections", len(img.Sections))
		}
		again := make([]byte, len(b))
		if err := img.WriteTables(again); err != nil {
			t.Fatal(err)
		}
		back, err := ParseImage(again)
		if err != nil || !reflect.DeepEqual(img, back) {
			t.Fatalf("%+v\nread back as %+v, %v", img, back, err)
		}
	})
}
