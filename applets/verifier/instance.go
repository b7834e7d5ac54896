package verifier

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"strconv"
	"strings"
	"time"

	"attestbox/internal/applet"
	"attestbox/internal/appraise"
	"attestbox/internal/idblock"
	"attestbox/internal/server"
	"attestbox/internal/servercmd"
	"attestbox/internal/wire"
)

// shown is what list and show print with -json.
type shown struct {
	*server.Instance
	Boots *server.Boots `json:"boots"`
	State string        `json:"state"`
}

// stateOf is an instance's state in a word or two.
func stateOf(i *server.Instance, b *server.Boots) string {
	switch {
	case i.Decommissioned != 0:
		return "decommissioned"
	case len(b.Current) == 0 && b.Issued == 0:
		return "never booted"
	case len(b.Current) == 0:
		return "cleared"
	case b.Current[0].Unfinished():
		return "unfinished boot"
	case b.Current[0].Result == wire.ResultOpened:
		return "up"
	}
	return "failed"
}

func runInstance(ctx context.Context, env *applet.Env, args []string) error {
	verbs := map[string]func(context.Context, *applet.Env, *server.State, *instanceFlags) error{
		"list": instanceList, "show": instanceShow, "allow": instanceAllow, "renew": instanceRenew, "clear": instanceClear, "decommission": instanceDecommission,
		"accept-rollback": instanceAcceptRollback, "bundle-floor": instanceBundleFloor,
		"approve": instanceApprove, "reject": instanceReject, "rotate": instanceRotate, "disk": instanceDisk,
	}
	if len(args) == 0 || verbs[args[0]] == nil {
		return applet.WithHint(applet.Usage("want list, show, allow, renew, approve, reject, rotate, disk, bundle-floor, clear, accept-rollback or decommission"), "for example: verifier instance list -state DIR -seal-key FILE")
	}
	verb := args[0]
	var f instanceFlags
	args1 := map[string]string{"list": "", "approve": " ID DIGEST", "reject": " ID DIGEST", "bundle-floor": " ID VERSION"}
	operands, special := args1[verb]
	if !special {
		operands = " ID"
	}
	fs := env.Flags("list|show|allow|renew|approve|reject|rotate|disk|bundle-floor|clear|accept-rollback|decommission -state DIR -seal-key FILE [flags] [ID [DIGEST|VERSION]]", "verifier instance "+verb+" -state /var/lib/attestbox -seal-key /run/credentials/seal.key"+operands)
	f.state.Register(fs)
	switch verb {
	case "list", "show":
		fs.BoolVar(&f.json, "json", false, "print JSON")
	case "allow":
		f.launch.register(fs)
		fs.BoolVar(&f.only, "only", false, "and forget the launch digests and ID keys allowed before")
		f.may.register(fs)
	case "renew":
		f.launch.register(fs)
	case "disk":
		f.disk.register(fs)
	case "bundle-floor":
		fs.BoolVar(&f.lower, "lower", false, "let older bundles start again: each one that does raises an alert; 0 takes the floor away")
		fs.BoolVar(&f.ratchet, "ratchet", false, "from now on each boot that opened its disk raises the floor to its bundle; =false ends that")
	case "accept-rollback":
		fs.StringVar(&f.to, "to", "", "boot number of the restored disk, as its console names it; 0 for a new disk")
	case "decommission":
		fs.BoolVar(&f.erase, "erase-key", false, "delete the disk key and the secrets too: the disk opens no more")
	}
	if err := fs.Parse(args[1:]); err != nil {
		return err
	}
	if err := f.state.Check(fs); err != nil {
		return err
	}
	want := len(strings.Fields(operands))
	if fs.NArg() != want {
		return fs.Usage("want%s after the flags, got %d arguments", cmp.Or(operands, " nothing"), fs.NArg())
	}
	switch {
	case verb == "bundle-floor":
		fs.Visit(func(g *flag.Flag) { f.ratchetSet = f.ratchetSet || g.Name == "ratchet" })
		var err error
		if f.number, err = strconv.ParseUint(fs.Arg(1), 10, 64); err != nil || f.number > wire.MaxBundleVersion {
			return fs.Usage("bundle version %.40q: want a number", fs.Arg(1))
		}
	case want == 2:
		if f.digest = strings.ToLower(fs.Arg(1)); !wire.ValidDigest(f.digest) {
			return fs.Usage("launch digest %.100q: want 96 hex digits", fs.Arg(1))
		}
	}
	if want > 0 {
		var err error
		if fs.Arg(0) == "new" {
			return fs.Usage("want an instance ID")
		}
		if f.id, err = parseID(fs.Arg(0)); err != nil {
			return fs.Usage("instance ID: %v", err)
		}
	}
	if verb == "disk" && (f.disk.key == "" || len(f.disk.headers) == 0) {
		return fs.Usage("-disk-key and -header are required")
	}
	if verb == "allow" {
		f.may.given(fs)
	}
	if verb == "allow" {
		var err error
		if f.identities, err = f.launch.identities(); err != nil {
			return err
		}
		if !(f.launch.noDigest() && (f.may.any() && !f.only || f.launch.identified())) {
			if f.measurements, err = f.launch.measurements(); err != nil {
				return err
			}
		}
	}
	if verb == "renew" {
		var err error
		if f.launch.identified() {
			return fs.Usage("an ID key renews by its least SVN: verifier instance allow -id-key")
		}
		if f.measurements, err = f.launch.measurements(); err != nil {
			return err
		}
	}
	if verb == "accept-rollback" {
		var err error
		if f.number, err = strconv.ParseUint(f.to, 10, 64); err != nil {
			return fs.Usage("-to %q: want the boot number of the restored disk", f.to)
		}
	}
	st, err := f.state.Open(ctx, env)
	if err != nil {
		return err
	}
	defer st.Close()
	if err := f.launch.refuseSynthetic(ctx, st); err != nil {
		return err
	}
	if len(f.launch.brings) > 0 {
		i, err := st.Instance(ctx, f.id)
		if err != nil {
			return instanceError(f.id, err)
		}
		if err := f.launch.checkSource(i.IDSource, &i.ID); err != nil {
			return err
		}
	}
	if err := verbs[verb](ctx, env, st, &f); err != nil {
		return instanceError(f.id, err)
	}
	return nil
}

