package seal

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"attestbox/internal/code"
	"attestbox/internal/cryptstore"
	"attestbox/internal/platform"
	"attestbox/internal/recipient"
	"attestbox/internal/secret"
	"attestbox/internal/snp"
	"attestbox/internal/snpsim"
	"attestbox/internal/snpsim/snpsimtest"
	"attestbox/internal/store"
)

// After an image update and after a move to another chip the store opens
// through recovery, where a claim says so; then it is sealed for the new VM
// alone.
func TestRecovery(t *testing.T) {
	p := snpsimtest.PSP(t, snp.Genoa)
	moved, err := p.AnotherChip()
	if err != nil {
		t.Fatal(err)
	}
	updated := with(func(c *snpsim.GuestConfig) { c.Measurement = [48]byte{2} })
	for name, tc := range map[string]struct {
		config snpsim.GuestConfig
		g      *snpsim.Guest
	}{
		"image update": {updated, p.Launch(updated)},
		"another chip": {base, moved.Launch(base)},
		"both":         {updated, moved.Launch(updated)},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOwner(t)
			before := o.sealer(p.Launch(base))
			raw := filled(t, before)
			old := copyOf(t, raw)
			o.may(tc.config, base)
			s, out, err := OpenOrCreate(t.Context(), raw, "main", o.sealer(tc.g), o.recover(tc.g), cryptstore.Options{})
			if err != nil || !out.Recovered || out.Created || out.Aside != 0 || !errors.Is(out.Sealed, cryptstore.ErrSealed) {
				t.Fatalf("%+v, %v", out, err)
			}
			if value(t, s) != "kept" {
				t.Error("another value")
			}
			mustPut(t, s, "new")
			if s, out, err = OpenOrCreate(t.Context(), raw, "main", o.sealer(tc.g), nil, cryptstore.Options{}); err != nil || !out.Opened || value(t, s) != "new" {
				t.Fatalf("next boot: %+v, %v", out, err)
			}
			// The old VM opens its old copy, and with that copy's key nothing new.
			if _, err := cryptstore.Open(t.Context(), raw, "main", before, cryptstore.Options{}); !errors.Is(err, cryptstore.ErrSealed) {
				t.Errorf("the old VM opens the new store: %v", err)
			}
			h, err := cryptstore.Inspect(t.Context(), old, "main", cryptstore.Options{})
			if err != nil {
				t.Fatal(err)
			}
			key, _, err := openEscrow(RewrapRequest{Escrow: h.Escrow, Key: o.escrow, Domain: testDomain, Platform: platform.AMDSEVSNP,
				HostData: base.HostData, Measurement: base.Measurement[:], MaySucceed: func(_, _ []byte) bool { return true },
				Share: func(e *Escrow) (*secret.Bytes, error) { return o.share(e.Platform, e.HostData, e.Measurement), nil }})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := cryptstore.OpenWithKey(t.Context(), raw, "main", key, cryptstore.Options{}); !errors.Is(err, cryptstore.ErrTampered) {
				t.Errorf("the old store key opens the new store: %v", err)
			}
		})
	}
}

