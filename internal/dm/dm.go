// Package dm makes dm-crypt and dm-integrity mappings from opened LUKS2 volumes and compares
// what the kernel then has with what was asked for.
//
// It follows the kernel's Documentation/admin-guide/device-mapper/dm-crypt.rst
// and include/uapi/linux/dm-ioctl.h (version 4), and names mappings as
// cryptsetup does (dm UUID CRYPT-LUKS2-<uuid>-<name>).
//
// devmapper.go does create, resume, remove and status. It knows no integrity
// targets and cannot read a table back, so those ioctls are here. A table names
// the key and does not hold it: the key itself goes through the calling
// thread's keyring as a logon key, which user space cannot read back, and is
// revoked as soon as dm-crypt has it.
//
// With integrity, two mappings are stacked: dm-integrity keeps the tags
// (docs/integrity.md), dm-crypt makes and checks them. Without, nothing checks
// that the data is authentic.
package dm

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	devmapper "github.com/anatol/devmapper.go"
	"golang.org/x/sys/unix"

	"attestbox/internal/code"
	"attestbox/internal/luks"
)

const sector = 512

// stateFlags are those of a mapping's state that Check looks at.
const stateFlags = unix.DM_READONLY_FLAG | unix.DM_SUSPEND_FLAG | unix.DM_ACTIVE_PRESENT_FLAG | unix.DM_INACTIVE_PRESENT_FLAG | unix.DM_INTERNAL_SUSPEND_FLAG | unix.DM_DEFERRED_REMOVE

// Mapping is an active mapping that was compared with what was asked for.
type Mapping struct {
	Name string // of the mapping
	Node string // /dev/mapper/Name
	Dev  uint64 // device number of the mapping

	want  table
	under *Mapping // dm-integrity's, on which this one stands; nil without
}

// table is what the kernel must report of a mapping.
type table struct {
	uuid   string
	target target
	status string // empty: not compared

	readOnly bool
}

// flags are the mapping's for good.
func (t *table) flags() uint32 {
	if t.readOnly {
		return unix.DM_READONLY_FLAG
	}
	return 0
}

// ValidName accepts 1 to 64 characters of a-z, A-Z, 0-9 and "._+-", beginning
// with a letter or digit, and not device-mapper's own "control".
func ValidName(name string) bool {
	if len(name) == 0 || len(name) > 64 || name == "control" {
		return false
	}
	for i := range len(name) {
		c := name[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || i > 0 && strings.IndexByte("._+-", c) >= 0) {
			return false
		}
	}
	return true
}

// describe is the key's name in the keyring; logon keys need a prefix.
func describe(uuid string) string { return "attestbox:" + uuid }

// tableOf is the crypt table for a volume whose data is size bytes at offset
// bytes of the device major:minor.
func tableOf(name string, v *luks.Volume, major, minor uint32, offset, size int64) (table, error) {
	if err := complete(v); err != nil {
		return table{}, err
	}
	// The device may end in the middle of an encryption sector.
	size = size / int64(v.SectorSize) * int64(v.SectorSize)
	if size <= 0 {
		return table{}, code.Wrap(code.LUKSTruncated, fmt.Errorf("the device ends before its data, which begins at %d", v.Offset))
	}
	var options []string
	if v.Suite.TagBytes != 0 {
		options = append(options, fmt.Sprintf("integrity:%d:aead", v.Suite.TagBytes))
	}
	if v.SectorSize != sector {
		options = append(options, fmt.Sprintf("sector_size:%d", v.SectorSize))
	}
	params := fmt.Sprintf("%s :%d:logon:%s 0 %d:%d %d", v.Suite.DMCipher, v.Suite.KeyBytes, describe(v.UUID), major, minor, offset/sector)
	if len(options) > 0 {
		params += fmt.Sprintf(" %d %s", len(options), strings.Join(options, " "))
	}
	return table{
		uuid:   "CRYPT-LUKS2-" + strings.ReplaceAll(v.UUID, "-", "") + "-" + name,
		target: target{0, uint64(size / sector), "crypt", params},
	}, nil
}

