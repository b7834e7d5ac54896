package server

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	"attestbox/internal/client"
	"attestbox/internal/code"
	"attestbox/internal/cryptstore"
	"attestbox/internal/platform"
	"attestbox/internal/recipient"
	"attestbox/internal/seal"
	"attestbox/internal/snpsim"
	"attestbox/internal/store"
	"attestbox/internal/store/bolt"
)

// sealer is what a VM of the domain seals with, after it was certified.
func (w *domainWorld) sealer(p platform.Platform) (*seal.Sealer, *client.KeyClient) {
	w.t.Helper()
	cert, a, err := w.certify(p, "")
	if err != nil {
		w.t.Fatal(err, w.lastDecision())
	}
	to, err := recipient.ParsePublicBytes(a.EscrowKey)
	if err != nil {
		w.t.Fatal(err)
	}
	s, err := seal.New(ctxFor(w.t), seal.Config{Platform: p, Domain: w.name, Share: a.StoreSecret, EscrowTo: to})
	if err != nil {
		w.t.Fatal(err)
	}
	return s, w.keys(cert)
}

// A store survives an update of its image and a move to another chip where
// policy says so, and only there.
func TestRecovery(t *testing.T) {
	w := newDomainWorld(t, nil)
	ctx := ctxFor(t)
	raw := must(bolt.Open(filepath.Join(t.TempDir(), "vm.db")))
	defer raw.Close()
	first, _ := w.sealer(w.vm(imageA, 1, nil))
	s, err := cryptstore.Create(ctx, keep{raw}, "vm", first, cryptstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(ctx, cryptstore.Item{Tag: "note", Type: cryptstore.Blob, Value: sec("remember")}); err != nil {
		t.Fatal(err)
	}
	s.Close()
	recovery := func(k *client.KeyClient) seal.Recover {
		return func(ctx context.Context, h *cryptstore.Header) (seal.Recovery, error) {
			key, err := recipient.NewKey()
			if err != nil {
				return seal.Recovery{}, err
			}
			box, epoch, err := k.Rewrap(ctx, h.Name, h.Escrow, key.PublicKey().Bytes())
			if c, _ := code.Of(err); c == code.SecretRefused {
				err = errors.Join(seal.ErrMayNotSucceed, err)
			}
			return seal.Recovery{Box: box, Key: key, MinEpoch: epoch}, err
		}
	}
	open := func(p platform.Platform) (string, error) {
		by, keys := w.sealer(p)
		h, err := cryptstore.Inspect(ctx, raw, "vm", cryptstore.Options{})
		if err != nil {
			return "", err
		}
		r, err := recovery(keys)(ctx, h)
		if err != nil {
			return "", err
		}
		s, err := seal.OpenWithRecovery(ctx, keep{raw}, "vm", r, by, cryptstore.Options{})
		if err != nil {
			return "", err
		}
		defer s.Close()
		v, _, err := s.Get(ctx, "note", cryptstore.Blob, 0)
		if err != nil {
			return "", err
		}
		defer v.Zero()
		return string(v.Bytes()), nil
	}
	for name, p := range map[string]platform.Platform{
		"another image":              w.vm(imageB, 1, nil),
		"another instance":           w.vm(imageA, 2, nil),
		"another instance and image": w.vm(imageB, 2, nil),
		"the deployment machine":     w.enclave,
	} {
		keys := w.keys(w.mustCertify(p))
		h := must(cryptstore.Inspect(ctx, raw, "vm", cryptstore.Options{}))
		key := must(recipient.NewKey())
		_, _, err := keys.Rewrap(ctx, "vm", h.Escrow, key.PublicKey().Bytes())
		wantCode(t, name, err, code.SecretRefused)
	}
	// The same image on another chip of the same vendor.
	other := must(w.psp.AnotherChip())
	moved := other.Launch(snpsim.GuestConfig{Measurement: imageA, HostData: [32]byte{1}}).Platform()
	by, _ := w.sealer(moved)
	if _, err := cryptstore.Open(ctx, keep{raw}, "vm", by, cryptstore.Options{}); !errors.Is(err, cryptstore.ErrSealed) {
		t.Errorf("moved, without recovery: %v", err)
	}
	if got, err := open(moved); err != nil || got != "remember" {
		t.Errorf("moved: %q, %v (%s)", got, err, w.lastDecision())
	}
	// The new image, once policy names it.
	w.sign(2, append(w.policyLines(), "Measurement["+hexOf(imageB)+"] may-succeed Measurement["+hexOf(imageA)+"]")...)
	w.reload()
	if got, err := open(w.vm(imageB, 1, nil)); err != nil || got != "remember" {
		t.Errorf("updated: %q, %v (%s)", got, err, w.lastDecision())
	}
}

// keep keeps a store open.
type keep struct{ store.Store }

func (keep) Close() error { return nil }

// The host waits for an update of the image, and gives the new one an older
// copy of the store: the server knows how far it was.
func TestUpdateIsNoRollback(t *testing.T) {
	w := newDomainWorld(t, nil)
	ctx := ctxFor(t)
	w.sign(2, append(w.policyLines(), "Measurement["+hexOf(imageB)+"] may-succeed Measurement["+hexOf(imageA)+"]")...)
	w.reload()
	raw := must(bolt.Open(filepath.Join(t.TempDir(), "vm.db")))
	defer raw.Close()
	old := w.vm(imageA, 1, nil)
	by, _ := w.sealer(old)
	s := must(cryptstore.Create(ctx, keep{raw}, "vm", by, cryptstore.Options{}))
	s.Close()
	recovers := func(p platform.Platform) error {
		by, keys := w.sealer(p)
		h := must(cryptstore.Inspect(ctx, raw, "vm", cryptstore.Options{}))
		key := must(recipient.NewKey())
		box, epoch, err := keys.Rewrap(ctx, h.Name, h.Escrow, key.PublicKey().Bytes())
		if err != nil {
			t.Fatal(err)
		}
		s, err := seal.OpenWithRecovery(ctx, keep{raw}, "vm", seal.Recovery{Box: box, Key: key, MinEpoch: epoch}, by, cryptstore.Options{})
		if err == nil {
			s.Close()
		}
		return err
	}
	// The old image went on and proved it; what lies on the disk is older.
	c := w.certifyConfig(old)
	c.StoreEpoch = 9
	a, err := client.Certify(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	a.Close()
	if err := recovers(w.vm(imageB, 1, nil)); !errors.Is(err, cryptstore.ErrRollback) {
		t.Errorf("an older copy after an update: %v, want ErrRollback", err)
	}
	h := must(cryptstore.Inspect(ctx, raw, "vm", cryptstore.Options{}))
	if h.Epoch != 1 {
		t.Errorf("the store was written: epoch %d", h.Epoch)
	}
}
