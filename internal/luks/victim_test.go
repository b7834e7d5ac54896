package luks

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"testing"

	"attestbox/internal/code"
	"attestbox/internal/secret"
	"attestbox/internal/wire"
)

// victim is a valid header area that attacks start from.
type victim struct {
	header []byte
	record *wire.HeaderRecord
	key    *secret.Bytes
}

func newVictim(t testing.TB) *victim { return newVictimFrom(t, nil) }

func newVictimFrom(t testing.TB, random io.Reader) *victim {
	return newVictimWith(t, IntegrityNone, random)
}

func newVictimWith(t testing.TB, integrity string, random io.Reader) *victim {
	t.Helper()
	key := testKey(t)
	header, v, record, err := Format(key, Params{UUID: testUUID, Integrity: integrity, HeaderArea: 2*minHdrSize + 2*suites[0].areaSize(), Rand: random})
	if err != nil {
		t.Fatal(err)
	}
	v.Close()
	return &victim{header, record, key}
}

// fix gives both headers valid checksums.
func fix(h []byte, size int) {
	for _, at := range []int{0, size} {
		b := h[at : at+size]
		clear(b[offCsum : offCsum+lenCsum])
		sum := checksum(b)
		copy(b[offCsum:], sum[:])
	}
}

// withJSON is the header with other metadata in both headers, checksums valid.
func (v *victim) withJSON(text string) []byte {
	h := bytes.Clone(v.header)
	for _, at := range []int{0, minHdrSize} {
		area := h[at+binSize : at+minHdrSize]
		clear(area)
		copy(area, text)
	}
	fix(h, minHdrSize)
	return h
}

func (v *victim) json() string {
	text, _, _ := bytes.Cut(v.header[binSize:minHdrSize], []byte{0})
	return string(text)
}

// registered is the victim's record with the digest of h: what a rule has to
// stop when the digest does not.
func (v *victim) registered(h []byte) *wire.HeaderRecord {
	r := *v.record
	n := min(int64(len(h)), r.Size)
	sum := sha256.Sum256(h[:n])
	r.Digest = hex.EncodeToString(sum[:])
	return &r
}

// refused opens h three ways: with the true digest (always refused as changed),
// with h's own digest and, if alone, through RecordOf.
func (v *victim) refused(t *testing.T, h []byte, want code.Code, alone bool) {
	t.Helper()
	if !bytes.Equal(h, v.header) {
		_, err := Open(bytes.NewReader(h), v.record, v.key)
		if c, _ := code.Of(err); c != code.LUKSHeaderDigest && c != code.LUKSTruncated {
			t.Errorf("with the registered digest: %v", err)
		}
	}
	vol, err := Open(bytes.NewReader(h), v.registered(h), v.key)
	if c, _ := code.Of(err); c != want || vol != nil {
		t.Errorf("with its own digest: code %q, want %q: %v", c, want, err)
	}
	if want == code.LUKSWrongKey {
		return // only a key tells
	}
	results, ok := Check(h, v.registered(h), Limits{})
	if ok {
		t.Error("check finds nothing")
	}
	found := false
	for _, r := range results {
		found = found || r.Code == want && r.Err != nil
	}
	if !found && want != code.LUKSTruncated {
		t.Errorf("check does not name %q", want)
	}
	if alone {
		_, err := RecordOf(h)
		if c, _ := code.Of(err); c != want {
			t.Errorf("RecordOf: code %q, want %q: %v", c, want, err)
		}
	}
}
