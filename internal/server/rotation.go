package server

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"attestbox/internal/code"
	"attestbox/internal/luks"
	"attestbox/internal/secret"
	"attestbox/internal/store"
	"attestbox/internal/wire"
)

// diskKeySize is the size of the keys that a verifier makes.
const diskKeySize = 32

// RegisterHeaders changes an instance's header records on the word of its
// current boot: it adds, then drops, and never leaves none. The records say the
// same of the data as those before: what the VM may not do is to make its disk's
// suite another one. Unless rotating, a record that the boot opened stays until
// a later boot opened another.
func (st *State) RegisterHeaders(ctx context.Context, id wire.Hex32, boot *Boot, add []wire.HeaderRecord, drop []wire.Hex32, rotating bool) error {
	bad := func(format string, a ...any) error { return refusal(code.MaintainHeaders, format, a...) }
	return st.changeInstance(ctx, id, func(i *Instance) error {
		switch {
		case rotating && i.Rotation == wire.RotationNone:
			return refusal(code.MaintainRotation, "no rotation is open")
		case !rotating && i.Rotation != wire.RotationNone:
			// It would drop the records of states that are still to come.
			return refusal(code.MaintainRotation, "a rotation is open, which has records of its own")
		case len(i.Headers) == 0 && i.Rotation != wire.RotationEnroll:
			return bad("the instance has no disk")
		}
		next := slices.Clone(i.Headers)
		for n := range add {
			r := &add[n]
			if err := luks.CheckRecord(r); err != nil {
				return bad("%v", err)
			}
			if len(next) > 0 && r.Suite() != next[0].Suite() {
				return bad("record %s is of %+v, registered is %+v", r.Digest, r.Suite(), next[0].Suite())
			}
			if at := slices.IndexFunc(next, func(h wire.HeaderRecord) bool { return h.Digest == r.Digest }); at < 0 {
				next = append(next, *r)
			} else if next[at] != *r {
				return bad("record %s is registered with another scope", r.Digest)
			}
		}
		if !rotating {
			for _, h := range boot.Headers {
				if slices.Contains(drop, h) && i.hasHeader(h) {
					return bad("record %s is the one that this boot opened", h)
				}
			}
		}
		for _, h := range drop {
			next = slices.DeleteFunc(next, func(r wire.HeaderRecord) bool { return r.Digest == h.String() })
		}
		if len(next) == 0 || len(next) > wire.MaxHeaders {
			return bad("%d records would be registered, want 1 to %d", len(next), wire.MaxHeaders)
		}
		i.Headers, i.HasDiskKey = next, true
		return nil
	})
}

// changeInstance is UpdateInstance for what a running VM changes: HasDiskKey
// may change with the headers.
func (st *State) changeInstance(ctx context.Context, id wire.Hex32, f func(*Instance) error) error {
	return st.update(ctx, id, func(i *Instance) error {
		if err := f(i); err != nil {
			return err
		}
		probe := &wire.Payload{Headers: i.Headers, OutcomeKey: secret.New(wire.OutcomeKeySize)}
		defer probe.OutcomeKey.Zero()
		sec, err := st.secrets(ctx, id)
		if err != nil {
			return err
		}
		defer sec.Zero()
		probe.DiskKey, probe.PreviousDiskKey, probe.Secrets = sec.DiskKey, sec.PreviousDiskKey, sec.Named
		if n, err := probe.Size(); err != nil || n > wire.MaxPayload-2*diskKeySize {
			return refusal(code.MaintainHeaders, "the release would take %d bytes (%v)", n, err)
		}
		return nil
	})
}

