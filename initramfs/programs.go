package initramfs

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"attestbox/initramfs/config"
	"attestbox/internal/code"
)

// bootPrograms prepares a Run image: state, secrets, the outcome, and a
// read-only initramfs.
func (in *Init) bootPrograms(ctx context.Context) error {
	if err := in.mount(tmpMount); err != nil {
		return err
	}
	if err := in.mountState(ctx); err != nil {
		return err
	}
	if in.rel != nil {
		if err := in.writeSecrets(in.rel.payload); err != nil {
			return fmt.Errorf("writing secrets: %w", err)
		}
		for i := range in.cfg.Programs {
			if err := in.programSecrets(&in.cfg.Programs[i], in.rel.payload); err != nil {
				return fmt.Errorf("writing secrets: %w", err)
			}
		}
		if err := in.outcome(ctx); err != nil {
			return err
		}
		in.wipe()
	}
	// The initramfs is what was measured; nothing writes to it any more.
	if err := in.sys.Mount("", in.path("/"), "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return code.Wrap(code.BootMount, fmt.Errorf("making the initramfs read-only: %w", err))
	}
	return nil
}

func (in *Init) mountState(ctx context.Context) error {
	s := in.cfg.State
	if s == nil {
		return nil
	}
	if s.Type == config.StateDisk {
		if err := in.openDisk(ctx, s.Device, s.Name, s.Path, s.FSType, s.Options); err != nil {
			return err
		}
	} else if err := in.mountTmpfs(s); err != nil {
		return err
	}
	return in.stateOwner(s, s.Path)
}

// stateOwner gives the folder of the mounted state to its user.
func (in *Init) stateOwner(s *config.State, target string) error {
	uid, gid, err := s.IDs()
	if err != nil {
		return code.Wrap(code.ConfigBad, err)
	}
	if uid == 0 && gid == 0 {
		return nil
	}
	return code.Wrap(code.BootMount, in.deps.chown(in.path(target), int(uid), int(gid)))
}

func (in *Init) mountTmpfs(s *config.State) error {
	if err := os.MkdirAll(in.path(s.Path), 0o755); err != nil {
		return code.Wrap(code.BootMount, err)
	}
	err := in.sys.Mount("tmpfs", in.path(s.Path), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755,size="+s.Size)
	if err != nil {
		return code.Wrap(code.BootMount, fmt.Errorf("mounting tmpfs on %s: %w", s.Path, err))
	}
	in.log.step("mount", "tmpfs of %s on %s", s.Size, s.Path)
	return nil
}

// runPrograms supervises until every program has ended (errStopped), ctx ends
// (errStopped) or a required program failed for good.
func (in *Init) runPrograms(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go in.renew(ctx)
	in.runner = newReaper()
	s := &supervisor{runner: in.runner, log: in.log}
	err := s.run(ctx, in.cfg.Programs)
	s.stopAll()
	if st := in.cfg.State; st != nil && st.Type == config.StateDisk {
		// Nothing runs any more that could have a file open.
		if err := in.sys.Mount("", in.path(st.Path), "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			in.log.step("programs", "making %s read-only: %v", st.Path, err)
		}
	}
	switch {
	case err == nil:
		in.log.step("programs", "all have ended")
		return errStopped
	case errors.Is(err, context.Canceled):
		return errStopped
	}
	return code.Wrap(code.BootProgram, err)
}
