package verifier

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"attestbox/internal/applet"
	"attestbox/internal/appraise"
	"attestbox/internal/appraise/amdroots"
	"attestbox/internal/code"
	"attestbox/internal/snp"
)

// maxInput bounds a file that appraise reads, in bytes; maxCRL a revocation
// list.
const (
	maxInput = 64 << 10
	maxCRL   = 1 << 20
)

const (
	appraiseSynopsis = "-report FILE -vek FILE [-chain FILE] [-product NAME] [-policy FILE | -measurement HEX | -signature-only] [-json] [flags]"
	appraiseExample  = "verifier appraise -report report.bin -vek vcek.der -chain cert_chain.pem -policy appraisal.json"
)

// appraiseFlags are the command line of Appraise.
type appraiseFlags struct {
	report, vek, chain, crl, root, policy string
	product, hostData, reportData, at     string
	measurements                          applet.Strings
	signatureOnly, asJSON                 bool
}

// verdict is what -json prints.
type verdict struct {
	Accepted      bool               `json:"accepted"`
	SignatureOnly bool               `json:"signature_only"`
	Time          string             `json:"time"`
	Product       snp.Product        `json:"product,omitempty"`
	Root          string             `json:"root,omitempty"`
	AMD           bool               `json:"amd"`
	Findings      []appraise.Finding `json:"findings"`
}

// Appraise is `verifier appraise`: the server's appraisal, offline, for people.
func Appraise(_ context.Context, env *applet.Env, args []string) error {
	var f appraiseFlags
	fs := env.Flags(appraiseSynopsis, appraiseExample)
	fs.StringVar(&f.report, "report", "", "attestation report, raw bytes or hex; - is stdin")
	fs.StringVar(&f.vek, "vek", "", "VCEK or VLEK certificate, DER or PEM")
	fs.StringVar(&f.chain, "chain", "", "ASK and ARK certificates, DER or PEM, in either order; without it AMD's embedded ASK serves")
	fs.StringVar(&f.crl, "crl", "", "revocation list in DER, signed by the ARK")
	fs.StringVar(&f.root, "root", "", "trust the roots in this file (DER or PEM) instead of AMD's, for a simulator's reports")
	fs.StringVar(&f.policy, "policy", "", "appraisal policy, JSON (docs/appraisal.md)")
	fs.StringVar(&f.product, "product", "", "accept this product alone (Milan, Genoa, Turin); a version 2 report needs it")
	fs.Var(&f.measurements, "measurement", "trusted launch digest in hex, may be repeated; takes the place of the policy's")
	fs.StringVar(&f.hostData, "host-data", "", "instance ID that HOST_DATA must hold, 64 hex digits")
	fs.StringVar(&f.reportData, "report-data", "", "what REPORT_DATA must hold, 128 hex digits")
	fs.StringVar(&f.at, "time", "", "judge certificates at this time (RFC 3339) instead of now")
	fs.BoolVar(&f.signatureOnly, "signature-only", false, "stop after chain, signature and the binding of VEK to report")
	fs.BoolVar(&f.asJSON, "json", false, "print the decision as JSON")
	if err := fs.Parse(args); err != nil {
		return err
	}
	switch {
	case fs.NArg() > 0:
		return fs.Usage("unexpected argument %q", fs.Arg(0))
	case f.report == "" || f.vek == "":
		return fs.Usage("-report and -vek are needed")
	case f.signatureOnly && (f.policy != "" || len(f.measurements) > 0 || f.hostData != "" || f.reportData != ""):
		return fs.Usage("-signature-only looks at no field, so that -policy, -measurement, -host-data and -report-data have no place beside it")
	}
	return f.run(env, fs)
}

func (f *appraiseFlags) run(env *applet.Env, fs *applet.FlagSet) error {
	now, opt, expect, err := f.values()
	if err != nil {
		return fs.Usage("%v", err)
	}
	policy, err := f.loadPolicy(&opt)
	if err != nil {
		return err
	}
	roots, err := f.loadRoots(env)
	if err != nil {
		return err
	}
	out := verdict{SignatureOnly: f.signatureOnly, Time: now.UTC().Format(time.RFC3339), AMD: roots.AMD()}
	report, e, err := f.load(env)
	var v *appraise.Verified
	if err == nil {
		v, err = appraise.Verify(report, e, roots, now, opt)
	} else if _, ok := errors.AsType[*appraise.Refusal](err); !ok {
		return err
	}
	switch {
	case err != nil:
		if r, ok := errors.AsType[*appraise.Refusal](err); ok {
			out.Findings = r.Findings
		}
	case f.signatureOnly:
		out.Accepted = true
		out.Findings = append(v.Findings(), appraise.Describe(v)...)
	default:
		res := appraise.Appraise(v, policy, expect, now)
		out.Accepted, out.Findings, err = res.Accepted, res.Findings, res.Err()
	}
	if v != nil {
		out.Product, out.Root = v.Product(), v.Root().Name()
	}
	if err := out.print(env.Stdout, f.asJSON); err != nil {
		return fmt.Errorf("writing the decision: %w", err)
	}
	return refused(err)
}

