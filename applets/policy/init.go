package policy

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"attestbox/internal/admission"
	"attestbox/internal/applet"
	"attestbox/internal/claim"
	"attestbox/internal/ownerkey"
)

func runInit(_ context.Context, env *applet.Env, args []string) error {
	var dir, alg, passphrase, public string
	var plain bool
	fl := env.Flags("DOMAIN -dir DIR [-alg ALG] -passphrase FILE | -recipient FILE | -plain", "policy init bank.example -dir bank -passphrase /media/usb/passphrase")
	fl.StringVar(&dir, "dir", "", "the domain's `DIR`, to be made")
	fl.StringVar(&alg, "alg", claim.Ed25519, "ed25519, p384 or rsa (3072 bits)")
	fl.StringVar(&passphrase, "passphrase", "", "encrypt the policy key under the passphrase in this `FILE`; - is stdin")
	fl.StringVar(&public, "recipient", "", "encrypt the policy key to the public key in this `FILE` (verifier backup-key)")
	fl.BoolVar(&plain, "plain", false, "leave the policy key to its file, mode 0600")
	pos, err := parse(fl, args)
	if err != nil {
		return err
	}
	ways := 0
	for _, given := range []bool{passphrase != "", public != "", plain} {
		if given {
			ways++
		}
	}
	switch {
	case len(pos) != 1 || dir == "":
		return fl.Usage("want a DOMAIN and -dir")
	case !claim.ValidDomain(pos[0]) || admission.CheckDomain(pos[0]) != nil:
		return fl.Usage("domain %.80q: want a DNS name in lower case", pos[0])
	case ways != 1:
		return fl.Usage("how is the policy key kept? give one of -passphrase, -recipient, -plain")
	}
	var p ownerkey.Protection
	defer p.Zero()
	if passphrase != "" {
		if p.Passphrase, err = applet.ReadPassphrase(env, passphrase); err != nil {
			return err
		}
	}
	if public != "" {
		if p.Public, err = applet.ReadFile(env, public, ownerkey.MaxFile); err != nil {
			return err
		}
	}
	key, err := newKey(alg)
	if err != nil {
		return fl.Usage("-alg: %v", err)
	}
	if err := makeDir(dir); err != nil {
		return err
	}
	if err := fill(dir, pos[0], key, &p, time.Now()); err != nil {
		for _, name := range []string{certName, textName, keyName} { // made by this call alone: the folder was empty
			os.Remove(filepath.Join(dir, name))
		}
		return err
	}
	k, err := claim.KeyOf(claim.PolicyKeyName, key.Public())
	if err != nil {
		return err
	}
	fmt.Fprintf(env.Stderr, "made the domain %s in %s; images and servers get %s\n", pos[0], dir, filepath.Join(dir, certName))
	if plain {
		fmt.Fprintf(env.Stderr, "%s: warning: the policy key is not encrypted; whoever reads %s owns the domain\n", env.Name, filepath.Join(dir, keyName))
	}
	fmt.Fprintln(env.Stdout, k)
	return nil
}

// fill writes the files of a new domain.
func fill(dir, domain string, key crypto.Signer, p *ownerkey.Protection, now time.Time) error {
	sealed, err := ownerkey.Policy.Seal(key, p)
	if err != nil {
		return err
	}
	defer sealed.Zero()
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	k, err := claim.KeyOf(claim.PolicyKeyName, key.Public())
	if err != nil {
		return err
	}
	cert, err := admission.NewPolicyCertificate(key, domain, now, admission.PolicyValidity)
	if err != nil {
		return err
	}
	text := fmt.Sprintf("attestbox-policy 1\ndomain %s\nversion 0\nlast-serial 0\nkey %s %s %s\n\n# Claims of %s. The grammar is in docs/policy.md; lines may be edited by hand.\n",
		domain, claim.PolicyKeyName, k.Alg, base64.StdEncoding.EncodeToString(spki), domain)
	if _, err := claim.Parse([]byte(text)); err != nil {
		return err
	}
	if err := writeFile(filepath.Join(dir, certName), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o644); err != nil {
		return err
	}
	if err := writeFile(filepath.Join(dir, textName), []byte(text), 0o644); err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, keyName), sealed.Bytes(), 0o600)
}

// makeDir makes the folder of a new domain, and takes an empty one.
func makeDir(dir string) error {
	err := os.Mkdir(dir, 0o700)
	if err == nil || !errors.Is(err, fs.ErrExist) {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	if len(entries) > 0 {
		return applet.WithHint(fmt.Errorf("the folder %q is not empty, and nothing in it was touched", dir), "name a folder that does not exist yet")
	}
	return os.Chmod(dir, 0o700)
}
