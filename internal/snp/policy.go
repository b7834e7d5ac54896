package snp

import (
	"fmt"
	"strings"
)

// GuestPolicy is the POLICY field: what the guest's owner asked for at launch
// (56860, section 4.3, table "Guest Policy Structure").
type GuestPolicy uint64

// Bits of GuestPolicy. Bits 7:0 and 15:8 are the minimum ABI version, minor and
// major.
const (
	PolicySMT                  GuestPolicy = 1 << 16 // simultaneous multithreading is allowed
	PolicyReserved1            GuestPolicy = 1 << 17 // must be one
	PolicyMigrateMA            GuestPolicy = 1 << 18 // a migration agent is allowed
	PolicyDebug                GuestPolicy = 1 << 19 // the host may read and write the guest
	PolicySingleSocket         GuestPolicy = 1 << 20 // one socket only
	PolicyCXLAllow             GuestPolicy = 1 << 21 // CXL devices or memory are allowed
	PolicyMemAES256XTS         GuestPolicy = 1 << 22 // memory must be encrypted with AES-256-XTS
	PolicyRAPLDis              GuestPolicy = 1 << 23 // RAPL must be off
	PolicyCiphertextHidingDRAM GuestPolicy = 1 << 24 // ciphertext hiding must be on
	PolicyPageSwapDisable      GuestPolicy = 1 << 25 // the host may not move or swap pages

	policyKnown GuestPolicy = 1<<26 - 1
)

// Debug says whether the host may read the guest.
func (p GuestPolicy) Debug() bool { return p&PolicyDebug != 0 }

// MigrateMA says whether a migration agent is allowed.
func (p GuestPolicy) MigrateMA() bool { return p&PolicyMigrateMA != 0 }

// ABIMajor is the least ABI major version that the guest runs on.
func (p GuestPolicy) ABIMajor() uint8 { return uint8(p >> 8) }

// ABIMinor is the least ABI minor version that the guest runs on.
func (p GuestPolicy) ABIMinor() uint8 { return uint8(p) }

// Unknown is the bits that this package has no name for.
func (p GuestPolicy) Unknown() GuestPolicy { return p &^ policyKnown }

func (p GuestPolicy) String() string {
	return bits(uint64(p), []named{
		{uint64(PolicySMT), "SMT"}, {uint64(PolicyMigrateMA), "MIGRATE_MA"}, {uint64(PolicyDebug), "DEBUG"},
		{uint64(PolicySingleSocket), "SINGLE_SOCKET"}, {uint64(PolicyCXLAllow), "CXL_ALLOW"},
		{uint64(PolicyMemAES256XTS), "MEM_AES_256_XTS"}, {uint64(PolicyRAPLDis), "RAPL_DIS"},
		{uint64(PolicyCiphertextHidingDRAM), "CIPHERTEXT_HIDING_DRAM"}, {uint64(PolicyPageSwapDisable), "PAGE_SWAP_DISABLE"},
	})
}

// PlatformInfo is the PLATFORM_INFO field: how the host is set up.
type PlatformInfo uint64

// Bits of PlatformInfo. Bit 6 is reserved.
const (
	PlatformSMT                  PlatformInfo = 1 << 0 // SMT_EN
	PlatformTSME                 PlatformInfo = 1 << 1 // TSME_EN
	PlatformECC                  PlatformInfo = 1 << 2 // ECC_EN
	PlatformRAPLDis              PlatformInfo = 1 << 3 // RAPL_DIS
	PlatformCiphertextHidingDRAM PlatformInfo = 1 << 4 // CIPHERTEXT_HIDING_DRAM_EN
	PlatformAliasCheckComplete   PlatformInfo = 1 << 5 // ALIAS_CHECK_COMPLETE, report version 3 and later
	PlatformTIO                  PlatformInfo = 1 << 7 // SEV_TIO_EN, report version 5 and later
)

// KnownPlatformInfo is the bits that are defined for a version of the report.
func KnownPlatformInfo(version uint32) PlatformInfo {
	known := PlatformSMT | PlatformTSME | PlatformECC | PlatformRAPLDis | PlatformCiphertextHidingDRAM
	if version >= 3 {
		known |= PlatformAliasCheckComplete
	}
	if version >= 5 {
		known |= PlatformTIO
	}
	return known
}

func (p PlatformInfo) String() string {
	return bits(uint64(p), []named{
		{uint64(PlatformSMT), "SMT_EN"}, {uint64(PlatformTSME), "TSME_EN"}, {uint64(PlatformECC), "ECC_EN"},
		{uint64(PlatformRAPLDis), "RAPL_DIS"}, {uint64(PlatformCiphertextHidingDRAM), "CIPHERTEXT_HIDING_DRAM_EN"},
		{uint64(PlatformAliasCheckComplete), "ALIAS_CHECK_COMPLETE"}, {uint64(PlatformTIO), "SEV_TIO_EN"},
	})
}

// SigningKey is which key signed a report: bits 4:2 of KEY_INFO.
type SigningKey uint8

// The defined values of SigningKey.
const (
	SignedByVCEK SigningKey = 0 // Versioned Chip Endorsement Key
	SignedByVLEK SigningKey = 1 // Versioned Loaded Endorsement Key
	Unsigned     SigningKey = 7
)

func (k SigningKey) String() string {
	switch k {
	case SignedByVCEK:
		return "VCEK"
	case SignedByVLEK:
		return "VLEK"
	case Unsigned:
		return "none"
	}
	return fmt.Sprintf("reserved(%d)", uint8(k))
}

// KeyInfo is the KEY_INFO field.
type KeyInfo uint32

// AuthorKeyEn says whether AUTHOR_KEY_DIGEST holds a key's digest.
func (k KeyInfo) AuthorKeyEn() bool { return k&1 != 0 }

// MaskChipKey says whether the host masks CHIP_ID and, with it, the signature.
func (k KeyInfo) MaskChipKey() bool { return k&2 != 0 }

// SigningKey is the kind of key that signed.
func (k KeyInfo) SigningKey() SigningKey { return SigningKey(k >> 2 & 7) }

// Reserved is the bits that must be zero.
func (k KeyInfo) Reserved() uint32 { return uint32(k) >> 5 << 5 }

// MakeKeyInfo composes KEY_INFO.
func MakeKeyInfo(key SigningKey, maskChipKey, authorKeyEn bool) KeyInfo {
	k := KeyInfo(key&7) << 2
	if authorKeyEn {
		k |= 1
	}
	if maskChipKey {
		k |= 2
	}
	return k
}

type named struct {
	bit  uint64
	name string
}

// bits prints a field in hex with the names of the bits that are set.
func bits(v uint64, names []named) string {
	var set []string
	for _, n := range names {
		if v&n.bit != 0 {
			set = append(set, n.name)
		}
	}
	if len(set) == 0 {
		return fmt.Sprintf("0x%x", v)
	}
	return fmt.Sprintf("0x%x (%s)", v, strings.Join(set, " "))
}
