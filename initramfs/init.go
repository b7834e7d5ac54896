package initramfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"

	"attestbox/initramfs/config"
	"attestbox/internal/client"
	"attestbox/internal/code"
	"attestbox/internal/instanceid"
	"attestbox/internal/platform"
	"attestbox/internal/platform/sevguest"
	"attestbox/internal/wire"
)

// debugFile exists in images of `mkimage build -debug` alone. It is a file of
// the image, so such an image has another launch digest.
const debugFile = "/etc/attestbox/debug"

// Init is one boot.
type Init struct {
	sys  System
	log  *console
	deps deps
	root string // "" for the real root, else a folder (tests)

	cfg   *config.Config
	net   config.Network // of the file, or of the command line
	debug bool
	floor floor
	// printk is the kernel's console level as it was found.
	printk []byte

	rel      *release // nil before the verifier answered
	reported bool     // an outcome was sent
	opened   []wire.Hex32
	runner   runner // of the programs, once they run
	stuck    bool   // a step did not give up: leave alone what it may use
}

// deps are the larger parts that a boot uses; tests replace them.
type deps struct {
	Open       func() (platform.Platform, error)
	Launch     func(ctx context.Context, in *Init, p platform.Platform) (*release, error)
	Approve    func(ctx context.Context, in *Init, p platform.Platform, bundle wire.Hex32, version uint64) (*client.Approval, error)
	Unlock     UnlockFunc
	Verity     VerityFunc
	sameDevice func(node, target string) error
	empty      func(dir string) error
	chown      func(file string, uid, gid int) error
	network    func(ctx context.Context) (string, error)      // nil: the real one
	waitDevice func(ctx context.Context, device string) error // nil: the real one
	pause      func(time.Duration)
}

func realDeps() deps {
	return deps{
		Open:       sevguest.Open,
		Launch:     launch,
		Approve:    approve,
		Unlock:     unlockDisk,
		Verity:     openVerity,
		sameDevice: sameDevice,
		empty:      emptyInitramfs,
		chown:      os.Chown,
		pause:      time.Sleep,
	}
}

func (in *Init) path(p string) string { return filepath.Join(in.root, p) }

// Main is PID 1. It never returns: it ends in the real system's init, or with
// the machine off.
func Main() {
	os.Clearenv() // the kernel puts unknown words of its command line there
	in := &Init{sys: linux{}, deps: realDeps()}
	in.log = &console{w: os.Stderr, level: config.LogInfo, uptime: in.sys.Uptime}
	in.main()
}

func (in *Init) main() {
	// Go ends a program on these; PID 1 must not end.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGPIPE, unix.SIGUSR1, unix.SIGUSR2, unix.SIGPWR)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		for s := range signals {
			if s == unix.SIGTERM || s == unix.SIGINT || s == unix.SIGPWR {
				cancel()
			}
		}
	}()
	in.end(in.protected(func() error { return in.boot(ctx) }))
}

// protected turns a panic of ours into a failed boot.
func (in *Init) protected(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			in.log.line("panic: %v", r)
			in.log.line("%s", debug.Stack())
			err = errors.New("init made a mistake of its own, see the line above")
		}
	}()
	return f()
}

// errStopped is a clean stop of a Run image: every program ended, or SIGTERM.
var errStopped = errors.New("stopped")

// boot runs the steps. It returns errStopped or why the boot failed.
func (in *Init) boot(ctx context.Context) error {
	if err := in.sysrqOff(); err != nil {
		return err
	}
	if err := in.mountEarly(); err != nil {
		return err
	}
	in.openConsole()
	if err := in.configure(); err != nil {
		return err
	}
	bctx, cancel := context.WithTimeoutCause(ctx, time.Duration(in.cfg.Timeout),
		code.Wrap(code.BootTimeout, fmt.Errorf("not up within %s", time.Duration(in.cfg.Timeout))))
	defer cancel()
	err := in.bounded(bctx, in.bootUp)
	if err != nil || in.cfg.Mode != config.Run {
		return err
	}
	return in.runPrograms(ctx)
}

