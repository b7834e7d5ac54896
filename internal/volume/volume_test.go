package volume

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"attestbox/internal/code"
	"attestbox/internal/cryptstore"
	"attestbox/internal/luks"
	"attestbox/internal/secret"
	"attestbox/internal/wire"
)

// memory is a store of blobs.
type memory struct {
	blobs map[int][]byte
	next  int
}

func (m *memory) Get(context.Context, string, cryptstore.Type, int) (*secret.Bytes, cryptstore.Entry, error) {
	b, ok := m.blobs[m.next]
	if !ok {
		return nil, cryptstore.Entry{}, cryptstore.ErrNotFound
	}
	return secret.Copy(b), cryptstore.Entry{Version: m.next}, nil
}

func (m *memory) Put(_ context.Context, it cryptstore.Item) (cryptstore.Entry, error) {
	m.next++
	m.blobs[m.next] = bytes.Clone(it.Value.Bytes())
	return cryptstore.Entry{Version: m.next}, nil
}

func (m *memory) Delete(_ context.Context, _ string, _ cryptstore.Type, version int) error {
	delete(m.blobs, version)
	return nil
}

var errCut = errors.New("power is gone")

// device is a disk whose power goes after some writes; the last one is cut in
// the middle.
type device struct {
	b    []byte
	left int // writes; below 0: no end
}

func (d *device) ReadAt(p []byte, off int64) (int, error) { return bytes.NewReader(d.b).ReadAt(p, off) }

func (d *device) WriteAt(p []byte, off int64) (int, error) {
	if d.left == 0 {
		copy(d.b[off:], p[:len(p)/2])
		return 0, errCut
	}
	d.left--
	return copy(d.b[off:], p), nil
}

func (d *device) Sync() error { return nil }

// mapping is the volume's data, without encryption: a place of its own.
type mapping struct {
	device
	removed bool
}

func (m *mapping) Close() error  { return nil }
func (m *mapping) Remove() error { m.removed = true; return nil }

const size = 4 << 20

type world struct {
	t     *testing.T
	store *memory
	dev   *device
	m     *mapping
	opens int
	made  int   // file systems
	mkfs  error // of making one
}

func newWorld(t *testing.T) *world {
	return &world{t: t, store: &memory{blobs: map[int][]byte{}}, dev: &device{b: make([]byte, size), left: -1}}
}

// create makes the volume; the mapping dies after some writes.
func (w *world) create(mapped int) error {
	return Create(w.t.Context(), Creation{Store: w.store, Tag: "data", Device: w.dev, Size: size,
		Open: func(_ context.Context, record *wire.HeaderRecord, key *secret.Bytes) (Mapped, error) {
			defer key.Zero()
			w.opens++
			v, err := luks.Open(w.dev, record, key)
			if err != nil {
				return nil, err
			}
			defer v.Close()
			w.m = &mapping{device: device{b: bytes.Repeat([]byte{1}, size), left: mapped}}
			return w.m, nil
		},
		Prepare: func(context.Context) error {
			w.made++
			if _, _, err := Get(w.t.Context(), w.store, "data"); err == nil {
				w.t.Error("it counts as finished without a file system")
			}
			return w.mkfs
		}})
}

// use is what UseOn does with create-if-empty.
func (w *world) use() error {
	return createOrOpen(w.t.Context(), w.store, "data", func() error { return w.create(-1) }, w.open)
}

func (w *world) open() error {
	record, key, err := Get(w.t.Context(), w.store, "data")
	if err != nil {
		return err
	}
	defer key.Zero()
	v, err := luks.Open(w.dev, record, key)
	v.Close()
	return err
}

func wantCode(t *testing.T, err error, want code.Code) {
	t.Helper()
	if c, _ := code.Of(err); c != want {
		t.Errorf("%v, want %s", err, want)
	}
}

