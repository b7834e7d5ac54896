package member

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"attestbox/internal/admission"
	"attestbox/internal/client"
	"attestbox/internal/client/domaintest"
	"attestbox/internal/cryptstore"
	"attestbox/internal/floor"
	"attestbox/internal/platform"
	"attestbox/internal/secret"
	"attestbox/internal/store"
	"attestbox/internal/store/onefile"
	"attestbox/internal/wire"
)

// vm is one machine with a disk, tmpfs and a clock; its seal is the server's
// share alone, since what a platform adds is tested in package seal.
type vm struct {
	t   *testing.T
	ps  *domaintest.PolicyServer
	dir string
	now func() time.Time
}

func newVM(t *testing.T) *vm {
	d := domaintest.New(t, "a.example", time.Now())
	return &vm{t: t, ps: d.NewPolicyServer(t), dir: t.TempDir(), now: time.Now}
}

func (v *vm) disk() string { return filepath.Join(v.dir, "member.store") }
func (v *vm) run() string  { return filepath.Join(v.dir, "run") }

// reboot empties tmpfs.
func (v *vm) reboot() {
	if err := os.RemoveAll(v.run()); err != nil {
		v.t.Fatal(err)
	}
}

func (v *vm) config() Config {
	return Config{
		Policy: v.ps.Domain.Policy, RunDir: filepath.Join(v.run(), "a"), Floor: filepath.Join(v.run(), "floor"),
		OpenStore: func() (store.Store, error) { return onefile.Open(v.disk()) },
		Sealer: func(_ context.Context, share *secret.Bytes, _ []byte) (cryptstore.Sealer, error) {
			return cryptstore.KeyFile{Key: share}, nil
		},
		Now: func() time.Time { return v.now() }, Logf: v.t.Logf,
	}
}

type psp struct{}

func (psp) Name() string { return platform.AMDSEVSNP }
func (psp) Close() error { return nil }
func (psp) Report(_ context.Context, data [64]byte) (*platform.Evidence, error) {
	r := make([]byte, 1184)
	copy(r[0x50:], data[:])
	r[0x90], r[0xC0], r[0x140] = 5, 7, 9
	return &platform.Evidence{Platform: platform.AMDSEVSNP, Report: r}, nil
}

func (v *vm) request() Request {
	return Request{Client: client.Config{Servers: []string{"tcp://a:1"}, Pins: []wire.Pin{v.ps.Pin()}, Platform: psp{}, Dial: v.ps.Dial}}
}

func (v *vm) certify(change ...func(*Request)) (*Member, *Result) {
	v.t.Helper()
	req := v.request()
	for _, c := range change {
		c(&req)
	}
	m, res, err := Certify(v.t.Context(), v.config(), req)
	if err != nil {
		v.t.Fatal(err)
	}
	return m, res
}

func force(r *Request) { r.Force = true }

func TestColdThenWarm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVM(t)
		m, res := v.certify()
		if !res.New || res.Store != "created" || res.Identity.Instance[0] != 7 || res.Proof == "" {
			t.Errorf("cold: %+v", res)
		}
		first := res.Identity.Serial
		m.Close()
		for _, f := range []string{"run/a/share", "run/a/epoch"} {
			if st, err := os.Stat(filepath.Join(v.dir, f)); err != nil || st.Mode().Perm() != 0o600 {
				t.Errorf("%s: %v, %v", f, st, err)
			}
		}

		m, res = v.certify() // warm, and nothing is due
		if res.New || res.Identity.Serial.Cmp(first) != 0 || res.Proof == "" || v.ps.Conns() != 1 {
			t.Errorf("warm: %+v, %d connections", res, v.ps.Conns())
		}
		cert, err := m.Certificate()
		if err != nil {
			t.Fatal(err)
		}
		// The key signs, and does not come out.
		if _, _, err := m.Store().Get(t.Context(), tagKey, cryptstore.PrivateKey, 0); !errors.Is(err, cryptstore.ErrNotExportable) {
			t.Errorf("the authentication key came out: %v", err)
		}
		spki := res.Identity.SPKI
		m.Close()

		time.Sleep(41 * time.Minute) // past two thirds of an hour
		m, res = v.certify()
		if !res.New || res.Identity.SPKI != spki || res.Identity.Serial.Cmp(first) == 0 {
			t.Errorf("due: %+v", res)
		}
		again, err := m.Certificate()
		if err != nil || !again.Leaf.NotAfter.After(cert.Leaf.NotAfter) {
			t.Errorf("%v", err)
		}
		if n := len(v.ps.Begun); n != 2 || v.ps.Begun[1].StoreEpoch == 0 {
			t.Errorf("%d exchanges, the last without an epoch", n)
		}
		if all, err := m.Store().List(t.Context()); err != nil || len(all) != 4 {
			t.Errorf("%v, %v: old versions stay", all, err)
		}
		m.Close()

		m, res = v.certify(force)
		if !res.New {
			t.Error("-force asked nobody")
		}
		m.Close()

		v.reboot() // the share is gone: the server opens the store
		if _, err := Open(t.Context(), v.config()); !errors.Is(err, ErrNoShare) {
			t.Errorf("opened without the share: %v", err)
		}
		m, res = v.certify()
		defer m.Close()
		if !res.New || res.Store != "opened" {
			t.Errorf("after a reboot: %+v", res)
		}
	})
}

