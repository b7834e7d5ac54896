package initramfs

import (
	"context"
	"io"

	"attestbox/initramfs/config"
	"attestbox/internal/code"
	"attestbox/internal/wire"
)

// What init's steps offer to a distribution's own initramfs.

func stock(w io.Writer) *Init {
	in := &Init{sys: linux{}, deps: realDeps()}
	in.log = &console{w: w, level: config.LogInfo, uptime: in.sys.Uptime}
	return in
}

// SysrqOff is init's first step.
func SysrqOff() error { return stock(io.Discard).sysrqOff() }

// Network brings up loopback and the configured interface, and says how.
func Network(ctx context.Context, n config.Network) (string, error) {
	in := stock(io.Discard)
	in.net = n
	return in.network(ctx)
}

// WaitDevice waits for a block device.
func WaitDevice(ctx context.Context, device string) error {
	return code.Wrap(code.BootMedia, stock(io.Discard).waitDevice(ctx, device))
}

// RaiseClock sets the clock forward to t, in Unix seconds, never back.
func RaiseClock(w io.Writer, t int64) error { return stock(w).raiseClock(t) }

// Learn takes the time and policy version of an authenticated answer, as init
// does: the clock and the floor file.
func Learn(w io.Writer, t int64, policy uint64) error { return stock(w).learn(t, policy) }

// SameDevice compares a block device node with the file system on target.
func SameDevice(node, target string) error {
	return code.Wrap(code.BootMount, sameDevice(node, target))
}

// Random waits until the kernel's generator is seeded.
func Random(ctx context.Context) error {
	return code.Wrap(code.BootRandom, within(ctx, linux{}.Random))
}

// WriteSecrets leaves the named secrets of a release to the real system, as
// init does.
func WriteSecrets(p *wire.Payload) error {
	return code.Wrap(code.BootRelease, stock(io.Discard).writeSecrets(p))
}
