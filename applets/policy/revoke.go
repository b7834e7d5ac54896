package policy

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"attestbox/internal/admission"
	"attestbox/internal/applet"
	"attestbox/internal/claim"
	"attestbox/internal/code"
)

func runRevoke(_ context.Context, env *applet.Env, args []string) error {
	var e editFlags
	var instance string
	fs := env.Flags("-dir DIR measurement HEX|NAME | key NAME|FILE | chip HEX | claim SERIAL | certificate FILE|HEX", "policy revoke -dir bank measurement web-1")
	e.register(fs)
	fs.StringVar(&instance, "with-instance", "", "only the instance with this ID, 64 `HEX` digits")
	pos, err := e.start(env, fs, args, 2)
	if err != nil {
		return err
	}
	_, p, err := e.text()
	if err != nil {
		return err
	}
	if len(pos) != 2 {
		return fs.Usage("want what kind and which one")
	}
	x := ""
	switch pos[0] {
	case "measurement":
		if x, err = e.measurement(p, pos[1]); err == nil && instance != "" {
			x += " with-instance[" + strings.ToLower(instance) + "]"
		}
	case "key":
		x, err = keyToRevoke(env, p, pos[1])
	case "chip":
		x = "Chip[" + strings.ToLower(pos[1]) + "]"
	case "claim":
		x = "Claim[" + pos[1] + "]"
	case "certificate":
		x, err = certToRevoke(env, pos[1])
	default:
		return fs.Usage("cannot revoke a %.40q", pos[0])
	}
	if err != nil {
		return err
	}
	return e.add(0, time.Now(), x+" is-revoked")
}

func keyToRevoke(env *applet.Env, p *claim.Policy, s string) (string, error) {
	for _, i := range p.Items {
		if i.Key != nil && i.Key.Key.Name == s {
			return i.Key.Key.String(), nil
		}
	}
	spki, _, err := publicKey(env, s)
	if err != nil {
		return "", applet.WithHint(err, "name a key of policy.txt, or a file with the public key or its certificate")
	}
	k, _, err := declare(p, fileName(s), spki, nil)
	return k.String(), err
}

func certToRevoke(env *applet.Env, s string) (string, error) {
	if b, err := hex.DecodeString(s); err == nil && len(b) == 32 {
		return "Certificate[" + strings.ToLower(s) + "]", nil
	}
	_, cert, err := publicKey(env, s)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("Certificate[%x]", sha256.Sum256(cert)), nil
}

func runDelegate(_ context.Context, env *applet.Env, args []string) error {
	var e editFlags
	var issuer bool
	var name, out string
	fs := env.Flags("-dir DIR KEYFILE -issuer [-passphrase FILE] -out FILE", "policy delegate -dir bank issuer.pub -issuer -passphrase /media/usb/passphrase -out issuer.crt")
	fs.BoolVar(&issuer, "issuer", false, "the key may sign admission certificates, and nothing else")
	fs.StringVar(&name, "name", "", "call the key `NAME` in policy.txt")
	fs.StringVar(&out, "out", "", "write the issuer's certificate, PEM, to `FILE`; - is stdout")
	e.folder.register(fs, true)
	fs.IntVar(&e.days, "days", 90, "how many days claim and certificate live")
	pos, err := e.start(env, fs, args, 1)
	if err != nil {
		return err
	}
	if !issuer || len(pos) != 1 || out == "" || e.days == 0 {
		return fs.Usage("want one KEYFILE, -issuer and -out")
	}
	_, p, err := e.text()
	if err != nil {
		return err
	}
	spki, _, err := publicKey(env, pos[0])
	if err != nil {
		return err
	}
	if name == "" {
		name = fileName(pos[0])
	}
	k, lines, err := declare(p, name, spki, nil)
	if err != nil {
		return err
	}
	pub, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return err
	}
	cert, err := e.cert()
	if err != nil {
		return err
	}
	key, err := e.key()
	if err != nil {
		return err
	}
	if !claim.SamePublicKey(key.Public(), cert.PublicKey) {
		return applet.Fail(code.PolicyKey, errors.New("policy.key is not the key of policy.crt"))
	}
	der, err := admission.NewIssuer(cert, key, pub, time.Now(), time.Duration(e.days)*24*time.Hour)
	if err != nil {
		return err
	}
	if err := e.add(e.days, time.Now(), append(lines, k.String()+" is-trusted-for-certification")...); err != nil {
		return err
	}
	b := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if out == "-" {
		_, err = env.Stdout.Write(b)
		return err
	}
	return writeFile(out, b, 0o644)
}
