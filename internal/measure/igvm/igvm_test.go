package igvm_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"attestbox/internal/measure/igvm"
	"attestbox/internal/measure/igvm/igvmtest"
)

var le = binary.LittleEndian

func page(n byte) []byte { return bytes.Repeat([]byte{n}, igvm.PageSize) }

// sample has one of everything.
func sample(version uint32) []byte {
	vbs := igvmtest.Item{Type: igvm.TypeVBSMeasurement, Content: make([]byte, 864)}
	vbs.Content[0] = 4
	return igvmtest.File(version,
		igvmtest.Platform(igvm.SEVSNP, igvmtest.Mask), igvmtest.Platform(igvm.TDX, 2), igvmtest.Platform(igvm.VSM, 4),
		igvmtest.Policy(0x30000),
		igvmtest.Item{Type: igvm.Optional | 0x150, Content: []byte{1, 2, 3}},
		igvmtest.Relocatable(0x200000, 0x1000, 0x1000, 0x100000, 0x400000),
		igvmtest.PageTables(0x300000, 0x4000, 0x1000),
		igvmtest.Area(7, 0x2000), igvmtest.Parameter(0x30c, 7, 0x1000), igvmtest.Insert(7, 0x8000),
		igvmtest.Page(0x1000, igvm.PageNormal, 0, page(1)), igvmtest.Page(0x2000, igvm.PageSecrets, 0, nil),
		igvmtest.Page(0x3000, igvm.PageCPUID, 0, page(2)), igvmtest.Page(0x4000, igvm.PageNormal, igvm.FlagUnmeasured, nil),
		igvmtest.Page(0x400000, igvm.PageNormal, igvm.FlagLarge, nil),
		igvmtest.Required(0x1000, 0x10000), igvmtest.ErrorRange(0x20000, 0x1000), vbs,
		igvmtest.VP(0, igvm.KVMContext, igvmtest.VMSA()),
		igvmtest.Item{Type: igvm.Optional | 0x900, Content: nil})
}

func TestParse(t *testing.T) {
	for _, version := range []uint32{1, 2} {
		f, err := igvm.Parse(sample(version))
		if err != nil {
			t.Fatal(err)
		}
		snp, ok := f.Supports(igvm.SEVSNP)
		if !ok || f.Version != version || len(f.Platforms) != 3 || len(f.Headers) != 17 {
			t.Fatalf("version %d, platforms %v, %d headers", f.Version, f.Platforms, len(f.Headers))
		}
		if p, ok := f.Policy(snp); !ok || p != 0x30000 {
			t.Errorf("policy %v, %v", p, ok)
		}
		n := 0
		for _, h := range f.For(snp) {
			switch {
			case h.Type == igvm.TypePageData && h.GPA == 0x1000:
				if !bytes.Equal(f.Contents(h), page(1)) {
					t.Errorf("contents of the first page are other ones")
				}
				n++
			case h.Type == igvm.TypeVPContext:
				if !bytes.Equal(f.VMSA(h)[:], igvmtest.VMSA()) {
					t.Errorf("the vCPU's page is another one")
				}
				n++
			case h.Type == igvm.TypeParameterInsert:
				if h.Size != 0x2000 {
					t.Errorf("parameter area of %d bytes", h.Size)
				}
				n++
			case h.Type == igvm.TypeVBSMeasurement:
				t.Errorf("a header for another platform")
			}
		}
		if n != 3 {
			t.Errorf("%d of 3 headers seen", n)
		}
	}
}

