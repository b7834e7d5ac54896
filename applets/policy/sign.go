package policy

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"attestbox/internal/applet"
	"attestbox/internal/claim"
	"attestbox/internal/code"
)

func runSign(_ context.Context, env *applet.Env, args []string) error {
	var f folder
	var days, renew int
	var more applet.Strings
	var ovmf string
	fl := env.Flags("-dir DIR [-passphrase FILE | -identity FILE] [-add FILE]... [-days N] [-renew N]", "policy sign -dir bank -passphrase /media/usb/passphrase")
	f.register(fl, true)
	fl.Var(&more, "add", "first add the claims in `FILE`, as policy add does; may be repeated")
	fl.StringVar(&ovmf, "ovmf", "", "with -add: firmware `FILE` that images were measured with, where it was not the synthetic one")
	fl.IntVar(&days, "days", 90, "how many days drafts are in force from now")
	fl.IntVar(&renew, "renew", 0, "give claims that end within `N` days a new number and time")
	pos, err := parse(fl, args)
	if err != nil {
		return err
	}
	if len(pos) > 0 || days < 1 || days > 3660 || renew < 0 {
		return fl.Usage("want no arguments, -days from 1 to 3660")
	}
	if err := f.open(env, fl); err != nil {
		return err
	}
	if len(more) > 0 {
		if err := f.addFiles(more, 0, ovmf); err != nil {
			return err
		}
	}
	text, p, err := f.text()
	if err != nil {
		return err
	}
	cert, err := f.cert()
	if err != nil {
		return err
	}
	old, err := f.signed()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return applet.WithHint(err, "policy.signed is not this domain's; move it away only if you know that a newer one is nowhere in use")
	}
	key, err := f.key()
	if err != nil {
		return err
	}
	if declared, ok := p.PolicyKey(); !ok || !claim.SamePublicKey(key.Public(), cert.PublicKey) || !isKey(declared, key) {
		return applet.Fail(code.PolicyKey, errors.New("policy.key, policy.crt and policy.txt are not of one key"))
	}
	now := time.Now()
	for _, c := range p.Claims() {
		if c.Draft() && !c.NotAfter.IsZero() && c.NotAfter.Before(now) {
			return applet.WithHint(applet.Refused(code.ClaimExpired, fmt.Errorf("%s: it would be signed after its end", c)), "give the draft another time, or none for -days from now")
		}
	}
	next(p, old, now, days, renew)
	signed, err := p.Sign(key)
	if err != nil {
		return applet.Fail(code.PolicyMalformed, err)
	}
	v, err := claim.Verify(signed, cert.PublicKey, p.Version)
	if err != nil {
		return err
	}
	if err := v.Follows(old); err != nil {
		return applet.WithHint(applet.Refused(code.PolicyRollback, err), "a claim keeps its text under its number; to change one, remove the line and write another")
	}
	claims, err := servingClaims(v, key)
	if err != nil {
		return err
	}
	issuers, err := f.issuers(v, cert, key, now)
	if err != nil {
		return err
	}
	// policy.txt first: numbers that it has and policy.signed has not are only
	// skipped.
	if out := p.Format(); !bytes.Equal(out, text) {
		if err := writeFile(f.path(textName), out, 0o644); err != nil {
			return err
		}
	}
	if len(claims) > 0 {
		if err := os.MkdirAll(f.path(claimsName), 0o700); err != nil {
			return err
		}
	}
	for name, b := range claims {
		if err := writeFile(filepath.Join(f.path(claimsName), name), b, 0o644); err != nil {
			return err
		}
	}
	for name, b := range issuers {
		if err := writeFile(f.path(name), b, 0o644); err != nil {
			return err
		}
	}
	if err := writeFile(f.path(signedName), signed, 0o644); err != nil {
		return err
	}
	fmt.Fprintf(env.Stderr, "signed %s, version %d, %d claims: %s\n", v.Domain(), v.Version(), len(v.Claims()), f.path(signedName))
	return nil
}

func isKey(k claim.Key, key crypto.Signer) bool {
	got, err := claim.KeyOf(claim.PolicyKeyName, key.Public())
	return err == nil && got.Same(k)
}

// next makes p the version that follows what was signed before: numbers only
// rise, and drafts get theirs.
func next(p *claim.Policy, old *claim.VerifiedPolicy, now time.Time, days, renew int) {
	if old != nil {
		p.Version, p.LastSerial = max(p.Version, old.Version()), max(p.LastSerial, old.LastSerial())
	}
	p.Version++
	for _, c := range p.Claims() {
		if !c.Draft() && !c.Revokes() && renew > 0 && c.NotAfter.Before(now.AddDate(0, 0, renew)) {
			c.Serial, c.NotBefore, c.NotAfter = 0, time.Time{}, time.Time{}
		}
	}
	p.Complete(now, time.Duration(days)*24*time.Hour)
}

// servingClaims are the claims that trust a key to serve, signed to travel
// alone: a server carries its own in its certificate.
func servingClaims(v *claim.VerifiedPolicy, key crypto.Signer) (map[string][]byte, error) {
	out := map[string][]byte{}
	for _, c := range v.Claims() {
		k, ok := c.Statement.Clause.Subject.(claim.Key)
		r, ok2 := c.Statement.Clause.Object.(claim.Role)
		if !ok || !ok2 || c.Statement.Clause.Verb != claim.IsTrustedForServing {
			continue
		}
		s, err := claim.SignClaim(v.Domain(), claim.PolicyKeyName, key, c)
		if err != nil {
			return nil, err
		}
		out[k.Name+"-"+r.Name+".claim"] = s.Marshal() // of several, the latest
	}
	return out, nil
}
