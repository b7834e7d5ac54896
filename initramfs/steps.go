package initramfs

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"attestbox/initramfs/config"
	"attestbox/internal/bootcount"
	"attestbox/internal/client"
	"attestbox/internal/code"
	"attestbox/internal/platform"
	"attestbox/internal/secret"
	"attestbox/internal/unlock"
	"attestbox/internal/wire"
)

// prepare is what every boot needs: modules, randomness, clock, network.
func (in *Init) prepare(ctx context.Context) error {
	n, err := in.loadModules()
	if err != nil {
		return err
	}
	in.log.step("modules", "%d loaded", n)
	if err := in.mount(configfsMount); err != nil {
		in.log.debug("mount", "%v", err)
	}
	if err := in.rootsAlone(); err != nil {
		return err
	}
	if err := within(ctx, in.sys.Random); err != nil {
		return code.Wrap(code.BootRandom, fmt.Errorf("waiting for the kernel's random number generator: %w", err))
	}
	if err := in.raiseClock(in.cfg.MinTime); err != nil {
		return err
	}
	up := in.network
	if in.deps.network != nil {
		up = in.deps.network
	}
	text, err := up(ctx)
	if err != nil {
		return err
	}
	in.log.step("network", "%s", text)
	return nil
}

// release is a client.Release as far as init uses it.
type release struct {
	payload  *wire.Payload
	id       wire.Hex32 // of this instance
	exchange string
	from     string
	report   func(ctx context.Context, result string, reason code.Code, headers []wire.Hex32) (*wire.Ack, error)
	close    func()
}

// client is whom to ask.
func (in *Init) client(policy *x509.Certificate, p platform.Platform) client.Config {
	return client.Config{
		Servers: in.cfg.Servers, Pins: in.cfg.Pins, Policy: policy, Platform: p, Instance: in.cfg.Instance(),
		Logf: func(format string, args ...any) { in.log.step("attest", format, args...) },
	}
}

func launch(ctx context.Context, in *Init, p platform.Platform) (*release, error) {
	policy, err := in.policy()
	if err != nil {
		return nil, err
	}
	r, err := client.Launch(ctx, in.client(policy, p))
	if err != nil {
		return nil, err
	}
	return &release{payload: r.Payload, id: r.ID, exchange: r.Exchange.String(), from: r.Server, report: r.Report, close: r.Close}, nil
}

// attest asks the verifier. From here on in.rel has an owner: end.
func (in *Init) attest(ctx context.Context) error {
	p, err := in.deps.Open()
	if err != nil {
		return err
	}
	defer p.Close()
	in.rel, err = in.deps.Launch(ctx, in, p)
	if err != nil {
		return err
	}
	in.log.step("attest", "released by %s, boot %d (exchange %s)", in.rel.from, in.rel.payload.Boot, in.rel.exchange)
	return in.learn(in.rel.payload.Time, in.rel.payload.MinPolicyVersion)
}

func unlockDisk(ctx context.Context, device, name string, record *wire.HeaderRecord, key *secret.Bytes) (*Unlocked, error) {
	// Unlock wipes what it is given; a second try may need the key again.
	r, err := unlock.Unlock(ctx, device, name, record, secret.Copy(key.Bytes()))
	if err != nil {
		return nil, err
	}
	return &Unlocked{Node: r.Node, HeaderDigest: r.HeaderDigest}, nil
}

// openDisk is the steps unlock, mount and counter.
func (in *Init) openDisk(ctx context.Context, device, name, target, fstype string, options []string) error {
	u, err := in.unlock(ctx, device, name, in.rel.payload)
	if err != nil {
		return err
	}
	in.rel.payload.DiskKey.Zero()
	in.rel.payload.PreviousDiskKey.Zero()
	in.opened = append(in.opened, u.HeaderDigest)
	in.log.step("unlock", "%s is %s, header %x", device, u.Node, u.HeaderDigest[:8])
	if err := in.mountDisk(u, target, fstype, options); err != nil {
		return err
	}
	in.log.step("mount", "%s (%s) on %s", u.Node, fstype, target)
	return in.count(target, fstype)
}