// Each malformed file is refused, with the reason.
func TestRefused(t *testing.T) {
	snp := igvmtest.Platform(igvm.SEVSNP, igvmtest.Mask)
	p := func(gpa uint64) igvmtest.Item { return igvmtest.Page(gpa, 0, 0, page(1)) }
	vp := func(n uint16) igvmtest.Item { return igvmtest.VP(n, igvm.KVMContext, igvmtest.VMSA()) }
	// with sets the bytes of an item's content from at on.
	with := func(i igvmtest.Item, at int, b ...byte) igvmtest.Item {
		i.Content = bytes.Clone(i.Content)
		copy(i.Content[at:], b)
		return i
	}
	offset := func(i igvmtest.Item, at int, v uint32) igvmtest.Item {
		i.Data = nil
		return with(i, at, le.AppendUint32(nil, v)...)
	}
	notSNP := igvmtest.VMSA()
	notSNP[0x3b0] = 0
	file := func(items ...igvmtest.Item) []byte { return igvmtest.File(1, items...) }
	header := func(at int, v uint32) []byte {
		b := sample(1)
		le.PutUint32(b[at:], v)
		igvmtest.Seal(b)
		return b
	}
	v2 := func(at int, v uint32) []byte {
		b := sample(2)
		le.PutUint32(b[at:], v)
		igvmtest.Seal(b)
		return b
	}
	unsealed := sample(1)
	unsealed[0x20] ^= 1
	for name, tc := range map[string]struct {
		data []byte
		want string
	}{
		"empty":               {nil, "does not begin"},
		"magic":               {header(0, 1), "does not begin"},
		"version 0":           {header(4, 0), "format version 0"},
		"version 3":           {header(4, 3), "format version 3"},
		"version 2, short":    {sample(2)[:0x1e], "ends in its fixed header"},
		"Arm":                 {v2(0x18, 1), "architecture 1"},
		"large pages":         {v2(0x1c, 65536), "pages of 65536"},
		"cut":                 {sample(1)[:len(sample(1))-1], "and says"},
		"longer":              {append(sample(1), 0), "and says"},
		"headers in header":   {header(8, 0x10), "variable headers"},
		"headers at odd":      {header(8, 0x1c), "variable headers"},
		"headers behind end":  {header(12, 1<<30), "variable headers"},
		"headers overflow":    {header(12, 0xfffffff8), "variable headers"},
		"checksum":            {unsealed, "checksum"},
		"no platform":         {file(), "no platform"},
		"platform of 2 bits":  {file(igvmtest.Platform(igvm.SEVSNP, 3)), "not one bit"},
		"platform of 0 bits":  {file(igvmtest.Platform(igvm.SEVSNP, 0)), "not one bit"},
		"unknown platform":    {file(igvmtest.Platform(9, 1)), "platform 9 is unknown"},
		"platform version":    {file(with(snp, 6, 2)), "version 2"},
		"platform twice":      {file(snp, igvmtest.Platform(igvm.SEVSNP, 2)), "there already"},
		"mask twice":          {file(snp, igvmtest.Platform(igvm.TDX, 1)), "there already"},
		"platform, short":     {file(igvmtest.Item{Type: 1, Content: snp.Content[:8]}), "want 16"},
		"order of sections":   {file(snp, p(0), igvmtest.Policy(0)), "not allowed at this place"},
		"platform at the end": {file(snp, p(0), igvmtest.Platform(igvm.TDX, 2)), "not allowed at this place"},
		"init first":          {file(igvmtest.Policy(0), snp), "mask 0x1, and the platforms have 0x0"},
		"unknown type":        {file(snp, igvmtest.Item{Type: 0x320, Content: nil}), "needed and not known"},
		"reserved type":       {file(snp, igvmtest.Item{Type: 0x306, Content: make([]byte, 8)}), "needed and not known"},
		"type out of range":   {file(snp, igvmtest.Item{Type: 0x900}), "not allowed at this place"},
		"size of a header":    {file(snp, igvmtest.Item{Type: igvm.TypePageData, Content: make([]byte, 23)}), "want 24"},
		"mask 0":              {file(snp, with(p(0), 8, 0)), "mask 0x0"},
		"mask of nobody":      {file(snp, with(p(0), 8, 3)), "mask 0x3"},
		"mask of all bits":    {file(snp, with(p(0), 8, 255, 255, 255, 255)), "mask 0xffffffff"},
		"policy twice":        {file(snp, igvmtest.Policy(0), igvmtest.Policy(0)), "twice"},
		"policy, reserved":    {file(snp, with(igvmtest.Policy(0), 12, 1)), "reserved"},
		"page, reserved":      {file(snp, with(p(0), 22, 1)), "reserved"},
		"page, flags":         {file(snp, with(p(0), 16, 8)), "flags 0x8"},
		"page, type":          {file(snp, igvmtest.Page(0, 4, 0, nil)), "data type 4"},
		"page at odd GPA":     {file(snp, p(1)), "no multiple"},
		"2 MiB at 4 KiB":      {file(snp, igvmtest.Page(0x1000, 0, igvm.FlagLarge, nil)), "no multiple"},
		"large secrets":       {file(snp, igvmtest.Page(0, igvm.PageSecrets, igvm.FlagLarge, nil)), "large or shared"},
		"shared CPUID":        {file(snp, igvmtest.Page(0, igvm.PageCPUID, igvm.FlagShared, nil)), "large or shared"},
		"page behind memory":  {file(snp, p(1<<52)), "behind the last address"},
		"page at the end":     {file(snp, p(1<<64-4096)), "behind the last address"},
		"data in the headers": {file(snp, offset(p(0), 12, 0x18)), "not file data"},
		"data behind the end": {file(snp, offset(p(0), 12, 1<<20)), "not file data"},
		"half a page of data": {file(snp, p(0x1000), offset(p(0), 12, 0x18+24+2*32+1)), "not file data"},
		"same page twice":     {file(snp, p(0), p(0)), "overlap"},
		"page in a large one": {file(snp, igvmtest.Page(0, 0, igvm.FlagLarge, nil), p(0x5000)), "overlap"},
		"insert over a page":  {file(snp, p(0x1000), igvmtest.Area(0, 0x2000), igvmtest.Insert(0, 0)), "overlap"},
		"vCPU over a page":    {file(snp, p(0x1000), igvmtest.VP(0, 0x1000, igvmtest.VMSA())), "overlap"},
		"area twice":          {file(snp, igvmtest.Area(0, 0x1000), igvmtest.Area(0, 0x1000)), "twice"},
		"area of half a page": {file(snp, igvmtest.Area(0, 0x800)), "bytes of parameters"},
		"area of nothing":     {file(snp, igvmtest.Area(0, 0)), "bytes of parameters"},
		"huge area":           {file(snp, igvmtest.Area(0, 1<<62)), "bytes of parameters"},
		"area's contents":     {file(snp, with(igvmtest.Area(0, 0x1000), 12, 1)), "not file data"},
		"insert, no area":     {file(snp, igvmtest.Insert(0, 0)), "not declared"},
		"insert twice":        {file(snp, igvmtest.Area(0, 0x1000), igvmtest.Insert(0, 0), igvmtest.Insert(0, 0x2000)), "inserted already"},
		"insert at odd GPA":   {file(snp, igvmtest.Area(0, 0x1000), igvmtest.Insert(0, 8)), "no whole pages"},
		"insert over the end": {file(snp, igvmtest.Area(0, 0x2000), igvmtest.Insert(0, 1<<52-4096)), "behind the last address"},
		"parameter, no area":  {file(snp, igvmtest.Parameter(0x309, 0, 0)), "not declared"},
		"parameter outside":   {file(snp, igvmtest.Area(0, 0x1000), igvmtest.Parameter(0x309, 0, 0x1000)), "too small"},
		"parameter too late":  {file(snp, igvmtest.Area(0, 0x1000), igvmtest.Insert(0, 0), igvmtest.Parameter(0x309, 0, 0)), "inserted already"},
		"vCPU twice":          {file(snp, vp(0), vp(0)), "twice"},
		"vCPU, reserved":      {file(snp, with(vp(0), 18, 1)), "reserved"},
		"vCPU, no contents":   {file(snp, offset(vp(0), 12, 0)), "no contents"},
		"vCPU behind the end": {file(snp, p(0), offset(vp(0), 12, 0x100)), "not file data"},
		"vCPU at odd GPA":     {file(snp, igvmtest.VP(0, 0x1008, igvmtest.VMSA())), "no whole pages"},
		"vCPU without SNP":    {file(snp, igvmtest.VP(0, igvm.KVMContext, notSNP)), "SNPActive"},
		"memory, flags":       {file(snp, with(igvmtest.Required(0, 0x1000), 16, 2)), "flags 0x2"},
		"memory, reserved":    {file(snp, with(igvmtest.Required(0, 0x1000), 20, 2)), "reserved"},
		"memory of 5 bytes":   {file(snp, igvmtest.Required(0, 5)), "no whole pages"},
		"memory of nothing":   {file(snp, igvmtest.Required(0, 0)), "no whole pages"},
		"errors at odd GPA":   {file(snp, igvmtest.ErrorRange(12, 0x1000)), "no whole pages"},
		"moves by 5":          {file(snp, igvmtest.Relocatable(0, 0x1000, 5, 0, 0x1000)), "may move"},
		"moves by 0":          {file(snp, igvmtest.Relocatable(0, 0x1000, 0, 0, 0x1000)), "may move"},
		"moves backwards":     {file(snp, igvmtest.Relocatable(0, 0x1000, 0x1000, 0x2000, 0x1000)), "may move"},
		"tables used":         {file(snp, igvmtest.PageTables(0, 0x1000, 0x2000)), "bytes used"},
		"padding":             {padding(), "padding is not zero"},
		"header too long":     {tooLong(), "reaches behind the headers"},
		"too many pages":      {tooManyPages(snp), "pages for SEV-SNP"},
	} {
		f, err := igvm.Parse(tc.data)
		if f != nil || !errors.Is(err, igvm.ErrFile) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}

// padding puts a byte behind the vCPU's header of 20 bytes.
func padding() []byte {
	b := igvmtest.File(1, igvmtest.Platform(igvm.SEVSNP, igvmtest.Mask), igvmtest.VP(0, igvm.KVMContext, igvmtest.VMSA()))
	b[0x18+24+8+20] = 1
	igvmtest.Seal(b)
	return b
}

func tooLong() []byte {
	b := igvmtest.File(1, igvmtest.Platform(igvm.SEVSNP, igvmtest.Mask))
	le.PutUint32(b[0x18+4:], 0xffffffff)
	igvmtest.Seal(b)
	return b
}

// tooManyPages is 4 GiB and a page, in a file of 82 KB.
func tooManyPages(snp igvmtest.Item) []byte {
	items := []igvmtest.Item{snp}
	for i := range uint64(igvm.MaxPages/512) + 1 {
		items = append(items, igvmtest.Page(i*igvm.LargePage, 0, igvm.FlagLarge, nil))
	}
	return igvmtest.File(1, items...)
}

// A flipped bit of a header never goes unseen.
func TestHeadersAreChecked(t *testing.T) {
	data := sample(1)
	end := int(le.Uint32(data[8:]) + le.Uint32(data[12:]))
	for i := range end {
		b := bytes.Clone(data)
		b[i] ^= 4
		if _, err := igvm.Parse(b); err == nil {
			t.Errorf("byte %#x changed, and the file is accepted", i)
		}
	}
}
