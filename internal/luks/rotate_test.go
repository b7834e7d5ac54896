package luks

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"attestbox/internal/code"
	"attestbox/internal/secret"
	"attestbox/internal/testenv"
	"attestbox/internal/wire"
)

// disk is a device in memory that dies after so many sectors of 512 bytes: a
// write that is cut leaves those before it.
type disk struct {
	b     []byte
	left  int // sectors; below 0: all
	wrote int
	log   []span
}

var errDied = errors.New("the machine died")

func (d *disk) ReadAt(p []byte, off int64) (int, error) { return bytes.NewReader(d.b).ReadAt(p, off) }
func (d *disk) Sync() error                             { return nil }

func (d *disk) WriteAt(p []byte, off int64) (int, error) {
	d.log = append(d.log, span{off, off + int64(len(p))})
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

func silent(string) {}

// openAny opens as a boot does: whole records first, the new key before the old.
func openAny(b []byte, records []wire.HeaderRecord, keys ...*secret.Bytes) error {
	records = WholeFirst(records)
	var last error
	for i := range records {
		for _, k := range keys {
			v, err := Open(bytes.NewReader(b), &records[i], k)
			v.Close()
			if err == nil {
				return nil
			}
			last = err
		}
	}
	return last
}

func union(lists ...[]wire.HeaderRecord) (out []wire.HeaderRecord) {
	for _, l := range lists {
		for _, r := range l {
			if !slices.Contains(out, r) {
				out = append(out, r)
			}
		}
	}
	return out
}

// cuts are the points at which a test cuts n sectors of writes: around the edges
// of each write and in its middle; every fifth sector in the long tests.
func cuts(d *disk) (out []int) {
	at, seen := 0, map[int]bool{}
	add := func(n int) {
		if n >= 0 && n <= d.wrote && !seen[n] {
			seen[n] = true
			out = append(out, n)
		}
	}
	for _, w := range d.log {
		n := int(w.to-w.from) / 512
		for _, i := range []int{0, 1, n / 2, n - 1} {
			add(at + i)
		}
		at += n
	}
	add(at)
	if testenv.Long() {
		for n := 0; n <= d.wrote; n += 5 {
			add(n)
		}
	}
	return out
}

// However a rotation is cut, between writes or inside one, the disk opens by
// one of the two keys and the records that were registered before the first
// write; and the same call goes on to the same end.
func TestRotationCutAnywhere(t *testing.T) {
	for _, integrity := range []string{IntegrityNone, IntegrityHMAC} {
		t.Run(integrity, func(t *testing.T) {
			oldKey, newKey := testKey(t), secret.Random(32)
			header, v, whole, err := Format(oldKey, Params{UUID: testUUID, Integrity: integrity, HdrSize: map[string]int64{IntegrityNone: 64 << 10}[integrity]})
			if err != nil {
				t.Fatal(err)
			}
			v.Close()
			// What an earlier rotation may have left in unused space.
			copy(header[len(header)-8192:], bytes.Repeat([]byte{0xee}, 8192))
			*whole = *must(RecordOf(header))
			base := []wire.HeaderRecord{*whole}
			plan, err := ToNewKey(header, base, oldKey, newKey, nil, Limits{})
			if err != nil {
				t.Fatal(err)
			}
			known := union(base, plan.Records())
			if len(known) != 4 || len(known) > wire.MaxHeaders {
				t.Fatalf("%d records", len(known))
			}
			all := &disk{b: bytes.Clone(header), left: -1}
			if err := plan.Run(all, newKey, silent); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(all.b, plan.final) || !Matches(all.b, &plan.Final) {
				t.Fatal("the end is not what was planned")
			}
			if err := openAny(all.b, []wire.HeaderRecord{plan.Final}, newKey); err != nil {
				t.Fatal(err)
			}
			if err := openAny(all.b, known, oldKey); err == nil {
				t.Error("the old key opens the disk still")
			}
			oldArea := header[plan.Before.AreaOffset : plan.Before.AreaOffset+plan.Before.AreaSize]
			if bytes.Contains(all.b, oldArea[:4096]) {
				t.Error("the old keyslot is there still")
			}
			points := cuts(all)
			if len(points) < 14 {
				t.Fatalf("only %d points", len(points))
			}
			again := 0
			for _, n := range points {
				d := &disk{b: bytes.Clone(header), left: n}
				err := plan.Run(d, newKey, silent)
				if n < all.wrote && !errors.Is(err, errDied) {
					t.Fatalf("cut after %d sectors: %v", n, err)
				}
				if err := openAny(d.b, known, newKey, oldKey); err != nil {
					t.Errorf("cut after %d of %d sectors: %v", n, all.wrote, err)
					continue
				}
				// On again from there, with the records that are registered.
				next, err := ToNewKey(d.b, known, oldKey, newKey, nil, Limits{})
				if err != nil {
					t.Errorf("cut after %d sectors, going on: %v", n, err)
					continue
				}
				var matching []wire.HeaderRecord
				for _, r := range known {
					if Matches(d.b, &r) {
						matching = append(matching, r)
					}
				}
				then := union(matching, next.Records())
				if len(then) > wire.MaxHeaders {
					t.Errorf("cut after %d sectors: %d records to go on", n, len(then))
				}
				if next.Final == plan.Final {
					again++
				}
				if n == all.wrote && (len(next.steps) > 0 || next.Final != plan.Final) {
					t.Errorf("a finished rotation has %d steps to go", len(next.steps))
				}
				d.left = (n*7)%97 + 1 // and dies once more
				if err := next.Run(d, newKey, silent); err != nil && !errors.Is(err, errDied) {
					t.Errorf("cut after %d sectors, going on: %v", n, err)
				}
				if err := openAny(d.b, then, newKey, oldKey); err != nil {
					t.Errorf("cut after %d sectors and again: %v", n, err)
				}
			}
			if again < 3 || again == len(points) {
				t.Errorf("%d of %d went on with the same plan", again, len(points))
			}
		})
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// A rotation that is given up leaves the old key alone, from wherever the
// primary header is still the old one; after that there is no way back.
func TestRotationTakenBack(t *testing.T) {
	oldKey, newKey := testKey(t), secret.Random(32)
	v := newVictim(t)
	base := []wire.HeaderRecord{*v.record}
	plan := must(ToNewKey(v.header, base, oldKey, newKey, nil, Limits{}))
	known := union(base, plan.Records())
	all := &disk{b: bytes.Clone(v.header), left: -1}
	if err := plan.Run(all, newKey, silent); err != nil {
		t.Fatal(err)
	}
	back := 0
	for _, n := range cuts(all) {
		d := &disk{b: bytes.Clone(v.header), left: n}
		plan.Run(d, newKey, silent)
		r, err := ToOldKey(d.b, known, oldKey, Limits{})
		if err != nil {
			if c, _ := code.Of(err); c != code.LUKSWrongKey || openAny(d.b, known, newKey) != nil {
				t.Errorf("after %d sectors: %v", n, err)
			}
			continue
		}
		back++
		then := union(known[:2], r.Records())
		d.left = 40
		if err := r.Run(d, oldKey, silent); errors.Is(err, errDied) {
			if err := openAny(d.b, then, oldKey); err != nil {
				t.Errorf("after %d sectors, cut on the way back: %v", n, err)
			}
			d.left = -1
			r = must(ToOldKey(d.b, then, oldKey, Limits{}))
			if err := r.Run(d, oldKey, silent); err != nil {
				t.Error(err)
			}
		} else if err != nil {
			t.Error(err)
		}
		if err := openAny(d.b, []wire.HeaderRecord{r.Final}, oldKey); err != nil {
			t.Errorf("after %d sectors, taken back: %v", n, err)
		}
	}
	if back < 3 {
		t.Errorf("only %d were taken back", back)
	}
}

// A device that loses or changes a write is noticed before the next step.
func TestRotationNoticesBadDevice(t *testing.T) {
	v := newVictim(t)
	newKey := secret.Random(32)
	for at := range 4 {
		plan := must(ToNewKey(v.header, []wire.HeaderRecord{*v.record}, v.key, newKey, nil, Limits{}))
		d := &lossy{disk{b: bytes.Clone(v.header), left: -1}, at}
		if err := plan.Run(d, newKey, silent); err == nil {
			t.Errorf("write %d was lost unnoticed", at)
		}
		if err := openAny(d.b, union([]wire.HeaderRecord{*v.record}, plan.Records()), newKey, v.key); err != nil {
			t.Errorf("write %d lost: %v", at, err)
		}
	}
}

type lossy struct {
	disk
	skip int
}

func (d *lossy) WriteAt(p []byte, off int64) (int, error) {
	if d.skip--; d.skip == -1 {
		return len(p), nil
	}
	return d.disk.WriteAt(p, off)
}

func TestPlanRotationRefuses(t *testing.T) {
	v := newVictim(t)
	newKey := secret.Random(32)
	small, vol, rec, err := Format(v.key, Params{UUID: testUUID, Integrity: IntegrityNone, HeaderArea: suites[0].minHeaderArea()})
	if err != nil {
		t.Fatal(err)
	}
	vol.Close()
	changed := bytes.Clone(v.header)
	changed[len(changed)-1] ^= 1
	for _, tc := range []struct {
		name     string
		area     []byte
		rec      *wire.HeaderRecord
		old, new *secret.Bytes
		want     code.Code
	}{
		{"wrong key", v.header, v.record, secret.Random(32), newKey, code.LUKSWrongKey},
		{"changed header", changed, v.record, v.key, newKey, code.LUKSHeaderDigest},
		{"no room", small, rec, v.key, newKey, code.LUKSAreaBounds},
		{"short key", v.header, v.record, v.key, secret.Random(16), ""},
		{"secondary copy", v.header, must(CopyRecordOf(v.header, wire.ScopeSecondary)), v.key, newKey, ""},
	} {
		_, err := PlanRotation(tc.area, tc.rec, tc.old, tc.new, nil, Limits{})
		if c, _ := code.Of(err); err == nil || c != tc.want {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.want)
		}
	}
}

// What a scoped record covers is the copy and the area; each of their bytes
// counts, and nothing else does.
func TestScopedRecords(t *testing.T) {
	v := newVictim(t)
	for _, scope := range []string{wire.ScopePrimary, wire.ScopeSecondary} {
		r := must(CopyRecordOf(v.header, scope))
		at := int64(0)
		if scope == wire.ScopeSecondary {
			at = r.HdrSize
		}
		inside := func(i int64) bool {
			return i >= at && i < at+r.HdrSize || i >= r.AreaOffset && i < r.AreaOffset+r.AreaSize
		}
		h := bytes.Clone(v.header)
		for i := int64(0); i < r.Size; i += 509 {
			h[i] ^= 0x10
			if Matches(h, r) == inside(i) {
				t.Fatalf("%s: byte %d: covered is %v", scope, i, inside(i))
			}
			if i%(509*200) == 0 { // matching is what opening asks
				vol, err := Open(bytes.NewReader(h), r, v.key)
				vol.Close()
				if c, _ := code.Of(err); inside(i) && c != code.LUKSHeaderDigest || !inside(i) && err != nil {
					t.Fatalf("%s: byte %d changed: %v", scope, i, err)
				}
			}
			h[i] ^= 0x10
		}
		// A copy that is registered by mistake still has to keep the rules.
		for name, edit := range map[string]func(h []byte){
			"magic of the other copy": func(h []byte) { copy(h[at:], counterpart(h[at : at+r.HdrSize])[:offVersion]) },
			"offset of the other": func(h []byte) {
				copy(h[at+offHdrOffset:], counterpart(h[at : at+r.HdrSize])[offHdrOffset:offHdrOffset+8])
			},
			"checksum":    func(h []byte) { h[at+offCsum] ^= 1 },
			"metadata":    func(h []byte) { h[at+binSize+2] ^= 1; fixCopy(h[at : at+r.HdrSize]) },
			"version":     func(h []byte) { h[at+offVersion+1] = 3; fixCopy(h[at : at+r.HdrSize]) },
			"padding":     func(h []byte) { h[at+offPadding] = 3; fixCopy(h[at : at+r.HdrSize]) },
			"header size": func(h []byte) { h[at+offHdrSize+6] = 0x80; fixCopy(h[at : at+r.HdrSize]) },
		} {
			h := bytes.Clone(v.header)
			edit(h)
			forged := *r
			sum := digestCovered(h, &forged)
			forged.Digest = hex.EncodeToString(sum[:])
			vol, err := Open(bytes.NewReader(h), &forged, v.key)
			vol.Close()
			if c, _ := code.Of(err); err == nil || c == code.LUKSHeaderDigest {
				t.Errorf("%s, %s: %v", scope, name, err)
			}
		}
		if res, ok := Check(v.header, r, Limits{}); !ok {
			t.Errorf("%s: %+v", scope, res)
		}
		// The area of another keyslot than the metadata names.
		moved := *r
		moved.AreaOffset += areaAlign
		sum := digestCovered(v.header, &moved)
		moved.Digest = hex.EncodeToString(sum[:])
		vol, err := Open(bytes.NewReader(v.header), &moved, v.key)
		vol.Close()
		if err == nil {
			t.Errorf("%s: opened with another area than the header's", scope)
		}
		// A whole area's digest is no copy's.
		whole := *v.record
		whole.Digest = r.Digest
		if Matches(v.header, &whole) {
			t.Error("a copy's digest counts for the whole area")
		}
	}
	for what, edit := range map[string]func(*wire.HeaderRecord){
		"unknown scope":    func(r *wire.HeaderRecord) { r.Scope = "both" },
		"no header size":   func(r *wire.HeaderRecord) { r.HdrSize = 0 },
		"negative size":    func(r *wire.HeaderRecord) { r.HdrSize = -minHdrSize },
		"area in headers":  func(r *wire.HeaderRecord) { r.AreaOffset = 0 },
		"area behind":      func(r *wire.HeaderRecord) { r.AreaOffset = r.Size },
		"area overflowing": func(r *wire.HeaderRecord) { r.AreaOffset = 1<<63 - areaAlign },
		"odd area":         func(r *wire.HeaderRecord) { r.AreaOffset++ },
		"no area":          func(r *wire.HeaderRecord) { r.AreaSize = 0 },
		"huge area":        func(r *wire.HeaderRecord) { r.AreaSize = 1<<63 - areaAlign },
		"whole with parts": func(r *wire.HeaderRecord) { r.Scope = wire.ScopeWhole },
	} {
		r := *must(CopyRecordOf(v.header, wire.ScopePrimary))
		edit(&r)
		if c, _ := code.Of(CheckRecord(&r)); c != code.LUKSRecord {
			t.Errorf("%s: %v", what, CheckRecord(&r))
		}
	}
}

func fixCopy(h []byte) {
	clear(h[offCsum : offCsum+lenCsum])
	sum := checksum(h)
	copy(h[offCsum:], sum[:])
}

// cryptsetup opens what a rotation of its own header leaves, with the new key
// and not with the passphrase; and it repairs nothing.
func TestCryptsetupAfterRotation(t *testing.T) {
	img := write(t, "disk", make([]byte, 20<<20))
	pass := write(t, "pass", []byte("an installer's passphrase"))
	if out, err := cryptsetup(t, "luksFormat", "--batch-mode", "--type", "luks2", "--pbkdf", "argon2id", "--pbkdf-force-iterations", "4", "--pbkdf-memory", "32", "--key-file", pass, img); err != nil {
		t.Fatalf("luksFormat: %v\n%s", err, out)
	}
	f, err := os.OpenFile(img, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	area := must(ReadHeader(f))
	passphrase, newKey := secret.Copy([]byte("an installer's passphrase")), secret.Random(32)
	records := must(KnownRecords(area))
	plan, err := ToNewKey(area, records, passphrase, newKey, nil, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if err := plan.Run(f, newKey, silent); err != nil {
		t.Fatal(err)
	}
	before := sha256.Sum256(must(os.ReadFile(img)))
	kf := write(t, "key", newKey.Bytes())
	if out, err := cryptsetup(t, "open", "--test-passphrase", "--key-file", kf, img); err != nil {
		t.Errorf("the new key: %v\n%s", err, out)
	}
	if _, err := cryptsetup(t, "open", "--test-passphrase", "--key-file", pass, img); err == nil {
		t.Error("cryptsetup opens it with the old passphrase")
	}
	if out, err := cryptsetup(t, "luksDump", img); err != nil || strings.Contains(out, "argon2") || !strings.Contains(out, "pbkdf2") {
		t.Errorf("luksDump: %v\n%s", err, out)
	}
	if sha256.Sum256(must(os.ReadFile(img))) != before {
		t.Error("cryptsetup changed the header")
	}
}

// Enrolment cut anywhere: what the header itself shows is opened by passphrase
// or key, by us and by cryptsetup, which repairs a half-written copy itself.
func TestEnrolmentCutAnywhere(t *testing.T) {
	img := write(t, "disk", make([]byte, 3<<20))
	pass := write(t, "pass", []byte("an installer's passphrase"))
	if out, err := cryptsetup(t, "luksFormat", "--batch-mode", "--type", "luks2", "--pbkdf", "argon2id", "--pbkdf-force-iterations", "4", "--pbkdf-memory", "32",
		"--offset", "2048", "--luks2-keyslots-size", "1015808", "--key-file", pass, img); err != nil {
		t.Fatalf("luksFormat: %v\n%s", err, out)
	}
	whole := must(os.ReadFile(img))
	passphrase, newKey := secret.Copy([]byte("an installer's passphrase")), secret.Random(32)
	kf := write(t, "key", newKey.Bytes())
	plan, err := ToNewKey(whole, must(KnownRecords(whole)), passphrase, newKey, nil, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	all := &disk{b: bytes.Clone(whole), left: -1}
	if err := plan.Run(all, newKey, silent); err != nil {
		t.Fatal(err)
	}
	for i, n := range cuts(all) {
		d := &disk{b: bytes.Clone(whole), left: n}
		plan.Run(d, newKey, silent)
		known, err := KnownRecords(d.b)
		if err != nil {
			t.Errorf("cut after %d of %d sectors: %v", n, all.wrote, err)
			continue
		}
		if err := openAny(d.b, known, newKey, passphrase); err != nil {
			t.Errorf("cut after %d of %d sectors: %v", n, all.wrote, err)
		}
		if i%4 == 0 {
			cut := write(t, "cut", d.b)
			_, err1 := cryptsetup(t, "open", "--test-passphrase", "--key-file", kf, cut)
			_, err2 := cryptsetup(t, "open", "--test-passphrase", "--key-file", pass, cut)
			if err1 != nil && err2 != nil {
				t.Errorf("cut after %d of %d sectors: cryptsetup opens it with neither", n, all.wrote)
			}
			os.Remove(cut)
		}
		next, err := ToNewKey(d.b, known, passphrase, newKey, nil, Limits{})
		if err != nil {
			t.Errorf("cut after %d sectors, going on: %v", n, err)
			continue
		}
		d.left = -1
		if err := next.Run(d, newKey, silent); err != nil {
			t.Errorf("cut after %d sectors, going on: %v", n, err)
		}
		if openAny(d.b, []wire.HeaderRecord{next.Final}, newKey) != nil || openAny(d.b, must(KnownRecords(d.b)), passphrase) == nil {
			t.Errorf("cut after %d sectors: in the end another key opens it", n)
		}
	}
}

// FuzzCopyRecord gives any bytes as one header copy, its checksum made valid,
// beside nothing. What is accepted stands for a header area that keeps the rules,
// and its record matches that copy.
func FuzzCopyRecord(f *testing.F) {
	v := newVictimFrom(f, &endless{}) // every worker process needs the same one
	f.Add(seedHeader(v), false)
	f.Add(counterpart(v.header[:minHdrSize])[:len(seedHeader(v))], true)
	f.Fuzz(func(t *testing.T, data []byte, second bool) {
		defer bounded(t, "header copy")()
		if len(data) > minHdrSize {
			return
		}
		at, scope := 0, wire.ScopePrimary
		if second {
			at, scope = minHdrSize, wire.ScopeSecondary
		}
		area := make([]byte, len(v.header))
		copy(area[2*minHdrSize:], v.header[2*minHdrSize:])
		copy(area[at:], data)
		fixCopy(area[at : at+minHdrSize])
		r, err := CopyRecordOf(area, scope)
		if err != nil {
			return
		}
		if !Matches(area, r) {
			t.Fatal("a record that was just made does not match")
		}
		whole, err := assemble(area, r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := RecordOf(whole); err != nil {
			t.Fatalf("what a scoped record stands for breaks a rule: %v", err)
		}
	})
}