// count compares the boot counter of a mounted volume with the release and
// writes this boot's number, before anybody is told that the volume is open.
func (in *Init) count(target, fstype string) error {
	if slices.Contains(config.ReadOnlyFSTypes, fstype) {
		in.log.step("counter", "none: nothing on %s changes, and another image of it has another header", fstype)
		return nil
	}
	p := in.rel.payload
	found, err := bootcount.Advance(in.path(target), bootcount.Boot{ID: in.rel.id, Number: p.Boot, Committed: p.Committed})
	if err != nil {
		return err
	}
	in.log.step("counter", "found %d, wrote %d", found, p.Boot)
	return nil
}

// bootRoot opens the root disk, reports that, and switches to it.
func (in *Init) bootRoot(ctx context.Context) error {
	r := in.cfg.Root
	if r.Verity != nil {
		if err := in.openVerityRoot(ctx); err != nil {
			return err
		}
	} else if err := in.openDisk(ctx, r.Device, r.Name, sysroot, r.FSType, r.Options); err != nil {
		return err
	}
	if err := in.checkRoot(r.Init); err != nil {
		return err
	}
	if err := in.writeSecrets(in.rel.payload); err != nil {
		return fmt.Errorf("writing secrets: %w", err)
	}
	if err := in.outcome(ctx); err != nil {
		return err
	}
	// A step that came back too late may already be counted as stuck, with the
	// failure announced: then nothing is started any more.
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	in.wipe()
	in.log.step("switch-root", "starting %s", r.Init)
	in.restorePrintk()
	return in.switchRoot(r.Init)
}

// outcome tells the verifier that the release was used, and insists on its
// acknowledgement: without it nothing is started.
func (in *Init) outcome(ctx context.Context) error {
	// Even if no acknowledgement comes, this may have been recorded: no other
	// outcome of this boot may follow.
	in.reported = true
	ack, err := in.rel.report(ctx, wire.ResultOpened, "", in.opened)
	if err != nil {
		return fmt.Errorf("reporting the outcome: %w", codeIfNone(code.OutcomeUnsent, err))
	}
	in.log.step("outcome", "boot %d acknowledged", ack.Boot)
	return in.learn(ack.Time, ack.MinPolicyVersion)
}

func codeIfNone(c code.Code, err error) error {
	if _, ok := code.Of(err); ok {
		return err
	}
	return code.Wrap(c, err)
}

// wipe zeroes every secret that init holds. Nothing is released after it.
func (in *Init) wipe() {
	if in.rel != nil {
		in.rel.close()
	}
}

// failedWait bounds the report of a failed boot.
const failedWait = 10 * time.Second

// end is the last thing that happens in a boot which did not switch to a real
// system: the line, the report, wiping, power off. It never returns.
func (in *Init) end(err error) {
	in.finish(err)
	for {
		select {} // the machine is going down, or cannot
	}
}

func (in *Init) finish(err error) {
	stopped := err == nil || errors.Is(err, errStopped)
	if stopped {
		in.log.line("stopped, powering off")
	} else {
		in.failureLine(err)
	}
	if !in.stuck {
		if !stopped {
			in.reportFailure(err)
		}
		in.wipe()
	}
	if !stopped && in.debug {
		in.debugShell()
	}
	// A dying disk can hold sync up for ever.
	ctx, cancel := context.WithTimeout(context.Background(), failedWait)
	_ = within(ctx, func() error { in.sys.Sync(); return nil })
	cancel()
	if !stopped && in.cfg != nil && in.cfg.OnFailure.Reboot {
		in.log.line("rebooting in %s", in.cfg.OnFailure.Delay)
		in.drain()
		in.deps.pause(in.cfg.OnFailure.Delay)
		if err := in.sys.Restart(); err != nil {
			in.log.line("rebooting: %v", err)
		}
	}
	in.drain()
	if err := in.sys.PowerOff(); err != nil {
		in.log.line("powering off: %v", err)
	}
}

// reportFailure tells the verifier why a boot failed after a release, so that
// its owner sees more than an unfinished boot. Best effort.
func (in *Init) reportFailure(err error) {
	if in.rel == nil || in.reported {
		return
	}
	c, ok := code.Of(err)
	if !ok {
		c = code.Failed
	}
	ctx, cancel := context.WithTimeout(context.Background(), failedWait)
	defer cancel()
	if _, err := in.rel.report(ctx, wire.ResultFailed, c, in.opened); err != nil {
		in.log.debug("outcome", "%v", err)
	}
}

// drain waits until the console has sent what was written to it.
func (in *Init) drain() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_ = within(ctx, func() error { return unix.IoctlSetInt(2, unix.TCSBRK, 1) })
}
