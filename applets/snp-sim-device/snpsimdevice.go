// Package snpsimdevice is the applet snp-sim-device: /init of simulator
// images. It starts a daemon that serves /dev/sev-guest (package
// internal/snpsim/cuse) over the virtio-serial port "attestbox.snp-sim", and
// then becomes the unchanged production init, /bin/attestbox called as "init",
// which finds the machine as the kernel left it but for that device and the
// modules loaded for it.
//
// There is no shell and no prompt: a failure prints one line and powers off.
// It lies in no other image, and the launch digest of the image says so.
//
// Called as "snp-sim-device start" it starts the daemon and returns: for a
// distribution's own initramfs, which has mounted /dev and loaded the modules.
package snpsimdevice

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"attestbox/internal/applet"
)

// Applet is snp-sim-device.
var Applet = applet.Applet{
	Name:    "snp-sim-device",
	Summary: "simulator images only: serve /dev/sev-guest, then become init",
	Run:     run,
}

const (
	// The daemon's argv[0] begins with @: systemd then leaves it alone when it
	// ends everything else (systemd.io/ROOT_STORAGE_DAEMONS).
	daemonName = "@snp-sim-device"
	daemonArg  = "daemon"
	startArg   = "start"

	nextInit = "/bin/attestbox"
	timeout  = 30 * time.Second // under emulation a module takes seconds
)

func run(ctx context.Context, env *applet.Env, args []string) error {
	if os.Getpid() == 1 {
		err := boot(env, args)
		fmt.Fprintf(env.Stderr, "%s: %v; powering off\n", env.Name, err)
		unix.Sync()
		err = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
		// The kernel panics when PID 1 ends, which with panic=1 ends it too.
		return fmt.Errorf("powering off: %w", err)
	}
	if os.Args[0] == daemonName && len(args) == 1 && args[0] == daemonArg {
		return daemon()
	}
	fs := env.Flags("(as /init of a simulator image) | start", "mkimage build -simulator ...")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() == 1 && fs.Arg(0) == startArg {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		return start(ctx)
	}
	return applet.WithHint(errors.New("this is /init of simulator images and does nothing else"),
		"snp-sim run starts such an image")
}

// boot prepares the device and execs the production init. It returns only on
// failure.
func boot(env *applet.Env, args []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	for _, m := range mounts {
		if err := m.mount(); err != nil {
			return err
		}
	}
	if err := loadModules("/"); err != nil {
		return err
	}
	if err := start(ctx); err != nil {
		return err
	}
	for i := len(mounts) - 1; i >= 0; i-- {
		// Detached: the daemon's open files keep the file system of /dev.
		if err := unix.Unmount(mounts[i].dir, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmounting %q: %w", mounts[i].dir, err)
		}
	}
	argv := append([]string{"init"}, args...)
	return fmt.Errorf("starting %q: %w", nextInit, unix.Exec(nextInit, argv, os.Environ()))
}

// start leaves the daemon behind, and the device with it.
func start(ctx context.Context) error {
	if err := startDaemon(ctx); err != nil {
		return err
	}
	return waitForDevice(ctx)
}

type mountPoint struct{ fs, dir string }

var mounts = []mountPoint{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}}

func (m mountPoint) mount() error {
	if err := os.MkdirAll(m.dir, 0o755); err != nil {
		return fmt.Errorf("making %q: %w", m.dir, err)
	}
	if err := unix.Mount(m.fs, m.dir, m.fs, unix.MS_NOSUID|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mounting %q: %w", m.dir, err)
	}
	return nil
}
