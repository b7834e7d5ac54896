package server

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"attestbox/internal/appraise"
	"attestbox/internal/secret"
	"attestbox/internal/store"
	"attestbox/internal/strictjson"
	"attestbox/internal/wire"
)

// What happens when another REPORT_ID asks while one is pending or alive.
const (
	Takeover   = "takeover"   // it gets the next boot number, and an alert is logged
	Quarantine = "quarantine" // it is refused until the owner clears the boot
)

// MaxMeasurements bounds the launch digests of one instance.
const MaxMeasurements = 16

// MaxIdentities bounds the identities of one instance.
const MaxIdentities = 8

var (
	// ErrUnknownInstance is an ID that was never registered.
	ErrUnknownInstance = errors.New("no such instance")
	// ErrDecommissioned is an ID that is refused for good.
	ErrDecommissioned = errors.New("the instance is decommissioned: its ID is refused for good")
	// ErrInstanceExists is an ID that is registered already.
	ErrInstanceExists = errors.New("the instance exists already")

	errBusy = errors.New("the state was changed by somebody else too often")
)

// maxSwaps bounds compare-and-swap loops. Whoever loses that often is told to
// come back later.
const maxSwaps = 64

// Measurement is one launch digest that an instance may have.
type Measurement struct {
	Digest string `json:"digest"` // 96 hex digits
	// Source says what showed that the digest covers kernel, initramfs and
	// command line.
	Source string `json:"source"`
	// Nominated is when the running VM named it as its successor, Unix seconds;
	// 0 for one that the owner allowed, or that has booted since.
	Nominated int64 `json:"nominated,omitempty"`
	// ByOwner says that it was the owner who named it, with instance renew.
	ByOwner bool `json:"by_owner,omitempty"`
	// Batch is the same for all that one instance renew named.
	Batch uint64 `json:"batch,omitempty"`
}

// Pending says that the digest may boot, and has not yet.
func (m *Measurement) Pending() bool { return m.Nominated != 0 }

// Promotion is a launch digest that has booted and what was dropped for it.
type Promotion struct {
	Digest  string   `json:"digest"`
	Dropped []string `json:"dropped"`
	Boot    uint64   `json:"boot"`
	Time    int64    `json:"time"` // Unix seconds
}

// maxPromotions bounds those that are kept.
const maxPromotions = 8

// Instance is a registered VM, without its secrets.
type Instance struct {
	ID wire.Hex32 `json:"id"`
	// IDSource says where the VM has its ID from; empty is IDFromHostData.
	IDSource string `json:"id_source,omitempty"`
	// Domain, if not empty, says by whose policy the instance is appraised;
	// Measurements then only narrow what that trusts, and may be empty.
	Domain       string        `json:"domain,omitempty"`
	Measurements []Measurement `json:"measurements"`
	// Identities admit launch digests that are not listed, by ID key, image ID
	// and least SVN; in a domain they narrow too.
	Identities     []appraise.Identity `json:"identities,omitempty"`
	Headers        []wire.HeaderRecord `json:"headers"`
	HasDiskKey     bool                `json:"has_disk_key"`
	SecretNames    []string            `json:"secret_names"`
	OnSecond       string              `json:"on_second"` // Takeover or Quarantine
	Note           string              `json:"note"`
	Created        int64               `json:"created"`        // Unix seconds
	Decommissioned int64               `json:"decommissioned"` // Unix seconds; 0: in service

	// What the running VM changes, see package wire's maintain.
	Enrolling   bool         `json:"enrolling,omitempty"` // its disk is on its way to the key that is registered
	MayRotate   bool         `json:"may_rotate,omitempty"`
	MayNominate bool         `json:"may_nominate,omitempty"`
	Nominations []Nomination `json:"nominations,omitempty"` // oldest first
	Promotions  []Promotion  `json:"promotions,omitempty"`  // latest first, at most maxPromotions

	// BundleFloor is the lowest version of a bundle that may start, see
	// Approve; 0: the instance's images are no stage 1.
	BundleFloor   uint64    `json:"bundle_floor,omitempty"`
	BundleLowered []Lowered `json:"bundle_lowered,omitempty"` // latest first, at most maxLowered
	// BundleRatchet: a boot that reported opened raises the floor to its bundle.
	BundleRatchet bool `json:"bundle_ratchet,omitempty"`
}

// Digests are the launch digests as bytes.
func (i *Instance) Digests() ([][48]byte, error) {
	out := make([][48]byte, len(i.Measurements))
	for n, m := range i.Measurements {
		b, err := hex.DecodeString(m.Digest)
		if err != nil || len(b) != 48 {
			return nil, fmt.Errorf("launch digest %.100q is not 96 hex digits", m.Digest)
		}
		out[n] = [48]byte(b)
	}
	return out, nil
}