func copyOf(t *testing.T, raw store.Store) store.Store {
	t.Helper()
	out := rawStore(t)
	if err := store.All(t.Context(), raw, "", func(key string) error {
		b, err := raw.Get(t.Context(), key)
		if err != nil {
			return err
		}
		return out.Create(t.Context(), key, b)
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// Without the claim the old store is set aside, and stays whole there.
func TestNoClaimSetsAside(t *testing.T) {
	p := snpsimtest.PSP(t, snp.Genoa)
	o := newOwner(t)
	raw := filled(t, o.sealer(p.Launch(base)))
	updated := p.Launch(with(func(c *snpsim.GuestConfig) { c.Measurement = [48]byte{2} }))
	s, out, err := OpenOrCreate(t.Context(), raw, "main", o.sealer(updated), o.recover(updated), cryptstore.Options{MinEpoch: 2})
	if err != nil || !out.Created || out.Aside != 1 || !errors.Is(out.Sealed, ErrMayNotSucceed) {
		t.Fatalf("%+v, %v", out, err)
	}
	if l, err := s.List(t.Context()); err != nil || len(l) != 0 {
		t.Errorf("the cold store has %v, %v", l, err)
	}
	if h, err := s.Header(t.Context()); err != nil || h.Epoch != 3 {
		t.Errorf("the cold store begins at epoch %d, %v: an older one would pass for it", h.Epoch, err)
	}
	aside, err := cryptstore.Open(t.Context(), raw, "main", o.sealer(p.Launch(base)), cryptstore.Options{Aside: 1})
	if err != nil || value(t, aside) != "kept" {
		t.Errorf("what was set aside: %v", err)
	}
	// A server that cannot be reached is no refusal.
	raw = filled(t, o.sealer(p.Launch(base)))
	unreachable := errors.New("unreachable")
	_, out, err = OpenOrCreate(t.Context(), raw, "main", o.sealer(updated), func(context.Context, *cryptstore.Header) (Recovery, error) {
		return Recovery{}, unreachable
	}, cryptstore.Options{})
	if !errors.Is(err, unreachable) || out.Aside != 0 {
		t.Errorf("unreachable server: %+v, %v", out, err)
	}
}

func escrowOf(t *testing.T, raw store.Store) []byte {
	t.Helper()
	h, err := cryptstore.Inspect(t.Context(), raw, "main", cryptstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return h.Escrow
}

// Any changed byte of the escrow copy is refused, by the server, and by
// whoever opens the store.
func TestEscrowTampering(t *testing.T) {
	g := snpsimtest.PSP(t, snp.Genoa).Launch(base)
	o := newOwner(t)
	o.may(base, base)
	raw := filled(t, o.sealer(g))
	k, err := recipient.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	good := escrowOf(t, raw)
	if _, err := o.rewrap(g, good, k.PublicKey(), nil); err != nil {
		t.Fatal(err)
	}
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 1
		_, err := o.rewrap(g, bad, k.PublicKey(), nil)
		if c, _ := code.Of(err); c != code.CryptstoreRecovery || !errors.Is(err, ErrEscrow) && !errors.Is(err, ErrMayNotSucceed) {
			t.Fatalf("byte %d changed: %v", i, err)
		}
		if _, err := o.rewrap(g, good[:i], k.PublicKey(), nil); !errors.Is(err, ErrEscrow) {
			t.Fatalf("cut to %d bytes: %v", i, err)
		}
	}
}

// The host plants a store whose key it knows: it has the server's public key,
// and not the share.
func TestPlantedEscrow(t *testing.T) {
	p := snpsimtest.PSP(t, snp.Genoa)
	o := newOwner(t)
	updated := p.Launch(with(func(c *snpsim.GuestConfig) { c.Measurement = [48]byte{2} }))
	o.may(updated.Config, base)
	known := secret.Random(cryptstore.KeySize)
	defer known.Zero()
	k, err := recipient.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	b := cryptstore.Binding{Name: "main", ID: [16]byte{1}}
	plant := func(share *secret.Bytes) []byte {
		s := &Sealer{c: Config{Platform: updated.Platform(), Share: share, EscrowTo: o.escrow.PublicKey()},
			state: State{Domain: testDomain, HostData: base.HostData, Measurement: base.Measurement[:]}}
		e, err := s.Escrow(t.Context(), b, known)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	guess := secret.New(ShareSize)
	defer guess.Zero()
	if _, err := o.rewrap(updated, plant(guess), k.PublicKey(), nil); !errors.Is(err, ErrEscrow) {
		t.Errorf("planted: %v", err)
	}
	// Nor can a VM with another image of the same instance, which has a share.
	other := [48]byte{3}
	if _, err := o.rewrap(updated, plant(o.share(platform.AMDSEVSNP, base.HostData, other[:])), k.PublicKey(), nil); !errors.Is(err, ErrEscrow) {
		t.Errorf("planted by another image: %v", err)
	}
	if _, err := o.rewrap(updated, plant(o.share(platform.AMDSEVSNP, base.HostData, base.Measurement[:])), k.PublicKey(), nil); err != nil {
		t.Errorf("with the right share: %v", err)
	}
}

// The answer of one exchange opens in that exchange, for that store, alone.
func TestRecoveryIsBoundToTheExchange(t *testing.T) {
	g := snpsimtest.PSP(t, snp.Genoa).Launch(base)
	o := newOwner(t)
	o.may(base, base)
	by := o.sealer(g)
	raw, other := filled(t, by), filled(t, by)
	k, err := recipient.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := recipient.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	box, err := o.rewrap(g, escrowOf(t, raw), k.PublicKey(), []byte("transcript"))
	if err != nil {
		t.Fatal(err)
	}
	bad := bytes.Clone(box)
	bad[len(bad)-1] ^= 1
	for name, tc := range map[string]struct {
		raw store.Store
		r   Recovery
	}{
		"another exchange": {raw, Recovery{Box: box, Key: k, Info: []byte("another")}},
		"another key":      {raw, Recovery{Box: box, Key: stranger, Info: []byte("transcript")}},
		"another store":    {other, Recovery{Box: box, Key: k, Info: []byte("transcript")}},
		"changed":          {raw, Recovery{Box: bad, Key: k, Info: []byte("transcript")}},
	} {
		_, err := OpenWithRecovery(t.Context(), tc.raw, "main", tc.r, by, cryptstore.Options{})
		if c, _ := code.Of(err); c != code.CryptstoreRecovery {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := OpenWithRecovery(t.Context(), raw, "main", Recovery{Box: box, Key: k, Info: []byte("transcript")}, by, cryptstore.Options{MinEpoch: 99}); !errors.Is(err, cryptstore.ErrRollback) {
		t.Errorf("recovering an older file: %v", err)
	}
	if _, err := OpenWithRecovery(t.Context(), raw, "main", Recovery{Box: box, Key: k, Info: []byte("transcript")}, by, cryptstore.Options{}); err != nil {
		t.Error(err)
	}
}

func FuzzEscrow(f *testing.F) {
	e := Escrow{Store: cryptstore.Binding{Name: "main"}, Domain: "d", Platform: platform.AMDSEVSNP, Measurement: make([]byte, 48), box: []byte("box")}
	f.Add(e.marshal())
	f.Add([]byte(escrowMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ParseEscrow(b)
		if err == nil && !bytes.Equal(e.marshal(), b) {
			t.Error("accepted, and marshals to something else")
		}
	})
}
