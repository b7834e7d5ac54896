package measure

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"attestbox/internal/measure/igvm"
	"attestbox/internal/measure/igvm/igvmtest"
	"attestbox/internal/testenv"
)

func measureIGVM(t *testing.T, data []byte) *IGVMResult {
	t.Helper()
	f, err := igvm.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	r, err := IGVM(f)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// A launch with plain firmware and an IGVM file that loads the same pages in the
// same order have the same digest. GCE's profile is the one whose page types an IGVM
// file can say: it has no zero pages of the processor's own.
func TestIGVMIsTheSameLaunch(t *testing.T) {
	tables := synthetic
	tables.Sections = slices.DeleteFunc(slices.Clone(tables.Sections), func(s Section) bool { return s.Type == SectionSVSMCaa })
	fw := make([]byte, 16*PageSize)
	if err := tables.WriteTables(fw); err != nil {
		t.Fatal(err)
	}
	plain, err := SNP(Config{Firmware: fw, Kernel: []byte("kernel"), Initrd: []byte("initrd"), Append: "quiet", VCPUs: 1, VMM: GCE})
	if err != nil {
		t.Fatal(err)
	}
	img, err := ParseImage(fw)
	if err != nil {
		t.Fatal(err)
	}
	items := []igvmtest.Item{igvmtest.Platform(igvm.SEVSNP, igvmtest.Mask), igvmtest.Policy(0x30000)}
	base := firmwareGPA(fw)
	for off := 0; off < len(fw); off += PageSize {
		items = append(items, igvmtest.Page(base+uint64(off), igvm.PageNormal, 0, fw[off:off+PageSize]))
	}
	for _, s := range img.Sections {
		for gpa := uint64(s.GPA); gpa < s.end(); gpa += PageSize {
			switch s.Type {
			case SectionSECMemory:
				items = append(items, igvmtest.Page(gpa, igvm.PageNormal, igvm.FlagUnmeasured, nil))
			case SectionSecrets:
				items = append(items, igvmtest.Page(gpa, igvm.PageSecrets, 0, nil))
			case SectionCPUID:
				items = append(items, igvmtest.Page(gpa, igvm.PageCPUID, 0, nil))
			case SectionKernelHashes:
				items = append(items, igvmtest.Page(gpa, igvm.PageNormal, 0, plain.Hashes.page(img.HashTableGPA)[:]))
			default:
				t.Fatalf("section of type %v in the synthetic firmware", s.Type)
			}
		}
	}
	items = append(items, igvmtest.VP(0, vmsaGPA, plain.First[:]))
	r := measureIGVM(t, igvmtest.File(1, items...))
	if r.Digest != plain.Digest {
		t.Errorf("digest %x, the plain launch has %x", r.Digest, plain.Digest)
	}
	if r.Complete || r.Why != whyIGVM {
		t.Errorf("complete %v, %q", r.Complete, r.Why)
	}
	if first := r.Steps[0]; first.Size != uint64(len(fw)) || first.After != plain.Steps[0].After {
		t.Errorf("first step %+v, want the whole firmware with %x after it", first, plain.Steps[0].After)
	}
}

// random is a file of every kind of page, in any order.
func random(rng *rand.Rand) []byte {
	items := []igvmtest.Item{}
	mask := uint32(igvmtest.Mask)
	if rng.IntN(2) == 0 { // headers for other platforms do not count
		items = append(items, igvmtest.Platform(igvm.SEVES, mask<<1))
	}
	other := len(items) > 0
	items = append(items, igvmtest.Platform(igvm.SEVSNP, mask), igvmtest.Policy(rng.Uint64()))
	gpa := rng.Uint64N(1<<20) * igvm.PageSize
	data := func(n int) []byte {
		b := make([]byte, n)
		for i := range 16 {
			b[rng.IntN(n)] = byte(i + 1)
		}
		return b
	}
	for i := range uint32(2 + rng.IntN(30)) {
		if rng.IntN(4) == 0 {
			gpa += rng.Uint64N(100) * igvm.PageSize
		}
		switch rng.IntN(9) {
		case 0, 1, 2:
			items = append(items, igvmtest.Page(gpa, igvm.PageNormal, 0, data(igvm.PageSize)))
		case 3:
			items = append(items, igvmtest.Page(gpa, igvm.PageNormal, uint32(rng.IntN(4))*igvm.FlagUnmeasured, nil))
		case 4:
			items = append(items, igvmtest.Page(gpa, igvm.PageType(rng.IntN(4)), uint32(rng.IntN(2))*igvm.FlagUnmeasured, nil))
		case 5:
			size := uint64(1+rng.IntN(3)) * igvm.PageSize
			items = append(items, igvmtest.Area(i, size), igvmtest.Parameter(0x30c, i, 8), igvmtest.Insert(i, gpa))
			gpa += size
		case 6:
			items = append(items, igvmtest.Required(gpa, igvm.PageSize))
		case 7:
			gpa = (gpa + igvm.LargePage - 1) &^ (igvm.LargePage - 1)
			p := igvmtest.Page(gpa, igvm.PageNormal, igvm.FlagLarge, nil)
			if rng.IntN(8) == 0 {
				p = igvmtest.Page(gpa, igvm.PageNormal, igvm.FlagLarge, data(igvm.LargePage))
			}
			items = append(items, p)
			gpa += igvm.LargePage
		case 8:
			p := igvmtest.Page(gpa, igvm.PageNormal, 0, data(igvm.PageSize))
			if other {
				p.Content[8] = 2 // SEV-ES alone
			}
			items = append(items, p)
		}
		gpa += igvm.PageSize
	}
	vmsa := igvmtest.VMSA()
	vmsa[rng.IntN(0x100)] ^= 1
	items = append(items, igvmtest.VP(0, vmsaGPA, vmsa))
	return igvmtest.File(uint32(1+rng.IntN(2)), items...)
}

// Digests of random files against igvmmeasure's algorithm in another language.
func TestIGVMOracle(t *testing.T) {
	testenv.Tool(t, "python3", "python3")
	dir := t.TempDir()
	args := []string{filepath.Join("testdata", "igvm", "oracle.py")}
	var ours bytes.Buffer
	rng := rand.New(rand.NewPCG(1, 2))
	const files = 200
	for i := range files {
		data := random(rng)
		name := filepath.Join(dir, fmt.Sprint(i))
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, name)
		r := measureIGVM(t, data)
		fmt.Fprintf(&ours, "%x\n", r.Digest)
	}
	out, err := exec.Command("python3", args...).Output()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out, ours.Bytes()) {
		theirs, mine := strings.Fields(string(out)), strings.Fields(ours.String())
		for i := range mine {
			if i >= len(theirs) || theirs[i] != mine[i] {
				t.Fatalf("file %d of %d: %s, the oracle has %v", i, files, mine[i], theirs[i:min(i+1, len(theirs))])
			}
		}
	}
}

