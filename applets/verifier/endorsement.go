package verifier

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"

	"attestbox/internal/applet"
	"attestbox/internal/appraise"
	"attestbox/internal/kds"
	"attestbox/internal/servercmd"
	"attestbox/internal/snp"
)

func runAddEndorsement(_ context.Context, env *applet.Env, args []string) error {
	var dir, seal string
	f := env.Flags("-state DIR FILE...", "verifier add-endorsement -state /var/lib/attestbox vcek.der crl.der")
	f.StringVar(&dir, "state", "", "state `DIR` of the verifier")
	f.StringVar(&seal, "seal-key", "", "not needed: certificates are public")
	if err := f.Parse(args); err != nil {
		return err
	}
	if dir == "" || f.NArg() == 0 {
		return f.Usage("want -state and files: VCEK certificates, revocation lists (DER or PEM)")
	}
	if err := servercmd.CheckDir(dir); err != nil {
		return err
	}
	cache, err := kds.Open(kds.Config{Dir: filepath.Join(dir, servercmd.KDSDir)})
	if err != nil {
		return err
	}
	for _, name := range f.Args() {
		b, err := applet.ReadFile(env, name, 1<<20)
		if err != nil {
			return err
		}
		if what, err := addEndorsement(cache, b); err != nil {
			return fmt.Errorf("%q: %w", name, err)
		} else {
			fmt.Fprintf(env.Stderr, "%s: %s\n", name, what)
		}
	}
	return nil
}

func addEndorsement(cache *kds.Cache, b []byte) (string, error) {
	if block, _ := pem.Decode(b); block != nil && block.Type == "X509 CRL" {
		b = block.Bytes
	}
	if crl, err := x509.ParseRevocationList(b); err == nil {
		return addCRL(cache.Dir, b, crl)
	}
	ders, err := appraise.DecodeCerts(b)
	if err != nil {
		return "", fmt.Errorf("neither a certificate nor a revocation list: %w", err)
	}
	for _, der := range ders {
		if err := cache.Put(der); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("kept %d VCEK certificates; each report they serve is verified against the roots", len(ders)), nil
}

// addCRL keeps a list; one that is older than the one kept is refused.
func addCRL(dir string, b []byte, crl *x509.RevocationList) (string, error) {
	name := strings.TrimPrefix(strings.TrimPrefix(crl.Issuer.CommonName, "ARK-"), "SEV-")
	product, err := snp.ParseProduct(name)
	if err != nil {
		return "", fmt.Errorf("revocation list of %q: %w", crl.Issuer.CommonName, err)
	}
	path := filepath.Join(dir, string(product), "crl.der")
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if before, err := x509.ParseRevocationList(old); err == nil && crl.ThisUpdate.Before(before.ThisUpdate) {
		return "", fmt.Errorf("revocation list of %s is from %s, the one kept from %s", product, crl.ThisUpdate, before.ThisUpdate)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", err
	}
	if err := renameio.WriteFile(path, b, 0o600); err != nil {
		return "", err
	}
	return fmt.Sprintf("kept the revocation list of %s, due again %s", product, crl.NextUpdate), nil
}
