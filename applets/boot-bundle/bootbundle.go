// Package bootbundle is the applet boot-bundle: what a stage 1 does after the
// network is up, for an initramfs that is not mkimage's. init does the same by
// itself in mode "bundle". See docs/bundle.md; the work is in package initramfs.
package bootbundle

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"attestbox/initramfs"
	"attestbox/initramfs/config"
	"attestbox/internal/applet"
	"attestbox/internal/client"
	"attestbox/internal/code"
	"attestbox/internal/launchcfg"
)

// Applet is boot-bundle.
var Applet = applet.Applet{
	Name:    "boot-bundle",
	Summary: "verify a signed bundle, have it approved, and start its kernel",
	Run:     run,
}

func run(ctx context.Context, env *applet.Env, args []string) error {
	fs := env.Flags("[-config FILE] [-return | -check [-from FILE]]", "boot-bundle -check")
	name := fs.String("config", config.Path, "configuration of a stage 1 (mode \"bundle\"), `FILE`")
	check := fs.Bool("check", false, "verify the bundle and describe it; ask nobody, start nothing")
	from := fs.String("from", "", "with -check: read the bundle from this `FILE` in place of the configured device")
	back := fs.Bool("return", false, "exit at a failure, and leave it to the caller to power off: whatever runs then holds no secret, and is not what the owner signed")
	if err := fs.Parse(args); err != nil {
		return err
	}
	switch {
	case fs.NArg() > 0:
		return fs.Usage("unexpected argument %q", fs.Arg(0))
	case *back && *check:
		return fs.Usage("-return and -check exclude each other")
	case *from != "" && !*check:
		return fs.Usage("-from goes with -check: what is started comes from the configured device")
	}
	cfg, err := configuration(env, *name)
	if *check && err == nil {
		if *from == "" {
			*from = cfg.Bundle.Device
		}
		h, digest, err := initramfs.ReadBundle(*from, cfg.Bundle)
		if err != nil {
			return exit(err)
		}
		_, err = fmt.Fprintf(env.Stdout, "%s version %d, kernel %s\n%s\n", h.Name, h.Version, h.KernelRelease, digest)
		return err
	}
	outside := inInitramfs()
	switch {
	case err != nil:
		if !*check && !*back && outside == nil {
			initramfs.PowerOff(env.Stderr, err)
		}
		return err
	case outside != nil:
		return outside
	}
	return exit(initramfs.BootBundle(ctx, env.Stderr, cfg, *back))
}

// configuration reads that of a stage 1.
func configuration(env *applet.Env, name string) (*config.Config, error) {
	text, err := applet.ReadFile(env, name, config.MaxSize)
	if err != nil {
		return nil, applet.Fail(code.ConfigBad, fmt.Errorf("reading the configuration: %w", err))
	}
	cfg, err := config.Parse(text)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%q: %w", name, err)
	case cfg.Mode != config.Stage1:
		return nil, applet.Fail(code.ConfigBad, fmt.Errorf("%q: mode is %q, not that of a stage 1, %q", name, cfg.Mode, config.Stage1))
	}
	return cfg, nil
}

// inInitramfs refuses to start another kernel under a system whose disks are
// mounted.
func inInitramfs() error {
	var st unix.Statfs_t
	if err := unix.Statfs("/", &st); err != nil {
		return err
	}
	if st.Type != unix.TMPFS_MAGIC && st.Type != unix.RAMFS_MAGIC || os.Getuid() != 0 {
		return applet.WithHint(errors.New("this is no initramfs, or not root: a kernel is started from a stage 1 alone"), "-check verifies a bundle anywhere")
	}
	return nil
}

// exit gives refusals their exit code.
func exit(err error) error {
	c, _ := code.Of(err)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, client.ErrRefused), errors.Is(err, client.ErrLater), errors.Is(err, client.ErrUnreachable):
		return launchcfg.Exit(err)
	case c == code.BundleMalformed, c == code.BundleSignature, c == code.BundleVersion, c == code.BootOverride, c == code.BootParameter:
		return applet.WithHint(applet.Refused(c, err), "attestbox explain "+string(c))
	}
	return err
}
