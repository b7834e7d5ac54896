package link

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/iotest"
	"time"
)

// The worked example of doc.go: a request for a derived key.
func TestFrameBytes(t *testing.T) {
	f := &Frame{Kind: KindKey, Tag: 0x0102030405060708, Body: []byte{0xaa}}
	want := []byte("SNPl\x01\x03\x00\x00\x08\x07\x06\x05\x04\x03\x02\x01\x01\x00\x00\x00\xaa\xef\x6d\x0a\xab")
	got := f.Marshal()
	if !bytes.Equal(got, want) {
		t.Errorf("frame % x, want % x", got, want)
	}
	back, err := ParseFrame(got)
	if err != nil || back.Kind != f.Kind || back.Tag != f.Tag || !bytes.Equal(back.Body, f.Body) {
		t.Errorf("%+v, %v", back, err)
	}
	if _, err := ParseFrame(append(got, 0)); err == nil {
		t.Error("a byte after the frame was accepted")
	}
}

func TestFlippedBytes(t *testing.T) {
	b := (&Frame{Kind: KindReport, Tag: 1, Body: make([]byte, ReportReqSize)}).Marshal()
	for i := range b {
		for bit := range 8 {
			bad := bytes.Clone(b)
			bad[i] ^= 1 << bit
			if f, err := ParseFrame(bad); err == nil {
				t.Fatalf("accepted with bit %d of byte %d flipped: %+v", bit, i, f)
			}
		}
	}
	for n := range b {
		if _, err := ParseFrame(b[:n]); err == nil {
			t.Fatalf("accepted %d of %d bytes", n, len(b))
		}
	}
}

// Whatever lies between frames is dropped, however the bytes arrive.
func TestResync(t *testing.T) {
	one := (&Frame{Kind: KindReport, Tag: 1, Body: make([]byte, ReportReqSize)}).Marshal()
	two := (&Frame{Kind: KindKey, Tag: 2, Body: make([]byte, KeyReqSize)}).Marshal()
	sync := make([]byte, MaxRequest)
	tooLong := bytes.Clone(one)
	binary.LittleEndian.PutUint32(tooLong[16:], 1<<31)
	for name, between := range map[string][]byte{
		"nothing":            nil,
		"text":               []byte("Linux version 6.1 S SN SNP SNPl SNPl\x01"),
		"half a frame":       append(bytes.Clone(one[:50]), sync...),
		"a header":           append(bytes.Clone(one[:headerSize]), sync...),
		"a wrong checksum":   append(bytes.Clone(one[:len(one)-1]), one[len(one)-1]^1),
		"a huge length":      tooLong,
		"a frame in a frame": append(bytes.Clone(one[:24]), sync...),
		"much":               bytes.Repeat([]byte("SNPl\x01\x01\x00\x00"), 10000),
	} {
		stream := bytes.Join([][]byte{one, between, two, sync, one}, nil)
		for _, r := range []io.Reader{bytes.NewReader(stream), iotest.OneByteReader(bytes.NewReader(stream))} {
			in := NewRequestReader(r)
			var tags []uint64
			for {
				f, err := in.Next()
				if err != nil {
					if err != io.EOF {
						t.Errorf("%s: %v", name, err)
					}
					break
				}
				tags = append(tags, f.Tag)
			}
			if len(tags) != 3 || tags[0] != 1 || tags[1] != 2 || tags[2] != 1 {
				t.Errorf("after %s: frames %v", name, tags)
			}
		}
	}
}

func TestAnswer(t *testing.T) {
	report, key, page := make([]byte, ReportRspSize), make([]byte, KeyRspSize), make([]byte, PageSize)
	for _, tc := range []struct {
		name string
		kind byte
		a    Answer
		ok   bool
	}{
		{"report", KindReport, Answer{Message: report}, true},
		{"extended report", KindExtReport, Answer{Message: report, Certs: page}, true},
		{"key", KindKey, Answer{Message: key}, true},
		{"too little room", KindExtReport, Answer{ExitInfo: ErrInvalidLength, Needed: PageSize}, true},
		{"firmware error", KindKey, Answer{ExitInfo: 0x16}, true},
		{"report for a key", KindKey, Answer{Message: report}, false},
		{"short report", KindReport, Answer{Message: report[1:]}, false},
		{"certificates with a key", KindKey, Answer{Message: key, Certs: page}, false},
		{"half a page", KindExtReport, Answer{Message: report, Certs: page[1:]}, false},
		{"too many pages", KindExtReport, Answer{Message: report, Certs: make([]byte, MaxCerts+PageSize)}, false},
		{"a message beside an error", KindReport, Answer{ExitInfo: 1, Message: report}, false},
		{"room without its error", KindExtReport, Answer{Message: report, Needed: PageSize}, false},
		{"room unknown", KindExtReport, Answer{ExitInfo: ErrInvalidLength}, false},
		{"odd room", KindExtReport, Answer{ExitInfo: ErrInvalidLength, Needed: 1}, false},
		{"no such request", 9, Answer{Message: report}, false},
	} {
		b := tc.a.Marshal()
		got, err := ParseAnswer(tc.kind, b)
		if (err == nil) != tc.ok {
			t.Errorf("%s: %v", tc.name, err)
		}
		if err == nil && !bytes.Equal(got.Marshal(), b) {
			t.Errorf("%s does not re-marshal", tc.name)
		}
	}
	if _, err := ParseAnswer(KindKey, (&Answer{Message: key}).Marshal()[:20]); err == nil {
		t.Error("a truncated answer was accepted")
	}
}

