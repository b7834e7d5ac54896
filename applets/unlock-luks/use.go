package unlockluks

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"attestbox/initramfs/config"
	"attestbox/internal/applet"
	"attestbox/internal/volume"
)

// useFlags are open -tag's own.
type useFlags struct {
	volumeFlags
	create                     bool
	wait                       time.Duration
	mount, fstype, mkfs, owner string
	uid, gid                   uint32
}

func (u *useFlags) parse(fs *applet.FlagSet, args []string) error {
	fs.BoolVar(&u.create, "create-if-empty", false, "if the store promises no finished volume of that tag, make it, on a blank device alone")
	fs.StringVar(&u.mount, "mount", "", "mount the volume's file system on `DIR`, nosuid and nodev")
	fs.StringVar(&u.fstype, "fstype", volume.FSType, "`TYPE` of the file system; there is only this one")
	fs.StringVar(&u.mkfs, "mkfs", "", "`PROGRAM`, mke2fs of e2fsprogs, that makes the file system of a volume that is made")
	fs.StringVar(&u.owner, "owner", "root", "`UID:GID` of the root folder of a file system that is made")
	fs.DurationVar(&u.wait, "wait", 0, "wait as long for the device to appear")
	if err := u.volumeFlags.parse(fs, args); err != nil {
		return err
	}
	switch {
	case u.mount != "" && (!cleanPath(u.mount) || u.mount == "/"):
		return fs.Usage("-mount %q is not a clean absolute path below /", u.mount)
	case u.fstype != volume.FSType:
		return fs.Usage("-fstype is %s, not %q", volume.FSType, u.fstype)
	case u.mkfs != "" && !cleanPath(u.mkfs):
		return fs.Usage("-mkfs %q is not a clean absolute path", u.mkfs)
	case u.mkfs != "" && (u.mount == "" || !u.create), u.create && u.mount != "" && u.mkfs == "":
		return fs.Usage("-mkfs goes with -create-if-empty and -mount, and these two with it")
	case u.owner != "root" && u.mkfs == "":
		return fs.Usage("-owner goes with -mkfs")
	case u.wait < 0:
		return fs.Usage("-wait %s is no time", u.wait)
	}
	var err error
	if u.uid, u.gid, err = config.ParseUser(u.owner); err != nil {
		return fs.Usage("-owner: %v", err)
	}
	return nil
}

func cleanPath(p string) bool { return filepath.IsAbs(p) && filepath.Clean(p) == p }

// openVolume opens a volume that the store promises, or nothing; with
// -create-if-empty it makes one that the store knows nothing of.
func openVolume(ctx context.Context, env *applet.Env, args []string) error {
	var v useFlags
	err := v.parse(env.Flags("-tag TAG [-create-if-empty] [-mount DIR [-mkfs PROGRAM [-owner UID:GID]]] [flags] DEVICE NAME",
		"unlock-luks open -tag volume/db -create-if-empty -mount /run/db -mkfs /sbin/mke2fs /dev/vdb db"), args)
	if err != nil {
		return err
	}
	use := volume.Use{CreateIfEmpty: v.create, Progress: progress(env)}
	if v.mount != "" {
		use.FileSystem = &volume.FileSystem{Dir: v.mount, Mkfs: v.mkfs, UID: v.uid, GID: v.gid, Log: env.Stderr}
	}
	m, done, err := v.member.OpenMember(ctx, func(string, ...any) {})
	if err != nil {
		return err
	}
	defer done()
	if err := waitFor(ctx, v.device, v.wait); err != nil {
		return err
	}
	res, made, err := volume.UseOn(ctx, m.Store(), v.tag, v.device, v.name, use)
	if err != nil {
		return classifyVolume(err)
	}
	if made {
		fmt.Fprintf(env.Stderr, "%s: volume %s was made on %s\n", env.Name, v.tag, v.device)
	}
	fmt.Fprintln(env.Stdout, res.Node)
	return nil
}

// waitFor waits until there is something at path; what it is, is looked at later.
func waitFor(ctx context.Context, path string, d time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	for {
		if _, err := os.Stat(path); d == 0 || !errors.Is(err, os.ErrNotExist) {
			return nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("device %s did not appear: %w", path, ctx.Err())
		}
	}
}
