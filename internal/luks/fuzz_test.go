package luks

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"reflect"
	"testing"

	"attestbox/internal/wire"
)

// seedHeader is the primary header and metadata without the zeros after them.
func seedHeader(v *victim) []byte {
	return v.header[:binSize+len(v.json())]
}

// FuzzHeader gives any bytes as header area. With mend, the secondary header is
// made from the primary one and checksums are made valid, so that mutations
// reach the rules. What is accepted re-marshals to the same bytes.
func FuzzHeader(f *testing.F) {
	v := newVictimFrom(f, &endless{}) // every worker process needs the same one
	f.Add(seedHeader(v), true)
	f.Add(seedHeader(newVictimWith(f, IntegrityHMAC, &endless{})), true)
	f.Add(v.header[:2*minHdrSize], false)
	f.Add([]byte(magicPrimary), false)
	f.Fuzz(func(t *testing.T, data []byte, mend bool) {
		defer bounded(t, "header")()
		h := make([]byte, 2*minHdrSize+2*suites[0].areaSize())
		copy(h, data)
		if size := binary.BigEndian.Uint64(h[offHdrSize:]); mend && validHdrSize(size) && size <= uint64(len(h))/2 {
			b := h[size : 2*size]
			copy(b, h[:size])
			copy(b, magicSecondary)
			binary.BigEndian.PutUint64(b[offHdrOffset:], size)
			fix(h, int(size))
		}
		s, err := parse(h, nil, Limits{})
		results, ok := Check(h, nil, Limits{})
		if ok != (err == nil) || len(results) != len(rules) {
			t.Fatalf("check says %v, parse %v", ok, err)
		}
		record, rerr := RecordOf(h)
		if (rerr == nil) != (err == nil) {
			t.Fatalf("RecordOf says %v, parse %v", rerr, err)
		}
		if err != nil {
			return
		}
		if s.areaOffset+uint64(s.suite.afSize()) > uint64(len(h)) || s.segOffset > uint64(len(h)) {
			t.Fatal("accepted what lies outside")
		}
		if err := CheckRecord(record); err != nil {
			t.Fatal(err)
		}
		out := bytes.Clone(h)
		for i, magic := range []string{magicPrimary, magicSecondary} {
			b := out[uint64(i)*s.hdrSize:][:s.hdrSize]
			bin := fields(b)
			bin.marshal(b, magic)
			clear(b[binSize:])
			copy(b[binSize:], s.json)
		}
		fix(out, int(s.hdrSize))
		if !bytes.Equal(out, h) {
			t.Fatal("accepted header does not re-marshal to the same bytes")
		}
	})
}

// FuzzMetadata gives any text as JSON metadata under valid checksums. Accepted
// metadata has one meaning: written out in cryptsetup's order it reads the same.
func FuzzMetadata(f *testing.F) {
	v := newVictimFrom(f, &endless{}) // every worker process needs the same one
	f.Add(v.json())
	f.Add(`{"keyslots":{},"tokens":{},"segments":{},"digests":{},"config":{"json_size":"12288","keyslots_size":"516096"}}`)
	f.Fuzz(func(t *testing.T, text string) {
		defer bounded(t, "metadata")()
		if len(text) > minHdrSize-binSize || bytes.IndexByte([]byte(text), 0) >= 0 {
			return
		}
		s, err := parse(v.withJSON(text), nil, Limits{})
		if err != nil {
			return
		}
		out, err := marshalMetadata(&s.md)
		if err != nil {
			t.Fatal(err)
		}
		again, err := parse(v.withJSON(string(out)), nil, Limits{})
		if err != nil || !reflect.DeepEqual(s.md, again.md) {
			t.Fatalf("re-marshals to %s: %v", out, err)
		}
		twice, _ := marshalMetadata(&again.md)
		if !bytes.Equal(out, twice) {
			t.Fatal("marshalling is not stable")
		}
	})
}

// FuzzRecord: whatever record arrives, the reader allocates and reads within limits.
func FuzzRecord(f *testing.F) {
	v := newVictimFrom(f, &endless{}) // every worker process needs the same one
	text, _ := json.Marshal(v.record)
	f.Add(text)
	f.Fuzz(func(t *testing.T, data []byte) {
		defer bounded(t, "record")()
		var r wire.HeaderRecord
		if json.Unmarshal(data, &r) != nil || CheckRecord(&r) != nil {
			return
		}
		if r.Size > MaxHeaderArea || r.Size < 2*minHdrSize {
			t.Fatal("size out of bounds")
		}
		vol, err := Open(bytes.NewReader(v.header), &r, v.key)
		if err == nil {
			if r != *v.record {
				t.Fatal("opened with another record")
			}
			vol.Close()
		}
	})
}
