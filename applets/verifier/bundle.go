package verifier

import (
	"context"
	"fmt"
	"io"
	"time"

	"attestbox/internal/applet"
	"attestbox/internal/server"
)

func showBundles(w io.Writer, i *server.Instance) {
	if i.BundleFloor > 0 {
		rises := ""
		if i.BundleRatchet {
			rises = "; a boot that opened its disk raises that to its bundle"
		}
		fmt.Fprintf(w, "bundles      version %d and later%s\n", i.BundleFloor, rises)
	}
	for _, l := range i.BundleLowered {
		fmt.Fprintf(w, "             lowered from %d to %d at %s\n", l.From, l.To, stamp(l.Time))
	}
}

// instanceBundleFloor sets the version below which no bundle starts.
func instanceBundleFloor(ctx context.Context, env *applet.Env, st *server.State, f *instanceFlags) error {
	was, err := st.SetBundleFloor(ctx, f.id, f.number, f.lower, time.Now())
	if err == nil && f.ratchetSet {
		err = st.UpdateInstance(ctx, f.id, func(i *server.Instance) error { i.BundleRatchet = f.ratchet; return nil })
	}
	switch {
	case err != nil && f.number < was:
		return applet.WithHint(err, "-lower is the owner's word that older bundles may start again")
	case err != nil:
		return err
	case f.number == 0:
		fmt.Fprintf(env.Stderr, "no bundle floor any more (it was %d): a stage 1 of this instance starts nothing, and other images of it need no bundle\n", was)
	default:
		fmt.Fprintf(env.Stderr, "bundles of version %d and later start (before: %d); a VM that runs is not stopped\n", f.number, was)
	}
	return nil
}
