package dm

import (
	"fmt"
	"path/filepath"
	"strings"

	devmapper "github.com/anatol/devmapper.go"
	"golang.org/x/sys/unix"

	"attestbox/internal/luks"
	"attestbox/internal/wire"
)

// integrity compares the dm-integrity mapping that cryptsetup put below the
// crypt target with the table and status that our own would have, and is what
// that target then lies on. The kernel derived both from the superblock that
// it read, so a host's superblock shows here.
func (b backing) integrity(name string, r *wire.HeaderRecord, device int64) (*Mapping, backing, error) {
	suite, err := luks.SuiteNamed(r.Integrity)
	if err != nil {
		return nil, backing{}, err
	}
	l, err := luks.NewLayout(suite, r.SectorSize, r.SegmentOffset, device)
	if err != nil {
		return nil, backing{}, err
	}
	info, err := devmapper.InfoByName(name)
	if err != nil {
		return nil, backing{}, fmt.Errorf("reading status: %w", err)
	}
	want := integrityTable(name, r.UUID, l, b.major, b.minor)
	// cryptsetup 2.8 gives it another prefix.
	if sub := strings.Replace(want.uuid, "CRYPT-INTEGRITY-", "CRYPT-SUBDEV-", 1); info.UUID == sub {
		want.uuid = sub
	}
	m := &Mapping{Name: name, Node: filepath.Join("/dev/mapper", name), want: want}
	if err := m.Check(); err != nil {
		return nil, backing{}, err
	}
	return m, backing{unix.Major(m.Dev), unix.Minor(m.Dev), 0, uint64(l.Provided)}, nil
}
