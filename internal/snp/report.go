package snp

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ReportSize is the size of an ATTESTATION_REPORT in bytes.
const ReportSize = 0x4A0 // 1184

// Versions of the report that Parse knows.
const (
	MinVersion = 2
	MaxVersion = 5
)

// SigECDSAP384SHA384 is the one SIGNATURE_ALGO that AMD defines (56860, chapter
// "Algorithm identifiers").
const SigECDSAP384SHA384 = 1

// VMPLHost is the VMPL of a report that the host asked for itself.
const VMPLHost = 0xFFFFFFFF

// ErrMalformed is wrapped by every error of Parse.
var ErrMalformed = errors.New("malformed attestation report")

// Offsets of the fields, see the table in doc.go.
const (
	offVersion         = 0x000
	offGuestSVN        = 0x004
	offPolicy          = 0x008
	offFamilyID        = 0x010
	offImageID         = 0x020
	offVMPL            = 0x030
	offSignatureAlgo   = 0x034
	offCurrentTCB      = 0x038
	offPlatformInfo    = 0x040
	offKeyInfo         = 0x048
	offReserved0       = 0x04C
	offReportData      = 0x050
	offMeasurement     = 0x090
	offHostData        = 0x0C0
	offIDKeyDigest     = 0x0E0
	offAuthorKeyDigest = 0x110
	offReportID        = 0x140
	offReportIDMA      = 0x160
	offReportedTCB     = 0x180
	offCPUID           = 0x188
	offReserved1       = 0x18B
	offChipID          = 0x1A0
	offCommittedTCB    = 0x1E0
	offCurrentVersion  = 0x1E8
	offReserved2       = 0x1EB
	offCommittedVer    = 0x1EC
	offReserved3       = 0x1EF
	offLaunchTCB       = 0x1F0
	offLaunchMit       = 0x1F8
	offCurrentMit      = 0x200
	offReserved4       = 0x208
	offSignature       = 0x2A0
)

// FirmwareVersion is the version of the SNP firmware, which is also that of the
// ABI it implements: Major.Minor, for example 1.55, and a build number.
type FirmwareVersion struct{ Build, Minor, Major uint8 }

func (v FirmwareVersion) String() string { return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Build) }

// Report is one attestation report. The TCB fields are raw: how they decode
// depends on the product, see DecodeTCB.
type Report struct {
	Version, GuestSVN uint32
	Policy            GuestPolicy
	FamilyID, ImageID [16]byte
	VMPL              uint32
	SignatureAlgo     uint32
	CurrentTCB        uint64
	PlatformInfo      PlatformInfo
	KeyInfo           KeyInfo
	ReportData        [64]byte
	Measurement       [48]byte // the launch digest
	HostData          [32]byte
	IDKeyDigest       [48]byte
	AuthorKeyDigest   [48]byte
	ReportID          [32]byte
	ReportIDMA        [32]byte
	ReportedTCB       uint64

	// From CPUID leaf 1, extended and base parts combined; zero in version 2.
	CPUIDFamily, CPUIDModel, CPUIDStepping uint8

	ChipID           [64]byte
	CommittedTCB     uint64
	CurrentVersion   FirmwareVersion
	CommittedVersion FirmwareVersion
	LaunchTCB        uint64

	// Mitigation vectors; zero before version 5.
	LaunchMitVector, CurrentMitVector uint64

	Signature [512]byte
}