// A client skips late answers and noise, takes its own, and goes on after a
// question that nobody answered.
func TestClient(t *testing.T) {
	guest, host := net.Pipe()
	defer guest.Close()
	defer host.Close()
	in := NewRequestReader(host)
	questions := make(chan *Frame)
	go func() {
		defer close(questions)
		for {
			f, err := in.Next()
			if err != nil {
				return
			}
			questions <- f
		}
	}()
	c := NewClient(guest)
	type result struct {
		a   *Answer
		err error
	}
	ask := func(ctx context.Context) chan result {
		done := make(chan result, 1)
		go func() {
			a, err := c.Do(ctx, KindKey, make([]byte, KeyReqSize))
			done <- result{a, err}
		}()
		return done
	}
	answer := func(tag uint64, first byte) []byte {
		body := make([]byte, KeyRspSize)
		body[0x20] = first
		return (&Frame{Kind: KindKey | KindAnswer, Tag: tag, Body: (&Answer{Message: body}).Marshal()}).Marshal()
	}

	done := ask(t.Context())
	q := <-questions
	host.Write([]byte("noise SNPl"))
	host.Write(answer(q.Tag+1, 7))
	host.Write(answer(q.Tag, 8))
	if r := <-done; r.err != nil || r.a.Message[0x20] != 8 {
		t.Fatalf("%+v", r)
	}

	ctx, cancel := context.WithCancel(t.Context())
	done = ask(ctx)
	late := <-questions
	cancel()
	if r := <-done; !errors.Is(r.err, os.ErrDeadlineExceeded) {
		t.Errorf("cancelled: %v", r.err)
	}
	done = ask(t.Context())
	q = <-questions
	go func() { host.Write(answer(late.Tag, 1)); host.Write(answer(q.Tag, 9)) }()
	if r := <-done; r.err != nil || r.a.Message[0x20] != 9 {
		t.Errorf("after a lost answer: %+v", r)
	}

	done = ask(t.Context())
	q = <-questions
	go host.Write((&Frame{Kind: KindRefused, Tag: q.Tag, Body: []byte{RefusedKind}}).Marshal())
	if r := <-done; !errors.Is(r.err, ErrRefused) {
		t.Errorf("refused: %v", r.err)
	}
	done = ask(t.Context())
	q = <-questions
	go host.Write((&Frame{Kind: KindReport | KindAnswer, Tag: q.Tag, Body: (&Answer{Message: make([]byte, ReportRspSize)}).Marshal()}).Marshal())
	if r := <-done; r.err == nil {
		t.Error("the answer to another kind of question was accepted")
	}
	ctx, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	done = ask(ctx)
	<-questions
	if r := <-done; r.err == nil {
		t.Error("no answer and no error")
	}
	if _, err := c.Do(t.Context(), KindKey, []byte{1}); err == nil {
		t.Error("a request of a wrong shape was sent")
	}
}

func FuzzParseFrame(f *testing.F) {
	f.Add((&Frame{Kind: KindReport, Tag: 1, Body: make([]byte, ReportReqSize)}).Marshal())
	f.Add((&Frame{Kind: KindKey | KindAnswer, Tag: 2, Body: (&Answer{Message: make([]byte, KeyRspSize)}).Marshal()}).Marshal())
	f.Add([]byte("SNPl"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if fr, err := ParseFrame(b); err == nil && !bytes.Equal(fr.Marshal(), b) {
			t.Errorf("% x re-marshals to % x", b, fr.Marshal())
		}
		for _, in := range []*Reader{NewRequestReader(bytes.NewReader(b)), NewResponseReader(bytes.NewReader(b))} {
			size := cap(in.buf)
			for {
				fr, err := in.Next()
				if err != nil {
					break
				}
				if !bytes.Contains(b, fr.Marshal()) {
					t.Errorf("frame % x does not occur in the stream", fr.Marshal())
				}
			}
			if cap(in.buf) != size {
				t.Errorf("the buffer grew from %d to %d", size, cap(in.buf))
			}
		}
	})
}

func FuzzParseAnswer(f *testing.F) {
	f.Add(byte(KindReport), (&Answer{Message: make([]byte, ReportRspSize)}).Marshal())
	f.Add(byte(KindExtReport), (&Answer{ExitInfo: ErrInvalidLength, Needed: 2 * PageSize}).Marshal())
	f.Add(byte(KindKey), (&Answer{ExitInfo: 0x16}).Marshal())
	f.Fuzz(func(t *testing.T, kind byte, b []byte) {
		if a, err := ParseAnswer(kind, b); err == nil && !bytes.Equal(a.Marshal(), b) {
			t.Errorf("% x re-marshals to % x", b, a.Marshal())
		}
	})
}