// refused turns a refusal into exit 3 with its code and what to do.
func refused(err error) error {
	if err == nil {
		return nil
	}
	c, _ := code.Of(err)
	err = applet.Refused(c, fmt.Errorf("report refused: %w", err))
	switch c {
	case code.ReportVersion:
		return applet.WithHint(err, "a version 2 report does not name its product: give -product Milan or Genoa")
	case code.VEKRoot:
		return applet.WithHint(err, "a simulator's report needs -root with the simulator's ARK")
	case code.VEKValidity:
		return applet.WithHint(err, "to look at an old report, name a time at which its certificates were valid: -time 2026-01-31T12:00:00Z")
	case code.AppraisalPolicy:
		return applet.WithHint(err, "give -policy or -measurement to say what is trusted, or -signature-only")
	case code.VEKTCB, code.VEKChip:
		return applet.WithHint(err, "fetch the VCEK for the report's CHIP_ID and REPORTED_TCB")
	}
	return applet.WithHint(err, "attestbox explain "+string(c))
}

// values reads the flags that are values themselves.
func (f *appraiseFlags) values() (now time.Time, opt appraise.Options, expect appraise.Expect, err error) {
	now = time.Now()
	if f.at != "" {
		if now, err = time.Parse(time.RFC3339, f.at); err != nil {
			return now, opt, expect, fmt.Errorf("-time %q is not RFC 3339, such as 2026-01-31T12:00:00Z", f.at)
		}
	}
	if f.product != "" {
		p, err := snp.ParseProduct(f.product)
		if err != nil {
			return now, opt, expect, fmt.Errorf("-product: %w", err)
		}
		opt.Product, opt.Version2As = p, p
	}
	if f.hostData != "" {
		expect.HostData = new([32]byte)
		if err := fixedHex(expect.HostData[:], "-host-data", f.hostData); err != nil {
			return now, opt, expect, err
		}
	}
	if f.reportData != "" {
		expect.ReportData = new([64]byte)
		if err := fixedHex(expect.ReportData[:], "-report-data", f.reportData); err != nil {
			return now, opt, expect, err
		}
	}
	for _, m := range f.measurements {
		if err := new(appraise.Hex48).UnmarshalText([]byte(m)); err != nil {
			return now, opt, expect, fmt.Errorf("-measurement: %w", err)
		}
	}
	return now, opt, expect, nil
}

// loadPolicy reads the policy, or makes the one that -product and -measurement
// say, and fits it and the options to each other.
func (f *appraiseFlags) loadPolicy(opt *appraise.Options) (*appraise.Policy, error) {
	if f.signatureOnly {
		return nil, nil
	}
	p := &appraise.Policy{Products: map[snp.Product]appraise.ProductPolicy{snp.Milan: {}, snp.Genoa: {}, snp.Turin: {}}}
	if f.policy != "" {
		b, err := applet.ReadFile(nil, f.policy, maxInput)
		if err != nil {
			return nil, fmt.Errorf("reading policy: %w", err)
		}
		if p, err = appraise.DecodePolicy(b); err != nil {
			return nil, f.badPolicy(err)
		}
	}
	if len(f.measurements) > 0 {
		p.Measurements = make([]appraise.Hex48, len(f.measurements))
		for i, m := range f.measurements {
			if err := p.Measurements[i].UnmarshalText([]byte(m)); err != nil {
				return nil, applet.Usage("-measurement: %v", err)
			}
		}
	}
	if f.product != "" {
		if _, listed := p.Products[opt.Product]; listed {
			p.Version2As = opt.Product // naming the product is asking for version 2
		}
	}
	// Without a policy and a digest nothing is accepted, and every field shown.
	if err := p.Check(); err != nil && (f.policy != "" || len(f.measurements) > 0) {
		return nil, f.badPolicy(err)
	}
	named := opt.Product
	*opt = p.VerifyOptions(nil)
	opt.Product = named
	return p, nil
}