// Parse reads a report of exactly ReportSize bytes, versions 2 to 5. Bytes that
// the report's version reserves must be zero; those of the signature field are
// left to whoever checks the signature. Errors wrap ErrMalformed.
func Parse(b []byte) (*Report, error) {
	if len(b) != ReportSize {
		return nil, fmt.Errorf("%w: %d bytes, want %d", ErrMalformed, len(b), ReportSize)
	}
	le := binary.LittleEndian
	version := le.Uint32(b[offVersion:])
	if version < MinVersion || version > MaxVersion {
		return nil, fmt.Errorf("%w: VERSION %d, want %d to %d", ErrMalformed, version, MinVersion, MaxVersion)
	}
	for _, gap := range reserved(version) {
		for i := gap[0]; i < gap[1]; i++ {
			if b[i] != 0 {
				return nil, fmt.Errorf("%w: reserved byte 0x%03x of version %d is 0x%02x, want 0", ErrMalformed, i, version, b[i])
			}
		}
	}
	r := &Report{
		Version:          version,
		GuestSVN:         le.Uint32(b[offGuestSVN:]),
		Policy:           GuestPolicy(le.Uint64(b[offPolicy:])),
		VMPL:             le.Uint32(b[offVMPL:]),
		SignatureAlgo:    le.Uint32(b[offSignatureAlgo:]),
		CurrentTCB:       le.Uint64(b[offCurrentTCB:]),
		PlatformInfo:     PlatformInfo(le.Uint64(b[offPlatformInfo:])),
		KeyInfo:          KeyInfo(le.Uint32(b[offKeyInfo:])),
		ReportedTCB:      le.Uint64(b[offReportedTCB:]),
		CPUIDFamily:      b[offCPUID],
		CPUIDModel:       b[offCPUID+1],
		CPUIDStepping:    b[offCPUID+2],
		CommittedTCB:     le.Uint64(b[offCommittedTCB:]),
		CurrentVersion:   getVersion(b[offCurrentVersion:]),
		CommittedVersion: getVersion(b[offCommittedVer:]),
		LaunchTCB:        le.Uint64(b[offLaunchTCB:]),
		LaunchMitVector:  le.Uint64(b[offLaunchMit:]),
		CurrentMitVector: le.Uint64(b[offCurrentMit:]),
	}
	for _, f := range r.arrays() {
		copy(f.field, b[f.off:])
	}
	return r, nil
}

// Marshal is the exact inverse of Parse: ReportSize bytes. Fields that the
// report's version does not have are written all the same, so that a report
// built by hand with them does not parse.
func (r *Report) Marshal() []byte {
	b := make([]byte, ReportSize)
	le := binary.LittleEndian
	le.PutUint32(b[offVersion:], r.Version)
	le.PutUint32(b[offGuestSVN:], r.GuestSVN)
	le.PutUint64(b[offPolicy:], uint64(r.Policy))
	le.PutUint32(b[offVMPL:], r.VMPL)
	le.PutUint32(b[offSignatureAlgo:], r.SignatureAlgo)
	le.PutUint64(b[offCurrentTCB:], r.CurrentTCB)
	le.PutUint64(b[offPlatformInfo:], uint64(r.PlatformInfo))
	le.PutUint32(b[offKeyInfo:], uint32(r.KeyInfo))
	le.PutUint64(b[offReportedTCB:], r.ReportedTCB)
	b[offCPUID], b[offCPUID+1], b[offCPUID+2] = r.CPUIDFamily, r.CPUIDModel, r.CPUIDStepping
	le.PutUint64(b[offCommittedTCB:], r.CommittedTCB)
	putVersion(b[offCurrentVersion:], r.CurrentVersion)
	putVersion(b[offCommittedVer:], r.CommittedVersion)
	le.PutUint64(b[offLaunchTCB:], r.LaunchTCB)
	le.PutUint64(b[offLaunchMit:], r.LaunchMitVector)
	le.PutUint64(b[offCurrentMit:], r.CurrentMitVector)
	for _, f := range r.arrays() {
		copy(b[f.off:], f.field)
	}
	return b
}

type arrayField struct {
	off   int
	field []byte
}

// arrays lists the fields that are plain bytes.
func (r *Report) arrays() []arrayField {
	return []arrayField{
		{offFamilyID, r.FamilyID[:]},
		{offImageID, r.ImageID[:]},
		{offReportData, r.ReportData[:]},
		{offMeasurement, r.Measurement[:]},
		{offHostData, r.HostData[:]},
		{offIDKeyDigest, r.IDKeyDigest[:]},
		{offAuthorKeyDigest, r.AuthorKeyDigest[:]},
		{offReportID, r.ReportID[:]},
		{offReportIDMA, r.ReportIDMA[:]},
		{offChipID, r.ChipID[:]},
		{offSignature, r.Signature[:]},
	}
}

// reserved lists the byte ranges [from, to) that must be zero in a version.
func reserved(version uint32) [][2]int {
	gaps := [][2]int{
		{offReserved0, offReportData},
		{offReserved1, offChipID},
		{offReserved2, offCommittedVer},
		{offReserved3, offLaunchTCB},
		{offReserved4, offSignature},
	}
	if version < 3 {
		gaps = append(gaps, [2]int{offCPUID, offReserved1})
	}
	if version < 5 {
		gaps = append(gaps, [2]int{offLaunchMit, offReserved4})
	}
	return gaps
}

func getVersion(b []byte) FirmwareVersion {
	return FirmwareVersion{Build: b[0], Minor: b[1], Major: b[2]}
}

func putVersion(b []byte, v FirmwareVersion) { b[0], b[1], b[2] = v.Build, v.Minor, v.Major }
