package snpsim_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"

	"attestbox/internal/snp"
	"attestbox/internal/snpsim"
	"attestbox/internal/snpsim/link"
	"attestbox/internal/snpsim/snpsimtest"
)

// served gives the guest's end of a line whose other end the chip serves.
func served(t *testing.T, g *snpsim.Guest) net.Conn {
	t.Helper()
	guest, host := net.Pipe()
	done := make(chan error, 1)
	go func() { done <- g.Serve(context.Background(), host) }()
	t.Cleanup(func() {
		guest.Close()
		if err := <-done; err != nil {
			t.Errorf("serving ended with %v", err)
		}
	})
	return guest
}

func reportReq(data byte, vmpl, keySel uint32) []byte {
	b := make([]byte, link.ReportReqSize)
	b[0] = data
	binary.LittleEndian.PutUint32(b[64:], vmpl)
	binary.LittleEndian.PutUint32(b[68:], keySel)
	return b
}

func TestServe(t *testing.T) {
	p := snpsimtest.PSP(t, snp.Milan)
	g := p.Launch(config)
	c := link.NewClient(served(t, g))
	ask := func(kind byte, body []byte) *link.Answer {
		t.Helper()
		a, err := c.Do(t.Context(), kind, body)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	status := func(a *link.Answer) uint32 { return binary.LittleEndian.Uint32(a.Message) }

	a := ask(link.KindReport, reportReq(9, 1, 1))
	r, err := snp.Parse(a.Message[0x20:])
	if err != nil || status(a) != 0 || binary.LittleEndian.Uint32(a.Message[4:]) != snp.ReportSize ||
		r.ReportData[0] != 9 || r.VMPL != 1 || r.ReportID != g.ReportID {
		t.Errorf("report: %v, %+v", err, r)
	}
	reserved := reportReq(0, 0, 0)
	reserved[95] = 1
	for name, tc := range map[string]struct {
		body []byte
		want uint32
	}{
		"VMPL 4":   {reportReq(0, 4, 0), snpsim.StatusInvalidParam},
		"KEY_SEL":  {reportReq(0, 0, 3), snpsim.StatusInvalidParam},
		"VLEK":     {reportReq(0, 0, 2), snpsim.StatusInvalidKey},
		"reserved": {reserved, snpsim.StatusInvalidParam},
	} {
		if a := ask(link.KindReport, tc.body); status(a) != tc.want || !bytes.Equal(a.Message[4:], make([]byte, link.ReportRspSize-4)) {
			t.Errorf("%s: status %#x", name, status(a))
		}
	}

	room := func(n uint32) []byte { return binary.LittleEndian.AppendUint32(reportReq(9, 0, 0), n) }
	if a := ask(link.KindExtReport, room(0)); a.ExitInfo != link.ErrInvalidLength || a.Needed != 2*link.PageSize {
		t.Errorf("no room: %+v", a)
	}
	if a := ask(link.KindExtReport, room(2*link.PageSize)); a.ExitInfo != 0 || !bytes.HasPrefix(a.Certs, p.CertTable()) || status(a) != 0 {
		t.Errorf("with room: %#x, %d bytes", a.ExitInfo, len(a.Certs))
	}

	key := make([]byte, link.KeyReqSize)
	binary.LittleEndian.PutUint64(key[8:], snpsim.SelectMeasurement)
	want, err := g.DerivedKey(snpsim.KeyRequest{GuestFieldSelect: snpsim.SelectMeasurement})
	if a := ask(link.KindKey, key); err != nil || !bytes.Equal(a.Message[0x20:], want[:]) || status(a) != 0 {
		t.Errorf("key: %v, status %#x", err, status(a))
	}
	v2 := append(bytes.Clone(key), 1, 0, 0, 0, 0, 0, 0, 0)
	binary.LittleEndian.PutUint64(v2[8:], snpsim.SelectMitVector)
	if a := ask(link.KindKey, v2); status(a) != 0 || bytes.Equal(a.Message[0x20:], want[:]) {
		t.Errorf("key of version 2: status %#x", status(a))
	}
	binary.LittleEndian.PutUint64(key[8:], snpsim.SelectMitVector)
	if a := ask(link.KindKey, key); status(a) != snpsim.StatusInvalidParam {
		t.Errorf("mitigation vector in version 1: status %#x", status(a))
	}
	key[4] = 1
	if a := ask(link.KindKey, key); status(a) != snpsim.StatusInvalidParam {
		t.Errorf("reserved field: status %#x", status(a))
	}
}

// A guest dies in the middle of a frame; the next one on the same line is
// served at once.
func TestServeSurvivesGuests(t *testing.T) {
	g := snpsimtest.PSP(t, snp.Milan).Launch(config)
	line := served(t, g)
	frame := (&link.Frame{Kind: link.KindReport, Tag: 1, Body: reportReq(1, 0, 0)}).Marshal()
	for _, n := range []int{1, 5, 19, 20, 21, 60, len(frame) - 1} {
		if _, err := line.Write(frame[:n]); err != nil {
			t.Fatal(err)
		}
		a, err := link.NewClient(line).Do(t.Context(), link.KindReport, reportReq(2, 0, 0))
		if err != nil {
			t.Fatalf("after %d bytes: %v", n, err)
		}
		if r, err := snp.Parse(a.Message[0x20:]); err != nil || r.ReportData[0] != 2 {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
	for kind, want := range map[byte]byte{0x44: link.RefusedKind, link.KindKey: link.RefusedBody} {
		if _, err := line.Write((&link.Frame{Kind: kind, Tag: 3, Body: []byte{1}}).Marshal()); err != nil {
			t.Fatal(err)
		}
		f, err := link.NewResponseReader(line).Next()
		if err != nil || f.Kind != link.KindRefused || f.Tag != 3 || !bytes.Equal(f.Body, []byte{want}) {
			t.Errorf("kind %#x: %+v, %v", kind, f, err)
		}
	}
}

func TestServeEnds(t *testing.T) {
	g := snpsimtest.PSP(t, snp.Milan).Launch(config)
	guest, host := net.Pipe()
	defer guest.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- g.Serve(ctx, host) }()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := guest.Write([]byte{1}); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("the line is open: %v", err)
	}
	boom := errors.New("boom")
	if err := g.Serve(t.Context(), brokenLine{boom}); !errors.Is(err, boom) {
		t.Errorf("broken line: %v", err)
	}
}

type brokenLine struct{ err error }

func (b brokenLine) Read([]byte) (int, error)    { return 0, b.err }
func (b brokenLine) Write(p []byte) (int, error) { return len(p), nil }

// fixedLine gives bytes and keeps what is written.
type fixedLine struct {
	in  bytes.Reader
	out bytes.Buffer
}

func (l *fixedLine) Read(b []byte) (int, error)  { return l.in.Read(b) }
func (l *fixedLine) Write(b []byte) (int, error) { return l.out.Write(b) }

// Whatever a guest writes, the chip answers with whole frames, each of which a
// client accepts.
func FuzzServe(f *testing.F) {
	g := snpsimtest.PSP(f, snp.Milan).Launch(config)
	f.Add((&link.Frame{Kind: link.KindReport, Tag: 1, Body: reportReq(1, 0, 0)}).Marshal())
	f.Add((&link.Frame{Kind: link.KindExtReport, Tag: 2, Body: append(reportReq(1, 0, 0), 0, 0x20, 0, 0)}).Marshal())
	f.Add((&link.Frame{Kind: link.KindKey, Tag: 3, Body: make([]byte, link.KeyReqSize)}).Marshal())
	f.Add((&link.Frame{Kind: 9, Tag: 4}).Marshal())
	f.Fuzz(func(t *testing.T, b []byte) {
		line := &fixedLine{}
		line.in.Reset(b)
		if err := g.Serve(t.Context(), line); err != nil {
			t.Fatal(err)
		}
		for rest := line.out.Bytes(); len(rest) > 0; {
			fr, err := link.NewResponseReader(bytes.NewReader(rest)).Next()
			if err != nil {
				t.Fatalf("%d bytes that are no frame: %v", len(rest), err)
			}
			if fr.Kind != link.KindRefused {
				if _, err := link.ParseAnswer(fr.Kind&^link.KindAnswer, fr.Body); err != nil {
					t.Error(err)
				}
			}
			rest = rest[len(fr.Marshal()):]
		}
	})
}
