package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"attestbox/internal/code"
	"attestbox/internal/store"
	"attestbox/internal/wire"
)

// Where a VM has its instance ID from.
const (
	IDFromHostData = "host-data" // the host sets it at launch
	IDFromImage    = "image"     // the measured image brings it, and HOST_DATA is zeros
)

// prefixImageID and a launch digest name the ID that images of this digest
// bring. Such a digest belongs to one ID for good: it is what proves the ID.
const prefixImageID = "image-id/"

// FromImage says that the ID is the image's.
func (i *Instance) FromImage() bool { return i.IDSource == IDFromImage }

func (i *Instance) checkIDSource() error {
	switch i.IDSource {
	case "", IDFromHostData:
		return nil
	case IDFromImage:
	default:
		return fmt.Errorf("id-source is %.40q, want %q or %q", i.IDSource, IDFromHostData, IDFromImage)
	}
	if len(i.Measurements) == 0 {
		return errors.New("an ID that the image brings is proved by its launch digest: there is none")
	}
	if len(i.Identities) > 0 {
		return errors.New("an ID that the image brings is proved by its launch digest, not by who signed it")
	}
	if i.MayNominate {
		return errors.New("which ID an image brings is not the running VM's word: its owner renews it by the image")
	}
	return nil
}

// imageID is the ID that images of a launch digest bring; false for a digest
// that was never registered as such.
func (st *State) imageID(ctx context.Context, digest string) (id wire.Hex32, ok bool, err error) {
	b, _, err := st.s.Get(ctx, prefixImageID+digest)
	if errors.Is(err, store.ErrNotFound) {
		return id, false, nil
	}
	if err == nil {
		err = id.UnmarshalText(b)
	}
	if err != nil {
		return id, false, fmt.Errorf("reading whose image %.16s... is: %w", digest, err)
	}
	return id, true, nil
}

// ErrImageSays is an approval of what the running VM of an instance nominated
// whose image brings its ID.
var ErrImageSays = errors.New("which ID an image brings is read from the image, and is not the running VM's word")

// errWrongSource is a launch digest that does not stand for the ID.
var errWrongSource = errors.New("an image brings one ID, or none")

func wrongSource(format string, a ...any) error {
	return code.Wrap(code.InstanceSource, fmt.Errorf("%w: "+format, append([]any{errWrongSource}, a...)...))
}

// settleIDs refuses launch digests that would make one image stand for two IDs,
// and durably reserves those of an instance whose image brings its ID: all or
// none, for good, and so after whatever else is refused. had are the digests
// that were settled before. Two calls at once can both pass: checkIDSource asks
// again at every appraisal.
func (st *State) settleIDs(ctx context.Context, i *Instance, had []Measurement) error {
	var fresh []string
	for _, m := range i.Measurements {
		if slices.ContainsFunc(had, func(h Measurement) bool { return h.Digest == m.Digest }) {
			continue
		}
		id, taken, err := st.imageID(ctx, m.Digest)
		switch {
		case err != nil:
			return err
		case taken && !i.FromImage():
			return wrongSource("launch digest %.16s... is an image's that brings the ID %s: it is no other instance's", m.Digest, id)
		case taken && id != i.ID:
			return wrongSource("launch digest %.16s... is an image's that brings the ID %s, not %s", m.Digest, id, i.ID)
		case taken || !i.FromImage():
			continue
		}
		err = st.Instances(ctx, func(o *Instance) error {
			if o.ID != i.ID && o.Decommissioned == 0 && slices.ContainsFunc(o.Measurements, func(h Measurement) bool { return h.Digest == m.Digest }) {
				return wrongSource("launch digest %.16s... is registered for instance %s, whose ID is HOST_DATA", m.Digest, o.ID)
			}
			return nil
		})
		if err != nil {
			return err
		}
		fresh = append(fresh, m.Digest)
	}
	for _, digest := range fresh {
		switch err := st.s.Create(ctx, prefixImageID+digest, []byte(i.ID.String())); {
		case errors.Is(err, store.ErrExists):
			return errBusy
		case err != nil:
			return fmt.Errorf("reserving launch digest %.16s...: %w", digest, err)
		}
	}
	return nil
}

// checkIDSource says whether an accepted launch digest may stand for the
// instance: one of an image that brings an ID is this instance's alone.
func (st *State) checkIDSource(ctx context.Context, i *Instance, digest string) error {
	id, taken, err := st.imageID(ctx, digest)
	switch {
	case err != nil:
		return err
	case i.FromImage() && (!taken || id != i.ID), !i.FromImage() && taken:
		return wrongSource("this launch digest does not bring the instance's ID")
	}
	return nil
}

// checkMember is checkIDSource for certify, where the policy says which instance
// a VM is, and that may be one that is not registered (nil). hostData says that
// HOST_DATA is not zeros.
func (st *State) checkMember(ctx context.Context, i *Instance, id wire.Hex32, digest string, hostData bool) error {
	if i != nil {
		if i.FromImage() == hostData {
			return wrongSource("the instance's record says id-source %s", cmp.Or(i.IDSource, IDFromHostData))
		}
		return st.checkIDSource(ctx, i, digest)
	}
	whose, taken, err := st.imageID(ctx, digest)
	if err == nil && taken && (hostData || whose != id) {
		err = wrongSource("launch digest %.16s... is an image's that brings the ID %s", digest, whose)
	}
	return err
}
