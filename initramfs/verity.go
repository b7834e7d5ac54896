package initramfs

import (
	"context"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"attestbox/internal/code"
	"attestbox/internal/unlock"
	"attestbox/internal/verity"
)

func openVerity(ctx context.Context, device, name string, record *verity.Record) (*Unlocked, error) {
	m, err := unlock.Verity(ctx, device, name, record)
	if err != nil {
		return nil, err
	}
	return &Unlocked{Node: m.Node}, nil
}

// openVerityRoot maps and mounts a root whose every block is checked against
// the root hash in the measured image, and beside it the encrypted disk where
// the system keeps its data. No key is needed for the root: it is not secret.
func (in *Init) openVerityRoot(ctx context.Context) error {
	r, s := in.cfg.Root, in.cfg.State
	if err := in.wait(ctx, r.Device); err != nil {
		return err
	}
	u, err := in.deps.Verity(ctx, r.Device, r.Name, r.Verity)
	if err != nil {
		return fmt.Errorf("opening %s: %w", r.Device, err)
	}
	in.log.step("verity", "%s is %s, root hash %x", r.Device, u.Node, r.Verity.RootHash[:8])
	options := r.Options
	if !slices.Contains(options, "ro") {
		options = append(slices.Clip(options), "ro")
	}
	if err := in.mountDisk(u, sysroot, r.FSType, options); err != nil {
		return err
	}
	in.log.step("mount", "%s (%s) on %s", u.Node, r.FSType, sysroot)
	if s == nil {
		in.log.step("counter", "none: nothing is kept from boot to boot")
		return nil
	}
	target, err := in.stateTarget(s.Path)
	if err != nil {
		return err
	}
	if err := in.openDisk(ctx, s.Device, s.Name, target, s.FSType, s.Options); err != nil {
		return err
	}
	return in.stateOwner(s, target)
}

// stateTarget is the folder of the root on which the state is mounted. It has
// to be there, and reached without links: one would lead out of the root.
func (in *Init) stateTarget(p string) (string, error) {
	at := sysroot
	for _, name := range strings.Split(p[1:], "/") {
		at = path.Join(at, name)
		if st, err := os.Lstat(in.path(at)); err != nil || !st.IsDir() {
			return "", code.Wrap(code.BootMount, fmt.Errorf("the root has no folder %s to mount the state on (%s is none)", p, at))
		}
	}
	return at, nil
}
