package seal

import (
	"bytes"
	"context"
	"crypto/hpke"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"attestbox/internal/code"
	"attestbox/internal/cryptstore"
	"attestbox/internal/platform"
	"attestbox/internal/platform/simenclave"
	"attestbox/internal/recipient"
	"attestbox/internal/secret"
	"attestbox/internal/snp"
	"attestbox/internal/snpsim"
	"attestbox/internal/snpsim/snpsimtest"
	"attestbox/internal/store"
	"attestbox/internal/store/onefile"
)

const testDomain = "example.org"

// owner is a server: an escrow key and one secret per instance.
type owner struct {
	t        *testing.T
	escrow   hpke.PrivateKey
	instance map[[32]byte]*secret.Bytes
	allow    map[string]bool // new measurement + old measurement
}

func newOwner(t *testing.T) *owner {
	k, err := recipient.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return &owner{t: t, escrow: k, instance: map[[32]byte]*secret.Bytes{}, allow: map[string]bool{}}
}

func (o *owner) share(platform string, hostData [32]byte, measurement []byte) *secret.Bytes {
	o.t.Helper()
	if o.instance[hostData] == nil {
		o.instance[hostData] = secret.Random(32)
	}
	s, err := ShareOf(o.instance[hostData], testDomain, platform, hostData, measurement, "main")
	if err != nil {
		o.t.Fatal(err)
	}
	return s
}

// sealer is what runs in a guest to which the server released its share.
func (o *owner) sealer(g *snpsim.Guest) *Sealer {
	o.t.Helper()
	s, err := New(context.Background(), Config{Platform: g.Platform(), Domain: testDomain,
		Share: o.share(platform.AMDSEVSNP, g.Config.HostData, g.Config.Measurement[:]), EscrowTo: o.escrow.PublicKey()})
	if err != nil {
		o.t.Fatal(err)
	}
	return s
}

// rewrap is the server's side of recovery for a guest whose evidence it has
// verified.
func (o *owner) rewrap(g *snpsim.Guest, escrow []byte, to hpke.PublicKey, info []byte) ([]byte, error) {
	return Rewrap(RewrapRequest{
		Escrow: escrow, Key: o.escrow,
		Share:  func(e *Escrow) (*secret.Bytes, error) { return o.share(e.Platform, e.HostData, e.Measurement), nil },
		Domain: testDomain, Platform: platform.AMDSEVSNP, HostData: g.Config.HostData, Measurement: g.Config.Measurement[:],
		MaySucceed: func(n, old []byte) bool { return o.allow[string(n)+string(old)] },
		To:         to, Info: info,
	})
}

func (o *owner) recover(g *snpsim.Guest) Recover {
	return func(_ context.Context, h *cryptstore.Header) (Recovery, error) {
		k, err := recipient.NewKey()
		if err != nil {
			return Recovery{}, err
		}
		info := []byte("transcript")
		box, err := o.rewrap(g, h.Escrow, k.PublicKey(), info)
		return Recovery{Box: box, Key: k, Info: info}, err
	}
}

func (o *owner) may(n, old snpsim.GuestConfig) {
	o.allow[string(n.Measurement[:])+string(old.Measurement[:])] = true
}

var base = snpsim.GuestConfig{Measurement: [48]byte{1}, HostData: [32]byte{7}, SVN: 3, FamilyID: [16]byte{4}, ImageID: [16]byte{5}}

func with(f func(*snpsim.GuestConfig)) snpsim.GuestConfig { c := base; f(&c); return c }

func rawStore(t *testing.T) store.Store {
	t.Helper()
	raw, err := onefile.Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { raw.Close() })
	return raw
}

func mustPut(t *testing.T, s *cryptstore.Store, value string) {
	t.Helper()
	v := secret.Copy([]byte(value))
	defer v.Zero()
	if _, err := s.Put(t.Context(), cryptstore.Item{Tag: "a", Type: cryptstore.Blob, Value: v}); err != nil {
		t.Fatal(err)
	}
}

