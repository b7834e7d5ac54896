package verifier

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"attestbox/internal/applet"
	"attestbox/internal/appraise"
	"attestbox/internal/appraise/amdroots"
	"attestbox/internal/server"
	"attestbox/internal/servercmd"
	"attestbox/internal/snp"
	"attestbox/internal/store"
)

// rulesFlags say which hardware is trusted, for init and policy.
type rulesFlags struct {
	roots, products, chips applet.Strings
	policy                 string
}

func (r *rulesFlags) register(fs *applet.FlagSet) {
	fs.Var(&r.roots, "root", "trust the ARK in this `FILE` (DER or PEM, a simulator's) and no root of AMD's; may be repeated")
	fs.Var(&r.products, "product", "accept `NAME[:LEVEL=N,...]` (Milan, Genoa, Turin); levels bl, tee, snp, ucode, fmc are floors of the reported, committed and launch TCB; may be repeated")
	fs.Var(&r.chips, "chip", "accept only chips with these CHIP_IDs, `HEX`; may be repeated")
	fs.StringVar(&r.policy, "policy", "", "appraisal policy `FILE` (JSON without measurements, see docs/appraisal.md) instead of -product and -chip")
}

// config builds and checks a configuration. The warnings are for stderr.
func (r *rulesFlags) config(env *applet.Env, fs *applet.FlagSet) (cfg server.Config, warnings []string, err error) {
	if cfg.Roots, err = r.readRoots(env); err != nil {
		return cfg, nil, err
	}
	policy := &appraise.Policy{Products: map[snp.Product]appraise.ProductPolicy{}}
	switch {
	case r.policy != "" && (len(r.products) > 0 && len(r.roots) == 0 || len(r.chips) > 0):
		return cfg, nil, fs.Usage("-policy excludes -product and -chip")
	case r.policy != "":
		b, err := applet.ReadFile(env, r.policy, 1<<20)
		if err != nil {
			return cfg, nil, err
		}
		if policy, err = server.ParsePolicy(b); err != nil {
			return cfg, nil, fmt.Errorf("%q: %w", r.policy, err)
		}
	case len(r.products) == 0 && len(r.roots) == 0:
		return cfg, nil, fs.Usage("which hardware? give -product (with its TCB floors) or -policy")
	default:
		if err := r.fromFlags(policy, cfg.Roots, fs); err != nil {
			return cfg, nil, err
		}
	}
	if cfg.Policy, err = server.MarshalPolicy(policy); err != nil {
		return cfg, nil, err
	}
	roots, _, err := server.Rules(&cfg, amdroots.Load)
	if err != nil {
		return cfg, nil, err
	}
	if !roots.AMD() {
		warnings = append(warnings, appraise.NotAMD+": the roots given are not AMD's; whoever has their keys can pose as any VM")
	}
	for _, p := range slices.Sorted(maps.Keys(policy.Products)) {
		if pp := policy.Products[p]; roots.AMD() && (pp.MinReportedTCB == appraise.TCBFloor{} || pp.MinCommittedTCB == appraise.TCBFloor{} || pp.MinLaunchTCB == appraise.TCBFloor{}) {
			warnings = append(warnings, fmt.Sprintf("no TCB floor for %s: firmware of any age is accepted", p))
		}
	}
	return cfg, warnings, nil
}

