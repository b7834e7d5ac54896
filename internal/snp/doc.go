// Package snp is AMD's attestation report as types: the exact byte layout, the
// bits of its fields, TCB versions and product names. It follows "SEV Secure
// Nested Paging Firmware ABI Specification", publication 56860, section 7.3,
// table ATTESTATION_REPORT, and section 2.2 for TCB_VERSION.
//
// Everything here is syntax. Signatures and certificates are checked by
// internal/appraise, and so is whether a value is one that anybody wants.
//
// The report is 1184 (0x4A0) bytes; integers are little-endian. Bytes that a
// version reserves must be zero, so that Marshal is the exact inverse of Parse.
//
//	offset size  field
//	0x000     4  VERSION              2 to 5
//	0x004     4  GUEST_SVN
//	0x008     8  POLICY               guest policy, bits in policy.go
//	0x010    16  FAMILY_ID
//	0x020    16  IMAGE_ID
//	0x030     4  VMPL                 0 to 3; 0xFFFFFFFF: the host asked
//	0x034     4  SIGNATURE_ALGO       1: ECDSA P-384 with SHA-384
//	0x038     8  CURRENT_TCB
//	0x040     8  PLATFORM_INFO        bits in policy.go
//	0x048     4  KEY_INFO             0 AUTHOR_KEY_EN, 1 MASK_CHIP_KEY, 4:2 SIGNING_KEY
//	0x04C     4  reserved
//	0x050    64  REPORT_DATA          chosen by the guest
//	0x090    48  MEASUREMENT          launch digest
//	0x0C0    32  HOST_DATA            chosen by the host at launch
//	0x0E0    48  ID_KEY_DIGEST
//	0x110    48  AUTHOR_KEY_DIGEST
//	0x140    32  REPORT_ID            one per launch of a guest
//	0x160    32  REPORT_ID_MA
//	0x180     8  REPORTED_TCB         the VEK is derived from this one
//	0x188     1  CPUID_FAM_ID         version 3 and later
//	0x189     1  CPUID_MOD_ID         version 3 and later
//	0x18A     1  CPUID_STEP           version 3 and later
//	0x18B    21  reserved
//	0x1A0    64  CHIP_ID              Turin: 8 bytes, then zeros
//	0x1E0     8  COMMITTED_TCB
//	0x1E8     3  CURRENT_BUILD, CURRENT_MINOR, CURRENT_MAJOR
//	0x1EB     1  reserved
//	0x1EC     3  COMMITTED_BUILD, COMMITTED_MINOR, COMMITTED_MAJOR
//	0x1EF     1  reserved
//	0x1F0     8  LAUNCH_TCB
//	0x1F8     8  LAUNCH_MIT_VECTOR    version 5 and later
//	0x200     8  CURRENT_MIT_VECTOR   version 5 and later
//	0x208   152  reserved
//	0x2A0   512  SIGNATURE            R and S, 72 bytes each, little-endian, then zeros
//
// TCB_VERSION, 8 bytes:
//
//	byte          0           1           2    3    4  5  6    7
//	Milan, Genoa  BOOT_LOADER TEE         0    0    0  0  SNP  MICROCODE
//	Turin         FMC         BOOT_LOADER TEE  SNP  0  0  0    MICROCODE
//
// For example 03 00 00 00 00 00 08 73 of a Milan chip is boot loader 3, TEE 0,
// SNP firmware 8, microcode 115.
package snp
