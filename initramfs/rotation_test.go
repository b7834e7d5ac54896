package initramfs

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"attestbox/internal/luks"
	"attestbox/internal/secret"
	"attestbox/internal/wire"
)

// cutDisk is a disk whose machine dies after so many sectors of 512 bytes.
type cutDisk struct {
	b     []byte
	left  int
	wrote int
}

var errDied = errors.New("the machine died")

func (d *cutDisk) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(d.b).ReadAt(p, off)
}
func (d *cutDisk) Sync() error { return nil }
func (d *cutDisk) WriteAt(p []byte, off int64) (int, error) {
	for i := 0; i < len(p); i += 512 {
		if d.left == 0 {
			return i, errDied
		}
		d.left--
		d.wrote++
		copy(d.b[off+int64(i):], p[i:min(i+512, len(p))])
	}
	return len(p), nil
}

// A VM that dies anywhere in a rotation of its disk key boots again, by the
// keys and records that the verifier then delivers.
func TestBootsAfterRotationCut(t *testing.T) {
	oldKey, newKey := secret.Random(32), secret.Random(32)
	header, v, record, err := luks.Format(oldKey, luks.Params{UUID: "0b0e1a6c-6a33-4f3c-9f53-3e2f3b1f2a10", Integrity: luks.IntegrityNone})
	if err != nil {
		t.Fatal(err)
	}
	v.Close()
	plan, err := luks.ToNewKey(header, []wire.HeaderRecord{*record}, oldKey, newKey, nil, luks.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	known := append([]wire.HeaderRecord{*record}, plan.Records()...)
	// In the worst order: the records of copies first.
	known[0], known[len(known)-1] = known[len(known)-1], known[0]
	known[0], known[1] = known[1], known[0]
	boot := func(disk []byte, p *wire.Payload) error {
		in, _, _ := fakeInit(t)
		in.deps.waitDevice = func(context.Context, string) error { return nil }
		in.deps.Unlock = func(_ context.Context, _, _ string, r *wire.HeaderRecord, key *secret.Bytes) (*Unlocked, error) {
			v, err := luks.Open(bytes.NewReader(disk), r, key)
			if err != nil {
				return nil, err
			}
			v.Close()
			return &Unlocked{HeaderDigest: v.HeaderDigest}, nil
		}
		_, err := in.unlock(t.Context(), "/dev/vda", "root", p)
		return err
	}
	all := &cutDisk{b: bytes.Clone(header), left: -1}
	if err := plan.Run(all, newKey, func(string) {}); err != nil {
		t.Fatal(err)
	}
	during := &wire.Payload{DiskKey: newKey, PreviousDiskKey: oldKey, Headers: known}
	for n := 0; n <= all.wrote; n += 11 {
		d := &cutDisk{b: bytes.Clone(header), left: n}
		plan.Run(d, newKey, func(string) {})
		if err := boot(d.b, during); err != nil {
			t.Errorf("cut after %d of %d sectors: %v", n, all.wrote, err)
		}
	}
	after := &wire.Payload{DiskKey: newKey, Headers: []wire.HeaderRecord{plan.Final}}
	if err := boot(all.b, after); err != nil {
		t.Errorf("after the rotation: %v", err)
	}
	if err := boot(header, after); err == nil {
		t.Error("the disk as it was before the rotation boots after it")
	}
}
