package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"attestbox/internal/applet"
	"attestbox/internal/appraise"
	"attestbox/internal/appraise/amdroots"
	"attestbox/internal/claim"
	"attestbox/internal/code"
	"attestbox/internal/proof"
)

// explanation is what -json prints.
type explanation struct {
	Proved  bool               `json:"proved"`
	Digest  string             `json:"proof_sha256,omitempty"`
	Proof   *proof.Proof       `json:"proof,omitempty"`
	Failure *proof.Failure     `json:"failure,omitempty"`
	Refused []appraise.Finding `json:"refused,omitempty"` // of field appraisal
	Error   string             `json:"error,omitempty"`
	Code    code.Code          `json:"code,omitempty"`
}

type explainFlags struct {
	folder
	vek, chain, key, role, at string
	draft, asJSON             bool
}

func runExplain(_ context.Context, env *applet.Env, args []string) error {
	var f explainFlags
	fl := env.Flags("-dir DIR REPORT -vek FILE [-chain FILE] [-key FILE] [-role ROLE] [-draft]", "policy explain -dir bank report.bin -vek vcek.der")
	f.register(fl, true)
	fl.StringVar(&f.vek, "vek", "", "VCEK or VLEK certificate `FILE`, DER or PEM")
	fl.StringVar(&f.chain, "chain", "", "ASK and ARK certificates `FILE`, DER or PEM; without it AMD's embedded ASK serves")
	fl.StringVar(&f.key, "key", "", "the key that wants to be admitted, PEM `FILE`; without it the environment alone is proved")
	fl.StringVar(&f.role, "role", "", "`ROLE` that is asked for; default client")
	fl.StringVar(&f.at, "time", "", "prove at this time (RFC 3339) instead of now")
	fl.BoolVar(&f.draft, "draft", false, "ask policy.txt as it would be signed now, which takes the policy key, instead of policy.signed")
	fl.BoolVar(&f.asJSON, "json", false, "print JSON")
	pos, err := parse(fl, args)
	if err != nil {
		return err
	}
	if len(pos) != 1 || f.vek == "" {
		return fl.Usage("want a REPORT and -vek")
	}
	now := time.Now()
	if f.at != "" {
		if now, err = time.Parse(time.RFC3339, f.at); err != nil {
			return fl.Usage("-time %q is not RFC 3339, such as 2026-01-31T12:00:00Z", f.at)
		}
	}
	if err := f.open(env, fl); err != nil {
		return err
	}
	v, err := f.policy(now)
	if err != nil {
		return err
	}
	x, err := f.explain(v, pos[0], now)
	if x == nil {
		return err
	}
	if f.asJSON {
		enc := json.NewEncoder(env.Stdout)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		if werr := enc.Encode(x); werr != nil {
			return werr
		}
	} else if werr := x.print(env); werr != nil {
		return werr
	}
	if err != nil {
		c, _ := code.Of(err)
		err = applet.Refused(c, err)
	}
	return err
}

// policy is what was signed last, or with -draft policy.txt signed in memory.
func (f *explainFlags) policy(now time.Time) (*claim.VerifiedPolicy, error) {
	v, err := f.signed()
	if err != nil && !(f.draft && errors.Is(err, fs.ErrNotExist)) {
		return nil, applet.WithHint(err, "policy sign -dir DIR, or -draft")
	}
	if !f.draft {
		return v, nil
	}
	_, p, err := f.text()
	if err != nil {
		return nil, err
	}
	key, err := f.folder.key()
	if err != nil {
		return nil, err
	}
	next(p, v, now, 90, 0)
	signed, err := p.Sign(key)
	if err != nil {
		return nil, err
	}
	return claim.Verify(signed, key.Public(), 0)
}

