package unlockluks

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"attestbox/internal/applet"
	"attestbox/internal/code"
	"attestbox/internal/cryptstore"
	"attestbox/internal/dm"
	"attestbox/internal/member/memberflags"
	"attestbox/internal/volume"
)

// volumeFlags are what create and open -tag share.
type volumeFlags struct {
	member       memberflags.Flags
	tag          string
	device, name string
}

func (v *volumeFlags) parse(fs *applet.FlagSet, args []string) error {
	fs.StringVar(&v.tag, "tag", "", "`TAG` of the volume in the machine's sealed store, such as volume/db")
	v.member.Register(fs)
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() != 2 {
		return fs.Usage("a device and a name are required")
	}
	v.device, v.name = fs.Arg(0), fs.Arg(1)
	if err := cryptstore.CheckTag(v.tag); err != nil {
		return fs.Usage("-tag: %v", err)
	}
	if !dm.ValidName(v.name) {
		return fs.Usage("mapping name %q is not 1 to 64 of a-z, A-Z, 0-9, . _ + -", v.name)
	}
	return v.member.Check(fs)
}

// createVolume makes a local data volume on a blank device.
func createVolume(ctx context.Context, env *applet.Env, args []string) error {
	var v volumeFlags
	if err := v.parse(env.Flags("-tag TAG [flags] DEVICE NAME", "unlock-luks create -tag volume/db /dev/vdb db"), args); err != nil {
		return err
	}
	m, done, err := v.member.OpenMember(ctx, func(string, ...any) {})
	if err != nil {
		return err
	}
	defer done()
	res, err := volume.CreateOn(ctx, m.Store(), v.tag, v.device, v.name, nil, progress(env))
	if err != nil {
		return classifyVolume(err)
	}
	fmt.Fprintln(env.Stdout, res.Node)
	return nil
}

// progress shows steps on a terminal and is silent elsewhere.
func progress(env *applet.Env) func(step string, done, total int64) {
	f, ok := env.Stderr.(*os.File)
	if !ok {
		return nil
	}
	if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err != nil {
		return nil
	}
	last := int64(-1)
	return func(step string, done, total int64) {
		if percent := done * 100 / max(total, 1); percent != last {
			last = percent
			fmt.Fprintf(f, "\r%s: %s %3d%%", env.Name, step, percent)
			if done == total {
				fmt.Fprintln(f)
			}
		}
	}
}

// classifyVolume gives exit codes and hints.
func classifyVolume(err error) error {
	c, _ := code.Of(err)
	switch c {
	case code.VolumeDevice:
		return applet.WithHint(applet.Refused(c, err), "if nothing on it is needed: blkdiscard -z, or dd if=/dev/zero of=DEVICE")
	case code.VolumeExists:
		return applet.WithHint(applet.Refused(c, err), "unlock-luks open with the same -tag; another volume has another tag")
	case code.VolumeUnknown:
		return applet.WithHint(applet.Refused(c, err), "unlock-luks create makes one, on a blank device")
	case code.VolumeUnfinished:
		return applet.WithHint(applet.Refused(c, err), "unlock-luks create with the same -tag and device finishes it")
	case code.VolumeMount:
		return applet.Refused(c, err)
	case code.LUKSHeaderDigest, code.LUKSTruncated:
		return applet.WithHint(applet.Refused(c, err), "the store promises a volume that is not on this device; nothing was written to it")
	}
	return classify(err)
}
