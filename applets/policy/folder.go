package policy

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/renameio/v2"

	"attestbox/internal/admission"
	"attestbox/internal/applet"
	"attestbox/internal/claim"
	"attestbox/internal/code"
	"attestbox/internal/ownerkey"
)

// Files of a domain's folder.
const (
	keyName    = "policy.key"
	certName   = "policy.crt"
	textName   = "policy.txt"
	signedName = "policy.signed"
	claimsName = "claims"
)

// folder is a domain's folder on the owner's machine.
type folder struct {
	env                  *applet.Env
	dir                  string
	passphrase, identity string
}

// register adds -dir, and for commands that sign how the key is opened.
func (f *folder) register(fs *applet.FlagSet, signs bool) {
	fs.StringVar(&f.dir, "dir", "", "the domain's `DIR`, made by policy init")
	if signs {
		fs.StringVar(&f.passphrase, "passphrase", "", "`FILE` with the passphrase of the policy key; - is stdin")
		fs.StringVar(&f.identity, "identity", "", "`FILE` with the private key that the policy key is encrypted to")
	}
}

func (f *folder) path(name string) string { return filepath.Join(f.dir, name) }

// open checks that -dir is a domain's folder.
func (f *folder) open(env *applet.Env, fs *applet.FlagSet) error {
	f.env = env
	if f.dir == "" {
		return fs.Usage("-dir is needed")
	}
	if _, err := os.Stat(f.path(textName)); err != nil {
		return applet.WithHint(fmt.Errorf("opening the domain's folder: %w", err), "make one with: policy init DOMAIN -dir DIR -passphrase FILE")
	}
	return nil
}

// text reads policy.txt.
func (f *folder) text() ([]byte, *claim.Policy, error) {
	b, err := applet.ReadFile(nil, f.path(textName), claim.MaxPolicy)
	if err != nil {
		return nil, nil, err
	}
	p, err := claim.Parse(b)
	if err != nil {
		return nil, nil, applet.WithHint(applet.Fail(code.PolicyMalformed, fmt.Errorf("%q: %w", f.path(textName), err)), "mend the line; nothing was changed")
	}
	return b, p, nil
}

// cert reads the policy certificate.
func (f *folder) cert() (*x509.Certificate, error) {
	b, err := applet.ReadFile(nil, f.path(certName), ownerkey.MaxFile)
	if err != nil {
		return nil, err
	}
	block, rest := pem.Decode(b)
	if block == nil || block.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, fmt.Errorf("%q is not one certificate in PEM", f.path(certName))
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", f.path(certName), err)
	}
	if _, err := admission.DomainOf(c); err != nil {
		return nil, fmt.Errorf("%q: %w", f.path(certName), err)
	}
	return c, nil
}

// signed reads policy.signed and verifies it by the policy certificate;
// fs.ErrNotExist where nothing was signed yet.
func (f *folder) signed() (*claim.VerifiedPolicy, error) {
	c, err := f.cert()
	if err != nil {
		return nil, err
	}
	b, err := applet.ReadFile(nil, f.path(signedName), claim.MaxPolicy)
	if err != nil {
		return nil, err
	}
	v, err := claim.Verify(b, c.PublicKey, 0)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", f.path(signedName), err)
	}
	return v, nil
}

// key opens the policy key.
func (f *folder) key() (crypto.Signer, error) {
	content, err := applet.ReadSecret(f.env, f.path(keyName), ownerkey.MaxFile)
	if err != nil {
		return nil, err
	}
	defer content.Zero()
	var p ownerkey.Protection
	defer p.Zero()
	if f.passphrase != "" {
		if p.Passphrase, err = applet.ReadPassphrase(f.env, f.passphrase); err != nil {
			return nil, err
		}
	}
	if f.identity != "" {
		if p.Private, err = applet.ReadSecret(f.env, f.identity, ownerkey.MaxFile); err != nil {
			return nil, err
		}
	}
	k, err := ownerkey.Policy.Open(content, &p)
	if err != nil {
		return nil, applet.Fail(code.PolicyKey, fmt.Errorf("%q: %w", f.path(keyName), err))
	}
	return k, nil
}

// add appends lines to policy.txt, which must still be in the language then. A
// claim that is a draft there already, or in force for more than half of its
// time, is not added again. days other than 0 numbers the claims now.
func (f *folder) add(days int, now time.Time, lines ...string) error {
	text, before, err := f.text()
	if err != nil {
		return err
	}
	if !bytes.HasSuffix(text, []byte("\n")) {
		text = append(text, '\n')
	}
	added := 0
	for _, line := range lines {
		grown := append(bytes.Clone(text), line+"\n"...)
		p, err := claim.Parse(grown)
		if err != nil {
			if le, ok := errors.AsType[*claim.LineError](err); ok {
				err = le.Err
			}
			return applet.WithHint(applet.Fail(code.PolicyMalformed, fmt.Errorf("the claim cannot be made: %w", err)), "policy.txt is as it was")
		}
		item := p.Items[len(p.Items)-1]
		if item.Claim != nil {
			if old := standing(before, item.Claim, now); old != nil {
				fmt.Fprintf(f.env.Stderr, "is there already: %s\n", old)
				continue
			}
			if days > 0 {
				if grown, p, err = number(text, p, *item.Claim, now, days); err != nil {
					return err
				}
				item = p.Items[len(p.Items)-1]
			}
		}
		text, before = grown, p
		switch {
		case item.Key != nil: // without its certificate
			added++
			fmt.Fprintf(f.env.Stderr, "added: %s\n", item.Key.Key)
		case item.Claim != nil || item.Measurement != nil:
			added++
			fmt.Fprintf(f.env.Stderr, "added: %s\n", item)
		}
	}
	if added == 0 {
		return nil
	}
	if _, err := claim.Parse(text); err != nil {
		return applet.Fail(code.PolicyMalformed, err)
	}
	return writeFile(f.path(textName), text, 0o644)
}

// number appends a claim with the next serial, in force from now for some days,
// to the text that p has but for it.
func number(text []byte, p *claim.Policy, c claim.Claim, now time.Time, days int) ([]byte, *claim.Policy, error) {
	lines := strings.SplitN(string(text), "\n", 5)
	if len(lines) != 5 {
		return nil, nil, errors.New("policy.txt lacks its header")
	}
	c.Serial, c.NotBefore = p.LastSerial+1, now.UTC().Truncate(time.Second)
	if !c.Revokes() {
		c.NotAfter = c.NotBefore.AddDate(0, 0, days)
	}
	lines[3] = fmt.Sprintf("last-serial %d", c.Serial)
	grown := []byte(strings.Join(lines, "\n") + c.String() + "\n")
	next, err := claim.Parse(grown)
	return grown, next, err
}

// standing finds the same statement, as a draft or with more than half of its
// time to go.
func standing(p *claim.Policy, c *claim.Claim, now time.Time) *claim.Claim {
	for _, o := range p.Claims() {
		if !o.Statement.Equal(c.Statement) {
			continue
		}
		if o.Draft() || o.Revokes() || o.InForce(now) && o.NotAfter.Sub(now) > o.NotAfter.Sub(o.NotBefore)/2 {
			return o
		}
	}
	return nil
}

// writeFile replaces a file at once.
func writeFile(path string, b []byte, mode fs.FileMode) error {
	if err := renameio.WriteFile(path, b, mode); err != nil {
		return fmt.Errorf("writing %q: %w", path, err)
	}
	return nil
}
