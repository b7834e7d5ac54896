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
	return st.changeInstance(ctx, id, func(i *Instance, s *Secrets) error {
		open := rotationOf(i, s)
		switch {
		case rotating && open == wire.RotationNone:
			return refusal(code.MaintainRotation, "no rotation is open")
		case !rotating && open == wire.RotationRotate || !rotating && i.Enrolling:
			// It would drop the records of states that are still to come.
			return refusal(code.MaintainRotation, "a rotation is open, which has records of its own")
		case !rotating && len(i.Headers) == 0:
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
		if !i.HasDiskKey {
			i.HasDiskKey, i.Enrolling = true, true
		}
		i.Headers = next
		return nil
	})
}

// changeInstance is UpdateInstance for what a running VM changes: HasDiskKey
// may change with the headers, and what comes out must fit into a release.
func (st *State) changeInstance(ctx context.Context, id wire.Hex32, f func(*Instance, *Secrets) error) error {
	return st.update(ctx, id, func(i *Instance) error {
		s, err := st.secrets(ctx, id)
		if err != nil {
			return err
		}
		defer s.Zero()
		if err := f(i, s); err != nil {
			return err
		}
		probe := s.payload(i)
		probe.OutcomeKey = secret.New(wire.OutcomeKeySize)
		defer probe.OutcomeKey.Zero()
		if n, err := probe.Size(); err != nil || n > wire.MaxPayload-2*diskKeySize {
			return refusal(code.MaintainHeaders, "the release would take %d bytes (%v)", n, err)
		}
		return nil
	})
}

// Rotation says which change of the disk key is open. The keys themselves are
// what says so, so that no crash and no other call can come between: while there
// are two, the disk may open with either.
func (st *State) Rotation(ctx context.Context, i *Instance) (string, error) {
	s, err := st.secrets(ctx, i.ID)
	if err != nil {
		return "", err
	}
	defer s.Zero()
	return rotationOf(i, s), nil
}

func rotationOf(i *Instance, s *Secrets) string {
	switch {
	case s.PreviousDiskKey.Len() > 0:
		return wire.RotationRotate
	case i.Enrolling || !i.HasDiskKey && s.DiskKey.Len() > 0:
		return wire.RotationEnroll
	}
	return wire.RotationNone
}

// OpenRotation gives an instance's disk a new key beside the one that it has,
// or the first one if it has none, and returns both; the caller zeroes them.
// While a rotation is open it returns the same ones again. The running VM may
// open one where its record says so; the owner may always.
func (st *State) OpenRotation(ctx context.Context, id wire.Hex32, byOwner bool) (*Secrets, error) {
	i, err := st.Instance(ctx, id)
	if err != nil {
		return nil, err
	}
	if i.Decommissioned != 0 {
		return nil, ErrDecommissioned
	}
	return st.updateSecrets(ctx, id, func(s *Secrets) error {
		switch {
		case rotationOf(i, s) != wire.RotationNone:
		case !byOwner && !i.MayRotate:
			return refusal(code.MaintainRotation, "the owner did not open a rotation (verifier instance rotate) and does not let the VM open one (-may-rotate)")
		case !i.HasDiskKey:
			s.DiskKey = secret.Random(diskKeySize)
		default:
			s.PreviousDiskKey, s.DiskKey = s.DiskKey, secret.Random(diskKeySize)
		}
		return nil
	})
}

// EndRotation ends a rotation with one record and the key that signed the
// message; back says that it is the one before. The same message again is fine;
// one that is late, by a key that was dropped, is refused. The keys are first:
// until the records follow, the release has the key that opens the disk, and
// every record.
func (st *State) EndRotation(ctx context.Context, id wire.Hex32, m *wire.RotateEnd) (back bool, err error) {
	whole := func(i *Instance) (*wire.HeaderRecord, error) {
		at := slices.IndexFunc(i.Headers, func(r wire.HeaderRecord) bool { return r.Digest == m.Keep.String() })
		if at < 0 || i.Headers[at].Scope != wire.ScopeWhole {
			return nil, refusal(code.MaintainRotation, "%s is no registered record of a whole header area", m.Keep)
		}
		return &i.Headers[at], nil
	}
	i, err := st.Instance(ctx, id)
	if err != nil {
		return false, err
	}
	if _, err := whole(i); err != nil {
		return false, err
	}
	s, err := st.updateSecrets(ctx, id, func(s *Secrets) error {
		switch {
		case wire.VerifyKeep(s.DiskKey, id, m):
			back = false
			s.PreviousDiskKey.Zero()
		case wire.VerifyKeep(s.PreviousDiskKey, id, m):
			back = true
			s.DiskKey.Zero()
			s.DiskKey, s.PreviousDiskKey = s.PreviousDiskKey, secret.New(0)
		default:
			return refusal(code.MaintainRotation, "the key to be kept is neither the new one nor the one before")
		}
		return nil
	})
	s.Zero()
	if err != nil {
		return false, err
	}
	return back, st.update(ctx, id, func(i *Instance) error {
		keep, err := whole(i)
		if err != nil {
			return err
		}
		i.Headers, i.Enrolling = []wire.HeaderRecord{*keep}, false
		return nil
	})
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

// SetDisk gives an instance another disk key and other header records, by its
// owner's word: after a rotation on the owner's machine, or for a new disk. It
// ends what was open. A crash within leaves a disk that does not open until the
// same call was made again.
func (st *State) SetDisk(ctx context.Context, id wire.Hex32, key *secret.Bytes, headers []wire.HeaderRecord) error {
	set := func(i *Instance) error {
		i.Headers, i.HasDiskKey, i.Enrolling = headers, true, false
		return i.check()
	}
	i, err := st.Instance(ctx, id)
	if err != nil {
		return err
	}
	if i.Decommissioned != 0 {
		return ErrDecommissioned
	}
	if err := set(i); err != nil {
		return err
	}
	s, err := st.updateSecrets(ctx, id, func(s *Secrets) error {
		s.DiskKey.Zero()
		s.PreviousDiskKey.Zero()
		s.DiskKey = secret.Copy(key.Bytes())
		return nil
	})
	s.Zero()
	if err != nil {
		return err
	}
	return st.update(ctx, id, set)
}
