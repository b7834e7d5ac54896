package luks

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"testing"

	"attestbox/internal/code"
)

func mustLayout(t testing.TB, integrity string, sector int, offset, size int64) *Layout {
	t.Helper()
	s, err := SuiteNamed(integrity)
	if err != nil {
		t.Fatal(err)
	}
	l, err := NewLayout(s, sector, offset, size)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// What cryptsetup 2.6 and the kernel made of a disk of 64 MiB: the table reads
// "0 96736 integrity 254:0 32768 32 J 7 block_size:4096 journal_sectors:792
// interleave_sectors:32768 buffer_sectors:128 ...".
func TestLayoutIsTheKernels(t *testing.T) {
	l := mustLayout(t, IntegrityHMAC, 4096, 16<<20, 64<<20)
	if l.Provided != 96736 || l.JournalSectors() != 792 || l.BufferSectors != 128 || l.MetadataRun != 256 {
		t.Errorf("layout %+v", l)
	}
	// The example of docs/integrity.md.
	want := "696e746567727400" + "04" + "0f" + "2000" + "03000000" + "e079010000000000" + "08000000" + "03" + "0c" + "0000"
	if got := hex.EncodeToString(l.Superblock()[:32]); got != want {
		t.Errorf("superblock %s, want %s", got, want)
	}
	if rest := l.Superblock()[32:]; !zero(rest) {
		t.Error("the rest is not zero")
	}
}

// Tags and data lie inside the device, one behind the other, and overlap
// nothing; the kernel gives as much as fits.
func TestLayoutGeometry(t *testing.T) {
	for _, integrity := range []string{IntegrityHMAC, IntegrityGCM, IntegrityChaCha, IntegrityAEGIS128} {
		for _, sector := range []int64{512, 4096} {
			for _, size := range []int64{4 << 20, 24 << 20, 64 << 20, 64<<20 + 512, 200 << 20, 3<<40 + 4096} {
				l := mustLayout(t, integrity, int(sector), 1<<20, size)
				device := size / 512
				if l.Provided%8 != 0 || l.Provided <= 0 {
					t.Fatalf("%s %d %d: provides %d", integrity, sector, size, l.Provided)
				}
				if last := l.dataSector(l.Provided - 1); last >= device || l.dataSector(l.Provided+7) < device {
					t.Errorf("%s %d %d: last sector at %d of %d", integrity, sector, size, last, device)
				}
				tags := l.Offset + l.initial()*512
				end := tags
				for run, off := l.Run(), int64(0); off < l.Provided*512 && off < 20*run; off += run {
					n := min(run, l.Provided*512-off)
					if at := l.TagOffset(off); at != end {
						t.Fatalf("%s %d %d: tags of %d at %d, want %d", integrity, sector, size, off, at, end)
					}
					last := l.TagOffset(off+n-sector) + int64(l.Suite.TagBytes)
					if data := l.DataOffset(off); last > data {
						t.Fatalf("%s %d %d: tags of %d reach into the data", integrity, sector, size, off)
					}
					if l.DataOffset(off+n-1)-l.DataOffset(off) != n-1 {
						t.Fatalf("%s %d %d: data of %d is not in one piece", integrity, sector, size, off)
					}
					end = l.DataOffset(off+n-1) + 1
				}
				if err := l.CheckSuperblock(l.Superblock()); err != nil {
					t.Error(err)
				}
			}
		}
	}
}

func TestLayoutRefuses(t *testing.T) {
	hmac, _ := SuiteNamed(IntegrityHMAC)
	none, _ := SuiteNamed(IntegrityNone)
	for _, tc := range []struct {
		suite        *Suite
		sector       int
		offset, size int64
		want         code.Code
	}{
		{nil, 4096, 1 << 20, 1 << 30, ""},
		{none, 4096, 1 << 20, 1 << 30, ""},
		{hmac, 1024, 1 << 20, 1 << 30, ""},
		{hmac, 4096, 0, 1 << 30, ""},
		{hmac, 4096, 1<<20 + 512, 1 << 30, ""},
		{hmac, 4096, 1 << 20, 0, code.LUKSTruncated},
		{hmac, 4096, 1 << 20, 1 << 20, code.LUKSTruncated},
		{hmac, 4096, 1 << 20, 1<<20 + 200<<10, code.LUKSTruncated},
		{hmac, 512, 1 << 20, 1<<20 + 1<<20, code.LUKSTruncated},
	} {
		l, err := NewLayout(tc.suite, tc.sector, tc.offset, tc.size)
		if c, _ := code.Of(err); err == nil || c != tc.want {
			t.Errorf("%+v: %+v, %v", tc, l, err)
		}
	}
}

// Every byte of the superblock counts, and each kind of change has its code.
func TestSuperblockAttacks(t *testing.T) {
	l := mustLayout(t, IntegrityHMAC, 4096, 1<<20, 64<<20)
	good := l.Superblock()
	for i := range good {
		b := bytes.Clone(good)
		b[i] ^= 1 << (i % 8)
		if err := l.CheckSuperblock(b); err == nil {
			t.Errorf("byte %d may be changed", i)
		}
	}
	le := binary.LittleEndian
	for _, tc := range []struct {
		name   string
		change func([]byte)
		want   code.Code
	}{
		{"zeros", func(b []byte) { clear(b) }, code.LUKSSuperblock},
		{"magic", func(b []byte) { b[0] = 'I' }, code.LUKSSuperblock},
		{"version 1", func(b []byte) { b[8] = 1 }, code.LUKSSuperblock},
		{"version 5", func(b []byte) { b[8] = 5 }, code.LUKSSuperblock},
		{"salt", func(b []byte) { b[50] = 1 }, code.LUKSSuperblock},
		{"hidden behind", func(b []byte) { b[4095] = 1 }, code.LUKSSuperblock},
		{"recalculating", func(b []byte) { b[offSBFlags] |= sbFlagRecalculating }, code.LUKSSuperblockFlags},
		{"recalculating, 0 done", func(b []byte) { le.PutUint64(b[offSBRecalc:], 8) }, code.LUKSSuperblockFlags},
		{"dirty bitmap", func(b []byte) { b[offSBFlags] |= sbFlagDirtyBitmap }, code.LUKSSuperblockFlags},
		{"journal with MAC", func(b []byte) { b[offSBFlags] |= sbFlagJournalMAC }, code.LUKSSuperblockFlags},
		{"fixed HMAC", func(b []byte) { b[offSBFlags] |= sbFlagFixedHMAC }, code.LUKSSuperblockFlags},
		{"legacy padding", func(b []byte) { b[offSBFlags] = 0; b[8] = 1 }, code.LUKSSuperblockFlags},
		{"unknown flag", func(b []byte) { b[offSBFlags+3] = 0x80 }, code.LUKSSuperblockFlags},
		{"tags of 0", func(b []byte) { le.PutUint16(b[offSBTag:], 0) }, code.LUKSSuperblockTag},
		{"tags of 16", func(b []byte) { le.PutUint16(b[offSBTag:], 16) }, code.LUKSSuperblockTag},
		{"tags of 65535", func(b []byte) { le.PutUint16(b[offSBTag:], 65535) }, code.LUKSSuperblockTag},
		{"blocks of 512", func(b []byte) { b[offSBBlock] = 0 }, code.LUKSSuperblockTag},
		{"blocks of 2^255", func(b []byte) { b[offSBBlock] = 255 }, code.LUKSSuperblockTag},
		{"interleave 2^31", func(b []byte) { b[9] = 31 }, code.LUKSSuperblockSize},
		{"interleave 2^0", func(b []byte) { b[9] = 0 }, code.LUKSSuperblockSize},
		{"no journal", func(b []byte) { le.PutUint32(b[offSBJourn:], 0) }, code.LUKSSuperblockSize},
		{"journal over everything", func(b []byte) { le.PutUint32(b[offSBJourn:], 1<<32-1) }, code.LUKSSuperblockSize},
		{"less data", func(b []byte) { le.PutUint64(b[offSBData:], 8) }, code.LUKSSuperblockSize},
		{"more data", func(b []byte) { le.PutUint64(b[offSBData:], 1<<63) }, code.LUKSSuperblockSize},
		{"bitmap", func(b []byte) { b[offSBBitmap] = 60 }, code.LUKSSuperblockSize},
	} {
		b := bytes.Clone(good)
		tc.change(b)
		if c, _ := code.Of(l.CheckSuperblock(b)); c != tc.want {
			t.Errorf("%s: code %q, want %q", tc.name, c, tc.want)
		}
	}
	for _, n := range []int{0, 512, SuperblockBytes - 1, SuperblockBytes + 1} {
		if c, _ := code.Of(l.CheckSuperblock(make([]byte, n))); c != code.LUKSTruncated {
			t.Errorf("%d bytes: %q", n, c)
		}
	}
	// The superblock of a shorter or longer device, as a host that cut it would write.
	for _, size := range []int64{32 << 20, 64<<20 - 4096, 128 << 20} {
		other := mustLayout(t, IntegrityHMAC, 4096, 1<<20, size)
		if c, _ := code.Of(l.CheckSuperblock(other.Superblock())); c != code.LUKSSuperblockSize {
			t.Errorf("superblock of %d bytes: %q", size, c)
		}
	}
}

// FuzzSuperblock: no panic, and what is accepted is byte for byte what the
// layout gives, for whatever device.
func FuzzSuperblock(f *testing.F) {
	good := mustLayout(f, IntegrityHMAC, 4096, 1<<20, 64<<20).Superblock()
	f.Add(good, int64(64<<20), int64(1<<20), byte(1), true)
	f.Add(make([]byte, SuperblockBytes), int64(24<<20), int64(16<<20), byte(2), false)
	f.Add([]byte(sbMagic), int64(1<<62), int64(4096), byte(4), true)
	f.Fuzz(func(t *testing.T, b []byte, size, offset int64, suite byte, large bool) {
		defer bounded(t, "superblock")()
		sector := 512
		if large {
			sector = 4096
		}
		l, err := NewLayout(&suites[int(suite)%len(suites)], sector, offset, size)
		if err != nil {
			return
		}
		if l.Provided <= 0 || l.Provided*512 > size || l.dataSector(l.Provided-1) >= size/512 || l.JournalSectors() > maxJournalSectors+l.SectionSectors {
			t.Fatalf("layout %+v of %d bytes", l, size)
		}
		padded := make([]byte, SuperblockBytes)
		copy(padded, b)
		if err := l.CheckSuperblock(padded); err == nil && !bytes.Equal(padded, l.Superblock()) {
			t.Fatal("accepted another superblock")
		}
	})
}
