package measure

import "encoding/binary"

// bspEIP is the reset vector of the boot processor.
const bspEIP = 0xfffffff0

// Offsets in the VMSA, AMD APM volume 2, table B-4.
const (
	vmsaES       = 0x000
	vmsaCS       = 0x010
	vmsaSS       = 0x020
	vmsaDS       = 0x030
	vmsaFS       = 0x040
	vmsaGS       = 0x050
	vmsaGDTR     = 0x060
	vmsaLDTR     = 0x070
	vmsaIDTR     = 0x080
	vmsaTR       = 0x090
	vmsaEFER     = 0x0d0
	vmsaCR4      = 0x148
	vmsaCR0      = 0x158
	vmsaDR7      = 0x160
	vmsaDR6      = 0x168
	vmsaRFLAGS   = 0x170
	vmsaRIP      = 0x178
	vmsaGPAT     = 0x268
	vmsaRDX      = 0x310
	vmsaFeatures = 0x3b0
	vmsaXCR0     = 0x3e8
	vmsaMXCSR    = 0x408
	vmsaFCW      = 0x410
)

type vmsaPage [PageSize]byte

func (v *vmsaPage) u16(off int, x uint16) { binary.LittleEndian.PutUint16(v[off:], x) }
func (v *vmsaPage) u32(off int, x uint32) { binary.LittleEndian.PutUint32(v[off:], x) }
func (v *vmsaPage) u64(off int, x uint64) { binary.LittleEndian.PutUint64(v[off:], x) }

func (v *vmsaPage) segment(off int, selector, attrib uint16, limit uint32, base uint64) {
	v.u16(off, selector)
	v.u16(off+2, attrib)
	v.u32(off+4, limit)
	v.u64(off+8, base)
}

// common fills what every start has in common.
func (p *profile) common(sig uint32, features uint64) *vmsaPage {
	v := new(vmsaPage)
	v.segment(vmsaGS, 0, 0x93, 0xffff, 0)
	v.segment(vmsaGDTR, 0, 0, 0xffff, 0)
	v.segment(vmsaIDTR, 0, 0, 0xffff, 0)
	v.segment(vmsaLDTR, 0, 0x82, 0xffff, 0)
	v.segment(vmsaTR, 0, p.tr, 0xffff, 0)
	v.u64(vmsaEFER, 0x1000) // EFER.SVME: KVM sets it
	v.u64(vmsaCR4, 0x40)    // CR4.MCE: KVM sets it
	v.u64(vmsaCR0, cr0ET|p.cr0)
	v.u64(vmsaDR7, 0x400)
	v.u64(vmsaDR6, 0xffff0ff0)
	v.u64(vmsaRFLAGS, 0x2)
	v.u64(vmsaGPAT, p.gpat)
	v.u64(vmsaRDX, uint64(sig))
	if p.fixedRDX {
		v.u64(vmsaRDX, p.rdx)
	}
	v.u64(vmsaFeatures, features)
	v.u64(vmsaXCR0, 0x1)
	v.u32(vmsaMXCSR, p.mxcsr)
	v.u16(vmsaFCW, p.fcw)
	return v
}

// real is a vCPU that starts in real mode at eip: the boot processor at the
// reset vector, the others where the firmware's table says.
func (p *profile) real(eip uint32, sig uint32, features uint64) *vmsaPage {
	v := p.common(sig, features)
	cs := uint16(0x9b)
	if eip == bspEIP {
		cs = p.bspCS
	}
	v.segment(vmsaCS, 0xf000, cs, 0xffff, uint64(eip&0xffff0000))
	v.segment(vmsaSS, 0, p.ss, 0xffff, 0)
	for _, off := range []int{vmsaES, vmsaDS, vmsaFS} {
		v.segment(off, 0, 0x93, 0xffff, 0)
	}
	v.u64(vmsaRIP, uint64(eip&0xffff))
	return v
}

// protected is a vCPU that starts an SVSM: flat 32-bit protected mode. But for
// HostSVSMFCW, FCW is zero here even where MXCSR is not: so the reference tool has
// it, which sets FCW by a name that its structure does not know.
func (p *profile) protected(eip uint32, sig uint32, features uint64) *vmsaPage {
	v := p.common(sig, features)
	v.segment(vmsaCS, 8, 0xc9b, 0xffffffff, 0)
	for _, off := range []int{vmsaES, vmsaSS, vmsaDS, vmsaFS} {
		v.segment(off, 16, 0xc93, 0xffffffff, 0)
	}
	v.u64(vmsaCR0, cr0ET|p.cr0|1) // CR0.PE
	v.u64(vmsaRIP, uint64(eip))
	v.u16(vmsaFCW, p.svsmFCW)
	return v
}
