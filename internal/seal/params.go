package seal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"attestbox/internal/platform"
	"attestbox/internal/snp"
)

// Params are the parameters of a seal, as they stand in a store's header:
// integers little-endian.
//
//	size  field
//	4     version, 1
//	4     flags: bit 0, the server's share is part of the key
//	4     ROOT_KEY_SELECT      } of MSG_KEY_REQ, VMPL 0
//	8     GUEST_FIELD_SELECT   }
//	4     GUEST_SVN            }
//	8     TCB_VERSION, raw     }
//	8     guest policy         } what the fields were at sealing;
//	16    FAMILY_ID            } only for telling what has changed
//	16    IMAGE_ID             }
//	64    CHIP_ID, or the platform key and zeros
//	32    HOST_DATA, zeros for a simulated enclave
//	1+n   measurement, 48 or 32 bytes
//	1+n   domain
type Params struct {
	Shared bool // the server's share is part of the key
	Key    platform.KeyRequest
	State
}

// State is what a platform says about this VM.
type State struct {
	Policy            uint64
	FamilyID, ImageID [16]byte
	ChipID            [64]byte
	HostData          [32]byte
	Measurement       []byte
	Domain            string
}

const (
	paramsVersion = 1
	flagShared    = 1

	// selectSNP is everything that a key can be bound to (DESIGN section 7).
	selectSNP = platform.SelectPolicy | platform.SelectImageID | platform.SelectFamilyID |
		platform.SelectMeasurement | platform.SelectSVN | platform.SelectTCB

	// MaxDomain bounds the name of a domain, in bytes.
	MaxDomain = 255
)

var errParams = errors.New("malformed seal parameters")

func (p *Params) marshal() []byte {
	le := binary.LittleEndian
	flags := uint32(0)
	if p.Shared {
		flags = flagShared
	}
	b := le.AppendUint32(nil, paramsVersion)
	b = le.AppendUint32(b, flags)
	b = le.AppendUint32(b, p.Key.RootKeySelect)
	b = le.AppendUint64(b, p.Key.FieldSelect)
	b = le.AppendUint32(b, p.Key.GuestSVN)
	b = le.AppendUint64(b, p.Key.TCBVersion)
	b = le.AppendUint64(b, p.Policy)
	b = slices.Concat(b, p.FamilyID[:], p.ImageID[:], p.ChipID[:], p.HostData[:])
	b = append(append(b, byte(len(p.Measurement))), p.Measurement...)
	return append(append(b, byte(len(p.Domain))), p.Domain...)
}

const paramsFixed = 4 + 4 + 4 + 8 + 4 + 8 + 8 + 16 + 16 + 64 + 32

// ParseParams reads the parameters of a seal of a kind (a platform's name).
func ParseParams(kind string, b []byte) (*Params, error) {
	if len(b) < paramsFixed+2 {
		return nil, errParams
	}
	le := binary.LittleEndian
	version, flags := le.Uint32(b), le.Uint32(b[4:])
	p := &Params{Shared: flags&flagShared != 0}
	p.Key.RootKeySelect = le.Uint32(b[8:])
	p.Key.FieldSelect = le.Uint64(b[12:])
	p.Key.GuestSVN = le.Uint32(b[20:])
	p.Key.TCBVersion = le.Uint64(b[24:])
	p.Policy = le.Uint64(b[32:])
	copy(p.FamilyID[:], b[40:])
	copy(p.ImageID[:], b[56:])
	copy(p.ChipID[:], b[72:])
	copy(p.HostData[:], b[136:])
	rest := b[paramsFixed:]
	n := int(rest[0])
	if len(rest) < 1+n+1 || len(rest) != 1+n+1+int(rest[1+n]) {
		return nil, errParams
	}
	p.Measurement = slices.Clone(rest[1 : 1+n])
	p.Domain = string(rest[1+n+1:])
	if version != paramsVersion || flags&^flagShared != 0 || p.Domain == "" {
		return nil, errParams
	}
	if want := p.Key; want != request(kind, p.Key.RootKeySelect, p.Key.GuestSVN, p.Key.TCBVersion) || n != measurementSize(kind) {
		return nil, fmt.Errorf("%w of %.40q", errParams, kind)
	}
	return p, nil
}

func measurementSize(kind string) int {
	switch kind {
	case platform.AMDSEVSNP:
		return 48
	case platform.SimulatedEnclave:
		return 32
	}
	return -1
}

// request is the one form of request that a seal of the kind may have.
func request(kind string, root, svn uint32, tcb uint64) platform.KeyRequest {
	if kind != platform.AMDSEVSNP {
		return platform.KeyRequest{FieldSelect: platform.SelectMeasurement}
	}
	if root != platform.RootDefault {
		root = platform.RootVCEK
	}
	return platform.KeyRequest{RootKeySelect: root, FieldSelect: selectSNP, GuestSVN: svn, TCBVersion: tcb}
}

// differ names the first thing that keeps a VM in state now from opening what
// was sealed in state p; "" if nothing can be seen.
func (p *Params) differ(now *State) string {
	switch {
	case p.Domain != now.Domain:
		return fmt.Sprintf("it belongs to domain %q, not %q", p.Domain, now.Domain)
	case p.HostData != now.HostData:
		return fmt.Sprintf("instance %x sealed it, this is %x", p.HostData, now.HostData)
	case !slices.Equal(p.Measurement, now.Measurement):
		return fmt.Sprintf("measurement %x sealed it, this is %x", p.Measurement, now.Measurement)
	case p.Policy != now.Policy:
		return fmt.Sprintf("it was sealed under guest policy %s, this is %s", snp.GuestPolicy(p.Policy), snp.GuestPolicy(now.Policy))
	case p.FamilyID != now.FamilyID:
		return fmt.Sprintf("FAMILY_ID is %x, not %x", now.FamilyID, p.FamilyID)
	case p.ImageID != now.ImageID:
		return fmt.Sprintf("IMAGE_ID is %x, not %x", now.ImageID, p.ImageID)
	case p.ChipID != now.ChipID:
		return fmt.Sprintf("another chip sealed it, %x...", p.ChipID[:8])
	}
	return ""
}
