package initramfs

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"attestbox/internal/code"
	"attestbox/internal/luks"
	"attestbox/internal/secret"
	"attestbox/internal/verity"
	"attestbox/internal/wire"
)

// deviceWait bounds the wait for a disk to appear.
const deviceWait = 30 * time.Second

// Unlocked is an opened disk.
type Unlocked struct {
	Node         string   // the mapped device, a block device node
	HeaderDigest [32]byte // of LUKS2; zeros for a verity root
}

// UnlockFunc opens the LUKS2 device as mapping name, if its header is the one
// of the record. It wipes whatever it made of key, and leaves key itself.
type UnlockFunc func(ctx context.Context, device, name string, record *wire.HeaderRecord, key *secret.Bytes) (*Unlocked, error)

// VerityFunc maps a read-only device as the record says, or refuses it.
type VerityFunc func(ctx context.Context, device, name string, record *verity.Record) (*Unlocked, error)

// waitDevice waits for a block device node; devtmpfs makes it.
func (in *Init) waitDevice(ctx context.Context, device string) error {
	ctx, cancel := context.WithTimeout(ctx, deviceWait)
	defer cancel()
	for {
		st, err := os.Lstat(in.path(device))
		switch {
		case err == nil && st.Mode()&os.ModeDevice != 0 && st.Mode()&os.ModeCharDevice == 0:
			return nil
		case err == nil:
			return code.Wrap(code.BootMedia, fmt.Errorf("%s is no block device", device))
		case !errors.Is(err, os.ErrNotExist):
			return code.Wrap(code.BootMedia, err)
		}
		select {
		case <-time.After(poll):
		case <-ctx.Done():
			return code.Wrap(code.BootMedia, fmt.Errorf("disk %s did not appear", device))
		}
	}
}

func (in *Init) wait(ctx context.Context, device string) error {
	if in.deps.waitDevice != nil {
		return in.deps.waitDevice(ctx, device)
	}
	return in.waitDevice(ctx, device)
}

// unlock opens a disk with the released key. The verifier may deliver several
// header records, and two keys, while a key is being rotated: the record whose
// digest is the disk's is the one that counts, and the older key is tried for
// that header alone. Records of one header copy count where none of the whole
// area does.
func (in *Init) unlock(ctx context.Context, device, name string, p *wire.Payload) (*Unlocked, error) {
	if p.DiskKey.Len() == 0 || len(p.Headers) == 0 {
		return nil, code.Wrap(code.BootRelease, fmt.Errorf("the release holds no key or no header record for %s", device))
	}
	if err := in.wait(ctx, device); err != nil {
		return nil, err
	}
	var last error
	headers := luks.WholeFirst(p.Headers)
	for i := range headers {
		h := &headers[i]
		u, err := in.deps.Unlock(ctx, device, name, h, p.DiskKey)
		if c, _ := code.Of(err); c == code.LUKSWrongKey && p.PreviousDiskKey.Len() > 0 {
			u, err = in.deps.Unlock(ctx, device, name, h, p.PreviousDiskKey)
		}
		if err == nil {
			if want, _ := hex.DecodeString(h.Digest); !slices.Equal(want, u.HeaderDigest[:]) {
				return nil, code.Wrap(code.LUKSHeaderDigest, fmt.Errorf("%s was opened with another header than the registered one", device))
			}
			return u, nil
		}
		last = err
		if c, _ := code.Of(err); c != code.LUKSHeaderDigest {
			break
		}
	}
	return nil, fmt.Errorf("opening %s: %w", device, last)
}

var mountFlags = map[string]uintptr{
	"ro": unix.MS_RDONLY, "rw": 0, "nosuid": unix.MS_NOSUID, "suid": 0, "nodev": unix.MS_NODEV, "dev": 0,
	"noexec": unix.MS_NOEXEC, "exec": 0, "sync": unix.MS_SYNCHRONOUS, "dirsync": unix.MS_DIRSYNC,
	"noatime": unix.MS_NOATIME, "nodiratime": unix.MS_NODIRATIME, "relatime": unix.MS_RELATIME,
	"strictatime": unix.MS_STRICTATIME, "lazytime": unix.MS_LAZYTIME,
}

// parseOptions splits mount options into flags and the file system's own data.
func parseOptions(options []string) (flags uintptr, data string) {
	var rest []string
	for _, o := range options {
		if f, ok := mountFlags[o]; ok {
			flags |= f
		} else {
			rest = append(rest, o)
		}
	}
	return flags, strings.Join(rest, ",")
}

// mountDisk mounts an opened disk and checks that what lies under target now
// is that disk: a decoy with the same label or UUID has no way in.
func (in *Init) mountDisk(u *Unlocked, target, fstype string, options []string) error {
	if err := os.MkdirAll(in.path(target), 0o755); err != nil {
		return code.Wrap(code.BootMount, err)
	}
	flags, data := parseOptions(options)
	if err := in.sys.Mount(u.Node, in.path(target), fstype, flags, data); err != nil {
		return code.Wrap(code.BootMount, fmt.Errorf("mounting %s from %s on %s: %w", fstype, u.Node, target, err))
	}
	return code.Wrap(code.BootMount, in.deps.sameDevice(u.Node, in.path(target)))
}

// sameDevice compares a block device node with the file system on target.
func sameDevice(node, target string) error {
	var n, t unix.Stat_t
	if err := unix.Stat(node, &n); err != nil {
		return fmt.Errorf("looking at %s: %w", node, err)
	}
	if err := unix.Stat(target, &t); err != nil {
		return fmt.Errorf("looking at %s: %w", target, err)
	}
	if n.Mode&unix.S_IFMT != unix.S_IFBLK || uint64(t.Dev) != uint64(n.Rdev) {
		return fmt.Errorf("%s is not on %s: found device %d:%d, want %d:%d", target, node,
			unix.Major(t.Dev), unix.Minor(t.Dev), unix.Major(n.Rdev), unix.Minor(n.Rdev))
	}
	return nil
}