// stuckGrace is how long the steps have to give up after the boot's timeout.
const stuckGrace = 5 * time.Second

// bounded runs the steps until ctx ends. A call that knows no context must not
// keep a failed boot from its end.
func (in *Init) bounded(ctx context.Context, steps func(context.Context) error) error {
	done := make(chan error, 1)
	go func() { done <- in.protected(func() error { return steps(ctx) }) }()
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		select {
		case err = <-done:
		case <-time.After(stuckGrace):
			in.stuck = true
			return context.Cause(ctx)
		}
	}
	if _, coded := code.Of(err); err != nil && !coded && ctx.Err() != nil {
		return fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	return err
}

// bootUp is everything that the boot's timeout bounds.
func (in *Init) bootUp(ctx context.Context) error {
	if id := in.cfg.Instance(); !id.IsZero() { // for programs that ask later
		if err := instanceid.Write(in.path(instanceid.Path), id); err != nil {
			return fmt.Errorf("keeping the instance ID: %w", err)
		}
	}
	if err := in.prepare(ctx); err != nil {
		return err
	}
	if in.cfg.Mode == config.Stage1 {
		return in.bootBundle(ctx)
	}
	if err := in.kexecOff(); err != nil {
		return err
	}
	if len(in.cfg.Servers) > 0 {
		if err := in.attest(ctx); err != nil {
			return err
		}
	}
	if in.cfg.Mode == config.SwitchRoot {
		return in.bootRoot(ctx)
	}
	return in.bootPrograms(ctx)
}

// configure reads the measured configuration and judges the command line.
func (in *Init) configure() error {
	if _, err := os.Lstat(in.path(debugFile)); err == nil {
		in.debug = true
		in.log.line("WARNING: THIS IS A DEBUG IMAGE. It gives a shell to whoever holds the console. Never trust its measurement.")
	}
	line, err := os.ReadFile(in.path("/proc/cmdline"))
	if err != nil {
		return code.Wrap(code.BootParameter, err)
	}
	over, err := config.CheckCommandLine(string(line))
	if err != nil {
		return err
	}
	in.log.level = over.LogLevel
	f, err := os.Open(in.path(config.Path))
	if err != nil {
		return code.Wrap(code.ConfigBad, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, config.MaxSize+1))
	if err != nil {
		return code.Wrap(code.ConfigBad, err)
	}
	if in.cfg, err = config.Parse(data); err != nil {
		return fmt.Errorf("%s: %w", config.Path, err)
	}
	in.net = in.cfg.Network
	if over.Network != nil {
		in.net = *over.Network
	}
	in.quietKernel()
	return nil
}

// quietKernel keeps the kernel's own messages below "error" off the console,
// so that the timeline stays readable; attestbox.loglevel=debug shows them.
func (in *Init) quietKernel() {
	if in.log.level == config.LogDebug {
		return
	}
	was, err := os.ReadFile(in.path(printkFile))
	if err == nil && os.WriteFile(in.path(printkFile), []byte("4\n"), 0) == nil {
		in.printk = was
	}
}

// restorePrintk undoes quietKernel for the real system.
func (in *Init) restorePrintk() {
	if in.printk != nil {
		_ = os.WriteFile(in.path(printkFile), in.printk, 0)
	}
}

const printkFile = "/proc/sys/kernel/printk"

// openConsole points the standard descriptors at the console of devtmpfs,
// since an initramfs may come without the node.
func (in *Init) openConsole() {
	if in.root != "" {
		return
	}
	fd, err := unix.Open("/dev/console", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return // no console at all is a choice of the host's
	}
	defer unix.Close(fd)
	for std := range 3 {
		if fd == std {
			continue
		}
		_ = unix.Dup3(fd, std, 0)
	}
}
