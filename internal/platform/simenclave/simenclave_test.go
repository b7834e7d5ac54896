package simenclave

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"attestbox/internal/code"
	"attestbox/internal/platform"
)

func keyFile(t *testing.T) (string, ed25519.PublicKey) {
	t.Helper()
	text, pub, err := GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	defer text.Zero()
	path := filepath.Join(t.TempDir(), "platform.key")
	if err := os.WriteFile(path, text.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path, pub
}

func TestReport(t *testing.T) {
	path, pub := keyFile(t)
	e, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	exe, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if e.Measurement() != sha256.Sum256(exe) || !e.Key().Equal(pub) || e.Name() != platform.SimulatedEnclave {
		t.Errorf("measurement %x, key %x, name %s", e.Measurement(), e.Key(), e.Name())
	}
	ev, err := e.Report(t.Context(), [64]byte{1, 2, 3})
	if err != nil || ev.Platform != platform.SimulatedEnclave || len(ev.Report) != EvidenceSize || len(ev.Endorsements) != 0 {
		t.Fatalf("%+v, %v", ev, err)
	}
	got, err := Parse(ev.Report)
	if err != nil || got.Verify() != nil || got.ReportData != [64]byte{1, 2, 3} || got.Measurement != e.Measurement() || !got.Key.Equal(pub) {
		t.Errorf("%+v, %v", got, err)
	}
	for i := range ev.Report {
		bad := bytes.Clone(ev.Report)
		bad[i] ^= 1
		if got, err := Parse(bad); err == nil && got.Verify() == nil {
			t.Fatalf("byte %d changed: verified", i)
		}
	}
	// Another key's signature under this key's name.
	_, other, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	copy(got.Signature[:], ed25519.Sign(other, got.signed()))
	if !errors.Is(got.Verify(), ErrEvidence) {
		t.Error("signed by another key: verified")
	}
}

func TestDeriveKey(t *testing.T) {
	path, _ := keyFile(t)
	e, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	q := platform.KeyRequest{FieldSelect: platform.SelectMeasurement}
	a, err := e.DeriveKey(t.Context(), q)
	if err != nil || a.Len() != 32 {
		t.Fatal(err)
	}
	again, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := again.DeriveKey(t.Context(), q); err != nil || !a.Equal(b) {
		t.Errorf("another key the second time: %v", err)
	}
	again.measurement[0]++ // another executable
	if b, err := again.DeriveKey(t.Context(), q); err != nil || a.Equal(b) {
		t.Errorf("another executable has the same key: %v", err)
	}
	path, _ = keyFile(t)
	other, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := other.DeriveKey(t.Context(), q); err != nil || a.Equal(b) {
		t.Errorf("another platform key has the same key: %v", err)
	}
	for _, q := range []platform.KeyRequest{{}, {FieldSelect: 3}, {FieldSelect: platform.SelectMeasurement, VMPL: 1}} {
		if _, err := e.DeriveKey(t.Context(), q); !errors.Is(err, platform.ErrKeyRefused) {
			t.Errorf("%+v: %v", q, err)
		}
	}
}

func TestKeyFile(t *testing.T) {
	good, _ := keyFile(t)
	text, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(rsaKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		text []byte
		mode os.FileMode
	}{
		"others may read": {text, 0o644},
		"group may write": {text, 0o620},
		"empty":           {nil, 0o600},
		"not PEM":         {[]byte("key"), 0o600},
		"two":             {append(bytes.Clone(text), text...), 0o600},
		"large":           {bytes.Repeat([]byte("\n"), maxKeyFile+1), 0o600},
		"RSA":             {pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: der}), 0o600},
		"garbage":         {pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: []byte{1}}), 0o600},
		"other type":      {pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{1}}), 0o600},
	} {
		path := filepath.Join(t.TempDir(), "key")
		if err := os.WriteFile(path, tc.text, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, tc.mode); err != nil {
			t.Fatal(err)
		}
		_, err := Open(path)
		if c, _ := code.Of(err); c != code.EnclaveKey {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, path := range []string{t.TempDir(), "/nonexistent"} {
		_, err := Open(path)
		if c, _ := code.Of(err); c != code.EnclaveKey {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// The worked example of the package comment's table: the key is 32 counting
// bytes, as are the 64 of the report data; the measurement is SHA-256 of "".
func TestWorkedExample(t *testing.T) {
	seed := make([]byte, 32)
	ev := &Evidence{Measurement: sha256.Sum256(nil)}
	for i := range ev.ReportData {
		ev.ReportData[i] = byte(i)
		if i < len(seed) {
			seed[i] = byte(i)
		}
	}
	key := ed25519.NewKeyFromSeed(seed)
	ev.Key = key.Public().(ed25519.PublicKey)
	copy(ev.Signature[:], ed25519.Sign(key, ev.signed()))
	const want = "4142534501000000" +
		"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" +
		"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f" +
		"03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8" +
		"f8f4789a7747327f26bb229bc9332f9ee09255c3597cc085819cbc52fce399e57165f22fb9a2c08559e70044c06d2fe3efe8ad10bdb9954683946f47c4ca6800"
	if got := hex.EncodeToString(ev.Marshal()); got != want {
		t.Errorf("got %s", got)
	}
}

func FuzzParse(f *testing.F) {
	f.Add((&Evidence{Key: make([]byte, 32)}).Marshal())
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := Parse(b)
		if err == nil && !bytes.Equal(e.Marshal(), b) {
			t.Error("accepted, and marshals to something else")
		}
	})
}