type instanceFlags struct {
	state             servercmd.StateFlags
	launch            launchFlags
	measurements      []server.Measurement
	identities        []appraise.Identity
	id                wire.Hex32
	digest            string
	may               mayFlags
	disk              diskFlags
	json, only, erase bool
	lower, ratchet    bool
	ratchetSet        bool
	to                string
	number            uint64
}

func instanceList(ctx context.Context, env *applet.Env, st *server.State, f *instanceFlags) error {
	all := []shown{}
	err := st.Instances(ctx, func(i *server.Instance) error {
		b, err := st.Boots(ctx, i.ID)
		if err != nil {
			return err
		}
		if f.json {
			all = append(all, shown{i, b, stateOf(i, b)})
			return nil
		}
		note := ""
		if i.Note != "" {
			note = "  " + i.Note
		}
		_, err = fmt.Fprintf(env.Stdout, "%s  %-15s  issued %d, committed %d%s\n", i.ID, stateOf(i, b), b.Issued, b.Committed, note)
		return err
	})
	if err == nil && f.json {
		err = servercmd.PrintJSON(env.Stdout, all)
	}
	return err
}

func instanceShow(ctx context.Context, env *applet.Env, st *server.State, f *instanceFlags) error {
	i, err := st.Instance(ctx, f.id)
	if err != nil {
		return err
	}
	b, err := st.Boots(ctx, f.id)
	if err != nil {
		return err
	}
	if f.json {
		return servercmd.PrintJSON(env.Stdout, shown{i, b, stateOf(i, b)})
	}
	w := env.Stdout
	fmt.Fprintf(w, "instance     %s\nstate        %s\n", i.ID, stateOf(i, b))
	if i.Note != "" {
		fmt.Fprintf(w, "note         %s\n", i.Note)
	}
	fmt.Fprintf(w, "registered   %s\n", stamp(i.Created))
	if i.Decommissioned != 0 {
		fmt.Fprintf(w, "refused      since %s, for good\n", stamp(i.Decommissioned))
	}
	if i.FromImage() {
		fmt.Fprintf(w, "id-source    image: HOST_DATA must be zeros\n")
	}
	for _, m := range i.Measurements {
		pending := ""
		if m.Pending() {
			pending = "  pending: when it has booted, those before it are dropped"
		}
		fmt.Fprintf(w, "launch       %s%s\n             %s\n", m.Digest, pending, m.Source)
	}
	for _, p := range i.Promotions {
		fmt.Fprintf(w, "promoted     %s, by boot %d, %s\n", p.Digest, p.Boot, stamp(p.Time))
		for _, d := range p.Dropped {
			fmt.Fprintf(w, "  dropped    %s\n", d)
		}
	}
	for _, d := range i.Identities {
		fmt.Fprintf(w, "signed by    %v\n             image ID %s, SVN %d or above\n", d.IDKey, idblock.ShowID(d.ImageID), d.MinSVN)
		if d.FamilyID != (appraise.Hex16{}) {
			fmt.Fprintf(w, "             family ID %s\n", idblock.ShowID(d.FamilyID))
		}
	}
	showNominations(w, i)
	for _, h := range i.Headers {
		scope := ""
		if h.Scope != wire.ScopeWhole {
			scope = ", the " + h.Scope + " copy alone"
		}
		fmt.Fprintf(w, "LUKS header  %s\n             %s, sectors of %d bytes, integrity %s%s\n", h.Digest, h.Cipher, h.SectorSize, h.Integrity, scope)
	}
	if r, err := st.Rotation(ctx, i); err != nil && i.Decommissioned == 0 {
		return err
	} else if r != wire.RotationNone {
		fmt.Fprintf(w, "disk key     being changed (%s)\n", r)
	}
	showBundles(w, i)
	for _, n := range i.SecretNames {
		fmt.Fprintf(w, "secret       %s\n", n)
	}
	fmt.Fprintf(w, "second boot  %s\nboots        issued %d, committed %d, takeovers %d\n", i.OnSecond, b.Issued, b.Committed, b.Takeovers)
	for _, r := range b.Rollbacks {
		by := "no boot yet"
		if r.Boot != 0 {
			by = fmt.Sprintf("boot %d", r.Boot)
		}
		fmt.Fprintf(w, "  rollback   %s  accepted: from boot %d to %d, used by %s\n", stamp(r.Time), r.From, r.To, by)
	}
	for _, boot := range append(append([]server.Boot{}, b.Current...), b.Past...) {
		fmt.Fprintf(w, "  boot %-5d %s  %s\n             launch digest %s\n             REPORT_ID %s, released %d times, exchange %s\n",
			boot.Number, stamp(boot.Started), outcomeText(&boot), boot.Measurement, boot.ReportID, boot.Gives, boot.Exchange)
		if a, err := st.Approval(ctx, i.ID, boot.ReportID); err != nil {
			return err
		} else if a != nil {
			fmt.Fprintf(w, "             bundle version %d, %s, approved in exchange %s\n", a.Version, a.Bundle, a.Exchange)
		}
	}
	return nil
}