// explain gives the proof or what fails; a nil explanation is that nothing could
// be looked at.
func (f *explainFlags) explain(v *claim.VerifiedPolicy, report string, now time.Time) (*explanation, error) {
	raw, err := applet.ReadFile(f.env, report, 64<<10)
	if err == nil {
		raw, err = appraise.DecodeReport(raw)
	}
	if err != nil {
		return nil, fmt.Errorf("reading report: %w", err)
	}
	e, err := f.endorsements()
	if err != nil {
		return nil, err
	}
	var subject claim.Key
	if f.key != "" {
		spki, _, err := publicKey(f.env, f.key)
		if err != nil {
			return nil, err
		}
		if subject, err = claim.KeyOfSPKI("auth", spki); err != nil {
			return nil, err
		}
	}
	fail := func(err error) (*explanation, error) {
		x := &explanation{Error: err.Error()}
		x.Code, _ = code.Of(err)
		if pf, ok := errors.AsType[*proof.Failure](err); ok {
			x.Failure = pf
		}
		if r, ok := errors.AsType[*appraise.Refusal](err); ok {
			x.Refused = failed(r.Findings)
		}
		return x, err
	}
	builtin, err := amdroots.Load()
	if err != nil {
		return nil, err
	}
	roots, err := proof.Roots(v, builtin)
	if err != nil {
		return fail(err)
	}
	ap, apErr := proof.AppraisePolicy(v)
	opt := appraise.Options{}
	if apErr == nil {
		opt = ap.VerifyOptions(nil)
	}
	verified, err := appraise.Verify(raw, e, roots, now, opt)
	if err != nil {
		return fail(err)
	}
	ev, err := proof.NewAuthorizer(v).FromSNP(verified, subject, f.role, nil, now)
	if err != nil {
		return fail(err)
	}
	p, err := proof.Prove(v, ev.Evidence, now)
	if err != nil {
		x, err := fail(err)
		if apErr == nil {
			x.Refused = failed(appraise.Appraise(verified, ap, appraise.Expect{}, now).Findings)
		}
		return x, err
	}
	if apErr != nil {
		return fail(apErr)
	}
	if res := appraise.Appraise(verified, ap, appraise.Expect{}, now); !res.Accepted {
		return fail(res.Err())
	}
	return &explanation{Proved: true, Digest: fmt.Sprintf("%x", p.Digest()), Proof: p}, nil
}

func failed(fs []appraise.Finding) (out []appraise.Finding) {
	for _, f := range fs {
		if !f.OK {
			out = append(out, f)
		}
	}
	return out
}

func (f *explainFlags) endorsements() (e appraise.Endorsements, err error) {
	b, err := applet.ReadFile(f.env, f.vek, 64<<10)
	if err != nil {
		return e, err
	}
	certs, err := appraise.DecodeCerts(b)
	if err == nil && len(certs) != 1 {
		err = fmt.Errorf("%d certificates, want one", len(certs))
	}
	if err != nil {
		return e, fmt.Errorf("reading VEK %q: %w", f.vek, err)
	}
	e.VEK = certs[0]
	if f.chain != "" {
		if b, err = applet.ReadFile(f.env, f.chain, 64<<10); err == nil {
			e.ASK, e.ARK, err = appraise.DecodeChain(b)
		}
		if err != nil {
			return e, fmt.Errorf("reading chain %q: %w", f.chain, err)
		}
	}
	return e, nil
}

func (x *explanation) print(env *applet.Env) error {
	if x.Proved {
		_, err := fmt.Fprintf(env.Stdout, "%sproof sha256 %s\n", x.Proof, x.Digest)
		return err
	}
	w := env.Stdout
	if f := x.Failure; f != nil {
		if !f.AMD && f.Root != "" {
			fmt.Fprintf(w, "%s\n", f.Root)
		}
		fmt.Fprintf(w, "NOT PROVED by policy version %d, after %d steps\nthe first premise that fails: %s\nfound: %s\nwould satisfy it: %s\n", f.Policy, len(f.Proved), f.Premise, f.Found, f.Satisfy)
	} else {
		fmt.Fprintf(w, "NOT PROVED: %s\n", x.Error)
	}
	for _, f := range x.Refused {
		fmt.Fprintf(w, "refused by field appraisal: %s [%s]\n", f, f.Code)
	}
	return nil
}
