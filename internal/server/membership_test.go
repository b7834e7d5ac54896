package server

import (
	"context"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"attestbox/internal/client"
	"attestbox/internal/cryptstore"
	membership "attestbox/internal/member"
	"attestbox/internal/member/memberflags"
	"attestbox/internal/platform"
	"attestbox/internal/recipient"
	"attestbox/internal/seal"
	"attestbox/internal/secret"
	"attestbox/internal/snp"
	"attestbox/internal/snpsim"
	"attestbox/internal/store"
	"attestbox/internal/store/onefile"
)

// machine is what a VM keeps between boots: its disk. Each boot has a tmpfs of
// its own.
type machine struct {
	w    *domainWorld
	disk string
}

func newMachine(w *domainWorld) *machine {
	return &machine{w, filepath.Join(w.t.TempDir(), "member.store")}
}

// boot certifies on a platform, as the applet does.
func (m *machine) boot(p platform.Platform) (*membership.Member, *membership.Result, error) {
	t := m.w.t
	run := t.TempDir()
	cfg := membership.Config{
		Policy: m.w.policyCert, RunDir: filepath.Join(run, "domain"), Floor: filepath.Join(run, "floor"), Now: m.w.now, Logf: t.Logf,
		OpenStore: func() (store.Store, error) { return onefile.Open(m.disk) },
		Sealer: func(ctx context.Context, share *secret.Bytes, escrow []byte) (cryptstore.Sealer, error) {
			c := seal.Config{Platform: p, Domain: m.w.name, Share: share}
			if len(escrow) > 0 {
				to, err := recipient.ParsePublicBytes(escrow)
				if err != nil {
					return nil, err
				}
				c.EscrowTo = to
			}
			return seal.New(ctx, c)
		},
	}
	req := membership.Request{Client: m.w.certifyConfig(p).Config, Recover: memberflags.Recover([]string{m.w.addr}, t.Logf)}
	return membership.Certify(ctxFor(t), cfg, req)
}

// mustBoot boots, insists on what became of the store, and reads or writes a
// value that only the store has.
func (m *machine) mustBoot(p platform.Platform, what string) {
	t := m.w.t
	t.Helper()
	mem, res, err := m.boot(p)
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	if !strings.HasPrefix(res.Store, what) {
		t.Errorf("store %s, want %s", res.Store, what)
	}
	cs := mem.Store()
	if what == "created" || strings.HasPrefix(what, "set aside") {
		v := secret.Copy([]byte("the VM's own"))
		defer v.Zero()
		if _, err := cs.Put(ctxFor(t), cryptstore.Item{Tag: "own", Type: cryptstore.Blob, Value: v}); err != nil {
			t.Fatal(err)
		}
		return
	}
	v, _, err := cs.Get(ctxFor(t), "own", cryptstore.Blob, 0)
	if err != nil || string(v.Bytes()) != "the VM's own" {
		t.Errorf("the store's content is not there: %v", err)
	}
	v.Zero()
}

// The whole way of a sealed store: from the secure processor's key, the server's
// share and its escrow, through updates and moves.
func TestMembershipAcrossBoots(t *testing.T) {
	w := newDomainWorld(t, nil)
	m := newMachine(w)
	m.mustBoot(w.vm(imageA, 7, nil), "created")
	m.mustBoot(w.vm(imageA, 7, nil), "opened") // another boot: another REPORT_ID

	// A DEBUG relaunch is not admitted, so it does not even get the share.
	if _, _, err := m.boot(w.vm(imageA, 7, func(c *snpsim.GuestConfig) { c.Policy = uint64(snp.GuestPolicy(0x30000 | 1<<19)) })); !errors.Is(err, client.ErrRefused) {
		t.Errorf("a DEBUG guest: %v", err)
	}
	m.mustBoot(w.vm(imageA, 7, nil), "opened")

	// The image is updated. Without a claim the store is set aside, and the VM
	// goes on cold; with the claim the new image opens what the old one sealed.
	old, err := os.ReadFile(m.disk)
	if err != nil {
		t.Fatal(err)
	}
	m.mustBoot(w.vm(imageB, 7, nil), "set aside as 1")
	if err := os.WriteFile(m.disk, old, 0o600); err != nil {
		t.Fatal(err)
	}
	hexOf := func(i [48]byte) string { return "Measurement[" + hex.EncodeToString(i[:]) + "]" }
	w.sign(2, append(w.policyLines(), hexOf(imageB)+" may-succeed "+hexOf(imageA))...)
	w.reload()
	if err := w.server.Certify(context.Background(), w.domain); err != nil {
		t.Fatal(err)
	}
	// The server knows epochs of image B's first store, which the host may not
	// pass an older one off for: a new instance has none.
	m2 := newMachine(w)
	m2.mustBoot(w.vm(imageA, 8, nil), "created")
	m2.mustBoot(w.vm(imageB, 8, nil), "recovered")
	m2.mustBoot(w.vm(imageB, 8, nil), "opened")
	// There is no way back: that is another claim.
	m2.mustBoot(w.vm(imageA, 8, nil), "set aside as 1")
}

// The host swaps the stores of two instances of one image on one chip.
func TestMembershipSwapped(t *testing.T) {
	w := newDomainWorld(t, nil)
	a, b := newMachine(w), newMachine(w)
	a.mustBoot(w.vm(imageA, 1, nil), "created")
	b.mustBoot(w.vm(imageA, 2, nil), "created")
	a.disk, b.disk = b.disk, a.disk
	a.mustBoot(w.vm(imageA, 1, nil), "set aside as 1")
	b.mustBoot(w.vm(imageA, 2, nil), "set aside as 1")
}

// The host gives an older disk back after the server was told of a newer one.
func TestMembershipRolledBack(t *testing.T) {
	w := newDomainWorld(t, nil)
	m := newMachine(w)
	m.mustBoot(w.vm(imageA, 1, nil), "created")
	old, err := os.ReadFile(m.disk)
	if err != nil {
		t.Fatal(err)
	}
	mem, _, err := m.boot(w.vm(imageA, 1, nil))
	if err != nil {
		t.Fatal(err)
	}
	// A renewal tells the server of the store's epoch.
	if _, err := mem.Recertify(ctxFor(t), membership.Request{Client: w.certifyConfig(w.vm(imageA, 1, nil)).Config, Force: true}); err != nil {
		t.Fatal(err)
	}
	mem.Close()
	if err := os.WriteFile(m.disk, old, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := m.boot(w.vm(imageA, 1, nil)); !errors.Is(err, cryptstore.ErrRollback) {
		t.Errorf("an older disk: %v", err)
	}
}
