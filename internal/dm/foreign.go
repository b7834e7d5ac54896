package dm

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"attestbox/internal/code"
	"attestbox/internal/luks"
	"attestbox/internal/wire"
)

// CheckCryptsetup compares a mapping that cryptsetup made of the block device f
// with what the record allows, as Mapping.Check does for our own: no option
// (discards, ...), no other device, offset, cipher or key than the one of this
// header, and the key in the kernel's keyring. It returns the mapping for a
// later Check.
//
// Errors: dm-table if the kernel reports another mapping.
func CheckCryptsetup(name string, f *os.File, record *wire.HeaderRecord) (*Mapping, error) {
	if !ValidName(name) {
		return nil, fmt.Errorf("mapping name %q is not 1 to 64 of a-z, A-Z, 0-9, . _ + -", name)
	}
	if err := luks.CheckRecord(record); err != nil {
		return nil, err
	}
	major, minor, size, err := blockDevice(f)
	if err != nil {
		return nil, err
	}
	want, err := cryptsetupTable(name, record, major, minor, size)
	if err != nil {
		return nil, err
	}
	m := &Mapping{Name: name, Node: filepath.Join("/dev/mapper", name), want: want}
	if err := m.Check(); err != nil {
		return nil, err
	}
	return m, nil
}

// cryptsetupTable is the table that cryptsetup 2.6 and newer make with the
// volume key in the keyring, for a record without integrity.
func cryptsetupTable(name string, r *wire.HeaderRecord, major, minor uint32, size int64) (table, error) {
	if r.Integrity != luks.IntegrityNone {
		return table{}, code.Wrap(code.DMTable, fmt.Errorf("mapping %q: integrity %q is not known of cryptsetup's tables", name, r.Integrity))
	}
	data := (size - r.SegmentOffset) / int64(r.SectorSize) * int64(r.SectorSize)
	if data <= 0 {
		return table{}, code.Wrap(code.LUKSTruncated, fmt.Errorf("the device is %d bytes, its data begins at %d", size, r.SegmentOffset))
	}
	params := fmt.Sprintf("%s :%d:logon:cryptsetup:%s-d0 0 %d:%d %d", r.Cipher, r.KeyBytes, r.UUID, major, minor, r.SegmentOffset/sector)
	if r.SectorSize != sector {
		params += fmt.Sprintf(" 1 sector_size:%d", r.SectorSize)
	}
	return table{
		uuid:    "CRYPT-LUKS2-" + strings.ReplaceAll(r.UUID, "-", "") + "-" + name,
		sectors: uint64(data / sector),
		params:  params,
	}, nil
}
