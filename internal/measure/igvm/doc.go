// Package igvm reads IGVM files: the commands by which a loader builds a guest's
// first memory and vCPUs, as coconut-svsm ships its SVSM and firmware. The format is
// that of the crate igvm_defs (github.com/microsoft/igvm), versions 1 and 2.
// Everything is little-endian.
//
// Fixed header:
//
//	offset size field
//	0x00    4   magic "IGVM"
//	0x04    4   format version, 1 or 2
//	0x08    4   offset of the variable headers, a multiple of 8
//	0x0c    4   their size
//	0x10    4   size of the whole file
//	0x14    4   CRC-32 (IEEE) of the fixed header, with zeros here, and the variable headers
//	0x18    4   version 2: architecture, 0 is x86-64
//	0x1c    4   version 2: page size, 4096
//
// Variable header: type, length of the content (4 bytes each), the content, zeros up
// to a multiple of 8. The high bit of a type says that a loader may ignore it. There
// are platforms (0x1 to 0x100), then initialization (0x101 to 0x200), then directives
// (0x301 to 0x400), in this order; a file with one out of its place is refused.
//
//	type   size content
//	0x001   16  supported platform: mask 4 (one bit), highest VTL 1, platform 1, version 2, shared GPA boundary 8
//	0x101   16  guest policy: policy 8, mask 4, zero 4
//	0x102   48  relocatable region: mask 4, VP 2, VTL 1, flags 1, alignment 8, GPA 8, size 8, lowest 8, highest 8
//	0x103   32  page table relocation: mask 4, VP 2, VTL 1, zero 1, GPA 8, size 8, used 8
//	0x301   16  parameter area: size 8, index 4, file offset 4
//	0x302   24  page data: GPA 8, mask 4, file offset 4, flags 4, data type 2, zero 2
//	0x303   16  parameter insert: GPA 8, mask 4, index 4
//	0x304   20  VP context: GPA 8, mask 4, file offset 4, VP 2, zero 2
//	0x305   24  required memory: GPA 8, mask 4, size 4, flags 4, zero 4
//	0x307.. 8   a parameter: index of an area 4, offset in it 4
//	0x30b  696  SNP ID block, see idblock.go
//	0x30d   16  error range: GPA 8, mask 4, size 4
//	0x311  864  VBS measurement, not looked into
//
// Checked: every offset, size and alignment; reserved bytes; masks against the
// platforms; that pages of one platform do not overlap; that parameters lie in areas
// that were declared and not yet inserted. Not checked: whether the guest code in it
// does what it should, contents of vCPU contexts other than SNP's, page tables.
package igvm
