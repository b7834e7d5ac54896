// Package platform is the one interface to whatever vouches for this machine.
// Its drivers lie in folders below it.
package platform

import (
	"context"
	"errors"

	"attestbox/internal/secret"
	"attestbox/internal/wire"
)

// Names of platforms, as they stand in evidence.
const (
	AMDSEVSNP        = "amd-sev-snp"
	SimulatedEnclave = "simulated-enclave"
	AttestdProgram   = "attestd-program" // a program, vouched for by its VM's attestd
)

// Evidence is a report and what the host supplied to check it with.
type Evidence struct {
	Platform     string
	Report       []byte // for amd-sev-snp: 1184 bytes, AMD 56860 table "ATTESTATION_REPORT"
	Endorsements []wire.Endorsement
}

// Platform makes reports about the machine it runs on.
type Platform interface {
	// Name is the platform's name in evidence.
	Name() string
	// Report asks for evidence that binds 64 bytes of the caller's choice.
	Report(ctx context.Context, reportData [64]byte) (*Evidence, error)
	// Close gives the device back.
	Close() error
}

// Bits of KeyRequest.FieldSelect: GUEST_FIELD_SELECT of MSG_KEY_REQ (AMD
// 56860, table "MSG_KEY_REQ Message Structure"). There is none for HOST_DATA.
const (
	SelectPolicy      = 1 << 0
	SelectImageID     = 1 << 1
	SelectFamilyID    = 1 << 2
	SelectMeasurement = 1 << 3
	SelectSVN         = 1 << 4
	SelectTCB         = 1 << 5
)

// Values of KeyRequest.RootKeySelect: bit 0 is 0 for the chip's root, bits 2:1
// are KEY_SEL.
const (
	RootDefault = 0      // the VLEK's root if one is loaded, else the VCEK's
	RootVCEK    = 1 << 1 // the VCEK's, whatever is loaded
)

// KeyRequest is MSG_KEY_REQ, version 1.
type KeyRequest struct {
	RootKeySelect uint32
	FieldSelect   uint64
	VMPL          uint32
	GuestSVN      uint32 // at most the guest's own
	TCBVersion    uint64 // raw TCB_VERSION, in no part above the committed one
}

// ErrKeyRefused is a request that the platform refuses to derive a key for,
// such as for a TCB that it does not run. Asking again does not help.
var ErrKeyRefused = errors.New("the platform refuses this derived key")

// KeyDeriver is a Platform that derives keys from what it measured. The same
// request gives the same key of 32 bytes, as long as the selected fields are
// the same; the caller zeroes it.
type KeyDeriver interface {
	DeriveKey(ctx context.Context, q KeyRequest) (*secret.Bytes, error)
}
