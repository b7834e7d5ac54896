package measure

import (
	"crypto/sha512"
	"encoding/binary"
	"fmt"
)

// PageSize is the unit that the secure processor measures, in bytes.
const PageSize = 4096

const pageInfoSize = 0x70

// vmsaGPA is where KVM places every VMSA for the digest: the highest page of
// a 48-bit space.
const vmsaGPA = 0xFFFFFFFFF000

// PageType is PAGE_TYPE of SNP_LAUNCH_UPDATE.
type PageType uint8

// The page types, publication 56860, table "PAGE_TYPE".
const (
	PageNormal     PageType = 1
	PageVMSA       PageType = 2
	PageZero       PageType = 3
	PageUnmeasured PageType = 4
	PageSecrets    PageType = 5
	PageCPUID      PageType = 6
)

// String is the specification's word.
func (t PageType) String() string {
	switch t {
	case PageNormal:
		return "normal"
	case PageVMSA:
		return "vmsa"
	case PageZero:
		return "zero"
	case PageUnmeasured:
		return "unmeasured"
	case PageSecrets:
		return "secrets"
	case PageCPUID:
		return "cpuid"
	}
	return fmt.Sprintf("PageType(%d)", uint8(t))
}

// Step is one range of pages of the same type, in the order of measuring.
// A VMSA step's Size is 4096 times the number of vCPUs that share the page's
// content; each lies at the same GPA.
type Step struct {
	What     string    // "firmware", "SEC memory", "kernel hashes", ...
	Page     PageType  // how the pages were measured
	GPA      uint64    // guest-physical address of the first page
	Size     uint64    // bytes
	Contents *[48]byte // SHA-384 of the page; nil where none, or pages of several contents, entered
	After    [48]byte  // the digest when this range was done
}

// chain is the digest being built and the record of how.
type chain struct {
	ld    [48]byte
	steps []Step
}

func (c *chain) page(t PageType, gpa uint64, contents *[48]byte) {
	var info [pageInfoSize]byte
	copy(info[0x00:], c.ld[:])
	if contents != nil {
		copy(info[0x30:], contents[:])
	}
	binary.LittleEndian.PutUint16(info[0x60:], pageInfoSize)
	info[0x62] = byte(t)
	binary.LittleEndian.PutUint64(info[0x68:], gpa)
	c.ld = sha512.Sum384(info[:])
}

func (c *chain) done(what string, t PageType, gpa, size uint64) {
	c.steps = append(c.steps, Step{What: what, Page: t, GPA: gpa, Size: size, After: c.ld})
}

// contents notes in the last step what each of its pages holds.
func (c *chain) contents(sum [48]byte) { c.steps[len(c.steps)-1].Contents = &sum }

// normal measures data, whose length is a multiple of PageSize (the caller has
// checked that), from gpa on.
func (c *chain) normal(what string, gpa uint64, data []byte) {
	var contents [48]byte
	for off := 0; off < len(data); off += PageSize {
		contents = sha512.Sum384(data[off : off+PageSize])
		c.page(PageNormal, gpa+uint64(off), &contents)
	}
	c.done(what, PageNormal, gpa, uint64(len(data)))
	if len(data) == PageSize {
		c.contents(contents)
	}
}

// empty measures pages whose contents do not enter the digest.
func (c *chain) empty(what string, t PageType, gpa, size uint64) {
	for off := uint64(0); off < size; off += PageSize {
		c.page(t, gpa+off, nil)
	}
	c.done(what, t, gpa, size)
}

// vmsas measures n VMSA pages of the same content.
func (c *chain) vmsas(what string, vmsa *[PageSize]byte, n int) {
	if n == 0 {
		return
	}
	contents := sha512.Sum384(vmsa[:])
	for range n {
		c.page(PageVMSA, vmsaGPA, &contents)
	}
	c.done(what, PageVMSA, vmsaGPA, uint64(n)*PageSize)
	c.contents(contents)
}
