package servercmd

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/google/renameio/v2"

	"attestbox/internal/applet"
	"attestbox/internal/server"
	"attestbox/internal/store"
)

// Names of the public keys that Init and Keys write.
const (
	serverPub = "server.pub"
	issuerPub = "issuer.pub"
)

// Init is the command init: a state folder without an appraisal policy of its
// own, which every domain brings.
func Init(ctx context.Context, env *applet.Env, args []string) error {
	var sf StateFlags
	var out string
	fs := env.Flags("-state DIR -seal-key FILE -out DIR", env.Name+" -state /var/lib/attestbox -seal-key /run/credentials/seal.key -out keys")
	sf.Register(fs)
	fs.StringVar(&out, "out", "", "write the public keys "+serverPub+" and "+issuerPub+" into `DIR`, for policy grant and policy delegate")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if err := sf.Check(fs); err != nil {
		return err
	}
	if fs.NArg() > 0 || out == "" {
		return fs.Usage("want -out, and no arguments")
	}
	key, err := sf.Key(env)
	if err != nil {
		return err
	}
	defer ZeroKey(key)
	st, err := CreateState(ctx, sf.Dir, func(raw store.Store) (*server.State, error) {
		return server.CreateState(ctx, raw, key, server.Config{}, time.Now())
	})
	if err != nil {
		return err
	}
	defer st.Close()
	return printKeys(ctx, env, st, out)
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
	return printKeys(ctx, env, st, out)
}

func printKeys(ctx context.Context, env *applet.Env, st *server.State, dir string) error {
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
	for name, k := range map[string]crypto.PublicKey{serverPub: cert.Leaf.PublicKey, issuerPub: issuer.Public()} {
		der, err := x509.MarshalPKIXPublicKey(k)
		if err != nil {
			return err
		}
		b := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
		if err := renameio.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			return fmt.Errorf("writing the public keys: %w", err)
		}
	}
	fmt.Fprintf(env.Stderr, "wrote %s and %s; images that pin no policy pin this key:\n", filepath.Join(dir, serverPub), filepath.Join(dir, issuerPub))
	fmt.Fprintln(env.Stdout, pin)
	return nil
}
