package snpsimdevice

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"attestbox/internal/snpsim/cuse"
	"attestbox/internal/snpsim/link"
)

// PortName is the virtio-serial port's name in /sys/class/virtio-ports.
const PortName = "attestbox.snp-sim"

const readyLine = "ready\n"

// daemon serves /dev/sev-guest until the kernel ends. Descriptor 3 is a pipe
// on which it says "ready", or why not.
func daemon() error {
	// Nothing but the end of the machine ends it; there is no one to restart it.
	signal.Ignore(unix.SIGHUP, unix.SIGINT, unix.SIGTERM, unix.SIGPIPE)
	ctx := context.Background()
	pipe := os.NewFile(3, "ready pipe")
	err := serve(ctx, func() error {
		_, err := io.WriteString(pipe, readyLine)
		return errors.Join(err, pipe.Close())
	})
	_, _ = fmt.Fprintf(pipe, "%v\n", err) // fails after ready, when nobody reads
	return err
}

func serve(ctx context.Context, ready func() error) error {
	// The guest is short of memory only while it boots; then this must stay.
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0)
	port, err := openPort(ctx)
	if err != nil {
		return err
	}
	defer port.Close()
	fd, err := unix.Open(cuse.Path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening %s (is the module cuse in the image?): %w", cuse.Path, err)
	}
	defer unix.Close(fd)
	return cuse.NewDevice(link.NewClient(port)).Serve(ctx, fd, ready)
}

// openPort waits for the port: its name arrives from the host some time after
// the driver was loaded.
func openPort(ctx context.Context) (*os.File, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout/2)
	defer cancel()
	var path string
	err := poll(ctx, func() bool {
		names, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
		for _, n := range names {
			if b, err := os.ReadFile(n); err == nil && strings.TrimSpace(string(b)) == PortName {
				path = filepath.Join("/dev", filepath.Base(filepath.Dir(n)))
				_, err := os.Stat(path)
				return err == nil
			}
		}
		return false
	})
	if err != nil {
		return nil, fmt.Errorf("finding the virtio-serial port %q: %w", PortName, err)
	}
	// Non-blocking, so that reads have deadlines.
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("opening %q: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// startDaemon runs this binary again as the daemon and waits until it says that
// the device can be opened.
func startDaemon(ctx context.Context) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	null, err := os.Open("/dev/null")
	if err != nil {
		w.Close()
		return err
	}
	defer null.Close()
	p, err := os.StartProcess("/proc/self/exe", []string{daemonName, daemonArg}, &os.ProcAttr{
		Dir: "/",
		// The console stays open for its last words. /dev/null would keep the
		// mount of /dev, and so do the daemon's own files: see boot.
		Files: []*os.File{null, os.Stdout, os.Stderr, w},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	w.Close()
	if err != nil {
		return fmt.Errorf("starting the daemon: %w", err)
	}
	defer p.Release()
	if d, ok := ctx.Deadline(); ok {
		_ = r.SetReadDeadline(d)
	}
	said, err := io.ReadAll(io.LimitReader(r, 4096))
	switch {
	case string(said) == readyLine:
		return nil
	case len(said) > 0:
		return fmt.Errorf("the daemon failed: %s", bytes.TrimSpace(said))
	case err != nil:
		return fmt.Errorf("waiting for the daemon: %w", err)
	}
	return errors.New("the daemon ended without a word")
}

// waitForDevice checks that /dev/sev-guest is the daemon's device and no node
// that lay there before.
func waitForDevice(ctx context.Context) error {
	var found string
	err := poll(ctx, func() bool {
		want, err := os.ReadFile("/sys/class/cuse/sev-guest/dev")
		if err != nil {
			return false
		}
		var st unix.Stat_t
		if unix.Stat("/dev/sev-guest", &st) != nil {
			return false
		}
		found = strconv.Itoa(int(unix.Major(st.Rdev))) + ":" + strconv.Itoa(int(unix.Minor(st.Rdev)))
		return st.Mode&unix.S_IFMT == unix.S_IFCHR && found == strings.TrimSpace(string(want)) &&
			st.Uid == 0 && st.Mode&0o777 == 0o600
	})
	if err != nil {
		return fmt.Errorf("/dev/sev-guest (%s) is not the simulated device: %w", found, err)
	}
	return nil
}

// poll asks until ok or ctx ends; sysfs has no event to wait for that is worth
// a netlink socket here.
func poll(ctx context.Context, ok func() bool) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}
