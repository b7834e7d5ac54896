package servercmd

import (
	"context"
	"errors"
	"fmt"
	"os"

	"attestbox/internal/applet"
	"attestbox/internal/code"
	"attestbox/internal/platform"
	"attestbox/internal/platform/sevguest"
	"attestbox/internal/platform/simenclave"
	"attestbox/internal/seal"
	"attestbox/internal/secret"
	"attestbox/internal/store/sealed"
)

// Values of -seal-platform.
const (
	sealSNP     = "snp"
	sealEnclave = "enclave"
)

func (f *StateFlags) registerPlatform(fs *applet.FlagSet) {
	fs.StringVar(&f.Platform, "seal-platform", "", "seal the state by the `PLATFORM` that this server runs on instead: snp, or enclave (simulated)")
	fs.StringVar(&f.PlatformKey, "platform-key", "", "key `FILE` of the simulated enclave, for -seal-platform enclave; not in the state folder")
}

func (f *StateFlags) checkPlatform(fs *applet.FlagSet) error {
	switch {
	case f.Platform != "" && f.Platform != sealSNP && f.Platform != sealEnclave:
		return fs.Usage("-seal-platform %.40q: %s or %s", f.Platform, sealSNP, sealEnclave)
	case (f.Platform == sealEnclave) != (f.PlatformKey != ""):
		return fs.Usage("-platform-key goes with -seal-platform enclave, which needs it")
	}
	return nil
}

// platformKey is the seal key of a platform, which is asked when it is used.
func (f *StateFlags) platformKey() (sealed.Key, error) {
	open := f.snp
	if open == nil {
		open = sevguest.Open
	}
	if f.Platform == sealEnclave {
		if err := outside(f.Dir, f.PlatformKey); err != nil {
			return sealed.Key{}, err
		}
		open = func() (platform.Platform, error) {
			e, err := simenclave.Open(f.PlatformKey)
			if err != nil {
				return nil, err
			}
			return e, nil
		}
	}
	return sealed.Key{Platform: refusing{seal.StateKey{Open: open}}}, nil
}

// refusing makes a refusal of a VM that must not seal.
type refusing struct{ seal.StateKey }

func (r refusing) Seal(ctx context.Context, id [16]byte) (string, []byte, *secret.Bytes, error) {
	kind, params, key, err := r.StateKey.Seal(ctx, id)
	if errors.Is(err, seal.ErrDebug) {
		err = applet.Refused(code.SealKey, err)
	}
	return kind, params, key, err
}

// checkReaders refuses a seal key that every user may read, and warns of one
// that a group may: with systemd, whose access lists look like that, it is
// silent.
func (f *StateFlags) checkReaders(env *applet.Env, name string) error {
	st, err := os.Stat(name)
	if err != nil {
		return fmt.Errorf("reading the seal key: %w", err)
	}
	mode := st.Mode().Perm()
	switch {
	case !st.Mode().IsRegular(): // a pipe is read once, and by us
		return nil
	case mode&0o004 != 0:
		return applet.WithHint(applet.Refused(code.SealKey, fmt.Errorf("the seal key %q has mode %04o: every user can read it", name, mode)),
			"chmod 600 "+name+", and consider it known to whoever could read it")
	case mode&0o066 == 0:
		return nil
	}
	if dir := env.Getenv("CREDENTIALS_DIRECTORY"); dir != "" && mode&0o022 == 0 {
		if in, err := Lies(dir, name); err == nil && in {
			return nil
		}
	}
	fmt.Fprintf(env.Stderr, "%s: warning: the seal key %s has mode %04o: others than its owner may read or replace it; chmod 600 %s\n", env.Name, name, mode, name)
	return nil
}