// OpenRotation gives an instance's disk a new key beside the one that it has,
// or the first one if it has none, and returns both; the caller zeroes them.
// While a rotation is open it returns the same ones again. The running VM may
// open one where its record says so; the owner may always.
//
// The instance says which kind is open before the keys change, and keys that no
// open rotation accounts for are taken back first: a crash at any point leaves
// a state from which the same call goes on, and in which the disk opens.
func (st *State) OpenRotation(ctx context.Context, id wire.Hex32, byOwner bool) (*Secrets, error) {
	kind := ""
	err := st.update(ctx, id, func(i *Instance) error {
		if i.Rotation == wire.RotationNone {
			if !byOwner && !i.MayRotate {
				return refusal(code.MaintainRotation, "the owner did not open a rotation (verifier instance rotate) and does not let the VM open one (-may-rotate)")
			}
			if err := st.settleKeys(ctx, i); err != nil {
				return err
			}
			i.Rotation = wire.RotationEnroll
			if i.HasDiskKey {
				i.Rotation = wire.RotationRotate
			}
		}
		kind = i.Rotation
		return nil
	})
	if err != nil {
		return nil, err
	}
	return st.updateSecrets(ctx, id, func(s *Secrets) error {
		switch {
		case kind == wire.RotationRotate && s.PreviousDiskKey.Len() == 0:
			s.PreviousDiskKey, s.DiskKey = s.DiskKey, secret.Random(diskKeySize)
		case kind == wire.RotationEnroll && s.DiskKey.Len() == 0:
			s.DiskKey = secret.Random(diskKeySize)
		}
		return nil
	})
}

// settleKeys takes back what a crash left of a rotation that is over: a
// previous key, or the key of a disk that is not registered.
func (st *State) settleKeys(ctx context.Context, i *Instance) error {
	has := i.HasDiskKey
	s, err := st.updateSecrets(ctx, i.ID, func(s *Secrets) error {
		s.PreviousDiskKey.Zero()
		if !has {
			s.DiskKey.Zero()
		}
		return nil
	})
	s.Zero()
	return err
}

// EndRotation ends a rotation with one record, keep, and the new key; with
// abort, the previous one. The same call again is fine.
func (st *State) EndRotation(ctx context.Context, id wire.Hex32, abort bool, keep wire.Hex32) error {
	i, err := st.Instance(ctx, id)
	if err != nil {
		return err
	}
	if i.Rotation == wire.RotationNone {
		if !abort && !i.hasHeader(keep) {
			return refusal(code.MaintainRotation, "no rotation is open, and %s is not registered", keep)
		}
		return st.settleKeys(ctx, i)
	}
	enroll := i.Rotation == wire.RotationEnroll
	if abort && !enroll {
		// The keys first: until the record follows, the release has the one
		// key that opens the disk, and every record.
		s, err := st.updateSecrets(ctx, id, func(s *Secrets) error {
			if s.PreviousDiskKey.Len() > 0 {
				s.DiskKey.Zero()
				s.DiskKey, s.PreviousDiskKey = s.PreviousDiskKey, secret.New(0)
			}
			return nil
		})
		s.Zero()
		if err != nil {
			return err
		}
	}
	err = st.update(ctx, id, func(i *Instance) error {
		if abort && enroll {
			i.Headers, i.HasDiskKey = []wire.HeaderRecord{}, false
		} else {
			at := slices.IndexFunc(i.Headers, func(r wire.HeaderRecord) bool { return r.Digest == keep.String() })
			if at < 0 || i.Headers[at].Scope != wire.ScopeWhole {
				return refusal(code.MaintainRotation, "%s is no registered record of a whole header area", keep)
			}
			i.Headers = []wire.HeaderRecord{i.Headers[at]}
		}
		i.Rotation = wire.RotationNone
		return nil
	})
	if err != nil {
		return err
	}
	if i, err = st.Instance(ctx, id); err != nil {
		return err
	}
	return st.settleKeys(ctx, i)
}

// updateSecrets changes an instance's secrets by compare-and-swap and returns
// them; the caller zeroes them.
func (st *State) updateSecrets(ctx context.Context, id wire.Hex32, f func(*Secrets) error) (*Secrets, error) {
	key := prefixSecrets + id.String()
	for range maxSwaps {
		b, v, err := st.s.GetSecret(ctx, key)
		if err != nil {
			return nil, fmt.Errorf("reading the secrets of %s: %w", id, err)
		}
		s, err := parseSecrets(b.Bytes())
		if err != nil {
			b.Zero()
			return nil, fmt.Errorf("reading the secrets of %s: %w", id, err)
		}
		err = f(s)
		var packed *secret.Bytes
		if err == nil {
			packed, err = s.marshal()
		}
		if err == nil && !packed.Equal(b) {
			err = st.s.Replace(ctx, key, v, packed.Bytes())
		}
		packed.Zero()
		b.Zero()
		if err == nil {
			return s, nil
		}
		s.Zero()
		if !errors.Is(err, store.ErrConflict) {
			return nil, fmt.Errorf("changing the secrets of %s: %w", id, err)
		}
	}
	return nil, errBusy
}
