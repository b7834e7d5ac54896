package sealed

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"testing"

	"attestbox/internal/secret"
	"attestbox/internal/store"
	"attestbox/internal/store/bolt"
)

func newRaw(t *testing.T) store.Store {
	t.Helper()
	s, err := bolt.Open(filepath.Join(t.TempDir(), "s.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func fileKey() Key { return Key{File: secret.Random(32)} }

func TestRoundTripAndWrongKey(t *testing.T) {
	ctx := context.Background()
	for name, mk := range map[string]func() Key{
		"file":       fileKey,
		"passphrase": func() Key { p := secret.Random(16); return Key{Passphrase: p} },
	} {
		t.Run(name, func(t *testing.T) {
			raw, key := newRaw(t), mk()
			s, err := Create(ctx, raw, key)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Create(ctx, "a", []byte("hello")); err != nil {
				t.Fatal(err)
			}
			if _, err := Create(ctx, raw, key); !errors.Is(err, store.ErrExists) {
				t.Errorf("second create: %v", err)
			}
			s, err = Open(ctx, raw, key)
			if err != nil {
				t.Fatal(err)
			}
			got, v, err := s.Get(ctx, "a")
			if err != nil || string(got) != "hello" {
				t.Fatalf("get: %q, %v", got, err)
			}
			if err := s.Replace(ctx, "a", v, []byte("again")); err != nil {
				t.Error(err)
			}
			if err := s.Replace(ctx, "a", v, []byte("stale")); !errors.Is(err, store.ErrConflict) {
				t.Errorf("stale replace: %v", err)
			}
			sec, _, err := s.GetSecret(ctx, "a")
			if err != nil || string(sec.Bytes()) != "again" {
				t.Errorf("secret: %q, %v", sec.Bytes(), err)
			}
			sec.Zero()
			if _, err := Open(ctx, raw, mk()); !errors.Is(err, ErrSealKey) {
				t.Errorf("another key: %v", err)
			}
			if _, err := Open(ctx, raw, Key{}); !errors.Is(err, ErrSealKey) {
				t.Errorf("no key: %v", err)
			}
		})
	}
}

func TestValuesCannotBeMovedOrChanged(t *testing.T) {
	ctx := context.Background()
	raw := newRaw(t)
	s, err := Create(ctx, raw, fileKey())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Create(ctx, "disk/a", []byte("key of a")); err != nil {
		t.Fatal(err)
	}
	b, err := raw.Get(ctx, "disk/a")
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Create(ctx, "disk/b", b); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Get(ctx, "disk/b"); !errors.Is(err, ErrTampered) {
		t.Errorf("moved value: %v", err)
	}
	old := b
	for i := range b {
		changed := bytes.Clone(b)
		changed[i] ^= 1
		if err := raw.Replace(ctx, "disk/a", old, changed); err != nil {
			t.Fatal(err)
		}
		old = changed
		if _, _, err := s.GetSecret(ctx, "disk/a"); !errors.Is(err, ErrTampered) {
			t.Fatalf("byte %d flipped: %v", i, err)
		}
	}
	for n := 1; n < len(b); n++ {
		if err := raw.Replace(ctx, "disk/a", old, b[:n]); err != nil {
			t.Fatal(err)
		}
		old = b[:n]
		if _, _, err := s.Get(ctx, "disk/a"); !errors.Is(err, ErrTampered) {
			t.Fatalf("cut to %d bytes: %v", n, err)
		}
	}
}

// The parameters of the key derivation are authenticated and bounded.
func TestSealRecord(t *testing.T) {
	ctx := context.Background()
	raw, key := newRaw(t), fileKey()
	if _, err := Create(ctx, raw, key); err != nil {
		t.Fatal(err)
	}
	good, err := raw.Get(ctx, metaKey)
	if err != nil {
		t.Fatal(err)
	}
	edit := func(f func(*meta)) []byte {
		var m meta
		if err := json.Unmarshal(good, &m); err != nil {
			t.Fatal(err)
		}
		f(&m)
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	old := good
	for name, b := range map[string][]byte{
		"salt":     edit(func(m *meta) { m.Salt[0] ^= 1 }),
		"wrapped":  edit(func(m *meta) { m.Wrapped[20] ^= 1 }),
		"version":  edit(func(m *meta) { m.Version = 2 }),
		"kdf":      edit(func(m *meta) { m.KDF = "none" }),
		"huge":     edit(func(m *meta) { m.KDF, m.Time, m.Memory, m.Lanes = kdfArgon2id, 1, 1<<30, 1 }),
		"no salt":  edit(func(m *meta) { m.Salt = nil }),
		"no json":  []byte("x"),
		"trailing": append(bytes.Clone(good), '1'),
	} {
		if err := raw.Replace(ctx, metaKey, old, b); err != nil {
			t.Fatal(err)
		}
		old = b
		if _, err := Open(ctx, raw, key); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
}

func TestWeakKeysAreRefused(t *testing.T) {
	for name, key := range map[string]Key{
		"none":             {},
		"both":             {File: secret.Random(32), Passphrase: secret.Random(32)},
		"file, platform":   {File: secret.Random(32), Platform: fixed{key: secret.Random(32)}},
		"short platform":   {Platform: fixed{"p", []byte{1}, secret.Random(31)}},
		"no platform name": {Platform: fixed{"", []byte{1}, secret.Random(32)}},
		"long parameters":  {Platform: fixed{"p", make([]byte, MaxPlatformParams+1), secret.Random(32)}},
		"short file":       {File: secret.Random(31)},
		"long file":        {File: secret.Random(MaxFileKey + 1)},
		"text file":        {File: secret.Copy([]byte("correct horse battery staple, twice over\n"))},
		"hex file":         {File: secret.Copy([]byte("00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"))},
		"zeros":            {File: secret.New(32)},
		"short passphrase": {Passphrase: secret.Copy([]byte("hunter2"))},
	} {
		if _, err := Create(context.Background(), newRaw(t), key); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// fixed is a platform that always answers the same.
type fixed struct {
	kind   string
	params []byte
	key    *secret.Bytes
}

func (f fixed) Seal(context.Context, [16]byte) (string, []byte, *secret.Bytes, error) {
	return f.kind, f.params, secret.Copy(f.key.Bytes()), nil
}

func (f fixed) Unseal(context.Context, [16]byte, string, []byte) (*secret.Bytes, error) {
	return secret.Copy(f.key.Bytes()), nil
}

// The platform's name and parameters are authenticated, even for a platform
// whose key does not depend on them.
func TestPlatformRecord(t *testing.T) {
	ctx := context.Background()
	raw, key := newRaw(t), Key{Platform: fixed{"p", []byte{1}, secret.Random(32)}}
	if _, err := Create(ctx, raw, key); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(ctx, raw, key); err != nil {
		t.Fatal(err)
	}
	old, err := raw.Get(ctx, metaKey)
	if err != nil {
		t.Fatal(err)
	}
	good := old
	for name, f := range map[string]func(*meta){
		"name":          func(m *meta) { m.Platform = "q" },
		"parameters":    func(m *meta) { m.Params[0]++ },
		"no name":       func(m *meta) { m.Platform = "" },
		"no parameters": func(m *meta) { m.Params = nil },
		"costs":         func(m *meta) { m.Time = 1 },
		"a key file's":  func(m *meta) { m.KDF = kdfFile },
	} {
		var m meta
		if err := json.Unmarshal(good, &m); err != nil {
			t.Fatal(err)
		}
		f(&m)
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if err := raw.Replace(ctx, metaKey, old, b); err != nil {
			t.Fatal(err)
		}
		old = b
		if _, err := Open(ctx, raw, key); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
}

func FuzzSealRecord(f *testing.F) {
	f.Add([]byte(`{"version":1,"kdf":"hkdf-sha256","salt":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","time":0,"memory":0,"lanes":0,"wrapped":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}`))
	f.Add([]byte(`{"version":1,"kdf":"platform","salt":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","time":0,"memory":0,"lanes":0,"wrapped":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","platform":"p","params":"AA=="}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseMeta(b)
		if err != nil {
			return
		}
		again, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		m2, err := parseMeta(again)
		if err != nil {
			t.Fatalf("re-marshalled record %s: %v", again, err)
		}
		if thrice, _ := json.Marshal(m2); !bytes.Equal(again, thrice) {
			t.Errorf("re-marshalled record differs: %s", again)
		}
	})
}