// A certification that fails leaves the old certificate in use, and says so.
func TestFailureLeavesOldState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVM(t)
		m, res := v.certify()
		m.Close()
		serial := res.Identity.Serial
		v.ps.Answer = func(int) wire.Message { return &wire.Refused{Code: "launch-refused"} }
		req := v.request()
		req.Force = true
		_, _, err := Certify(t.Context(), v.config(), req)
		if still, ok := errors.AsType[*StillValid](err); !ok || !errors.Is(err, client.ErrRefused) || !strings.Contains(err.Error(), "stays in use") || still.Identity.Serial.Cmp(serial) != 0 {
			t.Errorf("%v", err)
		}
		if m, res = v.certify(); res.New || res.Identity.Serial.Cmp(serial) != 0 {
			t.Errorf("%+v", res)
		}
		m.Close()
		time.Sleep(2 * time.Hour)
		if _, _, err = Certify(t.Context(), v.config(), v.request()); !errors.Is(err, client.ErrRefused) {
			t.Errorf("%v", err)
		}
		if _, ok := errors.AsType[*StillValid](err); ok {
			t.Error("an expired certificate was called valid")
		}
	})
}

// The host gives back an older copy of the disk.
func TestStoreSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVM(t)
		m, _ := v.certify()
		m.Close()
		old, err := os.ReadFile(v.disk())
		if err != nil {
			t.Fatal(err)
		}
		m, _ = v.certify(force)
		m.Close()
		// In the same boot, by the epoch on tmpfs.
		if err := os.WriteFile(v.disk(), old, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), v.config()); !errors.Is(err, cryptstore.ErrRollback) {
			t.Errorf("same boot: %v", err)
		}
		// After a reboot, by the server's, which knows what was proved to it.
		v.ps.Epoch = 100
		v.reboot()
		if _, _, err := Certify(t.Context(), v.config(), v.request()); !errors.Is(err, cryptstore.ErrRollback) {
			t.Errorf("after a reboot: %v", err)
		}
		m, res := v.certify(func(r *Request) { r.SetAside = true })
		if !strings.HasPrefix(res.Store, "set aside as 1") || !strings.Contains(res.Store, "older state") {
			t.Errorf("%+v", res)
		}
		h, err := m.Store().Header(t.Context())
		if err != nil || h.Epoch <= 100 {
			t.Errorf("the new store begins at %d, %v", h.Epoch, err)
		}
		m.Close()
		v.reboot()
		m, res = v.certify()
		defer m.Close()
		if res.Store != "opened" {
			t.Errorf("the new store: %+v", res)
		}
	})
}

