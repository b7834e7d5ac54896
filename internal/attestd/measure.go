package attestd

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Measurer says what keeps a file from changing, and which one it is.
type Measurer interface {
	// Kind is why the content of an open file cannot change while this system
	// runs: KindVerity, KindDevice or KindImage; "" if nothing does.
	Kind(f *os.File) (string, error)
	// Measure is the file's identity, of the kind that Kind gave.
	Measure(f *os.File, kind string) (Program, error)
}

// maxExecutable bounds the files that are hashed, in bytes. A larger one with
// fs-verity needs no hashing.
const maxExecutable = 512 << 20

// maxCached bounds the digests that are remembered.
const maxCached = 256

// Kernel measures by what the running kernel vouches for.
type Kernel struct {
	mu    sync.Mutex // held while hashing: one file at a time
	cache map[fileID][]byte
}

type fileID struct {
	dev, ino     uint64
	size         int64
	ctime, mtime unix.Timespec
}

// Kind asks for fs-verity first, then for the device, then for the initramfs.
func (k *Kernel) Kind(f *os.File) (string, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return "", err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return "", nil
	}
	if _, _, err := verityDigest(f); err == nil {
		return KindVerity, nil
	} else if !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.ENOTTY) && !errors.Is(err, unix.EOPNOTSUPP) {
		return "", fmt.Errorf("FS_IOC_MEASURE_VERITY: %w", err)
	}
	if onVerityDevice("/sys", uint64(st.Dev)) {
		return KindDevice, nil
	}
	image, err := onImage(uint64(st.Dev))
	if err != nil || !image {
		return "", err
	}
	return KindImage, nil
}

// Measure hashes where the kernel has no digest at hand. What was hashed is
// remembered: files of these kinds do not change.
func (k *Kernel) Measure(f *os.File, kind string) (Program, error) {
	if kind == KindVerity {
		alg, digest, err := verityDigest(f)
		if err != nil {
			return Program{}, fmt.Errorf("FS_IOC_MEASURE_VERITY: %w", err)
		}
		return Program{kind, alg, digest}, nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return Program{}, err
	}
	if st.Size > maxExecutable {
		return Program{}, fmt.Errorf("executable of %d bytes, at most %d are hashed", st.Size, maxExecutable)
	}
	id := fileID{uint64(st.Dev), st.Ino, st.Size, st.Ctim, st.Mtim}
	k.mu.Lock()
	defer k.mu.Unlock()
	if d, ok := k.cache[id]; ok {
		return Program{kind, "sha256", d}, nil
	}
	h := sha256.New()
	if n, err := io.Copy(h, io.NewSectionReader(f, 0, maxExecutable+1)); err != nil || n != st.Size {
		return Program{}, fmt.Errorf("hashing the executable: %d of %d bytes, %w", n, st.Size, err)
	}
	if k.cache == nil || len(k.cache) >= maxCached {
		k.cache = map[fileID][]byte{}
	}
	k.cache[id] = h.Sum(nil)
	return Program{kind, "sha256", k.cache[id]}, nil
}

// verityDigest is FS_IOC_MEASURE_VERITY (Linux
// Documentation/filesystems/fsverity.rst).
//
// It counts only on file systems that check it in the kernel: a FUSE server may
// answer this ioctl as it likes.
func verityDigest(f *os.File) (alg string, digest []byte, err error) {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil {
		return "", nil, err
	}
	if t := uint64(uint32(fs.Type)); t != unix.EXT4_SUPER_MAGIC && t != unix.F2FS_SUPER_MAGIC && t != unix.BTRFS_SUPER_MAGIC {
		return "", nil, unix.ENOTTY
	}
	var arg struct {
		alg, size uint16
		digest    [64]byte
	}
	arg.size = uint16(len(arg.digest))
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.FS_IOC_MEASURE_VERITY, uintptr(unsafe.Pointer(&arg)))
	runtime.KeepAlive(f)
	switch {
	case errno != 0:
		return "", nil, errno
	case arg.alg == 1 && arg.size == 32:
		return "sha256", arg.digest[:32], nil
	case arg.alg == 2 && arg.size == 64:
		return "sha512", arg.digest[:64], nil
	}
	return "", nil, fmt.Errorf("fs-verity algorithm %d with %d bytes", arg.alg, arg.size)
}

// onVerityDevice says whether a device is a dm-verity target, by the name that
// veritysetup gives it, and read-only. sys is where sysfs is mounted.
func onVerityDevice(sys string, dev uint64) bool {
	dir := fmt.Sprintf("%s/dev/block/%d:%d/", sys, unix.Major(dev), unix.Minor(dev))
	uuid, err := os.ReadFile(dir + "dm/uuid")
	if err != nil || !strings.HasPrefix(string(uuid), "CRYPT-VERITY-") {
		return false
	}
	ro, err := os.ReadFile(dir + "ro")
	return err == nil && strings.TrimSpace(string(ro)) == "1"
}

// onImage says whether a file on this device lies in the initramfs that is
// attestd's own root, and that the whole of it is read-only.
func onImage(dev uint64) (bool, error) {
	var root unix.Stat_t
	if err := unix.Stat("/", &root); err != nil {
		return false, err
	}
	if uint64(root.Dev) != dev {
		return false, nil
	}
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return false, err
	}
	return measuredRoot(string(b)), nil
}

// measuredRoot reads /proc/PID/mountinfo (proc(5)): the topmost mount on / is
// the kernel's rootfs, and its super block is read-only.
func measuredRoot(mountinfo string) bool {
	measured := false
	for line := range strings.Lines(mountinfo) {
		head, tail, ok := strings.Cut(strings.TrimSpace(line), " - ")
		f, g := strings.Fields(head), strings.Fields(tail)
		if !ok || len(f) < 6 || f[4] != "/" {
			continue
		}
		// Fields after the dash: type, source, options of the super block.
		measured = len(g) == 3 && g[0] == "rootfs" && f[3] == "/" && strings.HasPrefix(g[2]+",", "ro,")
	}
	return measured
}
