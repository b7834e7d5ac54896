package snpsim

import (
	"crypto/hkdf"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"

	"attestbox/internal/snp"
)

// Bits of GUEST_FIELD_SELECT in MSG_KEY_REQ (56860, table "MSG_KEY_REQ Message
// Structure"). There is none for HOST_DATA.
const (
	SelectPolicy      = 1 << 0
	SelectImageID     = 1 << 1
	SelectFamilyID    = 1 << 2
	SelectMeasurement = 1 << 3
	SelectSVN         = 1 << 4
	SelectTCB         = 1 << 5
	SelectMitVector   = 1 << 6 // message version 2
)

// RootVMRK in KeyRequest.RootKeySelect takes the VM root key, which lives as
// long as the launch, instead of the chip's. Bits 2:1, KEY_SEL, choose VCEK (0
// or 1) or VLEK (2).
const RootVMRK = 1

// Statuses of guest messages (56860, "Status codes").
const (
	StatusInvalidParam = 0x16
	StatusInvalidKey   = 0x27
)

// Errors of guest messages; their statuses are in MSG_REPORT_RSP and
// MSG_KEY_RSP.
var (
	ErrInvalidParam = errors.New("INVALID_PARAM (0x16)")
	ErrInvalidKey   = errors.New("INVALID_KEY (0x27)")
)

// KeyRequest is MSG_KEY_REQ. Version 1 has no LaunchMitVector and no
// SelectMitVector.
type KeyRequest struct {
	Version          int // 1 or 2; 0 is 1
	RootKeySelect    uint32
	GuestFieldSelect uint64
	VMPL             uint32
	GuestSVN         uint32
	TCBVersion       uint64 // raw
	LaunchMitVector  uint64
}

// DerivedKey makes the key that the request names: from the root, the VMPL and
// the selected fields, and from nothing else. SVN, TCB and mitigation vector
// come from the request and may not be above the guest's SVN, the committed TCB
// and the guest's launch vector, so a newer guest or firmware can ask for the
// keys of an older one and not the reverse.
//
// The chip's own root does not depend on the running TCB.
func (g *Guest) DerivedKey(q KeyRequest) ([32]byte, error) {
	var key [32]byte
	known := uint64(SelectMitVector - 1)
	if q.Version == 2 {
		known |= SelectMitVector
	}
	p := g.psp
	switch {
	case q.Version < 0 || q.Version > 2,
		q.RootKeySelect>>3 != 0, q.RootKeySelect>>1&3 == 3,
		q.GuestFieldSelect&^known != 0,
		q.VMPL < g.Config.VMPL || q.VMPL > 3,
		q.GuestSVN > g.Config.SVN,
		!snp.CleanTCB(p.product, q.TCBVersion),
		!p.state.Committed.AtLeast(snp.DecodeTCB(p.product, q.TCBVersion)),
		q.LaunchMitVector&^g.LaunchMit != 0:
		return key, fmt.Errorf("deriving a key: %w", ErrInvalidParam)
	case q.RootKeySelect&RootVMRK == 0 && q.RootKeySelect>>1&3 == 2: // no VLEK is loaded
		return key, fmt.Errorf("deriving a key: %w", ErrInvalidKey)
	}

	root := g.vmrk[:]
	if q.RootKeySelect&RootVMRK == 0 {
		root = p.secret[:]
	}
	le := binary.LittleEndian
	info := []byte("snp-sim MSG_KEY_REQ ")
	info = le.AppendUint32(info, q.RootKeySelect&RootVMRK)
	info = le.AppendUint64(info, q.GuestFieldSelect)
	info = le.AppendUint32(info, q.VMPL)
	selected := func(bit uint64) bool { return q.GuestFieldSelect&bit != 0 }
	if selected(SelectPolicy) {
		info = le.AppendUint64(info, g.Config.Policy)
	}
	if selected(SelectImageID) {
		info = append(info, g.Config.ImageID[:]...)
	}
	if selected(SelectFamilyID) {
		info = append(info, g.Config.FamilyID[:]...)
	}
	if selected(SelectMeasurement) {
		info = append(info, g.Config.Measurement[:]...)
	}
	if selected(SelectSVN) {
		info = le.AppendUint32(info, q.GuestSVN)
	}
	if selected(SelectTCB) {
		info = le.AppendUint64(info, q.TCBVersion)
	}
	if selected(SelectMitVector) {
		info = le.AppendUint64(info, q.LaunchMitVector)
	}
	b, err := hkdf.Key(sha512.New384, root, nil, string(info), len(key))
	if err != nil {
		return key, fmt.Errorf("deriving a key: %w", err)
	}
	copy(key[:], b)
	return key, nil
}
