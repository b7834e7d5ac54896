package initramfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"attestbox/initramfs/config"
	"attestbox/internal/bundle"
	"attestbox/internal/client"
	"attestbox/internal/code"
	"attestbox/internal/platform"
	"attestbox/internal/wire"
)

// loaded is a bundle in memory that can no longer be changed. Its owner closes
// it.
type loaded struct {
	header         bundle.Header
	digest         wire.Hex32
	kernel, initrd *os.File
	cmdline        string
}

func (l *loaded) close() {
	l.kernel.Close()
	l.initrd.Close()
}

// bootBundle is what a stage 1 does in place of opening a disk: read and verify
// the bundle, ask the verifier, and start it. It returns only on error.
func (in *Init) bootBundle(ctx context.Context) error {
	b := in.cfg.Bundle
	if err := in.wait(ctx, b.Device); err != nil {
		return err
	}
	l, err := readBundle(in.path(b.Device), b)
	if err != nil {
		return fmt.Errorf("bundle on %s: %w", b.Device, err)
	}
	defer l.close()
	in.log.step("bundle", "%s version %d, %s, kernel %s", l.header.Name, l.header.Version, l.digest, l.header.KernelRelease)
	p, err := in.deps.Open()
	if err != nil {
		return err
	}
	a, err := in.deps.Approve(ctx, in, p, l.digest, l.header.Version)
	p.Close()
	if err != nil {
		return err
	}
	in.log.step("attest", "approved by %s (exchange %s)", a.Server, a.Exchange)
	if err := in.learn(a.Time.Unix(), a.MinPolicyVersion); err != nil {
		return err
	}
	if err := checkDates(&l.header, a.Time); err != nil {
		return err
	}
	if err := in.sys.LoadKernel(l.kernel, l.initrd, l.cmdline); err != nil {
		return code.Wrap(code.BootBundle, fmt.Errorf("loading the bundle's kernel: %w", err))
	}
	// As in bootRoot: a boot that was given up starts nothing.
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	in.log.step("kexec", "starting %s version %d", l.header.Name, l.header.Version)
	in.drain()
	return code.Wrap(code.BootBundle, fmt.Errorf("starting the bundle's kernel: %w", in.sys.StartKernel()))
}

func approve(ctx context.Context, in *Init, p platform.Platform, digest wire.Hex32, version uint64) (*client.Approval, error) {
	policy, err := in.policy()
	if err != nil {
		return nil, err
	}
	return client.Approve(ctx, in.client(policy, p), digest, version)
}

// BootBundle is bootBundle for an initramfs of somebody else's, which has
// brought up devices and the network. At any failure it ends the machine as init
// does, and returns only where it cannot; with back it returns why instead.
func BootBundle(ctx context.Context, w io.Writer, cfg *config.Config, back bool) error {
	return stock(w).bundleAlone(ctx, cfg, back)
}

// PowerOff is how BootBundle ends, for a failure before it.
func PowerOff(w io.Writer, err error) { stock(w).finish(err) }

func (in *Init) bundleAlone(ctx context.Context, cfg *config.Config, back bool) error {
	in.cfg = cfg
	ctx, cancel := context.WithTimeoutCause(ctx, time.Duration(cfg.Timeout),
		code.Wrap(code.BootTimeout, fmt.Errorf("no bundle started within %s", time.Duration(cfg.Timeout))))
	defer cancel()
	err := in.bounded(ctx, func(ctx context.Context) error {
		if err := within(ctx, in.sys.Random); err != nil {
			return code.Wrap(code.BootRandom, err)
		}
		if err := in.raiseClock(cfg.MinTime); err != nil {
			return err
		}
		return in.bootBundle(ctx)
	})
	if !back {
		in.finish(err)
	}
	return err
}

// ReadBundle verifies the bundle on a device or in a file as a stage 1 with this
// configuration does, and describes it. It starts nothing.
func ReadBundle(name string, b *config.Bundle) (bundle.Header, wire.Hex32, error) {
	l, err := readBundle(name, b)
	if err != nil {
		return bundle.Header{}, wire.Hex32{}, fmt.Errorf("bundle on %s: %w", name, err)
	}
	l.close()
	return l.header, l.digest, nil
}

// readBundle reads the source once, from its beginning. What it returns is what
// was signed: the host may change the source as it likes.
func readBundle(name string, b *config.Bundle) (_ *loaded, err error) {
	src, err := os.Open(name)
	if err != nil {
		return nil, code.Wrap(code.BootBundle, err)
	}
	defer src.Close()
	r, err := bundle.Open(src, b.Owner())
	if err != nil {
		return nil, bundleError(err)
	}
	l := &loaded{header: r.Header(), digest: r.Digest()}
	if err := checkHeader(&l.header, b); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	if l.kernel, err = sealedPart(r, "kernel"); err != nil {
		return nil, err
	}
	if l.initrd, err = sealedPart(r, "initramfs"); err != nil {
		return nil, err
	}
	var line strings.Builder
	if err := r.Next(&line); err != nil {
		return nil, bundleError(fmt.Errorf("its command line: %w", err))
	}
	l.cmdline = line.String()
	// The bundle's init would refuse it too; here it costs no approval.
	if err := config.CheckBundleCommandLine(l.cmdline); err != nil {
		return nil, fmt.Errorf("its command line: %w", err)
	}
	return l, nil
}

// checkHeader compares what was signed with what this image may start.
func checkHeader(h *bundle.Header, b *config.Bundle) error {
	switch {
	case h.Name != b.Name:
		return code.Wrap(code.BundleVersion, fmt.Errorf("it is named %q, this image starts %q", h.Name, b.Name))
	case h.Version < b.MinVersion:
		return code.Wrap(code.BundleVersion, fmt.Errorf("version %d is below this image's minimum, %d", h.Version, b.MinVersion))
	}
	return nil
}

// checkDates judges by the verifier's clock: the one here is the host's.
func checkDates(h *bundle.Header, now time.Time) error {
	if t := now.Unix(); t < h.NotBefore || h.NotAfter != 0 && t > h.NotAfter {
		return code.Wrap(code.BundleVersion, fmt.Errorf("the bundle is not valid at the verifier's time, %s", now.UTC().Format(time.RFC3339)))
	}
	return nil
}

func bundleError(err error) error {
	switch {
	case errors.Is(err, bundle.ErrFormat):
		return code.Wrap(code.BundleMalformed, err)
	case errors.Is(err, bundle.ErrSignature), errors.Is(err, bundle.ErrContent):
		return code.Wrap(code.BundleSignature, err)
	}
	return code.Wrap(code.BootBundle, err)
}

// seals make a memory file one that nobody can change any more, not even us.
const seals = unix.F_SEAL_WRITE | unix.F_SEAL_GROW | unix.F_SEAL_SHRINK | unix.F_SEAL_SEAL

// sealedPart copies the next part into memory, hashing what it copies, and seals
// it: what was verified is what the kernel will load.
func sealedPart(r *bundle.Reader, what string) (_ *os.File, err error) {
	fd, err := unix.MemfdCreate(what, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, code.Wrap(code.BootBundle, fmt.Errorf("memory for its %s: %w", what, err))
	}
	f := os.NewFile(uintptr(fd), what)
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	if err := r.Next(f); err != nil {
		return nil, bundleError(fmt.Errorf("its %s: %w", what, err))
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		return nil, code.Wrap(code.BootBundle, fmt.Errorf("sealing its %s: %w", what, err))
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, code.Wrap(code.BootBundle, err)
	}
	return f, nil
}
