package unlockluks

import (
	"context"
	"encoding/json"
	"fmt"

	"attestbox/internal/applet"
	"attestbox/internal/client"
	"attestbox/internal/code"
	"attestbox/internal/launchcfg"
	"attestbox/internal/luks"
	"attestbox/internal/platform"
	"attestbox/internal/rekey"
	"attestbox/internal/secret"
	"attestbox/internal/unlock"
	"attestbox/internal/wire"
)

// opener opens the platform that vouches for this machine.
type opener func() (platform.Platform, error)

// job opens a disk for rekey.
func job(env *applet.Env, device string) (*rekey.Job, func(), error) {
	d, err := rekey.Open(device)
	if err != nil {
		return nil, nil, err
	}
	return &rekey.Job{Disk: d, Limits: unlock.Limits(), Said: func(format string, a ...any) {
		fmt.Fprintf(env.Stderr, env.Name+": "+format+"\n", a...)
	}}, func() { d.Close() }, nil
}

// register tells the verifier of the header that the disk has now.
func register(ctx context.Context, env *applet.Env, args []string, open opener) error {
	fs := env.Flags("[-drop-others] [flags] DEVICE", "unlock-luks register /dev/vda")
	var from launchcfg.Flags
	from.Register(fs)
	drop := fs.Bool("drop-others", false, "drop the records that the disk does not match; the one that this boot opened stays until another has been opened")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() != 1 {
		return fs.Usage("one device is required")
	}
	j, done, err := job(env, fs.Arg(0))
	if err != nil {
		return err
	}
	defer done()
	return online(ctx, env, &from, open, func(ctx context.Context, cfg client.Config) (*wire.HeaderRecord, error) {
		return j.Register(ctx, cfg, *drop)
	})
}

// online runs f, which asks the verifier, and prints the record that the disk
// has then.
func online(ctx context.Context, env *applet.Env, from *launchcfg.Flags, open opener, f func(context.Context, client.Config) (*wire.HeaderRecord, error)) error {
	cfg, ctx, cancel, err := from.Client(ctx, env)
	if err != nil {
		return err
	}
	defer cancel()
	if cfg.Platform, err = open(); err != nil {
		return err
	}
	defer cfg.Platform.Close()
	rec, err := f(ctx, cfg)
	if err != nil {
		return channel(err)
	}
	return printRecord(env, rec)
}

// rotate changes the key of the disk's keyslot.
func rotate(ctx context.Context, env *applet.Env, args []string, open opener) error {
	fs := env.Flags("[-abort] [flags] DEVICE\n       "+env.Name+" -key FILE -new-key FILE IMAGE", "unlock-luks rotate /dev/vda")
	var from launchcfg.Flags
	from.Register(fs)
	abort := fs.Bool("abort", false, "go back to the key before; possible until the primary header was written")
	oldFile := fs.String("key", "", "offline, on the owner's machine: the key now, in `FILE`; - is stdin")
	newFile := fs.String("new-key", "", "offline: the key to change to, 32 to 4096 random bytes, in `FILE`")
	if err := fs.Parse(args); err != nil {
		return err
	}
	offline := *oldFile != "" || *newFile != ""
	switch {
	case fs.NArg() != 1:
		return fs.Usage("one device or image is required")
	case offline && (*oldFile == "" || *newFile == ""):
		return fs.Usage("-key and -new-key go together")
	case offline && *abort:
		return fs.Usage("-abort goes with the verifier's keys; offline, change back")
	}
	j, done, err := job(env, fs.Arg(0))
	if err != nil {
		return err
	}
	defer done()
	if offline {
		rec, err := rotateOffline(env, j, *oldFile, *newFile)
		if err != nil {
			return classify(err)
		}
		return printRecord(env, rec)
	}
	return online(ctx, env, &from, open, func(ctx context.Context, cfg client.Config) (*wire.HeaderRecord, error) {
		return j.Rotate(ctx, cfg, *abort)
	})
}

func rotateOffline(env *applet.Env, j *rekey.Job, oldFile, newFile string) (*wire.HeaderRecord, error) {
	oldKey, err := applet.ReadSecret(env, oldFile, maxKey)
	if err != nil {
		return nil, fmt.Errorf("reading the key: %w", err)
	}
	defer oldKey.Zero()
	newKey, err := readNewKey(newFile)
	if err != nil {
		return nil, err
	}
	defer newKey.Zero()
	return j.Offline(oldKey, newKey)
}

// readNewKey reads a key for the cheapest derivation: it must be random.
func readNewKey(name string) (*secret.Bytes, error) {
	key, err := applet.ReadSecret(nil, name, secret.MaxKeyFile)
	if err != nil {
		return nil, fmt.Errorf("reading the new key: %w", err)
	}
	if err := secret.CheckRandom(key); err != nil {
		key.Zero()
		return nil, applet.WithHint(fmt.Errorf("the new key %q: %w", name, err), "head -c 32 /dev/urandom > /run/new.key")
	}
	return key, nil
}

// channel gives exit codes to what the verifier or the disk said.
func channel(err error) error {
	if unlock.IsRefusal(err) {
		return classify(err)
	}
	if c, _ := code.Of(err); c == code.MaintainRotation {
		return applet.WithHint(applet.Refused(c, err), "the owner opens a rotation with verifier instance rotate ID, or lets the VM do it with verifier instance allow -may-rotate ID")
	}
	return launchcfg.Exit(err)
}

func printRecord(env *applet.Env, rec *wire.HeaderRecord) error {
	if err := luks.CheckRecord(rec); err != nil {
		return err
	}
	text, err := json.MarshalIndent(rec, "", "  ")
	if err != nil {
		return err
	}
	_, err = env.Stdout.Write(append(text, '\n'))
	return err
}
