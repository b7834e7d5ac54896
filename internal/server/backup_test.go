package server

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"attestbox/internal/recipient"
	"attestbox/internal/secret"
	"attestbox/internal/store"
	"attestbox/internal/store/sealed"
)

func TestBackupRoundTrip(t *testing.T) {
	w := newWorld(t, nil)
	id, gone := newID(), newID()
	_, key := w.add(id, Quarantine)
	w.add(gone, Takeover)
	ctx := context.Background()
	if err := w.state.Decommission(ctx, gone, time.Now(), false); err != nil {
		t.Fatal(err)
	}
	g := w.guest(id, nil)
	_, p, err := w.get(g)
	if err != nil {
		t.Fatal(err)
	}
	private, public, err := recipient.New()
	if err != nil {
		t.Fatal(err)
	}
	to, err := recipient.ParsePublic(public)
	if err != nil {
		t.Fatal(err)
	}
	by, err := recipient.ParsePrivate(private)
	if err != nil {
		t.Fatal(err)
	}
	backup, err := w.state.Backup(ctx, to, time.Unix(1700000000, 0))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(backup, key.Bytes()) || bytes.Contains(backup, []byte(id.String())) {
		t.Error("the backup holds names or keys in clear")
	}
	st, made, err := Restore(ctx, newRaw(t), sealed.Key{Passphrase: secret.Copy([]byte("another seal key"))}, backup, by)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	if made.Unix() != 1700000000 {
		t.Errorf("made %v", made)
	}
	_, pin, err := st.Certificate(ctx)
	if err != nil || pin != w.server.Pin() {
		t.Errorf("pin %v, %v; want %v", pin, err, w.server.Pin())
	}
	s, err := st.secrets(ctx, id)
	if err != nil || !s.DiskKey.Equal(key) || len(s.Named) != 1 {
		t.Errorf("secrets: %v", err)
	}
	if i, err := st.Instance(ctx, gone); err != nil || i.Decommissioned == 0 {
		t.Errorf("decommissioned instance: %+v, %v", i, err)
	}
	// The boot that is under way can finish at the restored verifier.
	o := opened(g, p)
	if ok, err := st.CheckOutcome(o); !ok || err != nil {
		t.Errorf("outcome at the restored verifier: %v, %v", ok, err)
	}
	inst, err := st.Instance(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	if err := st.RecordOutcome(ctx, inst, o, time.Now()); err != nil {
		t.Errorf("recording it: %v", err)
	}
}

func TestTamperedBackupIsRefused(t *testing.T) {
	st := newState(t)
	ctx := context.Background()
	private, public, err := recipient.New()
	if err != nil {
		t.Fatal(err)
	}
	to, _ := recipient.ParsePublic(public)
	by, _ := recipient.ParsePrivate(private)
	backup, err := st.Backup(ctx, to, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := recipient.New()
	if err != nil {
		t.Fatal(err)
	}
	stranger, _ := recipient.ParsePrivate(other)
	key := sealed.Key{File: secret.Random(32)}
	if _, _, err := Restore(ctx, newRaw(t), key, backup, stranger); !errors.Is(err, ErrRecipient) {
		t.Errorf("another key: %v", err)
	}
	raw := newRaw(t)
	for i := range backup {
		b := bytes.Clone(backup)
		b[i] ^= 1
		if _, _, err := Restore(ctx, raw, key, b, by); !errors.Is(err, ErrRecipient) && !errors.Is(err, ErrBackup) {
			t.Fatalf("byte %d flipped: %v", i, err)
		}
	}
	for _, n := range []int{0, 1, len(backupMagic), len(backupMagic) + 10, len(backup) - 1} {
		if _, _, err := Restore(ctx, raw, key, backup[:n], by); err == nil {
			t.Errorf("cut to %d bytes: restored", n)
		}
	}
	if _, err := raw.Get(ctx, "meta/seal"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a refused backup left a state behind: %v", err)
	}
	for _, k := range []string{"", "x", string(public), strings.Repeat("-", 100)} {
		if _, err := recipient.ParsePrivate(secret.Copy([]byte(k))); err == nil {
			t.Errorf("identity %.20q: accepted", k)
		}
	}
	if _, err := recipient.ParsePublic(private.Bytes()); err == nil {
		t.Error("a private key was taken for a public one")
	}
}

func FuzzParseBackup(f *testing.F) {
	f.Add([]byte("\x12\x00\x00\x00attestbox/backup/1\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x08\x00\x00\x00server/a\x01\x00\x00\x00b"))
	f.Fuzz(func(t *testing.T, b []byte) {
		entries, made, err := parseBackup(b)
		if err != nil {
			return
		}
		g := &growing{s: secret.New(64)}
		defer func() { g.s.Zero() }()
		stamp := [8]byte{}
		for i := range stamp {
			stamp[i] = byte(uint64(made.Unix()) >> (8 * i))
		}
		fields := [][]byte{[]byte(domainBackup), stamp[:]}
		for _, e := range entries {
			fields = append(fields, []byte(e.key), e.value)
		}
		for _, x := range fields {
			if err := g.put(x); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(g.s.Bytes()[:g.n], b) {
			t.Errorf("accepted %x, wrote %x", b, g.s.Bytes()[:g.n])
		}
	})
}

// A value that a backup would leave out makes no backup: what is missing would
// be noticed when it is needed.
func TestBackupIsOfEverything(t *testing.T) {
	w := newWorld(t, nil)
	w.add(newID(), Takeover)
	_, public, err := recipient.New()
	if err != nil {
		t.Fatal(err)
	}
	to, err := recipient.ParsePublic(public)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.state.Backup(t.Context(), to, time.Now()); err != nil {
		t.Fatal(err)
	}
	// A domain's policy record and keys are in it.
	if err := w.state.s.Create(t.Context(), domainKey("example", suffixSecret), []byte("seal")); err != nil {
		t.Fatal(err)
	}
	private, public, err := recipient.New()
	if err != nil {
		t.Fatal(err)
	}
	if to, err = recipient.ParsePublic(public); err != nil {
		t.Fatal(err)
	}
	by, err := recipient.ParsePrivate(private)
	if err != nil {
		t.Fatal(err)
	}
	b, err := w.state.Backup(t.Context(), to, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	st, _, err := Restore(t.Context(), newRaw(t), sealed.Key{File: secret.Random(32)}, b, by)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	if v, _, err := st.s.Get(t.Context(), domainKey("example", suffixSecret)); err != nil || string(v) != "seal" {
		t.Errorf("a domain's value: %q, %v", v, err)
	}
	if err := w.state.s.Create(t.Context(), "novelty/1", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := w.state.Backup(t.Context(), to, time.Now()); err == nil || !strings.Contains(err.Error(), "novelty/1") {
		t.Errorf("a backup that leaves a value out: %v", err)
	}
}
