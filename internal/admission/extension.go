package admission

import (
	"bytes"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"

	"attestbox/internal/form"
)

// Object identifiers of the extensions; see the package comment.
var (
	OIDAdmission = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 2021083193, 1, 1}
	OIDServing   = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 2021083193, 1, 2}
)

// Versions of the extension: 2 adds what the ID block of the launch says, and is
// written only where there is something to say.
const (
	extensionVersion = 1
	extensionIDBlock = 2
)

type extensionDER struct {
	Version       int
	Platform      string `asn1:"utf8"`
	Instance      []byte
	Chip          []byte
	ReportID      []byte
	ReportedTCB   []byte
	PolicyVersion int64
	ProofDigest   []byte
	IDBlock       idBlockDER `asn1:"optional"` // version 2
}

// idBlockDER is the last field of version 2.
type idBlockDER struct {
	IDKeyDigest []byte
	ImageID     []byte
	FamilyID    []byte
	GuestSVN    int64
}

func (b *idBlockDER) empty() bool { return b.IDKeyDigest == nil }

// idBlock is what the ID block says, if anything.
func (id *Identity) idBlock() (b idBlockDER, some bool) {
	if id.IDKeyDigest == [48]byte{} && id.ImageID == [16]byte{} && id.FamilyID == [16]byte{} && id.GuestSVN == 0 {
		return b, false
	}
	return idBlockDER{id.IDKeyDigest[:], id.ImageID[:], id.FamilyID[:], int64(id.GuestSVN)}, true
}

// marshalExtension writes the value of OIDAdmission.
func (id *Identity) marshalExtension() ([]byte, error) {
	e := extensionDER{
		Version: extensionVersion, Platform: id.Platform, Instance: id.Instance[:], Chip: id.ChipID[:], ReportID: id.ReportID[:],
		ReportedTCB: binary.BigEndian.AppendUint64(nil, id.ReportedTCB), PolicyVersion: int64(id.PolicyVersion), ProofDigest: id.ProofDigest[:],
	}
	if b, some := id.idBlock(); some {
		e.Version, e.IDBlock = extensionIDBlock, b
	}
	return asn1.Marshal(e)
}

// parseExtension reads it into id, and refuses everything that
// marshalExtension would not have written.
func (id *Identity) parseExtension(der []byte) error {
	var e extensionDER
	rest, err := asn1.Unmarshal(der, &e)
	switch {
	case err != nil:
		return fmt.Errorf("admission extension: %w", err)
	case len(rest) > 0:
		return errors.New("admission extension: trailing bytes")
	case e.Version != extensionVersion && e.Version != extensionIDBlock:
		return fmt.Errorf("admission extension of version %d, this program knows %d and %d", e.Version, extensionVersion, extensionIDBlock)
	case (e.Version == extensionIDBlock) == e.IDBlock.empty():
		return fmt.Errorf("admission extension of version %d with the fields of another", e.Version)
	case len(e.Instance) != 32 || len(e.Chip) != 64 || len(e.ReportID) != 32 || len(e.ReportedTCB) != 8 || len(e.ProofDigest) != 32:
		return errors.New("admission extension: a field has the wrong size")
	case e.PolicyVersion < 1:
		return fmt.Errorf("admission extension: policy version %d", e.PolicyVersion)
	case len(e.Platform) > maxName || !form.Hyphenated(e.Platform):
		return fmt.Errorf("admission extension: platform %.64q", e.Platform)
	}
	id.Platform, id.PolicyVersion = e.Platform, uint64(e.PolicyVersion)
	id.Instance, id.ChipID, id.ReportID = [32]byte(e.Instance), [64]byte(e.Chip), [32]byte(e.ReportID)
	if b := &e.IDBlock; !b.empty() {
		if len(b.IDKeyDigest) != 48 || len(b.ImageID) != 16 || len(b.FamilyID) != 16 || b.GuestSVN < 0 || b.GuestSVN > 1<<32-1 {
			return errors.New("admission extension: a field of the ID block has the wrong size")
		}
		id.IDKeyDigest, id.ImageID, id.FamilyID, id.GuestSVN = [48]byte(b.IDKeyDigest), [16]byte(b.ImageID), [16]byte(b.FamilyID), uint32(b.GuestSVN)
	}
	id.ReportedTCB, id.ProofDigest = binary.BigEndian.Uint64(e.ReportedTCB), [32]byte(e.ProofDigest)
	again, err := id.marshalExtension()
	if err != nil || !bytes.Equal(again, der) {
		return errors.New("admission extension: not in canonical form")
	}
	return nil
}
