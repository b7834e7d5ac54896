package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"attestbox/internal/code"
	"attestbox/internal/secret"
	"attestbox/internal/snp"
	"attestbox/internal/snpsim/snpsimtest"
	"attestbox/internal/store"
	"attestbox/internal/store/bolt"
	"attestbox/internal/store/file"
	"attestbox/internal/store/sealed"
	"attestbox/internal/wire"
)

func newRaw(t testing.TB) store.Store {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "s")
	s, err := file.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newState(t testing.TB) *State {
	t.Helper()
	st, err := CreateState(context.Background(), newRaw(t), sealed.Key{File: secret.Random(32)}, Config{}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	return st
}

// A copy of the state alone opens nothing, and holds the key in no form that
// another seal key could open.
func TestCopyOfTheStateOpensNothing(t *testing.T) {
	w := newWorld(t, nil)
	w.add(newID(), Takeover)
	w.stop()
	if err := w.raw.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(w.dir, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	stolen := filepath.Join(t.TempDir(), "state.db")
	if err := os.WriteFile(stolen, b, 0o600); err != nil {
		t.Fatal(err)
	}
	raw, err := bolt.Open(stolen)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	for name, k := range map[string]sealed.Key{
		"none": {}, "random": {File: secret.Random(32)}, "zeros": {File: secret.New(32)}, "passphrase": {Passphrase: secret.Copy([]byte("correct horse battery"))},
	} {
		if _, err := OpenState(context.Background(), raw, k); !errors.Is(err, sealed.ErrSealKey) {
			t.Errorf("%s: %v, want ErrSealKey", name, err)
		}
	}
	if bytes.Contains(b, []byte(`"measurements"`)) || bytes.Contains(b, []byte("attestbox verifier")) {
		t.Error("records or the certificate are in clear")
	}
}

func TestAddInstanceRefuses(t *testing.T) {
	st := newState(t)
	ctx := context.Background()
	good := func() (*Instance, *Secrets) {
		return &Instance{ID: newID(), Measurements: []Measurement{{Digest: strings.Repeat("ab", 48)}}, Headers: []wire.HeaderRecord{record()}, OnSecond: Takeover},
			&Secrets{DiskKey: secret.Random(32)}
	}
	for name, edit := range map[string]func(*Instance, *Secrets){
		"zero ID":            func(i *Instance, _ *Secrets) { i.ID = wire.Hex32{} },
		"no measurement":     func(i *Instance, _ *Secrets) { i.Measurements = nil },
		"short measurement":  func(i *Instance, _ *Secrets) { i.Measurements[0].Digest = "ab" },
		"many measurements":  func(i *Instance, _ *Secrets) { i.Measurements = make([]Measurement, MaxMeasurements+1) },
		"no mode":            func(i *Instance, _ *Secrets) { i.OnSecond = "" },
		"key without header": func(i *Instance, _ *Secrets) { i.Headers = nil },
		"header without key": func(_ *Instance, s *Secrets) { s.DiskKey = nil },
		"many headers":       func(i *Instance, _ *Secrets) { i.Headers = make([]wire.HeaderRecord, wire.MaxHeaders+1) },
		"bad secret name":    func(_ *Instance, s *Secrets) { s.Named = []wire.NamedSecret{{Name: "../x", Value: secret.Random(1)}} },
		"secret twice": func(_ *Instance, s *Secrets) {
			s.Named = []wire.NamedSecret{{Name: "x", Value: secret.Random(1)}, {Name: "x", Value: secret.Random(1)}}
		},
		"too much for a release": func(_ *Instance, s *Secrets) {
			s.Named = []wire.NamedSecret{{Name: "x", Value: secret.Random(wire.MaxPayload)}}
		},
		"decommissioned already": func(i *Instance, _ *Secrets) { i.Decommissioned = 1 },
	} {
		i, s := good()
		edit(i, s)
		if err := st.AddInstance(ctx, i, s); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if _, err := st.Instance(ctx, i.ID); !errors.Is(err, ErrUnknownInstance) {
			t.Errorf("%s: left something behind: %v", name, err)
		}
	}
	i, s := good()
	if err := st.AddInstance(ctx, i, s); err != nil {
		t.Fatal(err)
	}
	again, other := good()
	again.ID = i.ID
	if err := st.AddInstance(ctx, again, other); !errors.Is(err, ErrInstanceExists) {
		t.Errorf("the same ID again: %v", err)
	}
	kept, err := st.secrets(ctx, i.ID)
	if err != nil || !kept.DiskKey.Equal(s.DiskKey) {
		t.Errorf("the first disk key was lost: %v", err)
	}
}

func TestMinPolicyVersionNeverFalls(t *testing.T) {
	st := newState(t)
	ctx := context.Background()
	set := func(v uint64) error {
		return st.UpdateConfig(ctx, func(c *Config) error { c.MinPolicyVersion = v; return nil })
	}
	if err := set(7); err != nil {
		t.Fatal(err)
	}
	if err := set(6); err == nil {
		t.Error("it fell")
	}
	if c, err := st.Config(ctx); err != nil || c.MinPolicyVersion != 7 {
		t.Errorf("%+v, %v", c, err)
	}
}

// Roots: a simulator's and AMD's never stand together, and a policy cannot
// list a product without a root.
func TestRules(t *testing.T) {
	psp := snpsimtest.PSP(t, snp.Milan)
	cfg := simConfig(t, psp)
	roots, _, err := Rules(&cfg, noAMD)
	if err != nil || roots.AMD() {
		t.Fatalf("simulator's root: %v, AMD %v", err, roots.AMD())
	}
	bad := cfg
	bad.Roots = []Root{{Product: "Milan", ARK: psp.VCEK()}}
	if _, _, err := Rules(&bad, noAMD); err == nil {
		t.Error("a VCEK became a root")
	}
	bad = cfg
	bad.Policy = []byte(`{"products":{"Milan":{},"Turin":{}},"measurements":[]}`)
	if _, _, err := Rules(&bad, noAMD); err == nil {
		t.Error("a product without a root is listed")
	}
	for _, p := range []string{`{}`, `{"products":{},"measurements":[]}`, `{"products":{"Milan":{}},"measurements":["` + strings.Repeat("ab", 48) + `"]}`, `{"products":{"Milan":{}},"measurements":[],"nope":1}`, `x`} {
		if _, err := ParsePolicy([]byte(p)); err == nil {
			t.Errorf("policy %s: accepted", p)
		}
	}
}

// A change of policy counts from the next evidence on.
func TestPolicyChangeWhileServing(t *testing.T) {
	w := newWorld(t, nil)
	id := newID()
	w.add(id, Takeover)
	g := w.guest(id, nil)
	if _, _, err := w.get(g); err != nil {
		t.Fatal(err)
	}
	if err := w.state.UpdateConfig(context.Background(), func(c *Config) error {
		c.Policy = []byte(`{"products":{"Milan":{"min_reported_tcb":{"snp":255}}},"measurements":[]}`)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	_, _, err := w.get(g)
	w.refused("below the new floor", err, code.TCBFloor)
}

func TestDecisionLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "d.jsonl")
	l, err := OpenDecisionLog(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	long := strings.Repeat("x", 1<<16)
	n := decisionFiles*decisionBytes/maxText + 1000
	var first, last wire.ExchangeID
	for i := range n {
		x := wire.ExchangeID{byte(i >> 16), byte(i >> 8), byte(i), 1}
		if i == 0 {
			first = x
		}
		last = x
		d := &Decision{Exchange: x.String(), Reason: long, Decision: Refused, Findings: []Finding{{Field: "F", Found: long}}}
		if err := l.Record(d); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != decisionFiles {
		t.Fatalf("%d files, %v; want %d", len(entries), err, decisionFiles)
	}
	for _, e := range entries {
		st, err := e.Info()
		if err != nil || st.Size() > decisionBytes+maxDecision || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %d bytes, mode %v, %v", e.Name(), st.Size(), st.Mode(), err)
		}
	}
	if d, err := FindDecisions(path, last); err != nil || len(d) != 1 || len(d[0].Reason) > 3*maxText {
		t.Errorf("the last decision: %d found, %v", len(d), err)
	}
	if d, err := FindDecisions(path, first); err != nil || len(d) != 0 {
		t.Errorf("the first decision should have gone: %d found, %v", len(d), err)
	}
	// Nothing that a peer chose reaches a terminal as a control sequence.
	x := wire.ExchangeID{0xee}
	if err := l.Record(&Decision{Exchange: x.String(), Reason: "a\x1b[2Jb", Findings: []Finding{{Found: "c\r\nd\u009b"}}}); err != nil {
		t.Fatal(err)
	}
	if d, err := FindDecisions(path, x); err != nil || len(d) != 1 || d[0].Reason != "a?[2Jb" || strings.ContainsAny(d[0].Findings[0].Found, "\r\n\u009b") {
		t.Errorf("control characters: %+v, %v", d, err)
	}
	// A line that a crash cut short hides nothing else.
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(f, `{"exchange":"cut`)
	f.Close()
	if d, err := FindDecisions(path, last); err != nil || len(d) != 1 {
		t.Errorf("after a cut line: %d found, %v", len(d), err)
	}
}

func FuzzParseSecrets(f *testing.F) {
	s := &Secrets{DiskKey: secret.Copy([]byte("key")), Named: []wire.NamedSecret{{Name: "a", Value: secret.Copy([]byte("b"))}}}
	b, err := s.marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseSecrets(b)
		if err != nil {
			return
		}
		defer s.Zero()
		again, err := s.marshal()
		if err != nil || !bytes.Equal(again.Bytes(), b) {
			t.Errorf("accepted %x, wrote %x (%v)", b, again.Bytes(), err)
		}
	})
}
