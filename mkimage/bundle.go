package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/renameio/v2"

	"attestbox/initramfs/config"
	"attestbox/internal/applet"
	"attestbox/internal/bundle"
	"attestbox/internal/code"
	"attestbox/internal/image"
	"attestbox/internal/wire"
)

const (
	bundleExample = "mkimage bundle sign -key /media/usb/bundle.key -name web -version 7 -image out/web -out web-7.bundle"
	verifyExample = "mkimage bundle verify -key bundle.pub web-7.bundle"
)

func runBundle(_ context.Context, env *applet.Env, args []string) error {
	verbs := map[string]func(*applet.Env, []string) error{"sign": bundleSign, "verify": bundleVerify}
	if len(args) == 0 || verbs[args[0]] == nil {
		return applet.WithHint(applet.Usage("want sign or verify"), bundleExample)
	}
	env.Name += " " + args[0]
	return verbs[args[0]](env, args[1:])
}

// bundleFlags is the command line of `mkimage bundle sign`.
type bundleFlags struct {
	key, newKey, name       string
	passphrase, identity    string
	recipient               string
	version                 uint64
	image                   string
	kernel, initrd, cmdline string
	notBefore, notAfter     string
	out                     string
}

func bundleSign(env *applet.Env, args []string) error {
	var f bundleFlags
	fs := env.Flags("{-key | -new-key} FILE -name NAME -version N {-image DIR | -kernel FILE -initrd FILE -cmdline FILE} -out FILE", bundleExample)
	fs.StringVar(&f.key, "key", "", "the owner's bundle key `file`, as -new-key made it, or an Ed25519 key in PEM; - is stdin")
	fs.StringVar(&f.newKey, "new-key", "", "make a bundle key and write it to this new `file`, encrypted as the next flags say; without them in PEM, and on tmpfs only")
	fs.StringVar(&f.passphrase, "passphrase", "", "`file` with the passphrase of the bundle key; - is stdin")
	fs.StringVar(&f.recipient, "recipient", "", "with -new-key: encrypt it to the public key in this `file` (verifier backup-key)")
	fs.StringVar(&f.identity, "identity", "", "with -key: `file` with the private key that it is encrypted to")
	fs.StringVar(&f.name, "name", "", "`NAME` of what it is for: a stage 1 starts bundles of one name alone")
	fs.Uint64Var(&f.version, "version", 0, "version, 1 or more: each bundle's is above the one's before")
	fs.StringVar(&f.image, "image", "", "image `folder` of mkimage build")
	fs.StringVar(&f.kernel, "kernel", "", "kernel `file` (bzImage), in place of -image")
	fs.StringVar(&f.initrd, "initrd", "", "initramfs `file`")
	fs.StringVar(&f.cmdline, "cmdline", "", "`file` with the command line; the required parameters are added to it")
	fs.StringVar(&f.notBefore, "not-before", "", "do not start it before this `time`, RFC 3339, by the verifier's clock (default: no bound)")
	fs.StringVar(&f.notAfter, "not-after", "", "nor after this `time` (default: no bound)")
	fs.StringVar(&f.out, "out", "", "bundle `file` to write")
	if err := fs.Parse(args); err != nil {
		return err
	}
	switch {
	case fs.NArg() > 0:
		return fs.Usage("unexpected argument %q", fs.Arg(0))
	case (f.key == "") == (f.newKey == ""):
		return fs.Usage("one of -key and -new-key is required")
	case f.newKey == "" && f.recipient != "" || f.newKey != "" && f.identity != "" || f.passphrase != "" && f.recipient+f.identity != "":
		return fs.Usage("one of -passphrase, -recipient (with -new-key) and -identity (with -key)")
	case f.key == "-" && f.passphrase == "-":
		return fs.Usage("-key and -passphrase cannot both be stdin")
	case !bundle.ValidName(f.name):
		return fs.Usage("-name %.40q: want a lower-case letter, then letters, digits, - and _, 32 in all", f.name)
	case !wire.ValidBundleVersion(f.version):
		return fs.Usage("-version %d: want 1 or more", f.version)
	case f.out == "":
		return fs.Usage("-out is missing")
	case (f.image != "") == (f.kernel != "" || f.initrd != "" || f.cmdline != ""):
		return fs.Usage("either -image, or -kernel, -initrd and -cmdline")
	case f.image == "" && (f.kernel == "" || f.initrd == "" || f.cmdline == ""):
		return fs.Usage("-kernel, -initrd and -cmdline go together")
	}
	h := &bundle.Header{Name: f.name, Version: f.version}
	for _, d := range []struct {
		flag, text string
		to         *int64
	}{{"-not-before", f.notBefore, &h.NotBefore}, {"-not-after", f.notAfter, &h.NotAfter}} {
		if d.text == "" {
			continue
		}
		t, err := time.Parse(time.RFC3339, d.text)
		if err != nil || t.Unix() <= 0 {
			return fs.Usage("%s %.40q: want a time such as 2026-01-31T12:00:00Z", d.flag, d.text)
		}
		*d.to = t.Unix()
	}
	parts, err := f.parts()
	if err != nil {
		return err
	}
	release, ok := image.KernelRelease(parts[0])
	if !ok {
		return applet.Refused(code.ImageRefused, errors.New("the kernel is no bzImage: kexec_file_load takes no other kind"))
	}
	h.KernelRelease, h.Kernel, h.Initrd, h.Cmdline = release, bundle.PartOf(parts[0]), bundle.PartOf(parts[1]), bundle.PartOf(parts[2])
	key, err := f.signer(env)
	if err != nil {
		return err
	}
	defer clear(key)
	return f.write(env, key, h, parts)
}

