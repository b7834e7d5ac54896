// Package nominate is the applet nominate: a running VM names the launch digest
// of its next image to its verifier, for itself alone. Whoever updated kernel,
// initramfs or command line computes the digest (mkimage measure); this only
// carries it, with what it covers, over the attested channel.
package nominate

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"strings"

	"attestbox/internal/applet"
	"attestbox/internal/client"
	"attestbox/internal/launchcfg"
	"attestbox/internal/platform"
	"attestbox/internal/platform/sevguest"
	"attestbox/internal/wire"
)

// Applet is `nominate`.
var Applet = applet.Applet{
	Name:    "nominate",
	Summary: "name this VM's next launch digest to the verifier, after an update",
	Run: func(ctx context.Context, env *applet.Env, args []string) error {
		return run(ctx, env, args, sevguest.Open)
	},
}

const maxCmdline = 64 << 10

func run(ctx context.Context, env *applet.Env, args []string, open func() (platform.Platform, error)) error {
	fs := env.Flags("-digest HEX -kernel FILE -initrd FILE -cmdline FILE -source TEXT [flags]",
		`nominate -digest "$(cat next/digest)" -kernel next/vmlinuz -initrd next/initrd -cmdline next/cmdline -source "linux-image 6.12.48-1"`)
	var from launchcfg.Flags
	digest := fs.String("digest", "", "the launch digest that the hardware will report, 96 `HEX` digits")
	kernel := fs.String("kernel", "", "the kernel that it covers, `FILE`")
	initrd := fs.String("initrd", "", "the initramfs that it covers, `FILE`")
	cmdline := fs.String("cmdline", "", "the command line that it covers, in `FILE`; a newline at its end does not count")
	source := fs.String("source", "", "`TEXT` for the owner: which update made it")
	from.Register(fs)
	if err := fs.Parse(args); err != nil {
		return err
	}
	n := &wire.Nominate{Digest: strings.ToLower(*digest), Source: *source}
	switch {
	case fs.NArg() > 0:
		return fs.Usage("unexpected argument %q", fs.Arg(0))
	case !wire.ValidDigest(n.Digest):
		return fs.Usage("-digest %.100q: want 96 hex digits", *digest)
	case *kernel == "" || *initrd == "" || *cmdline == "":
		return fs.Usage("-kernel, -initrd and -cmdline are required: a digest without them shows nothing to the owner")
	case !wire.ValidSource(n.Source):
		return fs.Usage("-source: want 1 to %d printable ASCII characters", wire.MaxSource)
	}
	var err error
	for _, f := range []struct {
		name string
		sum  *wire.Hex32
	}{{*kernel, &n.Kernel}, {*initrd, &n.Initrd}} {
		if *f.sum, err = hash(f.name); err != nil {
			return err
		}
	}
	text, err := applet.ReadFile(env, *cmdline, maxCmdline)
	if err != nil {
		return err
	}
	n.Cmdline = sha256.Sum256(bytes.TrimSuffix(text, []byte("\n")))
	cfg, ctx, cancel, err := from.Client(ctx, env)
	if err != nil {
		return err
	}
	defer cancel()
	if cfg.Platform, err = open(); err != nil {
		return err
	}
	defer cfg.Platform.Close()
	m, err := client.Maintain(ctx, cfg, wire.PurposeNominate)
	if err != nil {
		return launchcfg.Exit(err)
	}
	defer m.Close()
	allowed, err := m.Nominate(ctx, n)
	if err != nil {
		return launchcfg.Exit(err)
	}
	if allowed {
		fmt.Fprintln(env.Stdout, "allowed")
		return nil
	}
	fmt.Fprintln(env.Stdout, "pending")
	fmt.Fprintf(env.Stderr, "%s: it waits for the owner: verifier instance approve %s %s\n", env.Name, m.ID, n.Digest)
	return nil
}

func hash(name string) (sum wire.Hex32, err error) {
	f, err := os.Open(name)
	if err != nil {
		return sum, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return sum, fmt.Errorf("reading %q: %w", name, err)
	}
	return wire.Hex32(h.Sum(nil)), nil
}