// complete refuses a volume that no opener of package luks made.
func complete(v *luks.Volume) error {
	if !luks.ValidUUID(v.UUID) || v.Suite == nil || v.VolumeKey.Len() != v.Suite.KeyBytes ||
		(v.SectorSize != 512 && v.SectorSize != 4096) || v.Offset <= 0 || v.Offset%int64(v.SectorSize) != 0 {
		return errors.New("volume is incomplete")
	}
	return nil
}

// OpenCrypt maps a volume that lies on the block device f (open for reading;
// not with O_EXCL, which would keep device-mapper out) as /dev/mapper/name,
// with integrity on a second mapping, name_dif. The caller wipes the volume
// and may close f.
//
// Errors: dm-unavailable if the kernel's device-mapper cannot be used;
// luks-truncated if the device ends before its data; luks-superblock and its
// kin if dm-integrity's superblock is not the one that this device must have;
// dm-table if the kernel reports another mapping than was asked for. Nothing
// stays mapped then.
func OpenCrypt(name string, f *os.File, v *luks.Volume) (_ *Mapping, err error) {
	if !ValidName(name) {
		return nil, fmt.Errorf("mapping name %q is not 1 to 64 of a-z, A-Z, 0-9, . _ + -", name)
	}
	major, minor, size, err := blockDevice(f)
	if err != nil {
		return nil, err
	}
	if err := complete(v); err != nil {
		return nil, fmt.Errorf("mapping %q: %w", f.Name(), err)
	}
	offset, size, under := v.Offset, size-v.Offset, (*Mapping)(nil)
	if v.Suite.TagBytes != 0 {
		if under, err = openIntegrity(name+"_dif", f, v); err != nil {
			return nil, fmt.Errorf("mapping %q as %q: %w", f.Name(), name, err)
		}
		major, minor = unix.Major(under.Dev), unix.Minor(under.Dev)
		offset, size = 0, int64(under.want.target.length)*sector
	}
	m := &Mapping{Name: name, Node: filepath.Join("/dev/mapper", name), under: under}
	if m.want, err = tableOf(name, v, major, minor, offset, size); err == nil {
		err = m.loadCrypt(v)
	}
	if err != nil {
		return nil, fmt.Errorf("mapping %q as %q: %w", f.Name(), name, errors.Join(err, under.Remove()))
	}
	if err = m.Check(); err == nil {
		err = m.makeNode()
	}
	if err != nil {
		return nil, fmt.Errorf("mapping %q as %q: %w", f.Name(), name, errors.Join(err, m.Remove()))
	}
	return m, nil
}

// loadCrypt makes the mapping with the key in the keyring of this thread for
// just that time.
func (m *Mapping) loadCrypt(v *luks.Volume) error {
	// Key lookups of the kernel are made for the thread that calls it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	id, err := unix.AddKey("logon", describe(v.UUID), v.VolumeKey.Bytes(), unix.KEY_SPEC_THREAD_KEYRING)
	if err != nil {
		return code.Wrap(code.DMUnavailable, fmt.Errorf("adding the volume key to the kernel's keyring: %w", err))
	}
	defer func() {
		// Revoking frees the payload; both fail only for a key that is gone.
		unix.KeyctlInt(unix.KEYCTL_REVOKE, id, 0, 0, 0)
		unix.KeyctlInt(unix.KEYCTL_UNLINK, id, unix.KEY_SPEC_THREAD_KEYRING, 0, 0)
	}()
	return m.load()
}

// load creates the device, gives it its table and makes that live. On error
// there is no device.
func (m *Mapping) load() error {
	if err := devmapper.Create(m.Name, m.want.uuid); err != nil {
		if errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("a mapping of that name or UUID exists: %w", err)
		}
		return code.Wrap(code.DMUnavailable, err)
	}
	err := loadTable(m.Name, m.want.target, m.want.flags())
	if err == nil {
		err = devmapper.Resume(m.Name)
	}
	if err != nil {
		return code.Wrap(code.DMUnavailable, errors.Join(err, devmapper.Remove(m.Name)))
	}
	return nil
}

