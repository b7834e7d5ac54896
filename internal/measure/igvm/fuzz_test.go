package igvm_test

import (
	"bytes"
	"testing"

	"attestbox/internal/measure/igvm"
	"attestbox/internal/measure/igvm/igvmtest"
)

// again writes a header from what was understood of it; nil where all that is
// known of a type is its bytes.
func again(h *igvm.Header) []byte {
	var i igvmtest.Item
	at := 0
	switch h.Type {
	case igvm.TypeGuestPolicy:
		i, at = igvmtest.Policy(h.Policy), 8
	case igvm.TypePageData:
		i, at = igvmtest.Page(h.GPA, h.Page, h.Flags, nil), 8
		le.PutUint32(i.Content[12:], h.FileOffset)
	case igvm.TypeParameterArea:
		i = igvmtest.Area(h.Area, h.Size)
		le.PutUint32(i.Content[12:], h.FileOffset)
		return i.Content
	case igvm.TypeParameterInsert:
		i, at = igvmtest.Insert(h.Area, h.GPA), 8
	case igvm.TypeVPContext:
		i, at = igvmtest.VP(h.VP, h.GPA, nil), 8
		le.PutUint32(i.Content[12:], h.FileOffset)
	case igvm.TypeRequiredMemory:
		i, at = igvmtest.Required(h.GPA, uint32(h.Size)), 8
		le.PutUint32(i.Content[16:], h.Flags)
	case igvm.TypeErrorRange:
		i, at = igvmtest.ErrorRange(h.GPA, uint32(h.Size)), 8
	default:
		return nil
	}
	le.PutUint32(i.Content[at:], h.Mask)
	return i.Content
}

// FuzzParse: no panic, bounded memory; the headers of an accepted file are what was
// understood of them, and each can be asked for what it loads.
func FuzzParse(f *testing.F) {
	f.Add(sample(1))
	f.Add(sample(2))
	f.Add(igvmtest.File(1, igvmtest.Platform(igvm.SEVSNP, igvmtest.Mask), igvmtest.Page(0, 0, igvm.FlagLarge, nil)))
	f.Add(padding())
	f.Add(tooLong())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		igvmtest.Seal(data) // else nothing gets past the checksum
		file, err := igvm.Parse(data)
		if err != nil {
			if file != nil {
				t.Fatalf("error %v with a file", err)
			}
			return
		}
		for i := range file.Headers {
			h := &file.Headers[i]
			if b := again(h); b != nil && !bytes.Equal(b, h.Raw) {
				t.Fatalf("%v: %x, read as %x", h.Type, h.Raw, b)
			}
		}
		for _, p := range file.Platforms {
			policy, _ := file.Policy(p)
			for _, h := range file.For(p) {
				if b := file.Contents(h); b != nil && uint64(len(b)) != h.Size {
					t.Fatalf("%v of %d bytes has %d", h.Type, h.Size, len(b))
				}
				if h.IDBlock != nil {
					_, _, _ = h.IDBlock.Launch(uint64(policy))
				}
				if h.Type == igvm.TypeVPContext && p.Platform == igvm.SEVSNP {
					_ = file.VMSA(h)[igvm.PageSize-1]
				}
			}
		}
	})
}
