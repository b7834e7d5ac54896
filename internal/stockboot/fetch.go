package stockboot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"attestbox/initramfs"
	"attestbox/initramfs/config"
	"attestbox/internal/applet"
	"attestbox/internal/bootcount"
	"attestbox/internal/client"
	"attestbox/internal/code"
	"attestbox/internal/instanceid"
	"attestbox/internal/luks"
	"attestbox/internal/platform"
	"attestbox/internal/secret"
	"attestbox/internal/unlock"
	"attestbox/internal/wire"
)

// Boot is one boot of a distribution's initramfs.
type Boot struct {
	Kind   string         // config.Dracut or config.InitramfsTools
	Config *config.Config // of mode switch-root
	Client client.Config  // servers and pins of Config; Instance is set from it, Platform opened by Open
	Open   func() (platform.Platform, error)
	Log    io.Writer // lines for the console
	Dir    string    // between Fetch and Finish

	host host
}

// host is what a boot touches of the machine; tests replace it.
type host interface {
	CommandLine() (string, error)
	SysrqOff() error
	Credentials() ([]string, error)
	Random(ctx context.Context) error
	Instance(id wire.Hex32) error
	Network(ctx context.Context, n config.Network) (string, error)
	WaitDevice(ctx context.Context, device string) error
	Learn(w io.Writer, t int64, policy uint64) error
	Header(ctx context.Context, device string, record *wire.HeaderRecord, key *secret.Bytes) ([]byte, error)
	Secrets(p *wire.Payload) error
	CheckMapping(name, device string, record *wire.HeaderRecord) error
	SameDevice(node, target string) error
	Counter(root string, b bootcount.Boot) (uint64, error)
}

func (b *Boot) machine() host {
	if b.host != nil {
		return b.host
	}
	return machine{}
}

func (b *Boot) say(format string, args ...any) {
	fmt.Fprintf(b.Log, "attestbox: "+format+"\n", args...)
}

func (b *Boot) check() error {
	if b.Config.Mode != config.SwitchRoot {
		return modeError(b.Config)
	}
	h := b.machine()
	if err := h.SysrqOff(); err != nil {
		return err
	}
	line, err := h.CommandLine()
	if err != nil {
		return code.Wrap(code.BootParameter, err)
	}
	if err := config.CheckStockCommandLine(line, b.Kind, b.Config.Root.Name); err != nil {
		return err
	}
	// The measured command line forbids them; that systemd obeyed is looked at
	// all the same, because a credential can be a unit or a password.
	creds, err := h.Credentials()
	if err != nil {
		return code.Wrap(code.BootOverride, err)
	}
	if len(creds) > 0 {
		return code.Wrap(code.BootOverride, fmt.Errorf("the host passed %d system credentials, the first is %.80q", len(creds), creds[0]))
	}
	return nil
}

// Fetch returns the key of the disk, of which the caller takes care; header,
// state and outcome then lie in Dir. An error after the release was reported to
// the verifier.
func (b *Boot) Fetch(ctx context.Context) (_ *secret.Bytes, err error) {
	if err := b.check(); err != nil {
		return nil, err
	}
	h := b.machine()
	if b.Client.Instance = b.Config.Instance(); !b.Client.Instance.IsZero() { // as init does
		if err := h.Instance(b.Client.Instance); err != nil {
			return nil, fmt.Errorf("keeping the instance ID: %w", err)
		}
	}
	if err := h.Random(ctx); err != nil {
		return nil, err
	}
	text, err := h.Network(ctx, b.Config.Network)
	if err != nil {
		return nil, err
	}
	b.say("network: %s", text)
	if b.Client.Platform, err = b.Open(); err != nil {
		return nil, err
	}
	defer b.Client.Platform.Close()
	rel, err := client.Launch(ctx, b.Client)
	if err != nil {
		return nil, err
	}
	defer rel.Close()
	b.say("released by %s, boot %d (exchange %s)", rel.Server, rel.Payload.Boot, rel.Exchange)
	key, err := b.take(ctx, rel)
	if err != nil {
		b.failed(ctx, rel, err)
		return nil, err
	}
	return key, nil
}

