package luks

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime/metrics"
	"strings"
	"testing"

	"attestbox/internal/code"
)

// memoryLimit bounds what reading a hostile header may cost beside the KDF's own.
const memoryLimit = 64 << 20

// allocated is everything that this process has ever put on its heap: more than
// was ever in use at once, and not a matter of when the collector ran.
func allocated() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

// bounded is called before and, what it returns, after: in between at most
// memoryLimit may be allocated.
func bounded(t testing.TB, what string) func() uint64 {
	before := allocated()
	return func() uint64 {
		t.Helper()
		used := allocated() - before
		if used > memoryLimit {
			t.Errorf("%s: %d bytes were allocated, at most %d", what, used, memoryLimit)
		}
		return used
	}
}

// large is a header area with headers of hdrSize.
func large(hdrSize int, text string) []byte {
	h := make([]byte, 2*hdrSize+1<<20)
	b := binHeader{HdrSize: uint64(hdrSize), SeqID: 1, UUID: testUUID}
	b.marshal(h, magicPrimary)
	copy(h[binSize:], text)
	b.HdrOffset = b.HdrSize
	b.marshal(h[hdrSize:], magicSecondary)
	copy(h[hdrSize+binSize:], text)
	fix(h, hdrSize)
	return h
}

// fill repeats an element, with its number for a #, up to size: what a host would
// send that wants much memory for few bytes.
func fill(size int, head, element, tail string) string {
	var b strings.Builder
	b.WriteString(head)
	for i := 0; ; i++ {
		e := strings.ReplaceAll(element, "#", fmt.Sprint(i))
		if b.Len()+len(e)+len(tail) > size {
			return strings.TrimSuffix(b.String(), ",") + tail
		}
		b.WriteString(e)
	}
}

// As much metadata as is parsed, and as much as fits into a header.
func TestMemoryBound(t *testing.T) {
	const end = `},"tokens":{},"segments":{},"digests":{},"config":{"json_size":"12288","keyslots_size":"516096"}}`
	v := newVictim(t)
	for name, m := range map[string][3]string{
		"keyslots":        {`{"keyslots":{`, `"#":{},`, end},
		"keyslots' parts": {`{"keyslots":{`, `"#":{"af":{},"area":{},"kdf":{}},`, end},
		"one, repeated":   {`{"keyslots":{`, `"0":{},`, end},
		"segments":        {`{"segments":{`, `"#":{"flags":[]},`, `}}`},
		"digests":         {`{"digests":{`, `"#":{"keyslots":[],"segments":[]},`, `}}`},
		"digest's slots":  {`{"digests":{"0":{"keyslots":[`, `"",`, `]}}}`},
		"tokens":          {`{"tokens":{`, `"#":[],`, `}}`},
		"flags":           {`{"config":{"flags":[`, `"",`, `]}}`},
		"escapes":         {`{"keyslots":{"`, `\u0000`, `":{}}}`},
		"long number":     {`{"keyslots":{"0":{"key_size":`, `9`, `}}}`},
		"depth":           {`{"tokens":{"0":`, `[`, `}}`},
		"unknown name":    {`{"`, `x`, `":{}}`},
		"space":           {`{`, ` `, `}`},
	} {
		v.spends(t, name+", parsed", large(minHdrSize, fill(maxJSON-1, m[0], m[1], m[2])))
		long := large(maxHdrSize, fill(maxHdrSize-binSize-1, m[0], m[1], m[2]))
		v.spends(t, name+", 4 MiB", long)
		_, err := RecordOf(long)
		if c, _ := code.Of(err); c != code.LUKSJSON {
			t.Errorf("%s, 4 MiB: %v", name, err)
		}
	}
	v.spends(t, "zeros", make([]byte, MaxHeaderArea))
	v.spends(t, "valid", append(bytes.Clone(v.header), make([]byte, MaxHeaderArea-len(v.header))...))
}

// spends reads h in every way that there is, each within the limit.
func (v *victim) spends(t *testing.T, name string, h []byte) {
	reader := bytes.NewReader(h)
	record := *v.record
	record.Size, record.SegmentOffset = int64(len(h)), int64(len(h))
	registered := (&victim{record: &record}).registered(h)
	for way, read := range map[string]func() error{
		"open":  func() error { _, err := Open(reader, registered, v.key); return err },
		"check": func() error { Check(h, nil, Limits{}); return nil },
		"whole": func() error {
			header, err := ReadHeader(reader)
			if err == nil {
				_, err = RecordOf(header)
			}
			return err
		},
	} {
		done := bounded(t, name+", "+way)
		err := read()
		done()
		if _, ok := code.Of(err); err != nil && !ok {
			t.Errorf("%s, %s: an error without code: %v", name, way, err)
		}
	}
}

// Changed bytes, numbers and pieces of the metadata, under valid checksums: what
// FuzzHeader does for minutes, here for a moment and with the same inputs always.
func TestMemoryOfMutations(t *testing.T) {
	v := newVictim(t)
	r := rand.New(rand.NewPCG(1, 2))
	most := uint64(0)
	for range 2000 {
		text := []byte(v.json())
		for range 1 + r.IntN(4) {
			i, j := r.IntN(len(text)), r.IntN(len(text))
			switch r.IntN(4) {
			case 0:
				text[i] = byte(1 + r.IntN(255))
			case 1: // a piece once more
				text = append(text, text[min(i, j):max(i, j)]...)
			case 2:
				text = append(text[:min(i, j)], text[max(i, j):]...)
			case 3:
				text = bytes.Replace(text, []byte("1000"), []byte(fmt.Sprint(r.Uint64())), 1)
			}
			if len(text) == 0 {
				text = []byte("{")
			}
		}
		h := v.withJSON(string(text[:min(len(text), minHdrSize-binSize)]))
		if r.IntN(4) == 0 {
			binary.BigEndian.PutUint64(h[offHdrSize:], 1<<r.IntN(64))
		}
		done := bounded(t, "mutation")
		if _, err := RecordOf(h); err != nil {
			if _, ok := code.Of(err); !ok {
				t.Fatalf("an error without code: %v", err)
			}
		}
		Check(h, nil, Limits{})
		most = max(most, done())
	}
	t.Logf("at most %d KiB", most>>10)
}