func TestCreate(t *testing.T) {
	w := newWorld(t)
	if _, _, err := Get(t.Context(), w.store, "data"); err == nil {
		t.Error("opens what was never made")
	} else {
		wantCode(t, err, code.VolumeUnknown)
	}
	if err := w.create(-1); err != nil {
		t.Fatal(err)
	}
	record, key, err := Get(t.Context(), w.store, "data")
	if err != nil || key.Len() != keySize || record.Integrity != luks.IntegrityHMAC {
		t.Fatalf("%+v, %v", record, err)
	}
	defer key.Zero()
	v, err := luks.Open(w.dev, record, key)
	if err != nil {
		t.Fatal(err)
	}
	v.Close()
	l, err := layoutOf(record, size)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.CheckSuperblock(w.dev.b[l.Offset:][:luks.SuperblockBytes]); err != nil {
		t.Error(err)
	}
	if !bytes.Equal(w.m.b[:l.Provided*512], make([]byte, l.Provided*512)) || w.m.removed {
		t.Error("not every sector was written")
	}
	if len(w.store.blobs) != 1 {
		t.Errorf("%d entries are left", len(w.store.blobs))
	}
	// Never again, whatever the disk shows.
	before := bytes.Clone(w.dev.b)
	for _, b := range [][]byte{w.dev.b, make([]byte, size)} {
		w.dev.b = b
		wantCode(t, w.create(-1), code.VolumeExists)
	}
	if !bytes.Equal(w.dev.b, make([]byte, size)) || w.opens != 1 || len(before) != size {
		t.Error("a refused create wrote something")
	}
}

// Cut at every write, create can be called again, and only then does the
// volume open.
func TestCutAnywhere(t *testing.T) {
	for cut := range 4 + size>>20 {
		w := newWorld(t)
		mapped := -1
		if w.dev.left = cut; cut >= 4 {
			w.dev.left, mapped = -1, cut-4
		}
		err := w.create(mapped)
		if !errors.Is(err, errCut) {
			if err == nil && cut >= 4 { // more writes than there are
				continue
			}
			t.Fatalf("cut at %d: %v", cut, err)
		}
		if w.m != nil && !w.m.removed {
			t.Errorf("cut at %d: the mapping stays", cut)
		}
		_, _, err = Get(t.Context(), w.store, "data")
		wantCode(t, err, code.VolumeUnfinished)
		w.dev.left = -1
		if err := w.create(-1); err != nil {
			t.Errorf("cut at %d, again: %v", cut, err)
		}
		record, key, err := Get(t.Context(), w.store, "data")
		if err != nil {
			t.Fatal(err)
		}
		v, err := luks.Open(w.dev, record, key)
		if err != nil {
			t.Errorf("cut at %d, again: %v", cut, err)
		}
		v.Close()
		key.Zero()
	}
}

// Nothing is written to a device that holds something, anywhere.
func TestDeviceIsNotBlank(t *testing.T) {
	put := func(at int, s string) func([]byte) { return func(b []byte) { copy(b[at:], s) } }
	for name, tc := range map[string]struct {
		change func([]byte)
		want   string
	}{
		"first byte":   {put(0, "\x01"), "data at 0"},
		"last byte":    {put(size-1, "\x01"), "data at 4194303"},
		"in between":   {put(3<<20+12345, "\x01"), "data at 3158073"},
		"LUKS":         {put(0, "LUKS\xba\xbe"), "LUKS header"},
		"ext4":         {put(0x438, "\x53\xef"), "ext4"},
		"GPT":          {put(0x200, "EFI PART"), "GPT"},
		"MBR":          {put(0x1fe, "\x55\xaa"), "partition table"},
		"LVM":          {put(0x218, "LVM2 001"), "LVM"},
		"swap":         {put(0xff6, "SWAPSPACE2"), "swap"},
		"hibernation":  {put(0xff6, "S1SUSPEND"), "hibernation"},
		"MD":           {put(0x1000, "\xfc\x4e\x2b\xa9"), "MD array"},
		"Btrfs":        {put(0x10040, "_BHRfS_M"), "Btrfs"},
		"XFS":          {put(0, "XFSB"), "XFS"},
		"a superblock": {put(1<<20, "integrt"), "data at 1048576"},
	} {
		w := newWorld(t)
		tc.change(w.dev.b)
		before := bytes.Clone(w.dev.b)
		err := w.create(-1)
		wantCode(t, err, code.VolumeDevice)
		if err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
		if !bytes.Equal(before, w.dev.b) || len(w.store.blobs) != 0 {
			t.Errorf("%s: something was written", name)
		}
	}
	// Of an unfinished volume, another device is not the one that was promised.
	w := newWorld(t)
	w.dev.left = -1
	if err := w.create(0); !errors.Is(err, errCut) {
		t.Fatal(err)
	}
	w.dev.b[0] ^= 1
	wantCode(t, w.create(-1), code.VolumeDevice)
	w.dev.b[0] ^= 1
	other := newWorld(t)
	other.create(0)
	w.dev.b = other.dev.b
	wantCode(t, w.create(-1), code.VolumeDevice)
}

