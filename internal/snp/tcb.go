package snp

import "fmt"

// TCB is a TCB_VERSION taken apart: the security version numbers of the parts
// that a chip runs. FMC exists on Turin only.
type TCB struct {
	BootLoader, TEE, SNP, Microcode, FMC uint8
	HasFMC                               bool
}

// DecodeTCB takes a raw TCB_VERSION apart as the product lays it out. Reserved
// bytes are dropped: see CleanTCB.
func DecodeTCB(p Product, raw uint64) TCB {
	at := func(i int) uint8 { return uint8(raw >> (8 * i)) }
	if p == Turin {
		return TCB{FMC: at(0), BootLoader: at(1), TEE: at(2), SNP: at(3), Microcode: at(7), HasFMC: true}
	}
	return TCB{BootLoader: at(0), TEE: at(1), SNP: at(6), Microcode: at(7)}
}

// EncodeTCB is the inverse of DecodeTCB.
func EncodeTCB(p Product, t TCB) uint64 {
	put := func(i int, v uint8) uint64 { return uint64(v) << (8 * i) }
	if p == Turin {
		return put(0, t.FMC) | put(1, t.BootLoader) | put(2, t.TEE) | put(3, t.SNP) | put(7, t.Microcode)
	}
	return put(0, t.BootLoader) | put(1, t.TEE) | put(6, t.SNP) | put(7, t.Microcode)
}

// CleanTCB says whether the reserved bytes of a raw TCB_VERSION are zero.
func CleanTCB(p Product, raw uint64) bool { return EncodeTCB(p, DecodeTCB(p, raw)) == raw }

// AtLeast says whether every component is at least that of floor. There is no
// order of TCBs as whole numbers.
func (t TCB) AtLeast(floor TCB) bool {
	return t.BootLoader >= floor.BootLoader && t.TEE >= floor.TEE && t.SNP >= floor.SNP &&
		t.Microcode >= floor.Microcode && t.FMC >= floor.FMC
}

func (t TCB) String() string {
	s := fmt.Sprintf("boot_loader=%d tee=%d snp=%d microcode=%d", t.BootLoader, t.TEE, t.SNP, t.Microcode)
	if t.HasFMC {
		s = fmt.Sprintf("fmc=%d ", t.FMC) + s
	}
	return s
}
