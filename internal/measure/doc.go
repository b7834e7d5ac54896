// Package measure computes the launch digest of a VM from what it is started
// with: firmware, kernel, initramfs, command line, vCPUs. It is what the
// secure processor will report as MEASUREMENT, known before the launch.
//
// Specification: AMD publication 56860 (SEV-SNP Firmware ABI), section 8.17
// SNP_LAUNCH_UPDATE, structure PAGE_INFO; the firmware's tables are those of
// edk2's OvmfPkg (ResetVector, AmdSev build), the order of pages that of
// QEMU's target/i386/sev.c, the VMSA that of AMD's APM volume 2, table B-4.
//
// PAGE_INFO, 0x70 bytes, hashed with SHA-384 once per 4 KiB page:
//
//	offset size field
//	0x00   48   DIGEST_CUR   the digest so far, zeros at first
//	0x30   48   CONTENTS     SHA-384 of the page (normal, VMSA), else zeros
//	0x60    2   LENGTH       0x70, little-endian
//	0x62    1   PAGE_TYPE    1 normal, 2 VMSA, 3 zero, 4 unmeasured, 5 secrets, 6 CPUID
//	0x63    1   IMI_PAGE     0
//	0x64    1   VMPL3_PERMS  0
//	0x65    1   VMPL2_PERMS  0
//	0x66    1   VMPL1_PERMS  0
//	0x67    1   reserved     0
//	0x68    8   GPA          little-endian
//
// Order: firmware pages ending at 4 GiB; the sections of the firmware's SEV
// metadata in their order; one VMSA per vCPU, all at GPA 0xFFFFFFFFF000.
//
// Not checked here: whether the firmware does what its tables promise (that it
// compares kernel, initramfs and command line with the hash table), ID
// blocks (they do not enter the digest), and whether a host's KVM
// fills the VMSA as the chosen profile says.
//
// The package is pure: no file, no network, no clock.
package measure
