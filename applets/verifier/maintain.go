package verifier

import (
	"context"
	"flag"
	"fmt"
	"io"
	"time"

	"attestbox/internal/applet"
	"attestbox/internal/server"
	"attestbox/internal/wire"
)

// mayFlags say what a running VM may change of its own record.
type mayFlags struct {
	rotate, nominate       bool
	rotateSet, nominateSet bool
}

func (f *mayFlags) register(fs *applet.FlagSet) {
	fs.BoolVar(&f.rotate, "may-rotate", false, "the running VM may change its disk key by itself; else the owner opens each change (verifier instance rotate)")
	fs.BoolVar(&f.nominate, "may-nominate", false, "a launch digest that the running VM nominates as its successor needs no verifier instance approve; in a domain the policy says that")
}

// given notes which flags were on the command line: -may-rotate=false takes a
// permission back.
func (f *mayFlags) given(fs *applet.FlagSet) {
	fs.Visit(func(g *flag.Flag) {
		f.rotateSet = f.rotateSet || g.Name == "may-rotate"
		f.nominateSet = f.nominateSet || g.Name == "may-nominate"
	})
}

func (f *mayFlags) any() bool { return f.rotateSet || f.nominateSet }

func (f *mayFlags) apply(i *server.Instance) error {
	if f.nominate && i.Domain != "" {
		return applet.WithHint(applet.Usage("-may-nominate: the instance is appraised by the policy of domain %s", i.Domain),
			"let the policy say: Measurement[...] may-nominate")
	}
	if f.rotateSet {
		i.MayRotate = f.rotate
	}
	if f.nominateSet {
		i.MayNominate = f.nominate
	}
	return nil
}

func showNominations(w io.Writer, i *server.Instance) {
	for _, n := range i.Nominations {
		fmt.Fprintf(w, "nominated    %s\n             %s, by the VM, %s\n             its word: kernel %s\n                       initramfs %s\n                       command line %s\n",
			n.Digest, n.Source, stamp(n.Time), n.Kernel, n.Initrd, n.Cmdline)
	}
	if i.MayNominate {
		fmt.Fprintln(w, "the VM may   nominate successors")
	}
	if i.MayRotate {
		fmt.Fprintln(w, "the VM may   rotate its disk key")
	}
}

func instanceApprove(ctx context.Context, env *applet.Env, st *server.State, f *instanceFlags) error {
	n, err := st.DecideNomination(ctx, f.id, f.digest, true, time.Now())
	if err != nil {
		return err
	}
	fmt.Fprintf(env.Stderr, "approved %s: %s\nthe launch digests before it are dropped when it has booted\n", n.Digest, n.Source)
	return nil
}

func instanceReject(ctx context.Context, env *applet.Env, st *server.State, f *instanceFlags) error {
	n, err := st.DecideNomination(ctx, f.id, f.digest, false, time.Now())
	if err != nil {
		return err
	}
	fmt.Fprintf(env.Stderr, "rejected %s: %s\n", n.Digest, n.Source)
	return nil
}

// instanceRotate opens a rotation: the running VM fetches both keys and does
// the rest (unlock-luks rotate).
func instanceRotate(ctx context.Context, env *applet.Env, st *server.State, f *instanceFlags) error {
	s, err := st.OpenRotation(ctx, f.id, true)
	if err != nil {
		return err
	}
	enroll := s.PreviousDiskKey.Len() == 0
	s.Zero()
	how := "change its disk key now, with: unlock-luks rotate DEVICE"
	if enroll {
		how = "bring its disk now, with: unlock-luks enroll -register -backup FILE DEVICE"
	}
	fmt.Fprintf(env.Stderr, "open: the running VM may %s\n", how)
	return nil
}

// diskFlags name a disk's key and header.
type diskFlags struct {
	key     string
	headers applet.Strings
}

func (f *diskFlags) register(fs *applet.FlagSet) {
	fs.StringVar(&f.key, "disk-key", "", "`FILE` with the LUKS key; - is stdin")
	fs.Var(&f.headers, "header", "`FILE` with the disk's header record, or the disk image or a copy of its LUKS2 header; may be repeated")
}

// instanceDisk replaces key and header of an instance: after a rotation on the
// owner's machine (unlock-luks rotate -key), or for a new disk.
func instanceDisk(ctx context.Context, env *applet.Env, st *server.State, f *instanceFlags) error {
	sec := &server.Secrets{}
	defer sec.Zero()
	if err := readSecrets(env, sec, f.disk.key, nil); err != nil {
		return err
	}
	var headers []wire.HeaderRecord
	for _, h := range f.disk.headers {
		rec, err := readHeader(env, h, sec.DiskKey)
		if err != nil {
			return err
		}
		headers = append(headers, *rec)
	}
	if err := refuseReleased(&f.state, env, sec); err != nil {
		return err
	}
	if err := st.SetDisk(ctx, f.id, sec.DiskKey, headers); err != nil {
		return err
	}
	for _, h := range headers {
		fmt.Fprintf(env.Stderr, "LUKS header %s: %s, sectors of %d bytes, integrity %s\n", h.Digest, h.Cipher, h.SectorSize, h.Integrity)
	}
	return nil
}
