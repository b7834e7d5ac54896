package policy

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"attestbox/internal/applet"
	"attestbox/internal/appraise"
	"attestbox/internal/claim"
	"attestbox/internal/snp"
)

// publicKey reads a key from PEM: PUBLIC KEY or CERTIFICATE. cert is nil for
// the former.
func publicKey(env *applet.Env, file string) (spki, cert []byte, err error) {
	b, err := applet.ReadFile(env, file, 1<<20)
	if err != nil {
		return nil, nil, err
	}
	if block, _ := pem.Decode(b); block != nil && block.Type == "PUBLIC KEY" {
		return block.Bytes, nil, nil
	} else if block != nil && strings.Contains(block.Type, "PRIVATE") {
		return nil, nil, applet.WithHint(fmt.Errorf("%q is a private key, which belongs to nobody but its owner", file), "name the file of the public key or the certificate")
	}
	ders, err := appraise.DecodeCerts(b)
	if err != nil {
		return nil, nil, fmt.Errorf("%q: neither a public key in PEM nor a certificate: %w", file, err)
	}
	for _, der := range ders { // of a chain, the root
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, nil, fmt.Errorf("%q: %w", file, err)
		}
		if len(ders) == 1 || bytes.Equal(c.RawIssuer, c.RawSubject) {
			return c.RawSubjectPublicKeyInfo, der, nil
		}
	}
	return nil, nil, fmt.Errorf("%q: several certificates, none of them self-signed", file)
}

// declare gives a key with its declaration, or as policy.txt declares it
// already.
func declare(p *claim.Policy, name string, spki, cert []byte) (k claim.Key, lines []string, err error) {
	if k, err = claim.KeyOfSPKI(name, spki); err != nil {
		return k, nil, err
	}
	for _, i := range p.Items {
		if i.Key == nil {
			continue
		}
		if i.Key.Key.Same(k) {
			return i.Key.Key, nil, nil
		}
		if i.Key.Key.Name == name {
			return k, nil, applet.WithHint(fmt.Errorf("policy.txt has another key of the name %s", name), "choose one with -name")
		}
	}
	if cert != nil {
		return k, []string{"certificate " + name + " " + k.Alg + " " + base64.StdEncoding.EncodeToString(cert)}, nil
	}
	return k, []string{"key " + name + " " + k.Alg + " " + base64.StdEncoding.EncodeToString(spki)}, nil
}

// fileName is a name for a key made of its file's.
func fileName(file string) string {
	base := filepath.Base(file)
	return strings.TrimSuffix(base, filepath.Ext(base))
}

func runTrustRoot(_ context.Context, env *applet.Env, args []string) error {
	var e editFlags
	var product, name string
	var enclaves applet.Strings
	fs := env.Flags("-dir DIR FILE [-product NAME] | -dir DIR amd -product NAME | -dir DIR KEYFILE -enclave HEX...", "policy trust-root -dir bank amd -product Genoa")
	e.register(fs)
	fs.StringVar(&product, "product", "", "Milan, Genoa or Turin; told from the root's name if it is in it")
	fs.StringVar(&name, "name", "", "call the key `NAME` in policy.txt")
	fs.Var(&enclaves, "enclave", "the file is the platform key of a simulated enclave, trusted about this measurement, `HEX` or name; may be repeated")
	pos, err := e.start(env, fs, args, 1)
	if err != nil {
		return err
	}
	_, p, err := e.text()
	if err != nil {
		return err
	}
	var k claim.Key
	var lines []string
	switch {
	case len(pos) != 1:
		return fs.Usage("want one file")
	case pos[0] == "amd":
		var ok bool
		if k, ok = claim.AMDRoot(product); !ok || len(enclaves) > 0 {
			return fs.Usage("amd needs -product Milan, Genoa or Turin")
		}
	default:
		spki, cert, err := publicKey(env, pos[0])
		if err != nil {
			return err
		}
		if name == "" {
			name = fileName(pos[0])
		}
		if len(enclaves) == 0 {
			if cert == nil {
				return fs.Usage("a hardware root is a certificate; a simulated enclave's key takes -enclave HEX")
			}
			c, _ := x509.ParseCertificate(cert) // parsed above
			if product == "" {
				product = strings.TrimPrefix(c.Subject.CommonName, "ARK-")
			}
			if _, err := snp.ParseProduct(product); err != nil {
				return fs.Usage("-product: %v", err)
			}
			if _, err := appraise.NewRoot(snp.Product(product), cert); err != nil {
				return fmt.Errorf("%q: %w", pos[0], err)
			}
		}
		if k, lines, err = declare(p, name, spki, cert); err != nil {
			return err
		}
		if len(enclaves) == 0 {
			more, err := intermediates(p, pos[0], product, cert)
			if err != nil {
				return err
			}
			lines = append(lines, more...)
		}
	}
	if len(enclaves) > 0 {
		var about []string
		for _, h := range enclaves {
			m, err := e.measurement(p, h)
			if err != nil {
				return err
			}
			about = append(about, m)
		}
		lines = append(lines, k.String()+" is-trusted-for-attestation on Platform[simulated-enclave] about "+strings.Join(about, ", "))
	} else {
		lines = append(lines, k.String()+" is-trusted-for-attestation on Platform[amd-sev-snp, product = "+product+"]")
		if r, ok := claim.AMDRoot(product); !ok || !r.Same(k) {
			fmt.Fprintf(env.Stderr, "%s: warning: %s: whoever has this root's key can pose as any VM of the domain\n", env.Name, appraise.NotAMD)
		}
	}
	return e.add(e.days, time.Now(), lines...)
}

// intermediates declares the certificates of a file that its root has signed,
// for evidence that brings none. They are trusted through the root alone.
func intermediates(p *claim.Policy, file, product string, root []byte) (lines []string, err error) {
	b, err := applet.ReadFile(nil, file, 1<<20)
	if err != nil {
		return nil, err
	}
	ders, err := appraise.DecodeCerts(b)
	if err != nil {
		return nil, err
	}
	for _, der := range ders {
		if bytes.Equal(der, root) {
			continue
		}
		if _, err := appraise.NewRoot(snp.Product(product), root, der); err != nil {
			return nil, fmt.Errorf("%q: a certificate beside the root: %w", file, err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		_, more, err := declare(p, strings.ReplaceAll(c.Subject.CommonName, " ", "-"), c.RawSubjectPublicKeyInfo, der)
		if err != nil {
			return nil, err
		}
		lines = append(lines, more...)
	}
	return lines, nil
}
