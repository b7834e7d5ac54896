package stockboot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"attestbox/internal/bootcount"
	"attestbox/internal/code"
	"attestbox/internal/dm"
	"attestbox/internal/wire"
)

// Finish compares what the kernel has with what was fetched, where root is the
// folder on which the disk is mounted, counts the boot inside the volume, reports
// the outcome, and returns once the verifier acknowledged it. On an error the real system must not start.
func (b *Boot) Finish(ctx context.Context, root string) error {
	s, err := readState(b.Dir)
	if err != nil {
		return err
	}
	outcome := filepath.Join(b.Dir, outcomeFile)
	if err := b.inspect(s, root); err != nil {
		tctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), reportTimeout)
		defer cancel()
		if err := SendOutcome(tctx, b.Client, outcome, wire.ResultFailed); err != nil {
			b.say("the verifier could not be told: %v", err)
		}
		return err
	}
	b.say("disk: %s is the one that was registered, mounted on %s", filepath.Join("/dev/mapper", s.Volume), root)
	if err := SendOutcome(ctx, b.Client, outcome, wire.ResultOpened); err != nil {
		return err
	}
	b.say("outcome: acknowledged, boot %d", s.Boot)
	// Nothing of the boot is left to the real system.
	return errors.Join(os.Remove(filepath.Join(b.Dir, stateFile)), os.Remove(filepath.Join(b.Dir, HeaderFile)))
}

func (b *Boot) inspect(s *state, root string) error {
	// SysRq and the command line may have been touched by the initramfs' own
	// settings (sysctl.d); nothing else between the two calls is ours.
	if err := b.check(); err != nil {
		return err
	}
	if s.Volume != b.Config.Root.Name || s.Device != b.Config.Root.Device {
		return code.Wrap(code.BootRelease, fmt.Errorf("what was fetched is for %s as %q, configured is %s as %q", s.Device, s.Volume, b.Config.Root.Device, b.Config.Root.Name))
	}
	h := b.machine()
	if err := h.CheckMapping(s.Volume, s.Device, &s.Record); err != nil {
		return err
	}
	if err := h.SameDevice(filepath.Join("/dev/mapper", s.Volume), root); err != nil {
		return err
	}
	found, err := h.Counter(root, bootcount.Boot{ID: s.ID, Number: s.Boot, Committed: s.Committed})
	if err != nil {
		return err
	}
	b.say("counter: the disk was at boot %d, now at %d", found, s.Boot)
	return nil
}

func (machine) Counter(root string, boot bootcount.Boot) (uint64, error) {
	return bootcount.Advance(root, boot)
}

func (machine) CheckMapping(name, device string, record *wire.HeaderRecord) error {
	f, err := os.Open(device)
	if err != nil {
		return fmt.Errorf("opening disk: %w", err)
	}
	defer f.Close()
	_, err = dm.CheckCryptsetup(name, f, record)
	return err
}
