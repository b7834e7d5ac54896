package igvm

import (
	"cmp"
	"slices"
)

// area is a parameter area.
type area struct {
	size     uint64
	inserted bool
}

const snpActive = 1 // SEV_FEATURES bit 0

// checkHeader judges a header by itself, by the platforms and by those before it.
func (f *File) checkHeader(h *Header) error {
	var declared uint32
	for _, p := range f.Platforms {
		declared |= p.Mask
	}
	if h.all {
		h.Mask = declared
	}
	if declared == 0 || h.Mask == 0 || h.Mask&^declared != 0 {
		return bad("mask %#x, and the platforms have %#x", h.Mask, declared)
	}
	switch h.Type {
	case TypeGuestPolicy, TypeIDBlock:
		for i := range f.Headers {
			if o := &f.Headers[i]; o.Type == h.Type && o.Mask&h.Mask != 0 {
				return bad("it is there twice for one platform")
			}
		}
		return nil
	case TypeRelocatable, TypePageTables:
		return f.checkRelocation(h)
	case TypePageData:
		return f.checkPage(h)
	case TypeParameterArea:
		if _, ok := f.areas[h.Area]; ok {
			return bad("index %d is there twice", h.Area)
		}
		if h.Size == 0 || h.Size%PageSize != 0 || h.Size > MaxPages*PageSize {
			return bad("%d bytes of parameters", h.Size)
		}
		f.areas[h.Area] = &area{size: h.Size}
		return f.inFile(h.FileOffset, h.Size)
	case TypeParameterInsert:
		a := f.areas[h.Area]
		if a == nil || a.inserted {
			return bad("parameter area %d is not declared, or inserted already", h.Area)
		}
		a.inserted, h.Size = true, a.size
		return inGuest(h.GPA, h.Size)
	case TypeVPContext:
		return f.checkVP(h)
	case TypeRequiredMemory:
		if h.Flags&^1 != 0 {
			return bad("flags %#x", h.Flags)
		}
		return inGuest(h.GPA, h.Size)
	case TypeErrorRange:
		return inGuest(h.GPA, h.Size)
	}
	if _, ok := parameters[h.Type]; ok {
		if a := f.areas[h.Area]; a == nil || a.inserted || uint64(h.AreaOffset) >= a.size {
			return bad("place %#x in parameter area %d: the area is not declared, too small, or inserted already", h.AreaOffset, h.Area)
		}
	}
	return nil
}

func (f *File) checkRelocation(h *Header) error {
	if err := inGuest(h.GPA, h.Size); err != nil {
		return err
	}
	if h.Type == TypePageTables {
		if used := le.Uint64(h.Raw[24:]); used%PageSize != 0 || used > h.Size {
			return bad("%d bytes used of %d", used, h.Size)
		}
		return nil
	}
	step, low, high := le.Uint64(h.Raw[8:]), le.Uint64(h.Raw[32:]), le.Uint64(h.Raw[40:])
	if step == 0 || step%PageSize != 0 || h.GPA%step != 0 || low%step != 0 || high%step != 0 || low > high || h.Flags > 7 {
		return bad("GPA %#x may move between %#x and %#x by %#x, flags %#x", h.GPA, low, high, step, h.Flags)
	}
	return nil
}

func (f *File) checkPage(h *Header) error {
	switch {
	case h.Page > PageCPUIDXF:
		return bad("data type %d is unknown", h.Page)
	case h.Flags&^(FlagLarge|FlagUnmeasured|FlagShared) != 0:
		return bad("flags %#x", h.Flags)
	case h.Page != PageNormal && h.Flags&(FlagLarge|FlagShared) != 0:
		return bad("a secrets or CPUID page is large or shared")
	case h.GPA%h.Size != 0:
		return bad("GPA %#x is no multiple of the page's size", h.GPA)
	}
	if err := f.inFile(h.FileOffset, h.Size); err != nil {
		return err
	}
	return inGuest(h.GPA, h.Size)
}

func (f *File) checkVP(h *Header) error {
	if f.vps[h.VP]&h.Mask != 0 {
		return bad("vCPU %d is there twice", h.VP)
	}
	f.vps[h.VP] |= h.Mask
	snp, ok := f.Supports(SEVSNP)
	if !ok || h.Mask&snp.Mask == 0 {
		return f.inFile(h.FileOffset, 1) // registers in a form of the platform's own
	}
	if h.FileOffset == 0 {
		return bad("vCPU %d has no contents", h.VP)
	}
	if err := f.inFile(h.FileOffset, PageSize); err != nil {
		return err
	}
	if features := le.Uint64(f.VMSA(h)[0x3b0:]); features&snpActive == 0 {
		return bad("vCPU %d: SEV_FEATURES %#x lack SNPActive", h.VP, features)
	}
	h.Size = PageSize
	return inGuest(h.GPA, h.Size)
}

// inFile checks that size bytes at an offset, where there is one, are file data.
func (f *File) inFile(offset uint32, size uint64) error {
	if offset == 0 {
		return nil
	}
	if offset < f.content || uint64(offset)+size > uint64(len(f.data)) {
		return bad("%d bytes at %#x are not file data, which is from %#x to %#x", size, offset, f.content, len(f.data))
	}
	return nil
}

// inGuest checks a range of guest memory.
func inGuest(gpa, size uint64) error {
	if gpa%PageSize != 0 || size == 0 || size%PageSize != 0 {
		return bad("%d bytes at GPA %#x are no whole pages", size, gpa)
	}
	if gpa >= maxGPA || size > maxGPA-gpa {
		return bad("%d bytes at GPA %#x are behind the last address", size, gpa)
	}
	return nil
}

// checkPages refuses a platform's pages that overlap, or too many of them.
func (f *File) checkPages(p Supported) error {
	var loaded []*Header
	pages := uint64(0)
	for _, h := range f.For(p) {
		switch h.Type {
		case TypePageData, TypeParameterInsert:
			loaded = append(loaded, h)
			pages += h.Size / PageSize
		case TypeVPContext:
			// QEMU with KVM has every vCPU's page at the same place.
			if h.Size != 0 && h.GPA != KVMContext {
				loaded = append(loaded, h)
			}
			pages++
		}
	}
	if pages > MaxPages {
		return bad("%d pages for %v, at most %d are read", pages, p.Platform, MaxPages)
	}
	slices.SortFunc(loaded, func(a, b *Header) int { return cmp.Compare(a.GPA, b.GPA) })
	for i := 1; i < len(loaded); i++ {
		if a, b := loaded[i-1], loaded[i]; a.GPA+a.Size > b.GPA {
			return bad("for %v, %v at GPA %#x and %v at GPA %#x overlap", p.Platform, a.Type, a.GPA, b.Type, b.GPA)
		}
	}
	return nil
}

// KVMContext is where KVM puts every vCPU's page.
const KVMContext = 0xFFFFFFFFF000