func value(t *testing.T, s *cryptstore.Store) string {
	t.Helper()
	v, _, err := s.Get(t.Context(), "a", cryptstore.Blob, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Zero()
	return string(v.Bytes())
}

func filled(t *testing.T, by cryptstore.Sealer) store.Store {
	t.Helper()
	raw := rawStore(t)
	s, err := cryptstore.Create(t.Context(), raw, "main", by, cryptstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	mustPut(t, s, "kept")
	return raw
}

// ignoring is a guest whose program does not look at the header before it
// tries: what the seal says must not be all that protects it.
func ignoring(by *Sealer, raw store.Store) (*cryptstore.Store, error) {
	return cryptstore.Open(context.Background(), raw, "main", blind{by}, cryptstore.Options{})
}

type blind struct{ *Sealer }

func (s blind) Unseal(ctx context.Context, b cryptstore.Binding, kind string, params []byte) (*secret.Bytes, error) {
	p, err := ParseParams(kind, params)
	if err != nil {
		return nil, err
	}
	return s.derive(ctx, p, b)
}

// Who gets the store key, and who does not.
func TestBinding(t *testing.T) {
	p := snpsimtest.PSP(t, snp.Genoa)
	o := newOwner(t)
	raw := filled(t, o.sealer(p.Launch(base)))
	other, err := p.AnotherChip()
	if err != nil {
		t.Fatal(err)
	}
	newer, err := p.SameChip(func(s *snpsim.State) { s.Current.SNP++; s.Committed.SNP++; s.Reported.SNP++ })
	if err != nil {
		t.Fatal(err)
	}
	older, err := p.SameChip(func(s *snpsim.State) { s.Current.SNP--; s.Committed.SNP--; s.Reported.SNP-- })
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		g    *snpsim.Guest
		why  string // "" opens
	}{
		{"the same image again", p.Launch(base), ""},
		{"newer firmware asks for the recorded TCB", newer.Launch(base), ""},
		{"newer guest SVN asks for the recorded one", p.Launch(with(func(c *snpsim.GuestConfig) { c.SVN++ })), ""},
		{"DEBUG relaunch", p.Launch(with(func(c *snpsim.GuestConfig) { c.Policy = uint64(snpsim.DefaultPolicy | snp.PolicyDebug) })), "DEBUG"},
		{"migratable relaunch", p.Launch(with(func(c *snpsim.GuestConfig) { c.Policy = uint64(snpsim.DefaultPolicy | snp.PolicyMigrateMA) })), "MIGRATE_MA"},
		{"older firmware", older.Launch(base), "older"},
		{"older guest SVN", p.Launch(with(func(c *snpsim.GuestConfig) { c.SVN-- })), "older"},
		{"another image", p.Launch(with(func(c *snpsim.GuestConfig) { c.Measurement[0]++ })), "measurement"},
		{"another image ID", p.Launch(with(func(c *snpsim.GuestConfig) { c.ImageID[0]++ })), "IMAGE_ID"},
		{"another family ID", p.Launch(with(func(c *snpsim.GuestConfig) { c.FamilyID[0]++ })), "FAMILY_ID"},
		{"another instance", p.Launch(with(func(c *snpsim.GuestConfig) { c.HostData[0]++ })), "instance"},
		{"another chip", other.Launch(base), "chip"},
	} {
		by := o.sealer(tc.g)
		s, err := cryptstore.Open(t.Context(), raw, "main", by, cryptstore.Options{})
		if tc.why == "" {
			if err != nil {
				t.Errorf("%s: %v", tc.name, err)
			} else if value(t, s) != "kept" {
				t.Errorf("%s: another value", tc.name)
			}
			continue
		}
		if c, _ := code.Of(err); !errors.Is(err, cryptstore.ErrSealed) || c != code.CryptstoreSealed || !strings.Contains(err.Error(), tc.why) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.why)
		}
		if _, err := ignoring(by, raw); err == nil {
			t.Errorf("%s: only the header keeps it out", tc.name)
		}
	}
}

