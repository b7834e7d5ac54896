package dm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"attestbox/internal/verity"
)

// What dm-verity does about a block that is not the right one: the machine
// stops. The default, EIO, lets the host choose which files of a running system
// cannot be read. Kernels before 6.12 have the second form alone, and give EIO
// where the host returns an error instead of data.
var verityOptions = []string{"2 panic_on_corruption panic_on_error", "1 panic_on_corruption"}

// hasPanicOnError judges a kernel by its release, since to ask it by trying
// leaves errors on the console. The kernel is measured, the host has no say.
func hasPanicOnError(release string) bool {
	major, rest, _ := strings.Cut(release, ".")
	minor := rest[:len(rest)-len(strings.TrimLeft(rest, "0123456789"))]
	a, errA := strconv.Atoi(major)
	b, errB := strconv.Atoi(minor)
	return errA == nil && errB == nil && (a > 6 || a == 6 && b >= 12)
}

// verityTable follows the kernel's admin-guide/device-mapper/verity.rst; the
// UUID is as veritysetup's, with the root hash in place of the superblock's.
func verityTable(name string, major, minor uint32, r *verity.Record, options string) table {
	params := fmt.Sprintf("1 %d:%d %d:%d %d %d %d %d %s %s %s %s", major, minor, major, minor, verity.BlockSize, verity.BlockSize,
		r.DataBlocks, r.TreeOffset()/verity.BlockSize, verity.Algorithm, r.RootHash, r.Salt, options)
	return table{
		uuid:     "CRYPT-VERITY-" + r.RootHash.String()[:32] + "-" + name,
		target:   target{0, r.DataBlocks * (verity.BlockSize / sector), "verity", params},
		status:   "V", // no block was wrong so far
		readOnly: true,
	}
}

// OpenVerity maps the block device f read-only as /dev/mapper/name, as the
// record says. Errors: verity-truncated and verity-root-hash for a device that
// is not the record's; dm-unavailable; dm-table. The caller may close f.
func OpenVerity(name string, f *os.File, r *verity.Record) (*Mapping, error) {
	if !ValidName(name) {
		return nil, fmt.Errorf("mapping name %q is not 1 to 64 of a-z, A-Z, 0-9, . _ + -", name)
	}
	major, minor, size, err := blockDevice(f)
	if err != nil {
		return nil, err
	}
	if err := r.CheckDevice(f, size); err != nil {
		return nil, fmt.Errorf("mapping %q: %w", f.Name(), err)
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return nil, fmt.Errorf("asking for the kernel's release: %w", err)
	}
	options := verityOptions
	if !hasPanicOnError(unix.ByteSliceToString(u.Release[:])) {
		options = options[1:]
	}
	m := &Mapping{Name: name, Node: filepath.Join("/dev/mapper", name), want: verityTable(name, major, minor, r, options[0])}
	if err := m.load(); err != nil {
		return nil, fmt.Errorf("mapping %q as %q: %w", f.Name(), name, err)
	}
	if err = m.Check(); err == nil {
		err = m.makeNode()
	}
	if err != nil {
		return nil, fmt.Errorf("mapping %q as %q: %w", f.Name(), name, errors.Join(err, m.Remove()))
	}
	return m, nil
}
