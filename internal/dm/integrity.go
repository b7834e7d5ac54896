package dm

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"attestbox/internal/code"
	"attestbox/internal/luks"
	"attestbox/internal/wire"
)

// integrityTable is dm-integrity's table with every parameter that it has, as
// the kernel reports it; the mode is J, data and tags through the journal.
func integrityTable(name, uuid string, l *luks.Layout, major, minor uint32) table {
	options := []string{
		fmt.Sprintf("journal_sectors:%d", l.JournalSectors()),
		fmt.Sprintf("interleave_sectors:%d", l.Run()/sector),
		fmt.Sprintf("buffer_sectors:%d", l.BufferSectors),
		"journal_watermark:50",
		"commit_time:10000",
		"fix_padding",
	}
	if l.SectorSize != sector {
		options = append([]string{fmt.Sprintf("block_size:%d", l.SectorSize)}, options...)
	}
	return table{
		uuid: "CRYPT-INTEGRITY-" + strings.ReplaceAll(uuid, "-", "") + "-" + name,
		target: target{0, uint64(l.Provided), "integrity", fmt.Sprintf("%d:%d %d %d J %d %s",
			major, minor, l.Offset/sector, l.Suite.TagBytes, len(options), strings.Join(options, " "))},
		// No mismatch, as much data as the layout provides, no recalculation.
		status: fmt.Sprintf("0 %d -", l.Provided),
	}
}

// openIntegrity maps dm-integrity over the data of a volume. Its superblock is
// read once and must be what the layout of this device gives. The kernel reads
// it again: what a host that changed it in between can still reach, table and
// status show, and Check compares them.
func openIntegrity(name string, f *os.File, v *luks.Volume) (*Mapping, error) {
	major, minor, size, err := blockDevice(f)
	if err != nil {
		return nil, err
	}
	l, err := luks.NewLayout(v.Suite, v.SectorSize, v.Offset, size)
	if err != nil {
		return nil, err
	}
	if err := readSuperblock(f, v.Offset, l); err != nil {
		return nil, err
	}
	m := &Mapping{Name: name, Node: filepath.Join("/dev/mapper", name), want: integrityTable(name, v.UUID, l, major, minor)}
	if err := m.load(); err != nil {
		return nil, err
	}
	if err := m.Check(); err != nil {
		return nil, errors.Join(err, m.Remove())
	}
	return m, nil
}

// CheckSuperblock is that comparison for a disk that cryptsetup is to open:
// before the kernel sees the superblock. Without integrity there is none. What a
// host changes after that, CheckCryptsetup finds.
func CheckSuperblock(f *os.File, r *wire.HeaderRecord) error {
	suite, err := luks.SuiteNamed(r.Integrity)
	if err != nil || suite.TagBytes == 0 {
		return err
	}
	_, _, size, err := blockDevice(f)
	if err != nil {
		return err
	}
	l, err := luks.NewLayout(suite, r.SectorSize, r.SegmentOffset, size)
	if err != nil {
		return err
	}
	return readSuperblock(f, r.SegmentOffset, l)
}

func readSuperblock(f *os.File, at int64, l *luks.Layout) error {
	super := make([]byte, luks.SuperblockBytes)
	if _, err := f.ReadAt(super, at); err != nil {
		c := code.LUKSRead
		if errors.Is(err, io.EOF) {
			c = code.LUKSTruncated
		}
		return code.Wrap(c, fmt.Errorf("reading dm-integrity's superblock: %w", err))
	}
	return l.CheckSuperblock(super)
}
