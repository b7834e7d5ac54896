package rekey

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"attestbox/internal/client"
	"attestbox/internal/code"
	"attestbox/internal/luks"
	"attestbox/internal/secret"
	"attestbox/internal/wire"
)

// Job is one disk, and what is to be done with it.
type Job struct {
	Disk   luks.Device
	Limits luks.Limits
	Said   func(format string, a ...any) // progress
}

// Offline changes the keyslot from oldKey to newKey with nobody's records but
// the header's own: for the disk's owner. It returns the record to register.
func (j *Job) Offline(oldKey, newKey *secret.Bytes) (*wire.HeaderRecord, error) {
	area, err := luks.ReadHeader(j.Disk)
	if err != nil {
		return nil, err
	}
	known, err := luks.KnownRecords(area)
	if err != nil {
		return nil, err
	}
	area = area[:known[0].Size]
	plan, err := luks.ToNewKey(area, known, oldKey, newKey, nil, j.Limits)
	if err != nil {
		return nil, err
	}
	if err := j.run(plan, newKey); err != nil {
		return nil, err
	}
	return &plan.Final, nil
}

func (j *Job) run(plan *luks.Rotation, key *secret.Bytes) error {
	return plan.Run(j.Disk, key, func(step string) { j.Said("writing the %s", step) })
}

// Rotate gives the running VM's disk the new key that its verifier made, or
// with abort goes back to the one before. It goes on with what an earlier call
// left, in this boot or another.
func (j *Job) Rotate(ctx context.Context, cfg client.Config, abort bool) (*wire.HeaderRecord, error) {
	m, err := client.Maintain(ctx, cfg, wire.PurposeRotate)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	if s := m.State(); !s.HasKey || s.Rotation == wire.RotationEnroll {
		return nil, code.Wrap(code.MaintainRotation, errors.New("the verifier has no key of this disk to change: enroll the disk first, or go on with that"))
	} else if abort && s.Rotation == wire.RotationNone {
		return nil, code.Wrap(code.MaintainRotation, errors.New("no rotation is open"))
	}
	keys, err := m.Rotate(ctx)
	if err != nil {
		return nil, err
	}
	defer keys.Zero()
	area, err := j.area(keys.Headers)
	if err != nil {
		return nil, err
	}
	var plan *luks.Rotation
	key := keys.DiskKey
	if abort {
		key = keys.PreviousDiskKey
		plan, err = luks.ToOldKey(area, keys.Headers, key, j.Limits)
	} else {
		plan, err = luks.ToNewKey(area, keys.Headers, keys.PreviousDiskKey, key, nil, j.Limits)
	}
	if err != nil {
		return nil, err
	}
	if err := j.finish(ctx, cfg, m, area, keys.Headers, plan, key); err != nil {
		return nil, err
	}
	return &plan.Final, nil
}

// area reads what the records are of.
func (j *Job) area(records []wire.HeaderRecord) ([]byte, error) {
	if len(records) == 0 {
		return nil, errors.New("no header record is registered")
	}
	b := make([]byte, records[0].Size)
	if n, err := j.Disk.ReadAt(b, 0); n < len(b) && (err == nil || errors.Is(err, io.EOF)) {
		return nil, code.Wrap(code.LUKSTruncated, fmt.Errorf("reading LUKS header: %d bytes, registered are %d", n, len(b)))
	} else if n < len(b) {
		return nil, code.Wrap(code.LUKSRead, fmt.Errorf("reading LUKS header: %w", err))
	}
	return b, nil
}

