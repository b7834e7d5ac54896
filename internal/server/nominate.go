package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"attestbox/internal/claim"
	"attestbox/internal/code"
	"attestbox/internal/wire"
)

// Nomination is a launch digest that a running VM named as its successor and
// that waits for the owner. What it covers is the VM's claim.
type Nomination struct {
	Digest  string     `json:"digest"`
	Kernel  wire.Hex32 `json:"kernel"` // SHA-256 of each
	Initrd  wire.Hex32 `json:"initrd"`
	Cmdline wire.Hex32 `json:"cmdline"`
	Source  string     `json:"source"`
	By      string     `json:"by"`   // the launch digest of the boot that nominated
	Time    int64      `json:"time"` // Unix seconds
}

// Nominate keeps a successor of an instance's launch digest, and allows it at
// once if may is set. At most wire.MaxNominations digests are on their way, the
// allowed and the waiting ones together; a newer one takes the place of the
// oldest. by is the launch digest of the boot that asks.
func (st *State) Nominate(ctx context.Context, id wire.Hex32, n *wire.Nominate, by string, may bool, now time.Time) (allowed bool, err error) {
	err = st.update(ctx, id, func(i *Instance) error {
		allowed = true
		if slices.ContainsFunc(i.Measurements, func(m Measurement) bool { return m.Digest == n.Digest }) || n.Digest == by {
			return nil
		}
		i.dropNomination(n.Digest)
		i.Nominations = append(i.Nominations, Nomination{n.Digest, n.Kernel, n.Initrd, n.Cmdline, n.Source, by, now.Unix()})
		if allowed = may; may {
			if err := i.approve(n.Digest, now); err != nil {
				return err
			}
		}
		i.boundNominated()
		return nil
	})
	if errors.Is(err, errWrongSource) {
		err = refusal(code.MaintainNominate, "%v", err)
	}
	return allowed, err
}

// approve makes a nomination one of the launch digests.
func (i *Instance) approve(digest string, now time.Time) error {
	at := slices.IndexFunc(i.Nominations, func(n Nomination) bool { return n.Digest == digest })
	if at < 0 {
		return refusal(code.MaintainNominate, "%s was not nominated", digest)
	}
	n := i.Nominations[at]
	if len(i.Measurements)+len(i.Identities) == 0 {
		// Policy alone ruled: what runs now must stay allowed until the new one
		// has booted.
		i.Measurements = append(i.Measurements, Measurement{Digest: n.By, Source: "the boot that nominated"})
	}
	if len(i.Measurements) >= MaxMeasurements {
		return refusal(code.MaintainNominate, "the instance has %d launch digests already", len(i.Measurements))
	}
	i.Nominations = slices.Delete(i.Nominations, at, at+1)
	i.Measurements = append(i.Measurements, Measurement{Digest: n.Digest, Nominated: now.Unix(),
		Source: fmt.Sprintf("nominated by the VM: %s; kernel %s, initramfs %s, command line %s", n.Source, n.Kernel, n.Initrd, n.Cmdline)})
	return nil
}

// boundNominated drops the oldest digests that have not booted, beyond
// wire.MaxNominations of them: first those that wait, which nobody may boot.
func (i *Instance) boundNominated() {
	unbooted := func(m Measurement) bool { return m.Pending() && !m.ByOwner }
	count := len(i.Nominations)
	for _, m := range i.Measurements {
		if unbooted(m) {
			count++
		}
	}
	for ; count > wire.MaxNominations; count-- {
		at := slices.IndexFunc(i.Measurements, unbooted)
		if len(i.Nominations) > 0 && (at < 0 || i.Nominations[0].Time <= i.Measurements[at].Nominated) {
			i.Nominations = slices.Delete(i.Nominations, 0, 1)
		} else {
			i.Measurements = slices.Delete(i.Measurements, at, at+1)
		}
	}
}

