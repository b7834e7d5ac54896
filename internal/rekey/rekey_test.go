package rekey

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"attestbox/internal/code"
	"attestbox/internal/luks"
	"attestbox/internal/secret"
	"attestbox/internal/server"
	"attestbox/internal/snpsim/verifiertest"
	"attestbox/internal/wire"
)

// disk is in memory; its machine dies when left is used up, in sectors of 512.
type disk struct {
	b    []byte
	left int
}

var errDied = errors.New("the machine died")

func (d *disk) ReadAt(p []byte, off int64) (int, error) { return bytes.NewReader(d.b).ReadAt(p, off) }
func (d *disk) Sync() error                             { return nil }
func (d *disk) WriteAt(p []byte, off int64) (int, error) {
	for i := 0; i < len(p); i += 512 {
		if d.left == 0 {
			return i, errDied
		}
		d.left--
		copy(d.b[off+int64(i):], p[i:min(i+512, len(p))])
	}
	return len(p), nil
}

func (d *disk) job() *Job { return &Job{Disk: d, Said: func(string, ...any) {}} }

// open is what a boot does with a release.
func (d *disk) open(p *wire.Payload) ([]wire.Hex32, error) {
	var last error
	for _, r := range luks.WholeFirst(p.Headers) {
		for _, k := range []*secret.Bytes{p.DiskKey, p.PreviousDiskKey} {
			v, err := luks.Open(bytes.NewReader(d.b), &r, k)
			if err == nil {
				v.Close()
				return []wire.Hex32{v.HeaderDigest}, nil
			}
			last = err
		}
	}
	return nil, last
}

func newDisk(t *testing.T) (*disk, *wire.HeaderRecord, *secret.Bytes) {
	t.Helper()
	key := secret.Random(32)
	header, v, rec, err := luks.Format(key, luks.Params{UUID: "0b0e1a6c-6a33-4f3c-9f53-3e2f3b1f2a10", Integrity: luks.IntegrityHMAC})
	if err != nil {
		t.Fatal(err)
	}
	v.Close()
	return &disk{append(header, make([]byte, 4096)...), -1}, rec, key
}