func (f *appraiseFlags) badPolicy(err error) error {
	err = applet.Fail(code.AppraisalPolicy, fmt.Errorf("policy %q: %w", f.policy, err))
	return applet.WithHint(err, "docs/appraisal.md has a worked example")
}

// load reads report and certificates. A file that cannot be read is a failure;
// one that was read and is no report, or no certificate, is refused evidence.
func (f *appraiseFlags) load(env *applet.Env) (report []byte, e appraise.Endorsements, err error) {
	raw, err := applet.ReadFile(env, f.report, maxInput)
	if err != nil {
		return nil, e, fmt.Errorf("report: %w", err)
	}
	if report, err = appraise.DecodeReport(raw); err != nil {
		return nil, e, unusable("REPORT", code.ReportMalformed, f.report, err, fmt.Sprintf("%d bytes, raw or in hex", snp.ReportSize))
	}
	b, err := applet.ReadFile(env, f.vek, maxInput)
	if err != nil {
		return nil, e, fmt.Errorf("VEK: %w", err)
	}
	certs, err := appraise.DecodeCerts(b)
	if err == nil && len(certs) != 1 {
		err = fmt.Errorf("%d certificates", len(certs))
	}
	if err != nil {
		return nil, e, unusable("VEK", code.VEKChain, f.vek, err, "one certificate, DER or PEM")
	}
	e.VEK = certs[0]
	if f.chain != "" {
		if b, err = applet.ReadFile(env, f.chain, maxInput); err != nil {
			return nil, e, fmt.Errorf("chain: %w", err)
		}
		if e.ASK, e.ARK, err = appraise.DecodeChainOf(e.VEK, b); err != nil {
			return nil, e, unusable("CHAIN", code.VEKChain, f.chain, err, "an ASK and an ARK, DER or PEM")
		}
	}
	if f.crl != "" {
		if e.CRL, err = applet.ReadFile(env, f.crl, maxCRL); err != nil {
			return nil, e, fmt.Errorf("revocation list: %w", err)
		}
		if len(e.CRL) == 0 { // would count as none given
			return nil, e, unusable("CRL", code.CRLBad, f.crl, errors.New("empty"), "a revocation list in DER")
		}
	}
	return report, e, nil
}

// unusable refuses a file by its content.
func unusable(field string, c code.Code, path string, err error, want string) error {
	return code.Wrap(c, &appraise.Refusal{Findings: []appraise.Finding{{Field: field, Found: fmt.Sprintf("%q: %v", path, err), Want: want, Code: c}}})
}

func (f *appraiseFlags) loadRoots(env *applet.Env) (*appraise.Roots, error) {
	if f.root == "" {
		return amdroots.Load()
	}
	b, err := applet.ReadFile(env, f.root, maxInput)
	if err != nil {
		return nil, fmt.Errorf("reading roots: %w", err)
	}
	roots, err := appraise.DecodeRoots(b, f.product)
	if err != nil {
		return nil, applet.WithHint(fmt.Errorf("reading roots %q: %w", f.root, err), "-root takes an ARK, self-signed, in PEM or DER; -product says of which product")
	}
	return roots, nil
}

func fixedHex(to []byte, name, text string) error {
	if len(text) != 2*len(to) {
		return fmt.Errorf("%s has %d hex digits, want %d", name, len(text), 2*len(to))
	}
	if _, err := hex.Decode(to, []byte(text)); err != nil {
		return fmt.Errorf("%s %q is not hex", name, text)
	}
	return nil
}

func (v *verdict) print(w io.Writer, asJSON bool) error {
	if asJSON {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		return enc.Encode(v)
	}
	for _, f := range v.Findings {
		line := fmt.Sprintf("%-11s  %-36s found %s", f.Verdict(), f.Field, f.Found)
		if f.Want != "" {
			line += "; want " + f.Want
		}
		if f.Note != "" {
			line += " (" + f.Note + ")"
		}
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintln(w, v.summary())
	return err
}

func (v *verdict) summary() string {
	s := "verdict: REFUSED"
	switch {
	case v.Accepted && v.SignatureOnly:
		s = "verdict: SIGNATURE VERIFIED, no field was appraised"
	case v.Accepted:
		s = "verdict: ACCEPTED"
	}
	s += ", at " + v.Time
	if v.Root != "" {
		s += fmt.Sprintf(", %s, root %s", v.Product, v.Root)
	} else if !v.AMD {
		s += ", root " + appraise.NotAMD
	}
	return s
}
