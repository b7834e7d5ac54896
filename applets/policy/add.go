package policy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"attestbox/internal/applet"
	"attestbox/internal/claim"
	"attestbox/internal/code"
	"attestbox/internal/image"
)

// maxProgram bounds a program that is measured, in bytes.
const maxProgram = 1 << 30

// runAdd appends lines that the owner wrote. In them a declaration may name a
// file in place of its value, so that the owner copies no digests:
//
//	measurement NAME @DIR          image folder: its launch digest
//	measurement NAME @PROGRAM      SHA-256 of a program, for a simulated enclave
//	key NAME @FILE                 public key, or the one of a certificate
//	certificate NAME @FILE
func runAdd(_ context.Context, env *applet.Env, args []string) error {
	var e editFlags
	var ovmf string
	fs := env.Flags("-dir DIR FILE...", "policy add -dir bank claims.txt")
	e.register(fs)
	fs.StringVar(&ovmf, "ovmf", "", "firmware `FILE` that images were measured with, where it was not the synthetic one")
	pos, err := e.start(env, fs, args, 1)
	if err != nil {
		return err
	}
	return e.addFiles(pos, e.days, ovmf)
}

// addFiles adds the claims of files.
func (f *folder) addFiles(names []string, days int, ovmf string) error {
	var lines []string
	for _, name := range names {
		b, err := applet.ReadFile(f.env, name, claim.MaxPolicy)
		if err != nil {
			return err
		}
		for n, line := range strings.Split(strings.TrimSuffix(string(b), "\n"), "\n") {
			if line, err = resolve(f.env, strings.TrimSpace(line), ovmf); err != nil {
				return applet.WithHint(fmt.Errorf("%q, line %d: %w", name, n+1, err), "policy.txt is as it was")
			}
			lines = append(lines, line)
		}
	}
	lines, err := f.ready(lines)
	if err != nil {
		return err
	}
	return f.add(days, time.Now(), lines...)
}

// ready leaves out declarations that are there already, and refuses a file of
// which a later line would fail: it is added as a whole or not at all.
func (f *folder) ready(lines []string) (fresh []string, err error) {
	text, p, err := f.text()
	if err != nil {
		return nil, err
	}
	for _, line := range lines {
		if again(p, line) {
			continue
		}
		grown := append(append(bytes.TrimRight(text, "\n"), '\n'), line+"\n"...)
		if p, err = claim.Parse(grown); err != nil {
			if le, ok := errors.AsType[*claim.LineError](err); ok {
				err = le.Err
			}
			return nil, applet.WithHint(applet.Fail(code.PolicyMalformed, fmt.Errorf("%.200q: %w", line, err)), "policy.txt is as it was")
		}
		text = grown
		fresh = append(fresh, line)
	}
	return fresh, nil
}

// again says whether a declaration is in the policy already, word for word.
func again(p *claim.Policy, line string) bool {
	for _, i := range p.Items {
		if (i.Key != nil || i.Measurement != nil) && i.String() == strings.Join(strings.Fields(line), " ") {
			return true
		}
	}
	return false
}

// resolve puts in what a line's last word, @PATH, names.
func resolve(env *applet.Env, line, ovmf string) (string, error) {
	f := strings.Fields(line)
	if len(f) != 3 || !strings.HasPrefix(f[2], "@") {
		return line, nil
	}
	name, path := f[1], f[2][1:]
	switch f[0] {
	case "measurement":
		digest, err := digestOf(path, ovmf)
		return "measurement " + name + " " + digest, err
	case "key", "certificate":
		spki, cert, err := publicKey(env, path)
		if err != nil {
			return "", err
		}
		k, err := claim.KeyOfSPKI(name, spki)
		if err != nil {
			return "", err
		}
		der := spki
		if f[0] == "certificate" {
			if der = cert; cert == nil {
				return "", fmt.Errorf("%q is a bare key: declare it with key", path)
			}
		}
		return f[0] + " " + name + " " + k.Alg + " " + base64.StdEncoding.EncodeToString(der), nil
	}
	return line, nil
}

// digestOf is the launch digest of an image folder, or the SHA-256 of a program.
func digestOf(path, ovmf string) (string, error) {
	st, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if st.IsDir() || filepath.Base(path) == image.RecordName {
		return imageDigest(path, ovmf)
	}
	b, err := applet.ReadFile(nil, path, maxProgram)
	if err != nil {
		return "", err
	}
	if !bytes.HasPrefix(b, []byte("\x7fELF")) {
		return "", applet.WithHint(fmt.Errorf("%q is neither an image folder nor a program", path), "mkimage build -out DIR makes an image folder")
	}
	return fmt.Sprintf("%x", sha256.Sum256(b)), nil
}
