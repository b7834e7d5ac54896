package cryptstore

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"attestbox/internal/code"
	"attestbox/internal/secret"
	"attestbox/internal/store"
	"attestbox/internal/store/bolt"
	"attestbox/internal/store/file"
	"attestbox/internal/store/onefile"
)

var epoch0 = time.Unix(1700000000, 0).UTC()

func options() Options { return Options{Now: func() time.Time { return epoch0 }} }

func keyFile(t *testing.T) KeyFile {
	k := secret.Random(32)
	t.Cleanup(k.Zero)
	return KeyFile{k}
}

func rawFile(t *testing.T, path string, opts ...onefile.Option) store.Store {
	t.Helper()
	s, err := onefile.Open(path, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// fresh makes an empty store over one file.
func fresh(t *testing.T) (s *Store, raw store.Store, by KeyFile) {
	t.Helper()
	raw, by = rawFile(t, filepath.Join(t.TempDir(), "store")), keyFile(t)
	s, err := Create(t.Context(), raw, "main", by, options())
	if err != nil {
		t.Fatal(err)
	}
	return s, raw, by
}

func put(t *testing.T, s *Store, tag, value string) Entry {
	t.Helper()
	v := secret.Copy([]byte(value))
	defer v.Zero()
	e, err := s.Put(t.Context(), Item{Tag: tag, Type: Blob, Value: v})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func want(t *testing.T, s *Store, tag string, version int, value string) {
	t.Helper()
	v, e, err := s.Get(context.WithoutCancel(t.Context()), tag, Blob, version)
	defer v.Zero()
	if err != nil || string(v.Bytes()) != value {
		t.Errorf("%s version %d: %q, %v, %v; want %q", tag, version, v.Bytes(), e, err, value)
	}
}

func TestDrivers(t *testing.T) {
	for name, open := range map[string]func(dir string) (store.Store, error){
		"onefile": func(dir string) (store.Store, error) { return onefile.Open(filepath.Join(dir, "s")) },
		"file":    func(dir string) (store.Store, error) { return file.Open(filepath.Join(dir, "s")) },
		"bolt":    func(dir string) (store.Store, error) { return bolt.Open(filepath.Join(dir, "s")) },
	} {
		t.Run(name, func(t *testing.T) {
			dir, by := t.TempDir(), keyFile(t)
			raw, err := open(dir)
			if err != nil {
				t.Fatal(err)
			}
			s, err := Create(t.Context(), raw, "main", by, options())
			if err != nil {
				t.Fatal(err)
			}
			put(t, s, "db/password", "one")
			put(t, s, "db/password", "two")
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if raw, err = open(dir); err != nil {
				t.Fatal(err)
			}
			if s, err = Open(t.Context(), raw, "main", by, options()); err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			want(t, s, "db/password", 0, "two")
			want(t, s, "db/password", 1, "one")
			if _, err := Create(t.Context(), raw, "main", by, options()); !errors.Is(err, store.ErrExists) {
				t.Errorf("created over a store: %v", err)
			}
			if _, err := Open(t.Context(), raw, "other", by, options()); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("opened nothing: %v", err)
			}
			if _, err := Open(t.Context(), raw, "main", keyFile(t), options()); !errors.Is(err, ErrSealed) {
				t.Errorf("opened with another key: %v", err)
			}
		})
	}
}

func TestVersions(t *testing.T) {
	s, _, _ := fresh(t)
	ctx := t.Context()
	if _, _, err := s.Versions(ctx, "a", Blob); !errors.Is(err, ErrNotFound) {
		t.Errorf("versions of nothing: %v", err)
	}
	put(t, s, "a", "1")
	put(t, s, "a", "2")
	v := secret.Copy([]byte("7"))
	defer v.Zero()
	at := func(version int) Item { return Item{Tag: "a", Type: Blob, Version: version, Value: v} }
	if e, err := s.Put(ctx, at(7)); err != nil || e.Version != 7 || !e.Time.Equal(epoch0) || e.Size != 1 {
		t.Errorf("%+v, %v", e, err)
	}
	for version, target := range map[int]error{7: ErrExists, 1: ErrExists, 5: ErrVersion, -1: ErrInvalid} {
		if _, err := s.Put(ctx, at(version)); !errors.Is(err, target) {
			t.Errorf("put of version %d: %v, want %v", version, err, target)
		}
	}
	if first, last, err := s.Versions(ctx, "a", Blob); err != nil || first != 1 || last != 7 {
		t.Errorf("versions %d to %d, %v", first, last, err)
	}
	// A deleted version's number is not used again, whatever else is deleted.
	for _, version := range []int{7, 1} {
		if err := s.Delete(ctx, "a", Blob, version); err != nil {
			t.Fatal(err)
		}
	}
	want(t, s, "a", 0, "2")
	if _, _, err := s.Get(ctx, "a", Blob, 7); !errors.Is(err, ErrNotFound) {
		t.Errorf("a deleted version: %v", err)
	}
	if c, _ := code.Of(s.Delete(ctx, "a", Blob, 7)); c != code.CryptstoreNoEntry {
		t.Errorf("deleted twice: %q", c)
	}
	if err := s.Delete(ctx, "a", Blob, 0); !errors.Is(err, ErrInvalid) {
		t.Errorf("delete of version 0: %v", err)
	}
	if e := put(t, s, "a", "8"); e.Version != 8 {
		t.Errorf("version %d after a deleted 7", e.Version)
	}
	if err := s.DeleteAll(ctx, "a", Blob); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteAll(ctx, "a", Blob); !errors.Is(err, ErrNotFound) {
		t.Errorf("delete of all of nothing: %v", err)
	}
	if e := put(t, s, "a", "9"); e.Version != 9 {
		t.Errorf("version %d after all were deleted", e.Version)
	}
	if l, err := s.List(ctx); err != nil || len(l) != 1 || l[0].String() != "blob a version 9" {
		t.Errorf("list %v, %v", l, err)
	}
	if rep, err := s.Check(ctx); err != nil || rep != (Report{Entries: 1, Bytes: 1}) {
		t.Errorf("check: %+v, %v", rep, err)
	}
}

func TestValues(t *testing.T) {
	s, _, _ := fresh(t)
	key, err := Ed25519.newKey()
	if err != nil {
		t.Fatal(err)
	}
	trailing := secret.Take(append(bytes.Clone(key.Bytes()), 0))
	for name, it := range map[string]Item{
		"key and more": {Tag: "a", Type: PrivateKey, Value: trailing},
		"empty":        {Tag: "a", Type: Blob},
		"large":        {Tag: "a", Type: Blob, Value: secret.New(MaxValue + 1)},
		"short key":    {Tag: "a", Type: SymmetricKey, Value: secret.New(15)},
		"long key":     {Tag: "a", Type: SymmetricKey, Value: secret.New(129)},
		"no PKCS #8":   {Tag: "a", Type: PrivateKey, Value: secret.New(48)},
		"no cert":      {Tag: "a", Type: X509Cert, Value: secret.New(48)},
		"no chain":     {Tag: "a", Type: X509Chain, Value: secret.New(48)},
		"type 0":       {Tag: "a", Value: secret.New(1)},
		"type 6":       {Tag: "a", Type: 6, Value: secret.New(1)},
		"no tag":       {Type: Blob, Value: secret.New(1)},
		"tag with dot": {Tag: "a/../b", Type: Blob, Value: secret.New(1)},
		"long tag":     {Tag: string(bytes.Repeat([]byte("a"), 129)), Type: Blob, Value: secret.New(1)},
	} {
		if _, err := s.Put(t.Context(), it); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
		it.Value.Zero()
	}
	big := secret.Random(MaxValue)
	defer big.Zero()
	if _, err := s.Put(t.Context(), Item{Tag: "big", Type: Blob, Value: big}); err != nil {
		t.Fatal(err)
	}
	if v, _, err := s.Get(t.Context(), "big", Blob, 0); err != nil || !v.Equal(big) {
		t.Errorf("largest value: %v", err)
	}
}

func TestGenerateAndSign(t *testing.T) {
	s, _, _ := fresh(t)
	ctx := t.Context()
	digest := sha256.Sum256([]byte("message"))
	for _, a := range Algs() {
		e, err := s.Generate(ctx, "k/"+string(a), a, false)
		if err != nil || e.Version != 1 || e.Alg != a || e.Type != a.Type() {
			t.Fatalf("%s: %+v, %v", a, e, err)
		}
		r, err := s.Rotate(ctx, e.Tag, e.Type)
		if err != nil || r.Version != 2 || r.Alg != a || r.Exportable {
			t.Fatalf("%s: %+v, %v", a, r, err)
		}
		old, _, oldErr := s.Get(ctx, e.Tag, e.Type, 1)
		now, _, err := s.Get(ctx, e.Tag, e.Type, 2)
		if a.Type() == SymmetricKey {
			if err != nil || oldErr != nil || old.Len() != 32 || old.Equal(now) {
				t.Errorf("%s: rotated from %d bytes to the same, %v, %v", a, old.Len(), oldErr, err)
			}
			continue
		}
		if c, _ := code.Of(err); !errors.Is(err, ErrNotExportable) || c != code.CryptstoreNotExportable || now != nil {
			t.Errorf("%s: a private key came out: %v", a, err)
		}
		k, err := s.Signer(ctx, e.Tag, 0)
		if err != nil || k.Entry.Version != 2 {
			t.Fatalf("%s: %v", a, err)
		}
		msg, opts := digest[:], crypto.SignerOpts(crypto.SHA256)
		if a == Ed25519 {
			opts = crypto.Hash(0)
		}
		sig, err := k.Sign(rand.Reader, msg, opts)
		if err != nil {
			t.Fatal(err)
		}
		ok := false
		switch pub := k.Public().(type) {
		case ed25519.PublicKey:
			ok = ed25519.Verify(pub, msg, sig)
		case *ecdsa.PublicKey:
			ok = ecdsa.VerifyASN1(pub, msg, sig)
		case *rsa.PublicKey:
			ok = rsa.VerifyPKCS1v15(pub, crypto.SHA256, msg, sig) == nil
		}
		js, _ := json.Marshal(k)
		if text := fmt.Sprintf("%v %+v %#v %s %s", k, k, k, k, js); !ok || text != `[redacted] [redacted] [redacted] [redacted] "[redacted]"` {
			t.Errorf("%s: verified %v, printed %s", a, ok, text)
		}
		k.Close()
	}
	if _, err := s.Generate(ctx, "x", "des", false); !errors.Is(err, ErrInvalid) {
		t.Errorf("unknown algorithm: %v", err)
	}
	put(t, s, "blob", "x")
	if _, err := s.Rotate(ctx, "blob", Blob); !errors.Is(err, ErrInvalid) {
		t.Errorf("rotated what was put: %v", err)
	}
	if _, err := s.Rotate(ctx, "none", PrivateKey); !errors.Is(err, ErrNotFound) {
		t.Errorf("rotated nothing: %v", err)
	}
	if _, err := s.Signer(ctx, "none", 0); !errors.Is(err, ErrNotFound) {
		t.Errorf("signer of nothing: %v", err)
	}
}

func TestRekeyAndReseal(t *testing.T) {
	s, raw, by := fresh(t)
	ctx := t.Context()
	put(t, s, "a", "1")
	put(t, s, "a", "2")
	if err := s.Delete(ctx, "a", Blob, 2); err != nil {
		t.Fatal(err)
	}
	before, err := s.Header(ctx)
	if err != nil {
		t.Fatal(err)
	}
	other := keyFile(t)
	if err := s.Reseal(ctx, other); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(ctx, raw, "main", by, options()); !errors.Is(err, ErrSealed) {
		t.Errorf("the old seal opens: %v", err)
	}
	if err := s.Rekey(ctx, by); err != nil {
		t.Fatal(err)
	}
	want(t, s, "a", 1, "1")
	again, err := Open(ctx, raw, "main", by, options())
	if err != nil {
		t.Fatal(err)
	}
	want(t, again, "a", 0, "1")
	if e := put(t, again, "a", "3"); e.Version != 3 {
		t.Errorf("version %d: rekeying forgot that 2 was used", e.Version)
	}
	want(t, s, "a", 0, "3") // the other handle sees it
	after, err := s.Header(ctx)
	if err != nil || after.Epoch != before.Epoch+3 || after.ID != before.ID {
		t.Errorf("epoch from %d to %d, %v", before.Epoch, after.Epoch, err)
	}
	if rep, err := s.Check(ctx); err != nil || rep.Orphans != 0 || rep.Entries != 2 {
		t.Errorf("%+v, %v", rep, err)
	}
	// A handle from before another process's rekeying holds the wrong key.
	if err := again.Rekey(ctx, by); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Get(ctx, "a", Blob, 0); !errors.Is(err, ErrTampered) {
		t.Errorf("stale handle: %v", err)
	}
}

func TestClosed(t *testing.T) {
	s, raw, _ := fresh(t)
	put(t, s, "a", "1")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Get(t.Context(), "a", Blob, 0); err == nil {
		t.Error("a closed store gave a value")
	}
	v := secret.New(1)
	defer v.Zero()
	if _, err := s.Put(t.Context(), Item{Tag: "a", Type: Blob, Value: v}); err == nil {
		t.Error("a closed store took a value")
	}
	_ = raw
}

// Many writers and readers over two handles: no version is lost or given twice.
func TestConcurrent(t *testing.T) {
	path, by := filepath.Join(t.TempDir(), "s"), keyFile(t)
	a, err := Create(t.Context(), rawFile(t, path), "main", by, options())
	if err != nil {
		t.Fatal(err)
	}
	b, err := Open(t.Context(), rawFile(t, path), "main", by, options())
	if err != nil {
		t.Fatal(err)
	}
	put(t, a, "n", "first")
	const writers, writes = 4, 5
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := map[int]bool{}
	for i := range writers {
		s := a
		if i%2 == 1 {
			s = b
		}
		wg.Go(func() {
			v := secret.Copy([]byte("value"))
			defer v.Zero()
			for range writes {
				e, err := s.Put(t.Context(), Item{Tag: "n", Type: Blob, Value: v})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if seen[e.Version] {
					t.Errorf("version %d was given twice", e.Version)
				}
				seen[e.Version] = true
				mu.Unlock()
				r, _, err := s.Get(t.Context(), "n", Blob, 0)
				if err != nil {
					t.Error(err)
				}
				r.Zero()
			}
		})
	}
	wg.Go(func() {
		for range 5 {
			if _, err := b.Collect(t.Context()); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	if _, last, err := a.Versions(t.Context(), "n", Blob); err != nil || last != 1+writers*writes {
		t.Errorf("latest version %d, %v", last, err)
	}
	if rep, err := a.Check(t.Context()); err != nil || rep.Entries != 1+writers*writes {
		t.Errorf("%+v, %v", rep, err)
	}
}