// Check compares the kernel's mapping with what was asked for: name, dm UUID,
// one live table, writable or read-only as asked, not suspended, no second
// table waiting, and in the table cipher, key description, backing device,
// offset, length and sector size; then the same of dm-integrity below it, and
// its status. It may be repeated, after mounting say.
func (m *Mapping) Check() error {
	if m.under != nil {
		if err := m.under.Check(); err != nil {
			return err
		}
	}
	info, err := devmapper.InfoByName(m.Name)
	if err != nil {
		return code.Wrap(code.DMTable, fmt.Errorf("reading status of mapping %q: %w", m.Name, err))
	}
	const state = stateFlags
	bad := func(what string, found, want any) error {
		return code.Wrap(code.DMTable, fmt.Errorf("mapping %q: %s is %v, want %v", m.Name, what, found, want))
	}
	switch {
	case info.Name != m.Name:
		return bad("name", info.Name, m.Name)
	case info.UUID != m.want.uuid:
		return bad("UUID", info.UUID, m.want.uuid)
	case info.Flags&state != unix.DM_ACTIVE_PRESENT_FLAG|m.want.flags():
		return bad("state", fmt.Sprintf("%#x", info.Flags&state), fmt.Sprintf("%#x", unix.DM_ACTIVE_PRESENT_FLAG|m.want.flags()))
	case m.Dev != 0 && info.DevNo != m.Dev:
		return bad("device", info.DevNo, m.Dev)
	}
	targets, err := readTable(m.Name)
	if err != nil {
		return code.Wrap(code.DMTable, fmt.Errorf("reading table of mapping %q: %w", m.Name, err))
	}
	if len(targets) != 1 || targets[0] != m.want.target {
		return bad("table", targets, m.want.target)
	}
	if m.want.status != "" {
		status, err := readStatus(m.Name)
		if err != nil {
			return code.Wrap(code.DMTable, fmt.Errorf("reading status of mapping %q: %w", m.Name, err))
		}
		if len(status) != 1 || status[0].params != m.want.status {
			return bad("status", status, m.want.status)
		}
	}
	m.Dev = info.DevNo
	return nil
}

// makeNode gives the mapping its name in /dev/mapper, as udev would.
func (m *Mapping) makeNode() error {
	dm := fmt.Sprintf("dm-%d", unix.Minor(m.Dev))
	if _, err := os.Stat("/dev/" + dm); err == nil {
		err = os.Symlink("../"+dm, m.Node)
		if err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("naming the mapping: %w", err)
		}
	} else if err := unix.Mknod(m.Node, unix.S_IFBLK|0o600, int(m.Dev)); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("making node %q: %w", m.Node, err)
	}
	// Whoever made it, it must be this mapping.
	var st unix.Stat_t
	if err := unix.Stat(m.Node, &st); err != nil {
		return fmt.Errorf("checking node %q: %w", m.Node, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK || st.Rdev != m.Dev {
		return code.Wrap(code.DMTable, fmt.Errorf("node %q is not the mapping", m.Node))
	}
	return nil
}

// Remove takes the mapping down, removes its node, and then does the same with
// what is below it; it fails while something uses it. A node that is not this
// mapping's is left alone. A nil mapping is removed already.
func (m *Mapping) Remove() error {
	if m == nil {
		return nil
	}
	var st unix.Stat_t
	ours := unix.Stat(m.Node, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK && m.Dev != 0 && st.Rdev == m.Dev
	if err := devmapper.Remove(m.Name); err != nil {
		return fmt.Errorf("removing mapping %q: %w", m.Name, err)
	}
	if ours {
		os.Remove(m.Node)
	}
	return m.under.Remove()
}

// blockDevice says which device f is and its size in bytes.
func blockDevice(f *os.File) (major, minor uint32, size int64, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0, 0, 0, fmt.Errorf("looking at %q: %w", f.Name(), err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return 0, 0, 0, fmt.Errorf("%q is no block device", f.Name())
	}
	if size, err = f.Seek(0, io.SeekEnd); err != nil {
		return 0, 0, 0, fmt.Errorf("reading size of %q: %w", f.Name(), err)
	}
	return unix.Major(st.Rdev), unix.Minor(st.Rdev), size, nil
}
