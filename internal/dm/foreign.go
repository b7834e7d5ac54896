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
	b, err := backingOf(record, major, minor, size)
	if err != nil {
		return nil, fmt.Errorf("mapping %q: %w", name, err)
	}
	var under *Mapping
	if record.Integrity != luks.IntegrityNone {
		if under, b, err = b.integrity(name+"_dif", record, size); err != nil {
			return nil, code.Wrap(code.DMTable, fmt.Errorf("mapping %q: %w", name+"_dif", err))
		}
	}
	want, err := cryptsetupTable(name, record, b)
	if err != nil {
		return nil, fmt.Errorf("mapping %q: %w", name, err)
	}
	m := &Mapping{Name: name, Node: filepath.Join("/dev/mapper", name), want: want, under: under}
	if err := m.Check(); err != nil {
		return nil, err
	}
	return m, nil
}

// backing is what a target lies on.
type backing struct {
	major, minor uint32
	offset       uint64 // in sectors, as is the size
	sectors      uint64
}

func backingOf(r *wire.HeaderRecord, major, minor uint32, size int64) (backing, error) {
	data := (size - r.SegmentOffset) / int64(r.SectorSize) * int64(r.SectorSize)
	if data <= 0 {
		return backing{}, code.Wrap(code.LUKSTruncated, fmt.Errorf("the device is %d bytes, its data begins at %d", size, r.SegmentOffset))
	}
	return backing{major, minor, uint64(r.SegmentOffset / sector), uint64(data / sector)}, nil
}

// cryptsetupTable is the table that cryptsetup 2.6 and newer make with the
// volume key in the keyring.
func cryptsetupTable(name string, r *wire.HeaderRecord, b backing) (table, error) {
	suite, err := luks.SuiteNamed(r.Integrity)
	if err != nil {
		return table{}, code.Wrap(code.DMTable, err)
	}
	params := fmt.Sprintf("%s :%d:logon:cryptsetup:%s-d0 0 %d:%d %d", suite.DMCipher, r.KeyBytes, r.UUID, b.major, b.minor, b.offset)
	var options []string
	if suite.TagBytes > 0 {
		options = append(options, fmt.Sprintf("integrity:%d:aead", suite.TagBytes))
	}
	if r.SectorSize != sector {
		options = append(options, fmt.Sprintf("sector_size:%d", r.SectorSize))
	}
	if len(options) > 0 {
		params += fmt.Sprintf(" %d %s", len(options), strings.Join(options, " "))
	}
	return table{
		uuid:   "CRYPT-LUKS2-" + strings.ReplaceAll(r.UUID, "-", "") + "-" + name,
		target: target{0, b.sectors, "crypt", params},
	}, nil
}
