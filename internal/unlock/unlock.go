// Package unlock opens an encrypted disk that a hostile host supplies, with the
// key and the header record that the verifier delivered: the header is compared
// and parsed by package luks, mapped and compared again by package dm.
//
// It does not mount, and it does not check what is inside.
package unlock

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"attestbox/internal/code"
	"attestbox/internal/dm"
	"attestbox/internal/luks"
	"attestbox/internal/secret"
	"attestbox/internal/wire"
)

// Result is an opened disk.
type Result struct {
	Node         string            // /dev/mapper/<name>
	HeaderDigest [sha256.Size]byte // of the header that was opened
	Mapping      *dm.Mapping       // for a later Check or Remove
}

// Unlock opens device (a block device) as /dev/mapper/name. It takes key over:
// key is wiped when Unlock returns, whatever the outcome. On error nothing is
// mapped. IsRefusal tells errors that a retry does not change.
func Unlock(ctx context.Context, device, name string, record *wire.HeaderRecord, key *secret.Bytes) (*Result, error) {
	defer key.Zero()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	// One descriptor for the header and for the identity of the device. It is
	// open until the kernel holds the device itself, so that its number cannot
	// pass to another one in between.
	f, err := os.Open(device)
	if err != nil {
		return nil, fmt.Errorf("opening disk: %w", err)
	}
	defer f.Close()
	v, err := luks.OpenWithin(f, record, key, limits())
	if err != nil {
		return nil, fmt.Errorf("unlocking %q: %w", device, err)
	}
	defer v.Close()
	key.Zero()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m, err := dm.OpenCrypt(name, f, v)
	if err != nil {
		return nil, err
	}
	return &Result{Node: m.Node, HeaderDigest: v.HeaderDigest, Mapping: m}, nil
}

// limits allow argon2id half of the machine's memory.
func limits() luks.Limits {
	var si unix.Sysinfo_t
	if err := unix.Sysinfo(&si); err != nil {
		return luks.Limits{MemoryKiB: 64 << 10}
	}
	return luks.Limits{MemoryKiB: max(1, uint64(si.Totalram)*uint64(si.Unit)/2/1024)}
}

// IsRefusal says whether err means that this disk, header or key is not what
// was registered: nothing that a retry changes.
func IsRefusal(err error) bool {
	c, ok := code.Of(err)
	return ok && c != code.LUKSRead && (strings.HasPrefix(string(c), "luks-") || strings.HasPrefix(string(c), "verity-") || c == code.DMTable)
}