// parts reads what is signed: the kernel, the initramfs, the command line.
func (f *bundleFlags) parts() (parts [3][]byte, err error) {
	names := [3]string{f.kernel, f.initrd, f.cmdline}
	if f.image != "" {
		r, err := image.Inspect(f.image, nil)
		switch {
		case err != nil && !errors.Is(err, image.ErrNoFirmware): // its launch digest is no matter here
			return parts, err
		case len(r.Mismatches) > 0:
			return parts, applet.WithHint(applet.Refused(code.ImageDigest, fmt.Errorf("image %q differs from its record: %s", f.image, r.Mismatches[0])), "build it again")
		}
		names = [3]string{filepath.Join(f.image, image.KernelName), filepath.Join(f.image, image.InitrdName), filepath.Join(f.image, image.CmdlineName)}
	}
	for i, max := range []int64{bundle.MaxKernel, image.MaxInitrd, 64 << 10} {
		if parts[i], err = applet.ReadFile(nil, names[i], max); err != nil {
			return parts, err
		}
	}
	parts[2] = bytes.TrimSuffix(parts[2], []byte("\n"))
	line, err := image.Cmdline(string(parts[2]))
	switch {
	case err == nil:
		parts[2] = []byte(line)
	case config.CheckBundleCommandLine(string(parts[2])) != nil: // nor a distribution's
		return parts, classify(err)
	}
	// An initramfs that mkimage did not make is the owner's business.
	switch r, err := image.InspectInitrd(parts[1]); {
	case err != nil:
	case r.Debug:
		return parts, applet.Refused(code.ImageRefused, errors.New("the initramfs has a debug shell and must never be trusted"))
	case r.Config != nil && r.Config.Mode == config.Stage1:
		return parts, applet.Refused(code.ImageRefused, errors.New("this is a stage 1 itself: bundle the image that it is to start"))
	}
	return parts, nil
}

// write writes the bundle and prints what verifies it.
func (f *bundleFlags) write(env *applet.Env, key ed25519.PrivateKey, h *bundle.Header, parts [3][]byte) error {
	head, err := bundle.Sign(key, h)
	if err != nil {
		return fmt.Errorf("signing the bundle: %w", err)
	}
	out, err := renameio.NewPendingFile(f.out, renameio.WithPermissions(0o644))
	if err != nil {
		return fmt.Errorf("writing the bundle: %w", err)
	}
	defer out.Cleanup()
	size := 0
	for _, b := range [][]byte{head, parts[0], parts[1], parts[2]} {
		if _, err := out.Write(b); err != nil {
			return fmt.Errorf("writing the bundle: %w", err)
		}
		size += len(b)
	}
	fill := -size & (bundle.Align - 1)
	if _, err := out.Write(make([]byte, fill)); err != nil {
		return fmt.Errorf("writing the bundle: %w", err)
	}
	if err := out.CloseAtomicallyReplace(); err != nil {
		return fmt.Errorf("writing the bundle: %w", err)
	}
	public := key.Public().(ed25519.PublicKey)
	fmt.Fprintf(env.Stderr, "%s: %s version %d, kernel %s, %d bytes, signed by key %x\n", env.Name, h.Name, h.Version, h.KernelRelease, size+fill, []byte(public))
	r, err := bundle.Open(bytes.NewReader(head), public)
	if err != nil {
		return fmt.Errorf("reading the bundle back: %w", err)
	}
	_, err = fmt.Fprintln(env.Stdout, r.Digest())
	return err
}

