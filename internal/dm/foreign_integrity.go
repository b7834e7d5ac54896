package dm

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	devmapper "github.com/anatol/devmapper.go"
	"golang.org/x/sys/unix"

	"attestbox/internal/luks"
	"attestbox/internal/wire"
)

// tuning are options of dm-integrity that the superblock or the kernel chooses:
// sizes of its journal and buffers, nothing that turns a check off.
var tuning = []string{"journal_sectors", "interleave_sectors", "buffer_sectors", "journal_watermark", "commit_time", "fix_padding", "fix_hmac"}

// integrity compares the dm-integrity mapping that cryptsetup put below the
// crypt target, and is what that target then lies on. Its size is the
// superblock's, which the host may write: a wrong one only makes tags not fit,
// since each depends on its sector's number.
func (b backing) integrity(name string, r *wire.HeaderRecord) (backing, error) {
	suite, err := luks.SuiteNamed(r.Integrity)
	if err != nil {
		return backing{}, err
	}
	dev, t, err := liveIntegrity(name)
	if err != nil {
		return backing{}, err
	}
	if err := b.compareIntegrity(t, suite.TagBytes, r.SectorSize); err != nil {
		return backing{}, err
	}
	return backing{unix.Major(dev), unix.Minor(dev), 0, t.length}, nil
}

func (b backing) compareIntegrity(t target, tag, sectorSize int) error {
	f := strings.Fields(t.params)
	where := fmt.Sprintf("%d:%d %d %d J", b.major, b.minor, b.offset, tag)
	if t.kind != "integrity" || t.start != 0 || t.length == 0 || t.length > b.sectors ||
		len(f) < 5 || strings.Join(f[:4], " ") != where || f[4] != strconv.Itoa(len(f)-5) {
		return fmt.Errorf("table is %s, want an integrity target with %s", t, where)
	}
	block := sector
	for _, o := range f[5:] {
		key, value, _ := strings.Cut(o, ":")
		known := key == "block_size"
		for _, k := range tuning {
			known = known || key == k
		}
		if !known {
			return fmt.Errorf("table is %s: option %.40q was not asked for", t, o)
		}
		if key == "block_size" {
			n, err := strconv.Atoi(value)
			if err != nil {
				return fmt.Errorf("table is %s: %w", t, err)
			}
			block = n
		}
	}
	if block != sectorSize {
		return fmt.Errorf("table is %s, want blocks of %d bytes", t, sectorSize)
	}
	return nil
}

// liveIntegrity is a mapping of cryptsetup's making with one live target,
// writable and not suspended, and no second table waiting.
func liveIntegrity(name string) (uint64, target, error) {
	info, err := devmapper.InfoByName(name)
	if err != nil {
		return 0, target{}, fmt.Errorf("reading status: %w", err)
	}
	switch {
	case info.Name != name:
		return 0, target{}, fmt.Errorf("name is %q", info.Name)
	case !strings.HasPrefix(info.UUID, "CRYPT-") || !strings.HasSuffix(info.UUID, "-"+name):
		return 0, target{}, fmt.Errorf("UUID is %q, which is none of cryptsetup's for it", info.UUID)
	case info.Flags&stateFlags != unix.DM_ACTIVE_PRESENT_FLAG:
		return 0, target{}, fmt.Errorf("state is %#x, want %#x", info.Flags&stateFlags, unix.DM_ACTIVE_PRESENT_FLAG)
	}
	targets, err := readTable(name)
	if err != nil {
		return 0, target{}, fmt.Errorf("reading table: %w", err)
	}
	if len(targets) != 1 {
		return 0, target{}, errors.New("it has more than one target")
	}
	return info.DevNo, targets[0], nil
}

// stateFlags are those of a mapping's state that Check and its like look at.
const stateFlags = unix.DM_READONLY_FLAG | unix.DM_SUSPEND_FLAG | unix.DM_ACTIVE_PRESENT_FLAG | unix.DM_INACTIVE_PRESENT_FLAG | unix.DM_INTERNAL_SUSPEND_FLAG | unix.DM_DEFERRED_REMOVE