func ctxFor(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// A VM that dies in the middle of a rotation, or whose verifier does not hear
// of its end, boots again and goes on, until the old key opens nothing.
func TestRotateThroughCrashes(t *testing.T) {
	w := verifiertest.New(t)
	d, rec, old := newDisk(t)
	id := w.Add(rec, old)
	w.Edit(id, func(i *server.Instance) { i.MayRotate = true })
	ctx := ctxFor(t)
	for round, left := range []int{0, 3, 400, 753, 755, 785, 1, 40, 300, -1} {
		vm := w.Launch(id, verifiertest.Digest)
		if err := vm.Boot(d.open); err != nil {
			t.Fatalf("round %d: the VM does not boot: %v", round, err)
		}
		d.left = left
		_, err := d.job().Rotate(ctx, vm.Client(), false)
		if left >= 0 && !errors.Is(err, errDied) {
			t.Fatalf("round %d: %v", round, err)
		} else if left < 0 && err != nil {
			t.Fatal(err)
		}
		if n := len(w.Instance(id).Headers); n > wire.MaxHeaders {
			t.Errorf("round %d: %d records", round, n)
		}
	}
	i := w.Instance(id)
	if w.Rotation(id) != "" || len(i.Headers) != 1 || i.Headers[0].Integrity != luks.IntegrityHMAC {
		t.Errorf("in the end: %+v", i)
	}
	if err := w.Launch(id, verifiertest.Digest).Boot(func(p *wire.Payload) ([]wire.Hex32, error) {
		if p.PreviousDiskKey.Len() > 0 || p.DiskKey.Equal(old) {
			t.Error("the old key is released still")
		}
		return d.open(p)
	}); err != nil {
		t.Error(err)
	}
	for _, r := range append(i.Headers, *rec) {
		v, err := luks.Open(bytes.NewReader(d.b), &r, old)
		if err == nil {
			v.Close()
			t.Error("the old key opens the disk")
		}
	}
}

func TestRotateTakenBack(t *testing.T) {
	w := verifiertest.New(t)
	d, rec, old := newDisk(t)
	id := w.Add(rec, old)
	ctx := ctxFor(t)
	vm := w.Launch(id, verifiertest.Digest)
	if err := vm.Boot(d.open); err != nil {
		t.Fatal(err)
	}
	_, err := d.job().Rotate(ctx, vm.Client(), false)
	if c, _ := code.Of(err); c != code.MaintainRotation {
		t.Errorf("a rotation that nobody opened: %v", err)
	}
	if _, err := d.job().Rotate(ctx, vm.Client(), true); err == nil {
		t.Error("took back what was not open")
	}
	s, err := w.State.OpenRotation(ctx, id, true)
	if err != nil {
		t.Fatal(err)
	}
	s.Zero()
	d.left = 760 // in the secondary header
	if _, err := d.job().Rotate(ctx, vm.Client(), false); !errors.Is(err, errDied) {
		t.Fatal(err)
	}
	vm = w.Launch(id, verifiertest.Digest)
	if err := vm.Boot(d.open); err != nil {
		t.Fatal(err)
	}
	d.left = -1
	got, err := d.job().Rotate(ctx, vm.Client(), true)
	if err != nil {
		t.Fatal(err)
	}
	i := w.Instance(id)
	if w.Rotation(id) != "" || len(i.Headers) != 1 || i.Headers[0] != *got || got.Scope != wire.ScopeWhole {
		t.Errorf("in the end: %+v", i)
	}
	if err := w.Launch(id, verifiertest.Digest).Boot(func(p *wire.Payload) ([]wire.Hex32, error) {
		if !p.DiskKey.Equal(old) {
			t.Error("another key than the old one is released")
		}
		return d.open(p)
	}); err != nil {
		t.Error(err)
	}
}

// A disk of a passphrase becomes the verifier's, through crashes; until the end
// the passphrase or the verifier's key opens it.
func TestEnrollThroughCrashes(t *testing.T) {
	w := verifiertest.New(t)
	d, _, pass := newDisk(t)
	id := w.Add(nil, nil)
	ctx := ctxFor(t)
	vm := w.Launch(id, verifiertest.Digest)
	up := func(*wire.Payload) ([]wire.Hex32, error) { return nil, nil }
	if err := vm.Boot(up); err != nil {
		t.Fatal(err)
	}
	_, err := d.job().Enroll(ctx, vm.Client(), pass)
	if c, _ := code.Of(err); c != code.MaintainRotation {
		t.Errorf("without the owner's word: %v", err)
	}
	w.Edit(id, func(i *server.Instance) { i.MayRotate = true })
	for round, left := range []int{0, 400, 755, 785, 40, -1, -1} {
		vm := w.Launch(id, verifiertest.Digest)
		if err := vm.Boot(up); err != nil {
			t.Fatal(err)
		}
		d.left = left
		_, err := d.job().Enroll(ctx, vm.Client(), pass)
		if left >= 0 && !errors.Is(err, errDied) || left < 0 && err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		known, err := luks.KnownRecords(d.b)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if _, err := d.open(&wire.Payload{DiskKey: pass, Headers: known}); err != nil {
			if err := w.Launch(id, verifiertest.Digest).Boot(d.open); err != nil {
				t.Errorf("round %d: neither opens it: %v", round, err)
			}
		}
	}
	if err := w.Launch(id, verifiertest.Digest).Boot(d.open); err != nil {
		t.Error(err)
	}
	// Another disk is not enrolled over it.
	other, _, otherPass := newDisk(t)
	vm = w.Launch(id, verifiertest.Digest)
	if err := vm.Boot(d.open); err != nil {
		t.Fatal(err)
	}
	_, err = other.job().Enroll(ctx, vm.Client(), otherPass)
	if c, _ := code.Of(err); c != code.MaintainRotation {
		t.Errorf("another disk: %v", err)
	}
}

func TestRegister(t *testing.T) {
	w := verifiertest.New(t)
	d, rec, key := newDisk(t)
	id := w.Add(rec, key)
	ctx := ctxFor(t)
	vm := w.Launch(id, verifiertest.Digest)
	if err := vm.Boot(d.open); err != nil {
		t.Fatal(err)
	}
	d.b[rec.Size-1] ^= 1 // unused space: a header that is changed and keeps the rules
	got, err := d.job().Register(ctx, vm.Client(), false)
	if err != nil || len(w.Instance(id).Headers) != 2 {
		t.Fatalf("%v, %+v", err, w.Instance(id).Headers)
	}
	if _, err := d.job().Register(ctx, vm.Client(), true); err == nil {
		t.Error("the record that this boot opened was dropped")
	}
	vm = w.Launch(id, verifiertest.Digest)
	if err := vm.Boot(d.open); err != nil {
		t.Fatal(err)
	}
	if _, err := d.job().Register(ctx, vm.Client(), true); err != nil {
		t.Fatal(err)
	}
	if h := w.Instance(id).Headers; len(h) != 1 || h[0] != *got {
		t.Errorf("in the end: %+v", h)
	}
	d.b[0] ^= 1
	if _, err := d.job().Register(ctx, vm.Client(), false); err == nil {
		t.Error("a header that breaks the rules was registered")
	}
}

func TestBackup(t *testing.T) {
	d, rec, _ := newDisk(t)
	other, _, _ := newDisk(t)
	name := filepath.Join(t.TempDir(), "header")
	if err := SaveBackup(name, d.b[:rec.Size]); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(name)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	if err := SaveBackup(name, other.b); !errors.Is(err, os.ErrExist) {
		t.Errorf("overwritten: %v", err)
	}
	b, err := os.ReadFile(name)
	if err != nil || !bytes.Equal(b, d.b[:rec.Size]) {
		t.Errorf("the backup holds %d bytes, %v", len(b), err)
	}
	if err := SameDisk(b, d.b); err != nil {
		t.Error(err)
	}
	if err := SameDisk([]byte(hex.EncodeToString(b[:64])), d.b); err == nil {
		t.Error("a text is a backup")
	}
}

// Two calls at once on one disk would each undo what the other does.
func TestOneAtATime(t *testing.T) {
	name := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(name, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	a, err := Open(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(name); err == nil {
		t.Error("opened twice")
	}
	if err := a.Sync(); err != nil {
		t.Error(err)
	}
	a.Close()
	b, err := Open(name)
	if err != nil {
		t.Fatal(err)
	}
	b.Close()
}
