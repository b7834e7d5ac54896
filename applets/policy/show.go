package policy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"attestbox/internal/applet"
	"attestbox/internal/appraise"
	"attestbox/internal/claim"
)

func runShow(_ context.Context, env *applet.Env, args []string) error {
	var f folder
	var asSigned bool
	fl := env.Flags("-dir DIR [-signed]", "policy show -dir bank")
	f.register(fl, false)
	fl.BoolVar(&asSigned, "signed", false, "print what was signed last, not policy.txt")
	pos, err := parse(fl, args)
	if err != nil {
		return err
	}
	if len(pos) > 0 {
		return fl.Usage("unexpected argument %q", pos[0])
	}
	if err := f.open(env, fl); err != nil {
		return err
	}
	_, p, err := f.text()
	if err != nil {
		return err
	}
	v, err := f.signed()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		fmt.Fprintln(env.Stderr, "nothing is signed yet")
		if asSigned {
			return applet.WithHint(errors.New("there is no policy.signed"), "policy sign -dir DIR")
		}
	case err != nil:
		return err
	default:
		fmt.Fprintf(env.Stderr, "signed: %s, version %d, last serial %d, good\n", v.Domain(), v.Version(), v.LastSerial())
		if !v.AMD() && hardware(v) {
			fmt.Fprintf(env.Stderr, "%s: the hardware roots are not AMD's\n", appraise.NotAMD)
		}
	}
	if asSigned {
		_, err := env.Stdout.Write(v.Signed())
		return err
	}
	if _, err := env.Stdout.Write(p.Format()); err != nil {
		return err
	}
	now := time.Now()
	for _, c := range p.Claims() {
		const soon = 14 * 24 * time.Hour
		switch {
		case c.Draft():
			fmt.Fprintf(env.Stderr, "draft: %s\n", c)
		case c.Revokes():
		case now.After(c.NotAfter):
			fmt.Fprintf(env.Stderr, "claim %d ended %s\n", c.Serial, c.NotAfter.Format(time.DateOnly))
		case now.Add(soon).After(c.NotAfter):
			fmt.Fprintf(env.Stderr, "claim %d ends %s: policy sign -renew 30\n", c.Serial, c.NotAfter.Format(time.DateOnly))
		}
	}
	return nil
}

func hardware(v *claim.VerifiedPolicy) bool {
	for _, c := range v.Claims() {
		if p, ok := c.Statement.Clause.Object.(claim.Platform); ok && p.Type == claim.AMDSEVSNP {
			return true
		}
	}
	return false
}

// runDiff compares two policies, signed or not; signatures are not looked at.
func runDiff(_ context.Context, env *applet.Env, args []string) error {
	fl := env.Flags("OLD NEW", "policy diff policy.signed.bak bank/policy.signed")
	pos, err := parse(fl, args)
	if err != nil {
		return err
	}
	if len(pos) != 2 {
		return fl.Usage("want two files")
	}
	var ps [2]*claim.Policy
	for i, name := range pos {
		b, err := applet.ReadFile(env, name, claim.MaxPolicy)
		if err != nil {
			return err
		}
		if st, err := os.Stat(name); err == nil && st.IsDir() {
			return fl.Usage("%q is a folder: name policy.txt or policy.signed in it", name)
		}
		if ps[i], err = claim.Parse(claim.Unsigned(b)); err != nil {
			return fmt.Errorf("%q: %w", name, err)
		}
	}
	old, next := ps[0], ps[1]
	for _, d := range [][3]string{{"domain", old.Domain, next.Domain}, {"version", fmt.Sprint(old.Version), fmt.Sprint(next.Version)}} {
		if d[1] != d[2] {
			fmt.Fprintf(env.Stdout, "%s: %s -> %s\n", d[0], d[1], d[2])
		}
	}
	if a, _ := old.PolicyKey(); true {
		if b, _ := next.PolicyKey(); a != b {
			fmt.Fprintf(env.Stdout, "policy key: %s -> %s\n", a, b)
		}
	}
	for _, side := range []struct {
		mark string
		a, b *claim.Policy
	}{{"-", old, next}, {"+", next, old}} {
		other := map[string]bool{}
		for _, i := range side.b.Items {
			other[i.String()] = true
		}
		for _, i := range side.a.Items {
			if (i.Claim != nil || i.Key != nil || i.Measurement != nil) && !other[i.String()] {
				fmt.Fprintf(env.Stdout, "%s %s\n", side.mark, i)
			}
		}
	}
	return nil
}