// take turns a release into the files of Dir and the key.
func (b *Boot) take(ctx context.Context, rel *client.Release) (*secret.Bytes, error) {
	h := b.machine()
	if err := h.Learn(b.Log, rel.Payload.Time, rel.Payload.MinPolicyVersion); err != nil {
		return nil, err
	}
	root := b.Config.Root
	if err := h.WaitDevice(ctx, root.Device); err != nil {
		return nil, err
	}
	if err := MakeDir(b.Dir); err != nil {
		return nil, err
	}
	area, record, key, err := b.header(ctx, rel.Payload)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			key.Zero()
		}
	}()
	// CreateSecretFile wants a secret; a header is none, but it takes the same
	// care of place and mode.
	file := secret.Take(area)
	defer file.Zero()
	if err = applet.CreateSecretFile(filepath.Join(b.Dir, HeaderFile), file); err != nil {
		return nil, err
	}
	s := &state{Volume: root.Name, Device: root.Device, Record: *record, ID: rel.ID, Boot: rel.Payload.Boot, Committed: rel.Payload.Committed}
	if err = s.save(b.Dir); err != nil {
		return nil, err
	}
	if err = SaveOutcome(filepath.Join(b.Dir, outcomeFile), rel, []wire.HeaderRecord{*record}); err != nil {
		return nil, err
	}
	if err = h.Secrets(rel.Payload); err != nil {
		return nil, err
	}
	b.say("disk: %s has the registered header %.16s", root.Device, record.Digest)
	return key, nil
}

// header finds the record that the disk has, and the key that opens it: the
// older one is tried for that header alone, as init does.
func (b *Boot) header(ctx context.Context, p *wire.Payload) ([]byte, *wire.HeaderRecord, *secret.Bytes, error) {
	device := b.Config.Root.Device
	if p.DiskKey.Len() == 0 || len(p.Headers) == 0 {
		return nil, nil, nil, code.Wrap(code.BootRelease, fmt.Errorf("the release holds no key or no header record for %s", device))
	}
	var last error
	headers := luks.WholeFirst(p.Headers)
	for i := range headers {
		for _, key := range []*secret.Bytes{p.DiskKey, p.PreviousDiskKey} {
			if key.Len() == 0 {
				continue
			}
			area, err := b.machine().Header(ctx, device, &headers[i], key)
			if err == nil {
				return area, &headers[i], secret.Copy(key.Bytes()), nil
			}
			last = err
			if c, _ := code.Of(err); c != code.LUKSWrongKey {
				break
			}
		}
		if c, _ := code.Of(last); c != code.LUKSHeaderDigest {
			break
		}
	}
	return nil, nil, nil, last
}

const reportTimeout = 10 * time.Second

// failed tells the verifier why a release was not used; that it could not be
// told changes nothing.
func (b *Boot) failed(ctx context.Context, rel *client.Release, why error) {
	c, ok := code.Of(why)
	if !ok {
		c = code.Failed
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), reportTimeout)
	defer cancel()
	if _, err := rel.Report(ctx, wire.ResultFailed, c, nil); err != nil {
		b.say("the verifier could not be told: %v", err)
	}
}

// machine is the real host.
type machine struct{}

func (machine) CommandLine() (string, error) {
	b, err := os.ReadFile("/proc/cmdline")
	return string(b), err
}

// credentialDirs is where systemd as process 1 puts what the host passes.
var credentialDirs = []string{"/run/credentials/@system", "/run/credentials/@encrypted"}

func (machine) Credentials() (names []string, err error) {
	for _, dir := range credentialDirs {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("looking for system credentials: %w", err)
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

func (machine) SysrqOff() error                  { return initramfs.SysrqOff() }
func (machine) Instance(id wire.Hex32) error     { return instanceid.Write(instanceid.Path, id) }
func (machine) Random(ctx context.Context) error { return initramfs.Random(ctx) }
func (machine) Network(ctx context.Context, n config.Network) (string, error) {
	return initramfs.Network(ctx, n)
}
func (machine) WaitDevice(ctx context.Context, d string) error { return initramfs.WaitDevice(ctx, d) }
func (machine) Learn(w io.Writer, t int64, policy uint64) error {
	return initramfs.Learn(w, t, policy)
}
func (machine) Secrets(p *wire.Payload) error { return initramfs.WriteSecrets(p) }
func (machine) Header(ctx context.Context, device string, r *wire.HeaderRecord, key *secret.Bytes) ([]byte, error) {
	return unlock.Header(ctx, device, r, key)
}
func (machine) SameDevice(node, target string) error { return initramfs.SameDevice(node, target) }