// A change of any byte that is loaded and measured changes the digest; of a
// parameter area or unmeasured page it does not.
func TestIGVMCovers(t *testing.T) {
	page := bytes.Repeat([]byte{1}, igvm.PageSize)
	items := []igvmtest.Item{igvmtest.Platform(igvm.SEVSNP, igvmtest.Mask),
		igvmtest.Page(0x10000, igvm.PageNormal, 0, page),
		igvmtest.Page(0x20000, igvm.PageNormal, igvm.FlagUnmeasured, page),
		igvmtest.Page(0x30000, igvm.PageCPUID, 0, page),
		igvmtest.VP(0, vmsaGPA, igvmtest.VMSA())}
	data := igvmtest.File(1, items...)
	want := measureIGVM(t, data).Digest
	start := len(data) - 4*igvm.PageSize
	for i, measured := range []bool{true, false, false, true} {
		for _, off := range []int{0, 100, igvm.PageSize - 1} {
			b := bytes.Clone(data)
			b[start+i*igvm.PageSize+off] ^= 0x10
			if got := measureIGVM(t, b).Digest; (got != want) != measured {
				t.Errorf("page %d, byte %d: digest changed: %v", i, off, got != want)
			}
		}
	}
}

func TestIGVMRefused(t *testing.T) {
	snp := igvmtest.Platform(igvm.SEVSNP, igvmtest.Mask)
	for name, tc := range map[string]struct {
		items []igvmtest.Item
		want  string
	}{
		"another platform": {[]igvmtest.Item{igvmtest.Platform(igvm.TDX, igvmtest.Mask), igvmtest.Page(0, 0, 0, nil)}, "not for SEV-SNP"},
		"nothing loaded":   {[]igvmtest.Item{snp, igvmtest.Required(0, igvm.PageSize)}, "loads nothing"},
		"relocatable":      {[]igvmtest.Item{snp, igvmtest.Relocatable(0x1000, 0x1000, 0x1000, 0, 0x100000), igvmtest.Page(0x1000, 0, 0, nil)}, "where the host puts it"},
		"page tables":      {[]igvmtest.Item{snp, igvmtest.PageTables(0x1000, 0x2000, 0x1000), igvmtest.Page(0x1000, 0, 0, nil)}, "where the host puts it"},
	} {
		f, err := igvm.Parse(igvmtest.File(1, tc.items...))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if r, err := IGVM(f); r != nil || !errors.Is(err, ErrIGVM) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}

// What QEMU with KVM will do otherwise is said.
func TestIGVMNotes(t *testing.T) {
	snp := igvmtest.Platform(igvm.SEVSNP, igvmtest.Mask)
	vp := igvmtest.VP(0, vmsaGPA, igvmtest.VMSA())
	page := igvmtest.Page(0x1000, igvm.PageNormal, 0, nil)
	otherCR0 := igvmtest.VMSA()
	otherCR0[0x158] = 0x21
	for name, tc := range map[string]struct {
		items []igvmtest.Item
		want  []string
	}{
		"as coconut does it":    {[]igvmtest.Item{igvmtest.Area(1, 0x1000), igvmtest.Insert(1, 0x5000), page, vp}, nil},
		"no vCPU":               {[]igvmtest.Item{page}, []string{"no vCPU context"}},
		"vCPU first":            {[]igvmtest.Item{vp, page}, []string{"follows a vCPU"}},
		"vCPU elsewhere":        {[]igvmtest.Item{page, igvmtest.VP(0, 0x9000, igvmtest.VMSA())}, []string{"KVM measures every vCPU at 0xfffffffff000"}},
		"two vCPUs":             {[]igvmtest.Item{page, vp, igvmtest.VP(1, vmsaGPA, igvmtest.VMSA())}, []string{"vCPU 0 alone"}},
		"CR0":                   {[]igvmtest.Item{page, igvmtest.VP(0, vmsaGPA, otherCR0)}, []string{"CR0 0x21"}},
		"shared":                {[]igvmtest.Item{igvmtest.Page(0x7000, 0, igvm.FlagShared, nil), igvmtest.Page(0x8000, 0, igvm.FlagShared, nil), page, vp}, []string{"is shared"}},
		"parameters after page": {[]igvmtest.Item{page, igvmtest.Area(1, 0x1000), igvmtest.Insert(1, 0x5000), vp}, []string{"follows page data"}},
	} {
		r := measureIGVM(t, igvmtest.File(1, append([]igvmtest.Item{snp}, tc.items...)...))
		if len(r.Notes) != len(tc.want) {
			t.Errorf("%s: notes %q", name, r.Notes)
			continue
		}
		for i, want := range tc.want {
			if !strings.Contains(r.Notes[i], want) {
				t.Errorf("%s: note %q, want %q", name, r.Notes[i], want)
			}
		}
	}
}

// The known answer of openvmm's igvmfilegen, an implementation that starts guests on
// hardware (MIT licence, snp.rs, test existing_measurement_fixture_digest_is_unchanged):
// measured, zero, unmeasured and shared pages.
func TestIGVMKnownAnswer(t *testing.T) {
	data := make([]byte, igvm.PageSize)
	data[1] = 5
	items := []igvmtest.Item{igvmtest.Platform(igvm.SEVSNP, igvmtest.Mask), igvmtest.Policy(0x3001f)}
	for n := range uint64(10) {
		var contents []byte
		if n == 0 || n == 5 {
			contents = data
		}
		items = append(items, igvmtest.Page(n*igvm.PageSize, igvm.PageNormal, uint32(n/5)*igvm.FlagUnmeasured, contents))
	}
	items = append(items, igvmtest.Page(10*igvm.PageSize, igvm.PageNormal, 0, data), igvmtest.Page(20*igvm.PageSize, igvm.PageNormal, igvm.FlagShared, data))
	want := [48]byte{
		136, 154, 25, 56, 108, 130, 226, 33, 155, 222, 211, 233, 42, 118, 78, 140, 0, 194, 155, 150, 109, 4, 166, 98,
		188, 166, 207, 223, 236, 100, 123, 144, 81, 153, 86, 83, 57, 7, 131, 132, 101, 87, 145, 50, 99, 215, 28, 79}
	if r := measureIGVM(t, igvmtest.File(1, items...)); r.Digest != want {
		t.Errorf("digest %x, want %x", r.Digest, want)
	}
}

// The pages that a report is searched with are those of the digest, for any file.
func TestIGVMLoads(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for range 100 {
		f, err := igvm.Parse(random(rng))
		if err != nil {
			t.Fatal(err)
		}
		r, err := IGVM(f)
		if err != nil {
			t.Fatal(err)
		}
		if got := igvmDigest(f, igvmLoads(f, f.For(r.Supported)), 0); got != r.Digest {
			t.Fatalf("digest %x, want %x", got, r.Digest)
		}
	}
}

// A host that loads a file otherwise is found, by the digest of a file that says so.
func TestIGVMAgainst(t *testing.T) {
	snp := igvmtest.Platform(igvm.SEVSNP, igvmtest.Mask)
	page := func(gpa uint64) igvmtest.Item {
		return igvmtest.Page(gpa, igvm.PageNormal, 0, bytes.Repeat([]byte{7}, igvm.PageSize))
	}
	area, insert := igvmtest.Area(1, 0x1000), igvmtest.Insert(1, 0x80000)
	early := igvmtest.VMSA()
	early[0x158] = 0x21
	vp := igvmtest.VP(0, vmsaGPA, igvmtest.VMSA())
	file := func(items ...igvmtest.Item) []byte {
		return igvmtest.File(1, append([]igvmtest.Item{snp}, items...)...)
	}
	says := []igvmtest.Item{page(0x1000), page(0x5000), page(0x6000), area, insert, igvmtest.VP(0, 0x90000, early), page(0x7000), igvmtest.VP(1, 0x91000, igvmtest.VMSA())}
	for name, tc := range map[string]struct {
		file, host []byte
		want       []string
	}{
		"as it says": {file(says...), file(says...), nil},
		"QEMU and KVM": {file(says...), file(page(0x1000), area, insert, page(0x5000), page(0x6000), page(0x7000), vp),
			[]string{igvmWayNames[0], igvmWayNames[2], igvmWayNames[3], igvmWayNames[5]}},
		"QEMU, a page that seems to go on": {file(page(0x1000), area, insert, page(0x2000), igvmtest.Area(2, 0x1000), igvmtest.Insert(2, 0x90000), vp),
			file(area, insert, page(0x1000), igvmtest.Area(2, 0x1000), igvmtest.Insert(2, 0x90000), page(0x2000), vp),
			[]string{igvmWayNames[0]}},
		"vCPU last": {file(vp, page(0x1000)), file(page(0x1000), vp), []string{igvmWayNames[1]}},
		"CR0":       {file(page(0x1000), igvmtest.VP(0, vmsaGPA, early)), file(page(0x1000), vp), []string{igvmWayNames[3]}},
		"DebugSwap": {file(page(0x1000), vp), file(page(0x1000), igvmtest.VP(0, vmsaGPA, debugSwap())), []string{igvmWayNames[4]}},
		"shared": {file(igvmtest.Page(0, igvm.PageNormal, igvm.FlagShared, nil), page(0x1000), vp), file(igvmtest.Page(0, igvm.PageNormal, 0, nil), page(0x1000), vp),
			[]string{igvmWayNames[7]}},
	} {
		f, err := igvm.Parse(tc.file)
		if err != nil {
			t.Fatal(err)
		}
		got, err := IGVMAgainst(f, measureIGVM(t, tc.host).Digest)
		if err != nil || !slices.Equal(got.Changes, tc.want) || got.Same != (tc.want == nil) {
			t.Errorf("%s: %+v, %v; want %q", name, got, err, tc.want)
		}
	}
	f, err := igvm.Parse(file(says...))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := IGVMAgainst(f, [48]byte{1}); err != nil || got.Same || got.Changes != nil || got.Tried < 64 {
		t.Errorf("another digest: %+v, %v", got, err)
	}
	// The processor's zero page cannot be said by a file.
	f, err = igvm.Parse(file(igvmtest.Page(0x1000, igvm.PageNormal, 0, nil), vp))
	if err != nil {
		t.Fatal(err)
	}
	c := &chain{}
	c.empty("", PageZero, 0x1000, PageSize)
	c.vmsas("", (*[PageSize]byte)(igvmtest.VMSA()), 1)
	if got, err := IGVMAgainst(f, c.ld); err != nil || !slices.Equal(got.Changes, []string{igvmWayNames[6]}) {
		t.Errorf("zero page: %+v, %v", got, err)
	}
}

func debugSwap() []byte {
	b := igvmtest.VMSA()
	b[0x3b0] |= featureDebugSwap
	return b
}