// The server's share is part of the key, and offline is another key.
func TestShareIsPartOfTheKey(t *testing.T) {
	g := snpsimtest.PSP(t, snp.Genoa).Launch(base)
	o := newOwner(t)
	raw := filled(t, o.sealer(g))
	wrong := secret.Random(ShareSize)
	defer wrong.Zero()
	for name, c := range map[string]Config{
		"another share":  {Share: wrong, Domain: testDomain},
		"no share":       {Offline: true, Domain: testDomain},
		"another domain": {Share: o.share(platform.AMDSEVSNP, base.HostData, base.Measurement[:]), Domain: "example.com"},
	} {
		c.Platform = g.Platform()
		by, err := New(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := cryptstore.Open(t.Context(), raw, "main", by, cryptstore.Options{}); !errors.Is(err, cryptstore.ErrSealed) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := ignoring(by, raw); err == nil {
			t.Errorf("%s: only the header keeps it out", name)
		}
	}
	offline, err := New(t.Context(), Config{Platform: g.Platform(), Domain: testDomain, Offline: true})
	if err != nil {
		t.Fatal(err)
	}
	raw = filled(t, offline)
	if s, err := cryptstore.Open(t.Context(), raw, "main", offline, cryptstore.Options{}); err != nil || value(t, s) != "kept" {
		t.Errorf("offline: %v", err)
	}
	if h, err := cryptstore.Inspect(t.Context(), raw, "main", cryptstore.Options{}); err != nil || len(h.Escrow) != 0 {
		t.Errorf("offline with an escrow copy: %v", err)
	}
	if _, err := cryptstore.Open(t.Context(), raw, "main", o.sealer(g), cryptstore.Options{}); !errors.Is(err, cryptstore.ErrSealed) {
		t.Errorf("an offline store where the share was expected: %v", err)
	}
}

func TestNewRefusals(t *testing.T) {
	psp := snpsimtest.PSP(t, snp.Genoa)
	g := psp.Launch(base)
	share := secret.Random(ShareSize)
	defer share.Zero()
	short := secret.Random(ShareSize - 1)
	defer short.Zero()
	k, err := recipient.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]Config{
		"nothing":             {Platform: g.Platform()},
		"no domain":           {Platform: g.Platform(), Share: share},
		"no share":            {Platform: g.Platform(), Domain: "d"},
		"short share":         {Platform: g.Platform(), Domain: "d", Share: short},
		"share and offline":   {Platform: g.Platform(), Domain: "d", Share: share, Offline: true},
		"escrow and offline":  {Platform: g.Platform(), Domain: "d", EscrowTo: k.PublicKey(), Offline: true},
		"no instance":         {Platform: psp.Launch(with(func(c *snpsim.GuestConfig) { c.HostData = [32]byte{} })).Platform(), Domain: "d", Share: share},
		"VMPL 1":              {Platform: psp.Launch(with(func(c *snpsim.GuestConfig) { c.VMPL = 1 })).Platform(), Domain: "d", Share: share},
		"platform of reports": {Platform: reportsOnly{g.Platform()}, Domain: "d", Share: share},
	} {
		if _, err := New(t.Context(), c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

type reportsOnly struct{ platform.Platform }

// The host swaps the stores of two instances of one image.
func TestSwappedInstances(t *testing.T) {
	p := snpsimtest.PSP(t, snp.Genoa)
	o := newOwner(t)
	a, b := p.Launch(base), p.Launch(with(func(c *snpsim.GuestConfig) { c.HostData[31] = 9 }))
	o.may(base, base) // recovery does not help either
	rawA, rawB := filled(t, o.sealer(a)), filled(t, o.sealer(b))
	for _, sw := range []struct {
		g   *snpsim.Guest
		raw store.Store
	}{{a, rawB}, {b, rawA}} {
		if _, err := cryptstore.Open(t.Context(), sw.raw, "main", o.sealer(sw.g), cryptstore.Options{}); !errors.Is(err, cryptstore.ErrSealed) {
			t.Errorf("swapped store: %v", err)
		}
		if _, err := ignoring(o.sealer(sw.g), sw.raw); err == nil {
			t.Error("swapped store: only the header keeps it out")
		}
		h, err := cryptstore.Inspect(t.Context(), sw.raw, "main", cryptstore.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := o.recover(sw.g)(t.Context(), h); !errors.Is(err, ErrMayNotSucceed) {
			t.Errorf("swapped store, recovery: %v", err)
		}
	}
}

// An image that brings its instance ID seals for that, with HOST_DATA zeros alone.
func TestImageBringsID(t *testing.T) {
	p := snpsimtest.PSP(t, snp.Genoa)
	none := with(func(c *snpsim.GuestConfig) { c.HostData = [32]byte{} })
	share := secret.Random(ShareSize)
	sealer := func(g *snpsim.Guest, id [32]byte) (*Sealer, error) {
		return New(t.Context(), Config{Platform: g.Platform(), Domain: testDomain, Share: share, Instance: id})
	}
	if _, err := sealer(p.Launch(none), [32]byte{}); err == nil {
		t.Error("no ID at all: sealed")
	}
	if _, err := sealer(p.Launch(base), [32]byte{1}); err == nil {
		t.Error("HOST_DATA is set and the image brings an ID: sealed")
	}
	by, err := sealer(p.Launch(none), [32]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	raw := filled(t, by)
	if again, err := sealer(p.Launch(none), [32]byte{1}); err != nil {
		t.Error(err)
	} else if _, err := cryptstore.Open(t.Context(), raw, "main", again, cryptstore.Options{}); err != nil {
		t.Errorf("the same instance: %v", err)
	}
	other, err := sealer(p.Launch(none), [32]byte{2})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ignoring(other, raw); err == nil {
		t.Error("another ID opened the store")
	}
}

// An older file is noticed by the epoch that the server acknowledged.
func TestOlderFile(t *testing.T) {
	o := newOwner(t)
	by := o.sealer(snpsimtest.PSP(t, snp.Genoa).Launch(base))
	path := filepath.Join(t.TempDir(), "store")
	raw, err := onefile.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	s, err := cryptstore.Create(t.Context(), raw, "main", by, cryptstore.Options{MinEpoch: 41})
	if err != nil {
		t.Fatal(err)
	}
	mustPut(t, s, "old password")
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	mustPut(t, s, "new password")
	h, err := s.Header(t.Context())
	if err != nil || h.Epoch != 44 {
		t.Fatalf("epoch %d, %v", h.Epoch, err)
	}
	if err := os.WriteFile(path, old, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, out, err := OpenOrCreate(t.Context(), raw, "main", by, nil, cryptstore.Options{MinEpoch: h.Epoch}); !errors.Is(err, cryptstore.ErrRollback) || out.Aside != 0 {
		t.Errorf("older file: %+v, %v", out, err)
	}
}

func TestEnclave(t *testing.T) {
	pem, _, err := simenclave.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	defer pem.Zero()
	path := filepath.Join(t.TempDir(), "platform.key")
	if err := os.WriteFile(path, pem.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	open := func() *Sealer {
		e, err := simenclave.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { e.Close() })
		s, err := New(t.Context(), Config{Platform: e, Domain: testDomain, Offline: true})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	raw := filled(t, open())
	if s, err := cryptstore.Open(t.Context(), raw, "main", open(), cryptstore.Options{}); err != nil || value(t, s) != "kept" {
		t.Errorf("again: %v", err)
	}
	if pem, _, err = simenclave.GenerateKey(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, pem.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := cryptstore.Open(t.Context(), raw, "main", open(), cryptstore.Options{}); !errors.Is(err, cryptstore.ErrSealed) {
		t.Errorf("another platform key: %v", err)
	}
	g := snpsimtest.PSP(t, snp.Genoa).Launch(base)
	if _, err := cryptstore.Open(t.Context(), raw, "main", newOwner(t).sealer(g), cryptstore.Options{}); !errors.Is(err, cryptstore.ErrSealed) {
		t.Errorf("another platform: %v", err)
	}
}

// A platform that does not answer is not a seal that does not fit: nothing is
// set aside.
func TestBusyPlatform(t *testing.T) {
	g := snpsimtest.PSP(t, snp.Genoa).Launch(base)
	o := newOwner(t)
	by := o.sealer(g)
	raw := filled(t, by)
	by.keys = busy{}
	_, out, err := OpenOrCreate(t.Context(), raw, "main", by, nil, cryptstore.Options{})
	if !errors.Is(err, errBusy) || errors.Is(err, cryptstore.ErrSealed) || out.Aside != 0 {
		t.Errorf("%+v, %v", out, err)
	}
	if s, err := cryptstore.Open(t.Context(), raw, "main", o.sealer(g), cryptstore.Options{}); err != nil || value(t, s) != "kept" {
		t.Errorf("afterwards: %v", err)
	}
}

var errBusy = errors.New("busy")

type busy struct{}

func (busy) DeriveKey(context.Context, platform.KeyRequest) (*secret.Bytes, error) {
	return nil, errBusy
}

// Firmware from before VLEKs does not know the bits that ask for the VCEK.
func TestOldFirmware(t *testing.T) {
	g := snpsimtest.PSP(t, snp.Genoa).Launch(base)
	o := newOwner(t)
	by := o.sealer(g)
	by.keys = oldFirmware{by.keys}
	raw := filled(t, by)
	h, err := cryptstore.Inspect(t.Context(), raw, "main", cryptstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if p, err := ParseParams(h.Kind, h.Params); err != nil || p.Key.RootKeySelect != platform.RootDefault {
		t.Errorf("%+v, %v", p, err)
	}
	if _, err := cryptstore.Open(t.Context(), raw, "main", by, cryptstore.Options{}); err != nil {
		t.Error(err)
	}
	by.vlek = true
	if _, err := cryptstore.Create(t.Context(), rawStore(t), "main", by, cryptstore.Options{}); err == nil {
		t.Error("with a VLEK loaded it took the default root")
	}
}

type oldFirmware struct{ platform.KeyDeriver }

func (o oldFirmware) DeriveKey(ctx context.Context, q platform.KeyRequest) (*secret.Bytes, error) {
	if q.RootKeySelect>>1 != 0 {
		return nil, platform.ErrKeyRefused
	}
	return o.KeyDeriver.DeriveKey(ctx, q)
}

func FuzzParams(f *testing.F) {
	p := Params{Shared: true, Key: request(platform.AMDSEVSNP, platform.RootVCEK, 3, 9), State: State{Domain: "d", Measurement: make([]byte, 48)}}
	f.Add(platform.AMDSEVSNP, p.marshal())
	p = Params{Key: request(platform.SimulatedEnclave, 0, 0, 0), State: State{Domain: "d", Measurement: make([]byte, 32)}}
	f.Add(platform.SimulatedEnclave, p.marshal())
	f.Fuzz(func(t *testing.T, kind string, b []byte) {
		p, err := ParseParams(kind, b)
		if err == nil && !bytes.Equal(p.marshal(), b) {
			t.Error("accepted, and marshals to something else")
		}
	})
}

// Any changed byte of a head that a platform sealed is noticed: parameters,
// wrapped key and escrow copy as well as the index.
func TestSealedHeadTampering(t *testing.T) {
	o := newOwner(t)
	by := o.sealer(snpsimtest.PSP(t, snp.Genoa).Launch(base))
	raw := filled(t, by)
	const key = "cryptstore/main/head"
	good, err := raw.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 1
		one := oneValue{raw, key, bad}
		if _, err := cryptstore.Open(t.Context(), one, "main", by, cryptstore.Options{}); !errors.Is(err, cryptstore.ErrTampered) && !errors.Is(err, cryptstore.ErrSealed) {
			t.Fatalf("byte %d changed: %v", i, err)
		}
		if _, err := ignoring(by, one); err == nil {
			t.Fatalf("byte %d changed: only the seal's parameters say so", i)
		}
	}
	if _, err := cryptstore.Open(t.Context(), oneValue{raw, key, good}, "main", by, cryptstore.Options{}); err != nil {
		t.Error(err)
	}
}

// oneValue is a store that gives another value for one key.
type oneValue struct {
	store.Store
	key   string
	value []byte
}

func (o oneValue) Get(ctx context.Context, key string) ([]byte, error) {
	if key == o.key {
		return bytes.Clone(o.value), nil
	}
	return o.Store.Get(ctx, key)
}
