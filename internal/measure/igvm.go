package measure

import (
	"crypto/sha512"
	"encoding/binary"
	"fmt"

	"attestbox/internal/measure/igvm"
)

const whyIGVM = "an IGVM file holds an SVSM and firmware: no kernel, initramfs or command line is covered"

// IGVMResult is the digest of an IGVM file, and what else of it the secure
// processor is told. It is never Complete.
type IGVMResult struct {
	Result
	Supported igvm.Supported
	Notes     []string // where hosts may disagree with the digest
}

// IGVM computes the digest of a SEV-SNP launch from an IGVM file: its directives
// in their order, as the format's specification, igvm's own measurement and
// coconut-svsm's igvmmeasure have it.
//
// A page without contents is a normal page of zeros, not the processor's zero page.
// A parameter area is unmeasured pages, for the host writes to it. A 2 MiB page is
// 512 pages. Required memory and shared pages are not measured.
func IGVM(f *igvm.File) (*IGVMResult, error) {
	snp, ok := f.Supports(igvm.SEVSNP)
	if !ok {
		return nil, fmt.Errorf("%w: it is not for SEV-SNP", ErrIGVM)
	}
	r := &IGVMResult{Supported: snp, Result: Result{Why: whyIGVM}}
	c := &chain{}
	headers := f.For(snp)
	vcpus := 0
	for _, h := range headers {
		switch h.Type {
		case igvm.TypeRelocatable, igvm.TypePageTables:
			return nil, fmt.Errorf("%w: it has a %v at GPA %#x: the digest depends on where the host puts it", ErrIGVM, h.Type, h.GPA)
		case igvm.TypePageData:
			c.igvmPage(f, h)
		case igvm.TypeParameterInsert:
			c.empty("parameters", PageUnmeasured, h.GPA, h.Size)
		case igvm.TypeVPContext:
			vmsa := f.VMSA(h)
			contents := sha512.Sum384(vmsa[:])
			c.page(PageVMSA, h.GPA, &contents)
			c.done(fmt.Sprintf("vCPU %d", h.VP), PageVMSA, h.GPA, PageSize)
			c.contents(contents)
			if vcpus++; vcpus == 1 {
				first := *vmsa
				r.First = &first
				r.GuestFeatures = binary.LittleEndian.Uint64(vmsa[vmsaFeatures:])
			}
		}
		c.join()
	}
	if len(c.steps) == 0 {
		return nil, fmt.Errorf("%w: it loads nothing for SEV-SNP", ErrIGVM)
	}
	r.Digest, r.Steps = c.ld, c.steps
	r.Notes = igvmNotes(f, headers, vcpus)
	return r, nil
}

// igvmPage measures a page data directive.
func (c *chain) igvmPage(f *igvm.File, h *igvm.Header) {
	switch {
	case h.Flags&igvm.FlagShared != 0:
	case h.Page == igvm.PageSecrets:
		c.empty("secrets", PageSecrets, h.GPA, h.Size)
	case h.Page == igvm.PageCPUID, h.Page == igvm.PageCPUIDXF:
		c.empty("CPUID", PageCPUID, h.GPA, h.Size)
	case h.Flags&igvm.FlagUnmeasured != 0:
		c.empty("unmeasured data", PageUnmeasured, h.GPA, h.Size)
	case h.FileOffset == 0:
		for off := uint64(0); off < h.Size; off += PageSize {
			c.page(PageNormal, h.GPA+off, &zeroPage)
		}
		c.done("zeros", PageNormal, h.GPA, h.Size)
	default:
		c.normal("data", h.GPA, f.Contents(h))
	}
}

var zeroPage = sha512.Sum384(make([]byte, PageSize))

// join makes one step of the last two where one continues the other: a directive
// is a page.
func (c *chain) join() {
	n := len(c.steps)
	if n < 2 {
		return
	}
	o, s := &c.steps[n-2], c.steps[n-1]
	if s.Page != PageVMSA && o.What == s.What && o.Page == s.Page && o.GPA+o.Size == s.GPA {
		o.Size, o.After, o.Contents = o.Size+s.Size, s.After, nil
		c.steps = c.steps[:n-1]
	}
}

// igvmNotes says why QEMU with KVM will not report this digest, each reason once.
func igvmNotes(f *igvm.File, headers []*igvm.Header, vcpus int) (notes []string) {
	said := make(map[string]bool)
	note := func(format string, args ...any) {
		if !said[format] {
			said[format] = true
			notes = append(notes, fmt.Sprintf(format, args...))
		}
	}
	if vcpus == 0 {
		note("no vCPU context: the host's own first registers are measured too, and are not in this digest")
	}
	last := false // the last measured directive was a vCPU
	for _, h := range headers {
		switch h.Type {
		case igvm.TypeVPContext:
			last = true
			if h.GPA != igvm.KVMContext {
				note("vCPU %d at GPA %#x: KVM measures every vCPU at %#x", h.VP, h.GPA, uint64(igvm.KVMContext))
			}
			if h.VP != 0 {
				note("vCPU %d: QEMU takes the context of vCPU 0 alone", h.VP)
			}
			if cr0 := binary.LittleEndian.Uint64(f.VMSA(h)[vmsaCR0:]); cr0 != kvmCR0 {
				note("vCPU %d starts with CR0 %#x: KVM sets it to %#x before it measures", h.VP, cr0, uint64(kvmCR0))
			}
		case igvm.TypePageData, igvm.TypeParameterInsert:
			if last {
				note("%v at GPA %#x follows a vCPU: KVM measures vCPUs after everything else", h.Type, h.GPA)
				last = false
			}
			if h.Flags&igvm.FlagShared != 0 && h.Type == igvm.TypePageData {
				note("page data at GPA %#x is shared: QEMU measures it all the same", h.GPA)
			}
		}
	}
	if at := qemuOrder(headers); at != nil {
		note("parameter insert at GPA %#x follows page data: QEMU loads it before the last of them", at.GPA)
	}
	return notes
}

// kvmCR0 is PE, ET and NE.
const kvmCR0 = 0x31

// qemuOrder finds a parameter area that QEMU (backends/igvm.c) loads earlier than
// the file says: it keeps page data back until a page that does not continue them,
// and a parameter area does not wait for that.
func qemuOrder(headers []*igvm.Header) *igvm.Header {
	pending := false
	for _, h := range headers {
		if h.Type == igvm.TypePageData {
			pending = true
		} else if h.Type == igvm.TypeParameterInsert && pending {
			return h
		}
	}
	return nil
}