func (i *Instance) check() error {
	if i.ID.IsZero() {
		return errors.New("an instance ID of zeros is not allowed")
	}
	if i.Domain != "" && !wire.ValidDomain(i.Domain) {
		return fmt.Errorf("domain %.64q", i.Domain)
	}
	if len(i.Measurements)+len(i.Identities) == 0 && i.Domain == "" || len(i.Measurements) > MaxMeasurements {
		return fmt.Errorf("%d launch digests, want 1 to %d, or an identity", len(i.Measurements), MaxMeasurements)
	}
	if err := i.checkIdentities(); err != nil {
		return err
	}
	if _, err := i.Digests(); err != nil {
		return err
	}
	if err := i.checkIDSource(); err != nil {
		return err
	}
	if i.OnSecond != Takeover && i.OnSecond != Quarantine {
		return fmt.Errorf("on_second is %q, want %q or %q", i.OnSecond, Takeover, Quarantine)
	}
	if len(i.Headers) > wire.MaxHeaders {
		return fmt.Errorf("%d header records, at most %d", len(i.Headers), wire.MaxHeaders)
	}
	if (len(i.Headers) > 0) != i.HasDiskKey {
		return errors.New("a disk key and a header record go together: the guest opens nothing but the registered header")
	}
	if len(i.Nominations) > wire.MaxNominations {
		return fmt.Errorf("%d nominations, at most %d", len(i.Nominations), wire.MaxNominations)
	}
	if i.BundleFloor > wire.MaxBundleVersion {
		return fmt.Errorf("bundle floor %d, at most %d", i.BundleFloor, uint64(wire.MaxBundleVersion))
	}
	if len(i.Note) > 256 {
		return errors.New("note longer than 256 bytes")
	}
	return nil
}

func (i *Instance) checkIdentities() error {
	if len(i.Identities) > MaxIdentities {
		return fmt.Errorf("%d identities, at most %d", len(i.Identities), MaxIdentities)
	}
	for n, d := range i.Identities {
		if err := d.Check(); err != nil {
			return fmt.Errorf("identity: %w", err)
		}
		for _, o := range i.Identities[:n] {
			if o.SameImage(d) {
				return fmt.Errorf("two identities are of one image, and the lower SVN would count: %v, and %v", o, d)
			}
		}
	}
	return nil
}

// Admit adds identities. One takes the place of those before it that a launch
// of the same image could meet, whatever their least SVN.
func (i *Instance) Admit(list []appraise.Identity) {
	for _, d := range list {
		i.Identities = slices.DeleteFunc(slices.Clone(i.Identities), func(o appraise.Identity) bool { return o.SameImage(d) })
		i.Identities = append(i.Identities, d)
	}
}

// AddInstance registers an instance with its secrets. An ID that exists is
// ErrInstanceExists, a decommissioned one ErrDecommissioned.
func (st *State) AddInstance(ctx context.Context, i *Instance, sec *Secrets) error {
	i.HasDiskKey = sec.DiskKey.Len() > 0
	i.SecretNames = []string{}
	for _, s := range sec.Named {
		i.SecretNames = append(i.SecretNames, s.Name)
	}
	if i.Measurements == nil {
		i.Measurements = []Measurement{}
	}
	if i.Headers == nil {
		i.Headers = []wire.HeaderRecord{}
	}
	if err := i.check(); err != nil {
		return err
	}
	if i.Decommissioned != 0 {
		return ErrDecommissioned
	}
	switch old, err := st.Instance(ctx, i.ID); {
	case err == nil && old.Decommissioned != 0:
		return ErrDecommissioned
	case err == nil:
		return ErrInstanceExists
	case !errors.Is(err, ErrUnknownInstance):
		return err
	}
	// It must fit into a release, or the VM would never start.
	probe := sec.payload(i)
	probe.OutcomeKey = secret.New(wire.OutcomeKeySize)
	defer probe.OutcomeKey.Zero()
	if n, err := probe.Size(); err != nil || n > wire.MaxPayload || len(probe.Secrets) > wire.MaxSecrets {
		return fmt.Errorf("secrets and header records take %d bytes and %d secrets, a release carries %d and %d (%v)", n, len(probe.Secrets), wire.MaxPayload, wire.MaxSecrets, err)
	}
	packed, err := sec.marshal()
	if err != nil {
		return err
	}
	defer packed.Zero()
	b, err := json.Marshal(i)
	if err != nil {
		return err
	}
	if err := st.settleIDs(ctx, i, nil); err != nil {
		return err
	}
	// The instance comes last: what a crash leaves before it is overwritten by
	// the next attempt and never released.
	if err := st.put(ctx, prefixSecrets+i.ID.String(), packed.Bytes()); err != nil {
		return fmt.Errorf("storing the instance's secrets: %w", err)
	}
	if err := st.s.Create(ctx, prefixInstance+i.ID.String(), b); err != nil {
		if errors.Is(err, store.ErrExists) {
			return ErrInstanceExists
		}
		return fmt.Errorf("storing the instance: %w", err)
	}
	return nil
}

