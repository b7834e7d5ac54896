package servercmd

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/renameio/v2"

	"attestbox/internal/applet"
	"attestbox/internal/platform/simenclave"
	"attestbox/internal/server"
	"attestbox/internal/store"
)

// Names of the public keys that Init and Keys write.
const (
	serverPub  = "server.pub"
	issuerPub  = "issuer.pub"
	enclavePub = "enclave.pub" // of a simulated enclave
)

// Init is the command init: a state folder without an appraisal policy of its
// own, which every domain brings.
func Init(ctx context.Context, env *applet.Env, args []string) error {
	var sf StateFlags
	var out, enclave string
	var fresh bool
	fs := env.Flags("-state DIR -seal-key FILE -out DIR", env.Name+" -state /var/lib/attestbox -seal-key /run/credentials/seal.key -out keys")
	sf.Register(fs)
	fs.StringVar(&out, "out", "", "write the public keys "+serverPub+" and "+issuerPub+" into `DIR`, for policy")
	fs.StringVar(&enclave, "enclave-key", "", "the platform key of this machine's simulated enclave is in `FILE`: write "+enclavePub+" too")
	fs.BoolVar(&fresh, "new-keys", false, "make the files of -seal-key and -enclave-key where they do not exist, on tmpfs")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if err := sf.Check(fs); err != nil {
		return err
	}
	if fs.NArg() > 0 || out == "" {
		return fs.Usage("want -out, and no arguments")
	}
	if fresh {
		if err := makeKeys(env, sf.KeyFile, enclave); err != nil {
			return err
		}
	}
	key, err := sf.Key(env)
	if err != nil {
		return err
	}
	defer ZeroKey(key)
	var more map[string]crypto.PublicKey
	if enclave != "" {
		e, err := simenclave.Open(enclave)
		if err != nil {
			return err
		}
		more = map[string]crypto.PublicKey{enclavePub: e.Key()}
		e.Close()
	}
	st, err := CreateState(ctx, sf.Dir, func(raw store.Store) (*server.State, error) {
		return server.CreateState(ctx, raw, key, server.Config{}, time.Now())
	})
	if err != nil {
		return err
	}
	defer st.Close()
	return printKeys(ctx, env, st, out, more)
}

// Keys is the command keys: the server's public keys again.
func Keys(ctx context.Context, env *applet.Env, args []string) error {
	var sf StateFlags
	var out string
	fs := env.Flags("-state DIR -seal-key FILE -out DIR", env.Name+" -state /var/lib/attestbox -seal-key /run/credentials/seal.key -out keys")
	sf.Register(fs)
	fs.StringVar(&out, "out", "", "write "+serverPub+" and "+issuerPub+" into `DIR`")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if err := sf.Check(fs); err != nil {
		return err
	}
	if fs.NArg() > 0 || out == "" {
		return fs.Usage("want -out, and no arguments")
	}
	st, err := sf.Open(ctx, env)
	if err != nil {
		return err
	}
	defer st.Close()
	return printKeys(ctx, env, st, out, nil)
}

func printKeys(ctx context.Context, env *applet.Env, st *server.State, dir string, more map[string]crypto.PublicKey) error {
	cert, pin, err := st.Certificate(ctx)
	if err != nil {
		return err
	}
	issuer, err := st.IssuerKey(ctx)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("writing the public keys: %w", err)
	}
	keys := map[string]crypto.PublicKey{serverPub: cert.Leaf.PublicKey, issuerPub: issuer.Public()}
	maps.Copy(keys, more)
	for name, k := range keys {
		der, err := x509.MarshalPKIXPublicKey(k)
		if err != nil {
			return err
		}
		b := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
		if err := renameio.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			return fmt.Errorf("writing the public keys: %w", err)
		}
	}
	fmt.Fprintf(env.Stderr, "wrote %s into %s; images that pin no policy pin this key:\n", strings.Join(slices.Sorted(maps.Keys(keys)), ", "), dir)
	fmt.Fprintln(env.Stdout, pin)
	return nil
}