// readRoots reads self-signed certificates as roots and others as the
// intermediates of those they fit.
func (r *rulesFlags) readRoots(env *applet.Env) ([]server.Root, error) {
	roots := []server.Root{}
	for _, name := range r.roots {
		b, err := applet.ReadFile(env, name, 64<<10)
		if err != nil {
			return nil, err
		}
		ders, err := appraise.DecodeCerts(b)
		if err != nil {
			return nil, fmt.Errorf("reading root %q: %w", name, err)
		}
		var arks, others [][]byte
		for _, der := range ders {
			cert, err := x509.ParseCertificate(der)
			if err != nil {
				return nil, fmt.Errorf("reading root %q: %w", name, err)
			}
			if bytes.Equal(cert.RawIssuer, cert.RawSubject) {
				arks = append(arks, der)
			} else {
				others = append(others, der)
			}
		}
		if len(arks) == 0 {
			return nil, fmt.Errorf("reading root %q: no self-signed certificate in it", name)
		}
		for _, der := range arks {
			root := server.Root{ARK: der, Intermediates: [][]byte{}}
			cert, _ := x509.ParseCertificate(der) // parsed above
			product, err := snp.ParseProduct(strings.TrimPrefix(cert.Subject.CommonName, "ARK-"))
			if err != nil && len(r.products) == 1 {
				base, _, _ := strings.Cut(r.products[0], ":")
				product, err = snp.ParseProduct(base)
			}
			if err != nil {
				return nil, applet.WithHint(fmt.Errorf("root %q: its name %q says no product", name, cert.Subject.CommonName), "name it with one -product")
			}
			root.Product = string(product)
			if _, err := appraise.NewRoot(product, der); err != nil {
				return nil, fmt.Errorf("root %q: %w", name, err)
			}
			for _, o := range others {
				if _, err := appraise.NewRoot(product, der, o); err == nil {
					root.Intermediates = append(root.Intermediates, o)
				}
			}
			roots = append(roots, root)
		}
	}
	return roots, nil
}

func (r *rulesFlags) fromFlags(policy *appraise.Policy, roots []server.Root, fs *applet.FlagSet) error {
	for _, p := range r.products {
		name, levels, _ := strings.Cut(p, ":")
		product, err := snp.ParseProduct(name)
		if err != nil {
			return fs.Usage("-product %q: %v", p, err)
		}
		floor, err := parseFloor(levels)
		if err != nil {
			return fs.Usage("-product %q: %v", p, err)
		}
		policy.Products[product] = appraise.ProductPolicy{MinReportedTCB: floor, MinCommittedTCB: floor, MinLaunchTCB: floor}
	}
	if len(r.products) == 0 {
		for _, root := range roots {
			policy.Products[snp.Product(root.Product)] = appraise.ProductPolicy{}
		}
	}
	for _, c := range r.chips {
		var id appraise.ChipID
		if err := id.UnmarshalText([]byte(c)); err != nil {
			return fs.Usage("-chip %.20q: %v", c, err)
		}
		policy.Chips = append(policy.Chips, id)
	}
	return nil
}

func parseFloor(levels string) (f appraise.TCBFloor, err error) {
	if levels == "" {
		return f, nil
	}
	for _, l := range strings.Split(levels, ",") {
		name, value, _ := strings.Cut(l, "=")
		n, err := strconv.ParseUint(value, 10, 8)
		if err != nil {
			return f, fmt.Errorf("level %q: want NAME=0..255", l)
		}
		to, ok := map[string]*uint8{"bl": &f.BootLoader, "tee": &f.TEE, "snp": &f.SNP, "ucode": &f.Microcode, "fmc": &f.FMC}[name]
		if !ok {
			return f, fmt.Errorf("level %q: want bl, tee, snp, ucode or fmc", l)
		}
		*to = uint8(n)
	}
	return f, nil
}

func runInit(ctx context.Context, env *applet.Env, args []string) error {
	var sf servercmd.StateFlags
	var rf rulesFlags
	fs := env.Flags("-state DIR -seal-key FILE [-root FILE] -product NAME[:snp=N,...]",
		"verifier init -state /var/lib/attestbox -seal-key /run/credentials/seal.key -product Genoa:bl=9,tee=0,snp=22,ucode=72")
	sf.Register(fs)
	rf.register(fs)
	if err := fs.Parse(args); err != nil {
		return err
	}
	if err := sf.Check(fs); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fs.Usage("unexpected argument %q", fs.Arg(0))
	}
	cfg, warnings, err := rf.config(env, fs)
	if err != nil {
		return err
	}
	key, err := sf.Key(env)
	if err != nil {
		return err
	}
	defer servercmd.ZeroKey(key)
	st, err := servercmd.CreateState(ctx, sf.Dir, func(raw store.Store) (*server.State, error) {
		return server.CreateState(ctx, raw, key, cfg, time.Now())
	})
	if err != nil {
		return err
	}
	defer st.Close()
	_, pin, err := st.Certificate(ctx)
	if err != nil {
		return err
	}
	for _, w := range warnings {
		fmt.Fprintf(env.Stderr, "%s: warning: %s\n", env.Name, w)
	}
	fmt.Fprintf(env.Stderr, "made the state %s; images pin this key:\n", sf.Dir)
	fmt.Fprintln(env.Stdout, pin)
	return nil
}