// put writes a value whatever was there.
func (st *State) put(ctx context.Context, key string, value []byte) error {
	for range maxSwaps {
		err := st.s.Create(ctx, key, value)
		if !errors.Is(err, store.ErrExists) {
			return err
		}
		_, old, err := st.s.Get(ctx, key)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if err := st.s.Replace(ctx, key, old, value); err == nil {
			return nil
		} else if !errors.Is(err, store.ErrConflict) && !errors.Is(err, store.ErrNotFound) {
			return err
		}
	}
	return errBusy
}

// Instance reads one instance: ErrUnknownInstance without it. A decommissioned
// one comes back with its date set.
func (st *State) Instance(ctx context.Context, id wire.Hex32) (*Instance, error) {
	i, _, err := st.instance(ctx, id)
	return i, err
}

func (st *State) instance(ctx context.Context, id wire.Hex32) (*Instance, []byte, error) {
	b, v, err := st.s.Get(ctx, prefixInstance+id.String())
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil, fmt.Errorf("%s: %w", id, ErrUnknownInstance)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("reading instance %s: %w", id, err)
	}
	var i Instance
	if err := strictjson.Unmarshal(b, &i); err != nil {
		return nil, nil, fmt.Errorf("reading instance %s: %w", id, err)
	}
	if i.ID != id {
		return nil, nil, fmt.Errorf("reading instance %s: the record names %s", id, i.ID)
	}
	return &i, v, nil
}

// Instances walks all instances in order of their IDs.
func (st *State) Instances(ctx context.Context, f func(*Instance) error) error {
	return st.s.All(ctx, prefixInstance, func(key string) error {
		var id wire.Hex32
		if err := id.UnmarshalText([]byte(key[len(prefixInstance):])); err != nil {
			return fmt.Errorf("instance name %q: %w", key, err)
		}
		i, err := st.Instance(ctx, id)
		if err != nil {
			return err
		}
		return f(i)
	})
}

// UpdateInstance changes an instance that is in service by compare-and-swap.
// ID, dates and what follows from the secrets stay.
func (st *State) UpdateInstance(ctx context.Context, id wire.Hex32, f func(*Instance) error) error {
	return st.update(ctx, id, func(i *Instance) error {
		had := i.HasDiskKey
		err := f(i)
		i.HasDiskKey = had
		return err
	})
}

// update is UpdateInstance where HasDiskKey may change.
func (st *State) update(ctx context.Context, id wire.Hex32, f func(*Instance) error) error {
	for range maxSwaps {
		i, v, err := st.instance(ctx, id)
		if err != nil {
			return err
		}
		if i.Decommissioned != 0 {
			return ErrDecommissioned
		}
		was := *i
		was.Measurements = slices.Clone(i.Measurements) // f may write into what i has
		if err := f(i); err != nil {
			return err
		}
		i.ID, i.Created, i.SecretNames, i.IDSource = was.ID, was.Created, was.SecretNames, was.IDSource
		if err := i.check(); err != nil {
			return err
		}
		if err := st.settleIDs(ctx, i, was.Measurements); err != nil {
			return err
		}
		b, err := json.Marshal(i)
		if err != nil {
			return err
		}
		if err := st.s.Replace(ctx, prefixInstance+id.String(), v, b); !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
	return errBusy
}

// Decommission refuses an ID for good. With erase its secrets are deleted too,
// and its disk opens no more, except by a backup of the state.
func (st *State) Decommission(ctx context.Context, id wire.Hex32, now time.Time, erase bool) error {
	err := st.UpdateInstance(ctx, id, func(i *Instance) error {
		i.Decommissioned = now.Unix()
		return nil
	})
	if err != nil && (!errors.Is(err, ErrDecommissioned) || !erase) {
		return err
	}
	if !erase {
		return nil
	}
	key := prefixSecrets + id.String()
	s, v, err := st.s.GetSecret(ctx, key)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("erasing the secrets of %s: %w", id, err)
	}
	s.Zero()
	if err := st.s.Delete(ctx, key, v); err != nil {
		return fmt.Errorf("erasing the secrets of %s: %w", id, err)
	}
	return nil
}