func outcomeText(b *server.Boot) string {
	s := b.Result
	switch {
	case b.Unfinished():
		s = "UNFINISHED: released, and never said how it ended"
	case b.Result == wire.ResultFailed:
		s = "failed: " + string(b.Reason)
	}
	if b.Superseded {
		s += ", superseded"
	}
	return s
}

func stamp(unix int64) string { return time.Unix(unix, 0).UTC().Format(time.RFC3339) }

func instanceAllow(ctx context.Context, env *applet.Env, st *server.State, f *instanceFlags) error {
	err := st.UpdateInstance(ctx, f.id, func(i *server.Instance) error {
		if f.only {
			i.Measurements, i.Identities = []server.Measurement{}, nil
		}
		for _, m := range f.measurements {
			i.Allow(m)
		}
		i.Admit(f.identities)
		return f.may.apply(i)
	})
	if err != nil {
		return err
	}
	for _, m := range f.measurements {
		fmt.Fprintf(env.Stderr, "allowed %s: %s\n", m.Digest, m.Source)
	}
	for _, d := range f.identities {
		fmt.Fprintf(env.Stderr, "allowed what is signed: %v\n", d)
	}
	return nil
}

// instanceRenew is the owner's half of an update: the new image may boot, and
// once it has, the old one may not.
func instanceRenew(ctx context.Context, env *applet.Env, st *server.State, f *instanceFlags) error {
	if err := st.Renew(ctx, f.id, f.measurements, time.Now()); err != nil {
		return err
	}
	for _, m := range f.measurements {
		fmt.Fprintf(env.Stderr, "pending %s: %s\n", m.Digest, m.Source)
	}
	fmt.Fprintln(env.Stderr, "the launch digests before it are dropped when it has booted and opened its disk")
	return nil
}

func instanceClear(ctx context.Context, env *applet.Env, st *server.State, f *instanceFlags) error {
	if err := st.ClearBoot(ctx, f.id); err != nil {
		return err
	}
	fmt.Fprintln(env.Stderr, "cleared: that boot gets nothing more, the next one may start")
	return nil
}

func instanceAcceptRollback(ctx context.Context, env *applet.Env, st *server.State, f *instanceFlags) error {
	from, err := st.AcceptRollback(ctx, f.id, f.number, time.Now())
	if err != nil {
		return err
	}
	fmt.Fprintf(env.Stderr, "accepted: a disk as old as boot %d may boot, where boot %d was needed; the current boot, if any, is over\n", f.number, from)
	return nil
}

func instanceDecommission(ctx context.Context, env *applet.Env, st *server.State, f *instanceFlags) error {
	if err := st.Decommission(ctx, f.id, time.Now(), f.erase); err != nil {
		return err
	}
	kept := "its key is kept, sealed; -erase-key deletes it"
	if f.erase {
		kept = "its secrets are deleted"
	}
	fmt.Fprintf(env.Stderr, "decommissioned: the ID is refused for good; %s\n", kept)
	return nil
}
