package initramfs

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"attestbox/internal/code"
	"attestbox/internal/platform/sevguest"
)

// mountPoint is one file system of the kernel's that init mounts.
type mountPoint struct {
	source, target, fstype string
	flags                  uintptr
	data                   string
}

const nosuidNodevNoexec = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

var (
	procMount   = mountPoint{"proc", "/proc", "proc", nosuidNodevNoexec, ""}
	earlyMounts = []mountPoint{
		{"sysfs", "/sys", "sysfs", nosuidNodevNoexec, ""},
		{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755"},
		{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"},
	}
	// configfs is a module in many kernels; without it there is no
	// configfs-tsm, and /dev/sev-guest remains.
	configfsMount = mountPoint{"configfs", "/sys/kernel/config", "configfs", nosuidNodevNoexec, ""}
	tmpMount      = mountPoint{"tmpfs", "/tmp", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777,size=16M"}
)

// mount mounts m, unless something is mounted there already, as whatever ran
// before init in the image may have done.
func (in *Init) mount(m mountPoint) error {
	target := in.path(m.target)
	if err := os.MkdirAll(target, 0o755); err != nil {
		return code.Wrap(code.BootMount, fmt.Errorf("making %s: %w", m.target, err))
	}
	if mounted, err := isMountPoint(target); err == nil && mounted {
		in.log.debug("mount", "%s is mounted already", m.target)
		return nil
	}
	err := in.sys.Mount(m.source, target, m.fstype, m.flags, m.data)
	if err != nil && !errors.Is(err, unix.EBUSY) {
		return code.Wrap(code.BootMount, fmt.Errorf("mounting %s on %s: %w", m.fstype, m.target, err))
	}
	return nil
}

// isMountPoint compares the device with that of the folder above.
func isMountPoint(dir string) (bool, error) {
	var here, above unix.Stat_t
	if err := unix.Lstat(dir, &here); err != nil {
		return false, err
	}
	if err := unix.Lstat(dir+"/..", &above); err != nil {
		return false, err
	}
	return here.Dev != above.Dev, nil
}

// sysrqOff comes first of all: the kernel takes SysRq over a serial line, and
// the serial line is the host's.
func (in *Init) sysrqOff() error {
	if err := in.mount(procMount); err != nil {
		return err
	}
	if err := os.WriteFile(in.path("/proc/sys/kernel/sysrq"), []byte("0\n"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
		// A kernel without the file has no SysRq.
		return code.Wrap(code.BootMount, fmt.Errorf("turning SysRq off: %w", err))
	}
	return nil
}

// kexecOff is for a kernel that is the last of its boot: another one behind it
// would have its launch digest and its REPORT_ID.
func (in *Init) kexecOff() error {
	if err := os.WriteFile(in.path("/proc/sys/kernel/kexec_load_disabled"), []byte("1\n"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
		return code.Wrap(code.BootMount, fmt.Errorf("turning kexec off: %w", err))
	}
	return nil
}

func (in *Init) mountEarly() error {
	for _, m := range earlyMounts {
		if err := in.mount(m); err != nil {
			return err
		}
	}
	return nil
}

// rootsAlone closes the ways to the secure processor to everybody but root
// (DESIGN section 10): whoever can ask for a report can speak as this VM. It is
// what kernels do by themselves today.
func (in *Init) rootsAlone() error {
	for _, f := range []struct {
		name string
		mode os.FileMode
	}{{sevguest.DevicePath, 0o600}, {configfsMount.target, 0o700}} {
		if err := os.Chmod(in.path(f.name), f.mode); err != nil && !errors.Is(err, os.ErrNotExist) {
			return code.Wrap(code.BootMount, fmt.Errorf("closing %s to other users: %w", f.name, err))
		}
	}
	return nil
}
