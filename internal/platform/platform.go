// Package platform is the one interface to whatever vouches for this machine.
// Its drivers lie in folders below it.
package platform

import (
	"context"

	"attestbox/internal/wire"
)

// Names of platforms, as they stand in evidence.
const (
	AMDSEVSNP        = "amd-sev-snp"
	SimulatedEnclave = "simulated-enclave"
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
