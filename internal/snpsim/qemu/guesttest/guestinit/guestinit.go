// Package guestinit is the guest's half of guesttest: what a test's init does
// before its own work.
package guestinit

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Prepare mounts /proc, /sys and /dev and loads the modules in /modules, in the
// order of their names. It says on the console what failed.
func Prepare() {
	for _, fs := range [][2]string{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		if err := unix.Mount(fs[0], fs[1], fs[0], 0, ""); err != nil {
			fmt.Println("mounting", fs[1], err)
		}
	}
	names, _ := filepath.Glob("/modules/*")
	for _, n := range names {
		if err := load(n); err != nil {
			fmt.Println("loading", n, err)
		}
	}
}

func load(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	flags := 0
	if strings.HasSuffix(name, ".xz") {
		flags = unix.MODULE_INIT_COMPRESSED_FILE
	}
	return unix.FinitModule(int(f.Fd()), "", flags)
}

// PowerOff ends the machine.
func PowerOff() {
	unix.Sync()
	// The kernel's last words must not cut into ours (tcdrain).
	_ = unix.IoctlSetInt(1, unix.TCSBRK, 1)
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// Port opens the virtio-serial port of this name. The kernel learns of its
// ports from the host some time after the driver was loaded, and tells nobody
// but udev: hence the polling.
func Port(name string) (*os.File, error) {
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		files, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
		for _, f := range files {
			if b, err := os.ReadFile(f); err == nil && strings.TrimSpace(string(b)) == name {
				return os.OpenFile("/dev/"+filepath.Base(filepath.Dir(f)), os.O_RDWR, 0)
			}
		}
	}
	return nil, fmt.Errorf("no virtio-serial port %q", name)
}