// promote drops what a nominated digest succeeds, once it has booted: all but
// itself and those nominated after it. What the owner named and has not booted
// stays where the VM's own nomination did; where the owner's did, what the VM
// named is dropped whenever it did so, and what one renewal named is promoted
// together. It only narrows.
func (st *State) promote(ctx context.Context, id wire.Hex32, digest string, boot uint64, now time.Time) error {
	i, err := st.Instance(ctx, id)
	if err != nil || !i.nominated(digest) {
		return err
	}
	return st.update(ctx, id, func(i *Instance) error {
		at := slices.IndexFunc(i.Measurements, func(m Measurement) bool { return m.Digest == digest && m.Pending() })
		if at < 0 {
			return nil
		}
		done := i.Measurements[at]
		done.Nominated = 0
		kept, p := []Measurement{done}, Promotion{Digest: digest, Dropped: []string{}, Boot: boot, Time: now.Unix()}
		for n, m := range i.Measurements {
			switch {
			case n == at:
			case m.Pending() && done.ByOwner && m.ByOwner && m.Batch == done.Batch:
				m.Nominated = 0
				kept = append(kept, m)
			case m.Pending() && done.ByOwner && m.ByOwner && n > at, m.Pending() && !done.ByOwner && (m.ByOwner || n > at):
				kept = append(kept, m)
			default:
				p.Dropped = append(p.Dropped, m.Digest)
			}
		}
		i.Measurements = kept
		i.Promotions = append([]Promotion{p}, i.Promotions...)
		i.Promotions = i.Promotions[:min(len(i.Promotions), maxPromotions)]
		return nil
	})
}

// Renew is the owner's word that an instance may boot further launch digests:
// pending until one of them has booted and reported opened, which drops the
// digests before them. Until then those are the way back.
func (st *State) Renew(ctx context.Context, id wire.Hex32, list []Measurement, now time.Time) error {
	return st.UpdateInstance(ctx, id, func(i *Instance) error {
		switch {
		case len(i.Identities) > 0:
			return errors.New("an ID key says what this instance boots: raise its least SVN in place of renewing launch digests")
		case len(i.Measurements) == 0:
			return errors.New("the instance has no launch digest of its own: let the policy say Measurement[new] renews Measurement[old]")
		}
		batch := uint64(1)
		for _, h := range i.Measurements {
			batch = max(batch, h.Batch+1)
		}
		for _, m := range list {
			if slices.ContainsFunc(i.Measurements, func(h Measurement) bool { return h.Digest == m.Digest && !h.Pending() }) {
				return fmt.Errorf("launch digest %.16s... is one of the instance's already", m.Digest)
			}
			i.dropNomination(m.Digest)
			i.Measurements = slices.DeleteFunc(slices.Clone(i.Measurements), func(h Measurement) bool { return h.Digest == m.Digest })
			m.Nominated, m.ByOwner, m.Batch = now.Unix(), true, batch
			i.Measurements = append(i.Measurements, m)
		}
		return nil
	})
}

// Allow is the owner's word for a launch digest, whoever named it before: it is
// pending no more, and waits for nobody.
func (i *Instance) Allow(m Measurement) {
	i.dropNomination(m.Digest)
	at := slices.IndexFunc(i.Measurements, func(h Measurement) bool { return h.Digest == m.Digest })
	switch {
	case at < 0:
		i.Measurements = append(i.Measurements, m)
	case i.Measurements[at].Pending():
		i.Measurements[at] = m
	}
}

func (i *Instance) dropNomination(digest string) {
	i.Nominations = slices.DeleteFunc(i.Nominations, func(n Nomination) bool { return n.Digest == digest })
}

func (i *Instance) nominated(digest string) bool {
	return slices.ContainsFunc(i.Measurements, func(m Measurement) bool { return m.Digest == digest && m.Nominated != 0 })
}

// DecideNomination is the owner's word about a nomination that waits.
func (st *State) DecideNomination(ctx context.Context, id wire.Hex32, digest string, approve bool, now time.Time) (n Nomination, err error) {
	err = st.UpdateInstance(ctx, id, func(i *Instance) error {
		at := slices.IndexFunc(i.Nominations, func(n Nomination) bool { return n.Digest == digest })
		if at < 0 {
			return fmt.Errorf("%s does not wait for anybody's word", digest)
		}
		n = i.Nominations[at]
		if approve && i.FromImage() {
			return ErrImageSays
		}
		if approve {
			return i.approve(digest, now)
		}
		i.Nominations = slices.Delete(i.Nominations, at, at+1)
		return nil
	})
	return n, err
}

// mayNominate says whether a nomination by this launch digest counts without
// the owner: by the instance's record, or by a claim of its domain's policy.
// Where a policy rules, it must in any case trust the digest when it boots.
func (s *Server) mayNominate(inst *Instance, boot claim.Launched) bool {
	if inst.FromImage() {
		return false // which ID an image brings is not the running VM's word
	}
	if inst.Domain == "" {
		return inst.MayNominate
	}
	dom := s.domain(inst.Domain)
	if dom == nil {
		return false
	}
	_, ok := dom.current.Load().auth.MayNominate(boot, s.Now())
	return ok
}
