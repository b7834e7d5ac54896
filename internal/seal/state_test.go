package seal

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"attestbox/internal/platform"
	"attestbox/internal/platform/simenclave"
	"attestbox/internal/secret"
	"attestbox/internal/snp"
	"attestbox/internal/snpsim"
	"attestbox/internal/snpsim/snpsimtest"
	"attestbox/internal/store"
	"attestbox/internal/store/sealed"
)

var _ sealed.Platform = StateKey{}

func stateOf(g *snpsim.Guest) StateKey {
	return StateKey{Open: func() (platform.Platform, error) { return g.Platform(), nil }}
}

func newState(t *testing.T, by sealed.Platform) store.Store {
	t.Helper()
	raw := rawStore(t)
	s, err := sealed.Create(t.Context(), raw, sealed.Key{Platform: by})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Create(t.Context(), "a", []byte("kept")); err != nil {
		t.Fatal(err)
	}
	return raw
}

// blindState derives the key without a look at what the record says: what
// refuses it then is the key.
type blindState struct{ StateKey }

func (k blindState) Unseal(ctx context.Context, id [16]byte, kind string, params []byte) (*secret.Bytes, error) {
	s, done, err := k.sealer(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	return blind{s}.Unseal(ctx, stateBinding(id), kind, params)
}

func opens(t *testing.T, raw store.Store, by sealed.Platform) error {
	t.Helper()
	s, err := sealed.Open(t.Context(), raw, sealed.Key{Platform: by})
	if err != nil {
		return err
	}
	if b, _, err := s.Get(t.Context(), "a"); err != nil || string(b) != "kept" {
		t.Errorf("value %q, %v", b, err)
	}
	return nil
}

// A server's state opens in the VM that made it, and nowhere else.
func TestStateSealedByPlatform(t *testing.T) {
	p := snpsimtest.PSP(t, snp.Genoa)
	raw := newState(t, stateOf(p.Launch(base)))
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
		{"newer firmware", newer.Launch(base), ""},
		{"other measurement", p.Launch(with(func(c *snpsim.GuestConfig) { c.Measurement[0]++ })), "measurement"},
		{"debug policy", p.Launch(with(func(c *snpsim.GuestConfig) { c.Policy = uint64(snpsim.DefaultPolicy | snp.PolicyDebug) })), "DEBUG"},
		{"migration agent", p.Launch(with(func(c *snpsim.GuestConfig) { c.Policy = uint64(snpsim.DefaultPolicy | snp.PolicyMigrateMA) })), "MIGRATE_MA"},
		{"other instance", p.Launch(with(func(c *snpsim.GuestConfig) { c.HostData[0]++ })), "instance"},
		{"other chip", other.Launch(base), "chip"},
		{"older firmware", older.Launch(base), "older"},
	} {
		err := opens(t, raw, stateOf(tc.g))
		if tc.why == "" {
			if err != nil {
				t.Errorf("%s: %v", tc.name, err)
			}
			continue
		}
		if !errors.Is(err, sealed.ErrSealKey) || !strings.Contains(err.Error(), tc.why) {
			t.Errorf("%s: %v, want ErrSealKey because of %q", tc.name, err, tc.why)
		}
		if err := opens(t, raw, blindState{stateOf(tc.g)}); err == nil {
			t.Errorf("%s: opened by a program that ignores the record", tc.name)
		}
	}
	for name, key := range map[string]sealed.Key{
		"key file":   {File: secret.Random(32)},
		"passphrase": {Passphrase: secret.Random(16)},
		"none":       {},
	} {
		if _, err := sealed.Open(t.Context(), raw, key); !errors.Is(err, sealed.ErrSealKey) {
			t.Errorf("%s: %v, want ErrSealKey", name, err)
		}
	}
	down := errors.New("no device")
	if err := opens(t, raw, StateKey{Open: func() (platform.Platform, error) { return nil, down }}); !errors.Is(err, down) || errors.Is(err, sealed.ErrSealKey) {
		t.Errorf("no platform: %v", err)
	}
}

// What a host can read is not sealed: it is not made.
func TestNoStateInDebugVM(t *testing.T) {
	p := snpsimtest.PSP(t, snp.Genoa)
	for name, bit := range map[string]snp.GuestPolicy{"DEBUG": snp.PolicyDebug, "MIGRATE_MA": snp.PolicyMigrateMA} {
		g := p.Launch(with(func(c *snpsim.GuestConfig) { c.Policy = uint64(snpsim.DefaultPolicy | bit) }))
		raw := rawStore(t)
		if _, err := sealed.Create(t.Context(), raw, sealed.Key{Platform: stateOf(g)}); !errors.Is(err, ErrDebug) {
			t.Errorf("%s: %v, want ErrDebug", name, err)
		}
		if _, err := raw.Get(t.Context(), "meta/seal"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s: something was made: %v", name, err)
		}
	}
}

// Two states of one VM have two keys, and every byte of the record counts.
func TestStateRecord(t *testing.T) {
	p := snpsimtest.PSP(t, snp.Genoa)
	by := stateOf(p.Launch(base))
	raw, second := newState(t, by), newState(t, by)
	good, err := raw.Get(t.Context(), "meta/seal")
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(good, &m); err != nil {
		t.Fatal(err)
	}
	if m["kdf"] != "platform" || m["platform"] != platform.AMDSEVSNP {
		t.Errorf("record %s", good)
	}
	other, err := second.Get(t.Context(), "meta/seal")
	if err != nil {
		t.Fatal(err)
	}
	// The record of the other state opens, and its master key opens nothing here.
	if err := raw.Replace(t.Context(), "meta/seal", good, other); err != nil {
		t.Fatal(err)
	}
	s, err := sealed.Open(t.Context(), raw, sealed.Key{Platform: by})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Get(t.Context(), "a"); !errors.Is(err, sealed.ErrTampered) {
		t.Errorf("value under the other state's key: %v", err)
	}
	old := other
	for i := range good {
		changed := append([]byte(nil), good...)
		changed[i] ^= 1
		if err := raw.Replace(t.Context(), "meta/seal", old, changed); err != nil {
			t.Fatal(err)
		}
		old = changed
		if err := opens(t, raw, by); err == nil {
			t.Errorf("byte %d flipped: opened", i)
		}
	}
}

// On the deployment machine the simulated enclave stands in.
func TestStateSealedByEnclave(t *testing.T) {
	key := func() string {
		pemKey, _, err := simenclave.GenerateKey()
		if err != nil {
			t.Fatal(err)
		}
		defer pemKey.Zero()
		name := filepath.Join(t.TempDir(), "platform.key")
		if err := os.WriteFile(name, pemKey.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	enclave := func(name string) StateKey {
		return StateKey{Open: func() (platform.Platform, error) { return simenclave.Open(name) }}
	}
	mine, other := key(), key()
	raw := newState(t, enclave(mine))
	if err := opens(t, raw, enclave(mine)); err != nil {
		t.Error(err)
	}
	if err := opens(t, raw, enclave(other)); !errors.Is(err, sealed.ErrSealKey) {
		t.Errorf("another platform key: %v", err)
	}
	if err := opens(t, raw, stateOf(snpsimtest.PSP(t, snp.Genoa).Launch(base))); !errors.Is(err, sealed.ErrSealKey) {
		t.Errorf("another platform: %v", err)
	}
}
