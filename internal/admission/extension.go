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

const extensionVersion = 1

type extensionDER struct {
	Version       int
	Platform      string `asn1:"utf8"`
	Instance      []byte
	Chip          []byte
	ReportID      []byte
	ReportedTCB   []byte
	PolicyVersion int64
	ProofDigest   []byte
}

// marshalExtension writes the value of OIDAdmission.
func (id *Identity) marshalExtension() ([]byte, error) {
	return asn1.Marshal(extensionDER{
		Version: extensionVersion, Platform: id.Platform, Instance: id.Instance[:], Chip: id.ChipID[:], ReportID: id.ReportID[:],
		ReportedTCB: binary.BigEndian.AppendUint64(nil, id.ReportedTCB), PolicyVersion: int64(id.PolicyVersion), ProofDigest: id.ProofDigest[:],
	})
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
	case e.Version != extensionVersion:
		return fmt.Errorf("admission extension of version %d, this program knows %d", e.Version, extensionVersion)
	case len(e.Instance) != 32 || len(e.Chip) != 64 || len(e.ReportID) != 32 || len(e.ReportedTCB) != 8 || len(e.ProofDigest) != 32:
		return errors.New("admission extension: a field has the wrong size")
	case e.PolicyVersion < 1:
		return fmt.Errorf("admission extension: policy version %d", e.PolicyVersion)
	case len(e.Platform) > maxName || !form.Hyphenated(e.Platform):
		return fmt.Errorf("admission extension: platform %.64q", e.Platform)
	}
	id.Platform, id.PolicyVersion = e.Platform, uint64(e.PolicyVersion)
	id.Instance, id.ChipID, id.ReportID = [32]byte(e.Instance), [64]byte(e.Chip), [32]byte(e.ReportID)
	id.ReportedTCB, id.ProofDigest = binary.BigEndian.Uint64(e.ReportedTCB), [32]byte(e.ProofDigest)
	again, err := id.marshalExtension()
	if err != nil || !bytes.Equal(again, der) {
		return errors.New("admission extension: not in canonical form")
	}
	return nil
}
