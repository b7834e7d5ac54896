package initramfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// System is what the steps ask of the kernel.
type System interface {
	Mount(source, target, fstype string, flags uintptr, data string) error
	// LoadModule is finit_module of an open file.
	LoadModule(f *os.File, flags int) error
	Now() time.Time
	SetTime(t time.Time) error
	// Uptime is CLOCK_BOOTTIME.
	Uptime() time.Duration
	// Random returns once the kernel's generator is seeded.
	Random() error
	Release() (string, error)
	Chdir(dir string) error
	Chroot(dir string) error
	Exec(path string, argv, env []string) error
	// LoadKernel is kexec_file_load of two open files; StartKernel leaves this
	// kernel for that one, and returns only on error.
	LoadKernel(kernel, initrd *os.File, cmdline string) error
	StartKernel() error
	Sync()
	PowerOff() error
	Restart() error
}

// linux is the real System.
type linux struct{}

func (linux) Mount(source, target, fstype string, flags uintptr, data string) error {
	return unix.Mount(source, target, fstype, flags, data)
}

func (linux) LoadModule(f *os.File, flags int) error {
	return unix.FinitModule(int(f.Fd()), "", flags)
}

func (linux) Now() time.Time { return time.Now() }

func (linux) SetTime(t time.Time) error {
	tv := unix.NsecToTimeval(t.UnixNano())
	return unix.Settimeofday(&tv)
}

func (linux) Uptime() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

func (linux) Random() error {
	var b [1]byte
	for {
		// Without GRND_NONBLOCK it waits for the seed.
		if _, err := unix.Getrandom(b[:], 0); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func (linux) Release() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", err
	}
	r := unix.ByteSliceToString(u.Release[:])
	if r == "" || strings.Contains(r, "/") || strings.HasPrefix(r, ".") {
		return "", fmt.Errorf("kernel release %q", r)
	}
	return r, nil
}

func (linux) Chdir(dir string) error  { return unix.Chdir(dir) }
func (linux) Chroot(dir string) error { return unix.Chroot(dir) }

func (linux) Exec(path string, argv, env []string) error { return unix.Exec(path, argv, env) }

func (linux) LoadKernel(kernel, initrd *os.File, cmdline string) error {
	return unix.KexecFileLoad(int(kernel.Fd()), int(initrd.Fd()), cmdline, 0)
}
func (linux) StartKernel() error { return unix.Reboot(unix.LINUX_REBOOT_CMD_KEXEC) }

func (linux) Sync()           { unix.Sync() }
func (linux) PowerOff() error { return unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF) }
func (linux) Restart() error  { return unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART) }

// within runs a call that knows no context and stops waiting when ctx ends.
func within(ctx context.Context, f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