// A store that another share sealed: set aside without the domain's leave,
// recovered with it, never overwritten.
func TestForeignStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVM(t)
		m, res := v.certify()
		m.Close()
		serial := res.Identity.Serial
		oldShare := secret.Copy(v.ps.Share)
		v.ps.Share = append([]byte(nil), randomShare()...) // as after an update of the image
		v.reboot()

		before, _ := os.ReadFile(v.disk())
		req := v.request()
		req.Recover = func(context.Context, store.Store, *cryptstore.Header, cryptstore.Sealer, *tls.Certificate, *admission.Trust, cryptstore.Options) (*cryptstore.Store, error) {
			return nil, errors.New("no key server was reached")
		}
		if _, _, err := Certify(t.Context(), v.config(), req); err == nil {
			t.Error("set aside although the key server may answer later")
		}
		if after, _ := os.ReadFile(v.disk()); !bytes.Equal(after, before) {
			t.Error("the store was changed")
		}
		recovered, _ := v.certify(func(r *Request) {
			r.Recover = func(_ context.Context, _ store.Store, h *cryptstore.Header, _ cryptstore.Sealer, own *tls.Certificate, _ *admission.Trust, _ cryptstore.Options) (*cryptstore.Store, error) {
				if own.Leaf == nil || h.Name != StoreName {
					t.Errorf("%+v", h)
				}
				return nil, fmt.Errorf("%w: policy has no may-succeed", client.ErrRefused)
			}
		})
		recovered.Close()
		raw, err := onefile.Open(v.disk())
		if err != nil {
			t.Fatal(err)
		}
		aside, err := cryptstore.Open(t.Context(), raw, StoreName, cryptstore.KeyFile{Key: oldShare}, cryptstore.Options{Aside: 1})
		if err != nil {
			t.Fatalf("the old store is lost: %v", err)
		}
		if der, _, err := aside.Get(t.Context(), tagChain, cryptstore.X509Chain, 0); err != nil || !strings.Contains(string(der.Bytes()), string(serial.Bytes())) {
			t.Errorf("what was set aside is not the old store: %v", err)
		}
		aside.Close()

		if err := os.WriteFile(v.disk(), before, 0o600); err != nil {
			t.Fatal(err)
		}
		v.ps.Epoch = 0
		v.reboot()
		m, res = v.certify(func(r *Request) {
			r.Recover = func(ctx context.Context, raw store.Store, _ *cryptstore.Header, by cryptstore.Sealer, _ *tls.Certificate, _ *admission.Trust, o cryptstore.Options) (*cryptstore.Store, error) {
				cs, err := cryptstore.Open(ctx, raw, StoreName, cryptstore.KeyFile{Key: oldShare}, o)
				if err != nil {
					return nil, err
				}
				return cs, cs.Rekey(ctx, by)
			}
		})
		if res.Store != "recovered" {
			t.Errorf("%+v", res)
		}
		m.Close()
		v.reboot()
		m, res = v.certify()
		defer m.Close()
		if res.Store != "opened" {
			t.Errorf("after recovery: %+v", res)
		}
	})
}

// A guest whose clock was turned back, also across a reboot: neither an expired
// certificate nor an old policy counts again.
func TestClockTurnedBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVM(t)
		m, res := v.certify()
		cert, err := m.Certificate()
		if err != nil {
			t.Fatal(err)
		}
		m.Close()
		time.Sleep(2 * time.Hour)
		m, _ = v.certify()
		v.now = func() time.Time { return time.Now().Add(-2 * time.Hour) }
		if c := m.Clock(); c.Before(time.Now().Add(-time.Second)) {
			t.Errorf("the clock went back to %v", c)
		}
		trust, err := m.Trust(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := trust.Verify(cert.Certificate, m.Clock()); !errors.Is(err, admission.ErrValidity) {
			t.Errorf("an expired certificate of %v counts again: %v", res.Identity.NotAfter, err)
		}
		m.Learned(time.Now().Unix(), 5)
		trust, _ = m.Trust(t.Context())
		if trust.MinPolicyVersion != 5 {
			t.Errorf("min policy version %d", trust.MinPolicyVersion)
		}
		if _, err := m.Identity(t.Context()); !errors.Is(err, admission.ErrPolicyVersion) {
			t.Errorf("a certificate under policy 1 counts below a floor of 5: %v", err)
		}
		m.Close()

		// A reboot loses tmpfs; the store still knows the time of its last
		// certification.
		v.reboot()
		if _, err := Open(t.Context(), v.config()); !errors.Is(err, ErrNoShare) {
			t.Fatal(err)
		}
		m, _ = v.certify()
		defer m.Close()
		if c := m.Clock(); c.Before(time.Now().Add(-time.Second)) {
			t.Errorf("after a reboot the clock went back to %v", c)
		}
	})
}

// Policy versions are a domain's own; time is everybody's.
func TestFloorsOfTwoDomains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVM(t)
		if _, err := floor.Raise(filepath.Join(v.run(), "floor"), floor.Floor{Time: time.Now().Unix() + 60, MinPolicyVersion: 9}); err != nil {
			t.Fatal(err)
		}
		m, res := v.certify()
		defer m.Close()
		if res.Identity.PolicyVersion != 1 || m.Clock().Unix() != time.Now().Unix()+60 {
			t.Errorf("%+v at %v", res.Identity, m.Clock())
		}
	})
}

// A write that is cut off between key and certificate leaves the old pair.
func TestCutBetweenKeyAndCertificate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVM(t)
		m, _ := v.certify()
		defer m.Close()
		before, err := m.Certificate()
		if err != nil {
			t.Fatal(err)
		}
		if err := m.putKey(t.Context(), tagKey, domaintest.Key(), false); err != nil {
			t.Fatal(err)
		}
		other, err := Open(t.Context(), v.config())
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		after, err := other.Certificate()
		if err != nil || !after.Leaf.Equal(before.Leaf) {
			t.Errorf("%v", err)
		}
	})
}

func randomShare() []byte {
	s := secret.Random(32)
	defer s.Zero()
	return append([]byte(nil), s.Bytes()...)
}