func bundleVerify(env *applet.Env, args []string) error {
	fs := env.Flags("-key HEX|FILE [-min N] FILE", verifyExample)
	keyName := fs.String("key", "", "the owner's public bundle key: 64 `HEX` digits, or a PEM file (openssl pkey -pubout)")
	min := fs.Uint64("min", 0, "refuse a version below `N`")
	if err := fs.Parse(args); err != nil {
		return err
	}
	switch {
	case fs.NArg() != 1:
		return fs.Usage("want one bundle")
	case *keyName == "":
		return fs.Usage("-key is missing")
	}
	key, err := publicBundleKey(*keyName)
	if err != nil {
		return err
	}
	f, err := os.Open(fs.Arg(0))
	if err != nil {
		return err
	}
	defer f.Close()
	h, digest, line, err := verifyBundle(f, key)
	if err != nil {
		return bundleError(fs.Arg(0), err)
	}
	if h.Version < *min {
		return applet.Refused(code.BundleVersion, fmt.Errorf("%q: version %d is below %d", fs.Arg(0), h.Version, *min))
	}
	p := func(format string, a ...any) { fmt.Fprintf(env.Stdout, format+"\n", a...) }
	p("name      %s\nversion   %d\nkernel    %s, %d bytes, sha256 %s\ninitrd    %d bytes, sha256 %s\ncmdline   %s",
		h.Name, h.Version, h.KernelRelease, h.Kernel.Size, h.Kernel.SHA256, h.Initrd.Size, h.Initrd.SHA256, printable(line))
	for _, d := range []struct {
		what string
		t    int64
	}{{"not before", h.NotBefore}, {"not after", h.NotAfter}} {
		if d.t != 0 {
			p("%s %s", d.what, time.Unix(d.t, 0).UTC().Format(time.RFC3339))
		}
	}
	p("%s", digest)
	return nil
}

// verifyBundle reads a whole bundle file, with nothing behind the bundle.
func verifyBundle(f io.Reader, key ed25519.PublicKey) (h bundle.Header, digest wire.Hex32, line string, err error) {
	if h, digest, line, err = readBundle(f, key); err != nil {
		return h, digest, "", err
	}
	rest, err := io.ReadAll(io.LimitReader(f, bundle.Align))
	if err != nil {
		return h, digest, "", err
	}
	if len(rest) >= bundle.Align || len(bytes.Trim(rest, "\x00")) > 0 {
		return h, digest, "", fmt.Errorf("%w: more follows its command line", bundle.ErrFormat)
	}
	return h, digest, line, nil
}

// readBundle reads and verifies a bundle, and as stage 1 nothing behind it: it may
// lie on a larger disk.
func readBundle(f io.Reader, key ed25519.PublicKey) (h bundle.Header, digest wire.Hex32, line string, err error) {
	r, err := bundle.Open(f, key)
	if err != nil {
		return h, digest, "", err
	}
	var cmdline strings.Builder
	for _, to := range []io.Writer{io.Discard, io.Discard, &cmdline} {
		if err := r.Next(to); err != nil {
			return h, digest, "", err
		}
	}
	return r.Header(), r.Digest(), cmdline.String(), nil
}

func bundleError(name string, err error) error {
	err = fmt.Errorf("bundle %q: %w", name, err)
	switch {
	case errors.Is(err, bundle.ErrFormat):
		return applet.Refused(code.BundleMalformed, err)
	case errors.Is(err, bundle.ErrSignature), errors.Is(err, bundle.ErrContent):
		return applet.WithHint(applet.Refused(code.BundleSignature, err), "do not start it; the key is the one that mkimage bundle sign printed")
	}
	return err
}

// attachedBundle looks, before a stage 1 is launched, whether the disk that it
// reads its bundle from is one that it will start. b is nil for other images.
func attachedBundle(b *config.Bundle, disks []string) error {
	if b == nil {
		return nil
	}
	name, ok := strings.CutPrefix(b.Device, "/dev/vd")
	if !ok || len(name) != 1 {
		return nil // no disk of ours, or a partition
	}
	i := int(name[0] - 'a')
	if i >= len(disks) {
		return applet.WithHint(applet.Usage("the stage 1 reads its bundle from %s, and there are %d disks", b.Device, len(disks)),
			"the bundle is a disk, -disk-readonly FILE; those come after the writable ones")
	}
	f, err := os.Open(disks[i])
	if err != nil {
		return err
	}
	defer f.Close()
	h, _, _, err := readBundle(f, b.Owner())
	if err != nil {
		return bundleError(disks[i], err)
	}
	if h.Name != b.Name || h.Version < b.MinVersion {
		return applet.Refused(code.BundleVersion, fmt.Errorf("bundle %q: it is %s version %d, the stage 1 starts %s from version %d on", disks[i], h.Name, h.Version, b.Name, b.MinVersion))
	}
	return nil
}