// With create-if-empty the store's word alone decides between making and
// opening, and a volume and its file system are made once.
func TestCreateIfEmpty(t *testing.T) {
	w := newWorld(t)
	wantCode(t, createOrOpen(t.Context(), w.store, "data", nil, w.open), code.VolumeUnknown) // not asked to
	w.dev.b[12345] = 1
	wantCode(t, w.use(), code.VolumeDevice) // not blank
	w.dev.b[12345] = 0
	if !bytes.Equal(w.dev.b, make([]byte, size)) || len(w.store.blobs) != 0 || w.made != 0 {
		t.Error("a refusal wrote something")
	}

	w.mkfs = errCut
	if err := w.use(); !errors.Is(err, errCut) || !w.m.removed {
		t.Errorf("mkfs failed: %v, removed %v", err, w.m.removed)
	}
	wantCode(t, w.open(), code.VolumeUnfinished)
	disk := w.dev.b
	w.dev.b = bytes.Repeat([]byte{1}, size)
	wantCode(t, w.use(), code.VolumeDevice) // not the device that was promised
	w.dev.b, w.mkfs = disk, nil
	if err := w.use(); err != nil || w.made != 2 || w.m.removed {
		t.Errorf("unfinished: %v, mkfs %d times, removed %v", err, w.made, w.m.removed)
	}

	if err := w.use(); err != nil || w.made != 2 {
		t.Errorf("finished: %v, mkfs %d times", err, w.made)
	}
	w.dev.b = make([]byte, size) // what the host would like to be made anew
	wantCode(t, w.use(), code.LUKSHeaderDigest)
	if !bytes.Equal(w.dev.b, make([]byte, size)) || w.made != 2 || w.opens != 2 {
		t.Error("a blank disk in place of a finished volume was written to")
	}
	w.store.blobs[w.store.next] = []byte("x")
	wantCode(t, w.use(), code.VolumeUnknown) // something else under that tag
}

// An entry that is no volume is left alone.
func TestOtherEntry(t *testing.T) {
	for _, b := range []string{"x", strings.Repeat("k", 32), strings.Repeat("k", 32) + "{}", strings.Repeat("k", 32) + `{"finished":false,"record":null}`} {
		w := newWorld(t)
		w.store.blobs[1], w.store.next = []byte(b), 1
		_, _, err := Get(t.Context(), w.store, "data")
		wantCode(t, err, code.VolumeUnknown)
		wantCode(t, w.create(-1), code.VolumeUnknown)
		if string(w.store.blobs[1]) != b || len(w.store.blobs) != 1 || !bytes.Equal(w.dev.b, make([]byte, size)) {
			t.Errorf("%q: something was written", b)
		}
	}
}

// FuzzEntry: whatever the store gives, no panic, and a record that is valid.
func FuzzEntry(f *testing.F) {
	f.Add([]byte(strings.Repeat("k", 32) + `{"finished":true,"record":{"digest":"` + strings.Repeat("0", 64) + `","size":1048576,"uuid":"01234567-89ab-cdef-0123-456789abcdef","segment_offset":1048576,"sector_size":4096,"cipher":"aes-xts-plain64","key_bytes":96,"integrity":"hmac-sha256"}}`))
	f.Add([]byte("short"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := &memory{blobs: map[int][]byte{1: b}, next: 1}
		record, key, err := Get(t.Context(), s, "data")
		if err != nil {
			return
		}
		defer key.Zero()
		if err := luks.CheckRecord(record); err != nil || key.Len() != keySize {
			t.Fatal(err)
		}
	})
}
