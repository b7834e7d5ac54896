package servercmd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"attestbox/internal/applet"
	"attestbox/internal/platform/simenclave"
	"attestbox/internal/secret"
)

// sealKeySize is the size of a seal key that is made here, in bytes.
const sealKeySize = 32

// makeKeys makes the seal key and the platform key of a simulated enclave where
// a name is given and no file has it. Both are on tmpfs: the owner keeps copies
// where the owner wants them.
func makeKeys(env *applet.Env, sealKey, enclaveKey string) error {
	for _, k := range []struct {
		name string
		make func() (*secret.Bytes, error)
	}{
		{sealKey, func() (*secret.Bytes, error) { return secret.Random(sealKeySize), nil }},
		{enclaveKey, func() (*secret.Bytes, error) {
			text, _, err := simenclave.GenerateKey()
			return text, err
		}},
	} {
		if k.name == "" || k.name == "-" {
			continue
		}
		if _, err := os.Lstat(k.name); !errors.Is(err, fs.ErrNotExist) {
			if err != nil {
				return err
			}
			continue // it is used as it is, and judged when it is read
		}
		if err := os.MkdirAll(filepath.Dir(k.name), 0o700); err != nil {
			return fmt.Errorf("making a key: %w", err)
		}
		b, err := k.make()
		if err != nil {
			return fmt.Errorf("making a key: %w", err)
		}
		err = applet.CreateSecretFile(k.name, b)
		b.Zero()
		if err != nil {
			return err
		}
		fmt.Fprintf(env.Stderr, "made %s; it is lost with this machine's memory: keep a copy in a safe place\n", k.name)
	}
	return nil
}