// finish registers the plan's records on m, writes, and ends the rotation. The
// writing may take long, so the end is an exchange of its own.
func (j *Job) finish(ctx context.Context, cfg client.Config, m *client.Maintenance, area []byte, registered []wire.HeaderRecord, plan *luks.Rotation, key *secret.Bytes) error {
	add, drop, err := difference(area, registered, plan.Records())
	if err != nil {
		return err
	}
	if len(add)+len(drop) > 0 {
		if err := m.RegisterHeaders(ctx, add, drop); err != nil {
			return err
		}
		j.Said("registered %d header records", len(add))
	}
	m.Close()
	if err := j.run(plan, key); err != nil {
		return err
	}
	end, err := client.Maintain(ctx, cfg, wire.PurposeRotate)
	if err != nil {
		return fmt.Errorf("the disk is done; the verifier has not heard of it yet: %w", err)
	}
	defer end.Close()
	var keep wire.Hex32
	if err := keep.UnmarshalText([]byte(plan.Final.Digest)); err != nil {
		return err
	}
	if err := end.EndRotation(ctx, keep, key); err != nil {
		return fmt.Errorf("the disk is done; the verifier has not heard of it yet: %w", err)
	}
	return nil
}

// difference is what must be registered beside the records that the device
// matches now, and which others are of no state that it can be in any more.
func difference(area []byte, registered, planned []wire.HeaderRecord) (add []wire.HeaderRecord, drop []wire.Hex32, err error) {
	for _, r := range planned {
		if !slices.Contains(registered, r) && !slices.Contains(add, r) {
			add = append(add, r)
		}
	}
	for i := range registered {
		r := &registered[i]
		if slices.Contains(planned, *r) || luks.Matches(area, r) {
			continue
		}
		var d wire.Hex32
		if err := d.UnmarshalText([]byte(r.Digest)); err != nil {
			return nil, nil, err
		}
		drop = append(drop, d)
	}
	return add, drop, nil
}

// Enroll gives the disk of a running VM, which opens by a passphrase, the key
// that its verifier makes, and registers it. Whoever calls it has a backup of
// the header.
func (j *Job) Enroll(ctx context.Context, cfg client.Config, passphrase *secret.Bytes) (*wire.HeaderRecord, error) {
	area, err := luks.ReadHeader(j.Disk)
	if err != nil {
		return nil, err
	}
	known, err := luks.KnownRecords(area)
	if err != nil {
		return nil, err
	}
	area = area[:known[0].Size]
	m, err := client.Maintain(ctx, cfg, wire.PurposeRotate)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	s := m.State()
	if s.HasKey && s.Rotation == wire.RotationNone {
		for i := range s.Headers {
			if s.Headers[i].Scope == wire.ScopeWhole && luks.Matches(area, &s.Headers[i]) {
				j.Said("the disk is enrolled already")
				return &s.Headers[i], nil
			}
		}
	}
	if s.HasKey && s.Rotation != wire.RotationEnroll {
		return nil, code.Wrap(code.MaintainRotation, errors.New("the instance has a disk key already, of another header"))
	}
	keys, err := m.Rotate(ctx)
	if err != nil {
		return nil, err
	}
	defer keys.Zero()
	plan, err := luks.ToNewKey(area, known, passphrase, keys.DiskKey, nil, j.Limits)
	if err != nil {
		return nil, err
	}
	if err := j.finish(ctx, cfg, m, area, keys.Headers, plan, keys.DiskKey); err != nil {
		return nil, err
	}
	return &plan.Final, nil
}

// Register adds the record of the device's header as it is now, and with
// dropOthers drops those that it does not match.
func (j *Job) Register(ctx context.Context, cfg client.Config, dropOthers bool) (*wire.HeaderRecord, error) {
	area, err := luks.ReadHeader(j.Disk)
	if err != nil {
		return nil, err
	}
	now, err := luks.RecordOf(area)
	if err != nil {
		return nil, err
	}
	m, err := client.Maintain(ctx, cfg, wire.PurposeHeaders)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	add, drop, err := difference(area, m.State().Headers, []wire.HeaderRecord{*now})
	if err != nil {
		return nil, err
	}
	if !dropOthers {
		drop = nil
	}
	if len(add)+len(drop) == 0 {
		return now, nil
	}
	return now, m.RegisterHeaders(ctx, add, drop)
}
