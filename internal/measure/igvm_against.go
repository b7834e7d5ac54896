package measure

import (
	"crypto/sha512"
	"encoding/binary"
	"fmt"
	"math/bits"

	"attestbox/internal/measure/igvm"
)

// Ways in which a host may load an IGVM file otherwise than it says.
const (
	igvmQEMUOrder = 1 << iota
	igvmVCPUsLast
	igvmKVMContext
	igvmKVMCR0
	igvmDebugSwap
	igvmFirstVCPU
	igvmZeroPages
	igvmShared
	igvmWays = iota
)

var igvmWayNames = [igvmWays]string{
	"parameter areas before the page data that they follow, and vCPUs last, as QEMU loads them",
	"vCPUs after everything else",
	fmt.Sprintf("every vCPU at GPA %#x", uint64(igvm.KVMContext)),
	fmt.Sprintf("CR0 %#x", kvmCR0),
	fmt.Sprintf("DebugSwap in SEV_FEATURES (%#x)", featureDebugSwap),
	"the context of vCPU 0 alone",
	"the processor's zero pages for pages without contents",
	"shared pages measured",
}

// igvmLoad is one measured page of a file.
type igvmLoad struct {
	page     PageType
	gpa      uint64
	contents *[48]byte
	header   *igvm.Header
}

// IGVMAgainst looks for the digest among those of the file as it stands and as
// hosts may load it otherwise, fewest differences first.
func IGVMAgainst(f *igvm.File, want [48]byte) (*Finding, error) {
	r, err := IGVM(f)
	if err != nil {
		return nil, err
	}
	found := &Finding{Same: r.Digest == want, Tried: 1}
	if found.Same {
		return found, nil
	}
	loads := igvmLoads(f, f.For(r.Supported))
	apply := igvmApplicable(f, loads)
	for n := 1; n <= igvmWays; n++ {
		for ways := uint(1); ways < 1<<igvmWays; ways++ {
			if bits.OnesCount(ways) != n || ways&^apply != 0 {
				continue
			}
			found.Tried++
			if igvmDigest(f, loads, ways) != want {
				continue
			}
			for i, name := range igvmWayNames {
				if ways&(1<<i) != 0 {
					found.Changes = append(found.Changes, name)
				}
			}
			return found, nil
		}
	}
	return found, nil
}

// igvmLoads lists the pages of the directives, shared ones too.
func igvmLoads(f *igvm.File, headers []*igvm.Header) (out []igvmLoad) {
	for _, h := range headers {
		l := igvmLoad{header: h}
		switch {
		case h.Type == igvm.TypeParameterInsert, h.Type == igvm.TypePageData && h.Page == igvm.PageNormal && h.Flags&igvm.FlagUnmeasured != 0:
			l.page = PageUnmeasured
		case h.Type == igvm.TypePageData && h.Page == igvm.PageSecrets:
			l.page = PageSecrets
		case h.Type == igvm.TypePageData && h.Page != igvm.PageNormal:
			l.page = PageCPUID
		case h.Type == igvm.TypePageData:
			l.page = PageNormal
		case h.Type == igvm.TypeVPContext:
			l.page = PageVMSA
		default:
			continue
		}
		data := f.Contents(h)
		for off := uint64(0); off < h.Size; off += PageSize {
			l.gpa = h.GPA + off
			if l.page == PageNormal {
				l.contents = &zeroPage
				if data != nil {
					sum := sha512.Sum384(data[off : off+PageSize])
					l.contents = &sum
				}
			}
			out = append(out, l)
		}
	}
	return out
}

// igvmApplicable is the ways that change anything of this file.
func igvmApplicable(f *igvm.File, loads []igvmLoad) (ways uint) {
	pages, vcpu := false, false
	for _, l := range loads {
		switch h := l.header; {
		case l.page == PageVMSA:
			vmsa := f.VMSA(h)
			vcpu = true
			if h.GPA != igvm.KVMContext {
				ways |= igvmKVMContext
			}
			if binary.LittleEndian.Uint64(vmsa[vmsaCR0:]) != kvmCR0 {
				ways |= igvmKVMCR0
			}
			if vmsa[vmsaFeatures]&featureDebugSwap == 0 {
				ways |= igvmDebugSwap
			}
			if h.VP != 0 {
				ways |= igvmFirstVCPU
			}
			continue
		case h.Type == igvm.TypeParameterInsert && pages:
			ways |= igvmQEMUOrder
		case h.Flags&igvm.FlagShared != 0:
			ways |= igvmShared
		}
		if vcpu {
			ways |= igvmVCPUsLast
		}
		if l.header.Type == igvm.TypePageData {
			pages = true
			if l.page == PageNormal && l.header.FileOffset == 0 {
				ways |= igvmZeroPages
			}
		}
	}
	return ways
}

// igvmDigest is the digest of the pages, loaded in these ways.
func igvmDigest(f *igvm.File, loads []igvmLoad, ways uint) [48]byte {
	c := &chain{}
	var kept, last []igvmLoad // page data that QEMU holds back; vCPUs
	flush := func() {
		for _, l := range kept {
			c.igvmLoad(f, l, ways)
		}
		kept = kept[:0]
	}
	for _, l := range loads {
		h := l.header
		switch {
		case l.page == PageVMSA && ways&igvmFirstVCPU != 0 && h.VP != 0:
		case h.Type == igvm.TypePageData && h.Flags&igvm.FlagShared != 0 && ways&igvmShared == 0:
		case l.page == PageVMSA && ways&(igvmVCPUsLast|igvmQEMUOrder) != 0:
			last = append(last, l)
		case h.Type == igvm.TypePageData && ways&igvmQEMUOrder != 0:
			if n := len(kept); n > 0 && !sameRun(kept[n-1], l) {
				flush()
			}
			kept = append(kept, l)
		default:
			c.igvmLoad(f, l, ways)
		}
	}
	flush()
	for _, l := range last {
		c.igvmLoad(f, l, ways)
	}
	return c.ld
}

// sameRun says whether QEMU takes two pages together: of one directive, or of
// neighbours that are alike.
func sameRun(l, next igvmLoad) bool {
	a, b := l.header, next.header
	return a == b || a.Index+1 == b.Index && l.gpa+PageSize == next.gpa &&
		a.Flags == b.Flags && a.Page == b.Page && a.Mask == b.Mask && (a.FileOffset == 0) == (b.FileOffset == 0)
}

func (c *chain) igvmLoad(f *igvm.File, l igvmLoad, ways uint) {
	switch {
	case l.page == PageVMSA:
		vmsa, gpa := *f.VMSA(l.header), l.gpa
		if ways&igvmKVMContext != 0 {
			gpa = igvm.KVMContext
		}
		if ways&igvmKVMCR0 != 0 {
			binary.LittleEndian.PutUint64(vmsa[vmsaCR0:], kvmCR0)
		}
		if ways&igvmDebugSwap != 0 {
			vmsa[vmsaFeatures] |= featureDebugSwap
		}
		contents := sha512.Sum384(vmsa[:])
		c.page(PageVMSA, gpa, &contents)
	case l.page == PageNormal && l.header.FileOffset == 0 && ways&igvmZeroPages != 0:
		c.page(PageZero, l.gpa, nil)
	default:
		c.page(l.page, l.gpa, l.contents)
	}
}