func runPin(ctx context.Context, env *applet.Env, args []string) error {
	var sf servercmd.StateFlags
	fs := env.Flags("-state DIR -seal-key FILE", "verifier pin -state /var/lib/attestbox -seal-key /run/credentials/seal.key")
	sf.Register(fs)
	if err := fs.Parse(args); err != nil {
		return err
	}
	if err := sf.Check(fs); err != nil {
		return err
	}
	st, err := sf.Open(ctx, env)
	if err != nil {
		return err
	}
	defer st.Close()
	_, pin, err := st.Certificate(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintln(env.Stdout, pin)
	return nil
}

func runPolicy(ctx context.Context, env *applet.Env, args []string) error {
	if len(args) == 0 || (args[0] != "show" && args[0] != "set") {
		return applet.WithHint(applet.Usage("want show or set"), "for example: verifier policy show -state DIR -seal-key FILE")
	}
	verb := args[0]
	var sf servercmd.StateFlags
	var rf rulesFlags
	var minVersion uint64
	fs := env.Flags("show|set -state DIR -seal-key FILE [set: as init] [FILE]", "verifier policy set -state /var/lib/attestbox -seal-key /run/credentials/seal.key policy.json")
	sf.Register(fs)
	if verb == "set" {
		rf.register(fs)
		fs.Uint64Var(&minVersion, "min-policy-version", 0, "least policy version that guests accept from now on; it never falls")
	}
	if err := fs.Parse(args[1:]); err != nil {
		return err
	}
	if err := sf.Check(fs); err != nil {
		return err
	}
	if verb == "set" && fs.NArg() == 1 && rf.policy == "" {
		rf.policy = fs.Arg(0)
	} else if fs.NArg() > 0 {
		return fs.Usage("unexpected argument %q", fs.Arg(0))
	}
	st, err := sf.Open(ctx, env)
	if err != nil {
		return err
	}
	defer st.Close()
	if verb == "show" {
		cfg, err := st.Config(ctx)
		if err != nil {
			return err
		}
		var pretty bytes.Buffer
		if err := json.Indent(&pretty, cfg.Policy, "", "  "); err != nil {
			return err
		}
		roots, _, err := server.Rules(cfg, amdroots.Load)
		if err != nil {
			return err
		}
		who := "AMD's"
		if !roots.AMD() {
			who = appraise.NotAMD
		}
		fmt.Fprintf(env.Stderr, "trusted roots: %s %v; minimum policy version %d\n", who, roots.Products(), cfg.MinPolicyVersion)
		fmt.Fprintln(env.Stdout, pretty.String())
		return nil
	}
	return setPolicy(ctx, env, fs, st, &rf, minVersion)
}

// setPolicy replaces the policy; the roots stay unless -root is given.
func setPolicy(ctx context.Context, env *applet.Env, fs *applet.FlagSet, st *server.State, rf *rulesFlags, minVersion uint64) error {
	var warnings []string
	err := st.UpdateConfig(ctx, func(c *server.Config) error {
		if minVersion != 0 {
			c.MinPolicyVersion = minVersion
		}
		if rf.policy == "" && len(rf.roots)+len(rf.products)+len(rf.chips) == 0 {
			if minVersion == 0 {
				return fs.Usage("nothing to set")
			}
			return nil
		}
		old := c.Roots
		next, w, err := rf.config(env, fs)
		if err != nil {
			return err
		}
		if len(rf.roots) == 0 && len(old) > 0 {
			next.Roots = old
			if _, _, err := server.Rules(&next, amdroots.Load); err != nil {
				return err
			}
			w = []string{appraise.NotAMD + ": the roots are not AMD's, as before"}
		}
		c.Roots, c.Policy, warnings = next.Roots, next.Policy, w
		return nil
	})
	for _, w := range warnings {
		fmt.Fprintf(env.Stderr, "%s: warning: %s\n", env.Name, w)
	}
	return err
}
