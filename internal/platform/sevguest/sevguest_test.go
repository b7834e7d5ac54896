package sevguest

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-configfs-tsm/configfs/configfsi"

	"attestbox/internal/platform"
	"attestbox/internal/wire"
)

func certTable(t *testing.T, guids ...string) []byte {
	t.Helper()
	var head, body bytes.Buffer
	for i, g := range guids {
		raw, err := hex.DecodeString(strings.ReplaceAll(g, "-", ""))
		if err != nil {
			t.Fatal(err)
		}
		cert := fmt.Appendf(nil, "certificate %d", i)
		head.Write(raw)
		binary.Write(&head, binary.LittleEndian, uint32((len(guids)+1)*24+body.Len()))
		binary.Write(&head, binary.LittleEndian, uint32(len(cert)))
		body.Write(cert)
	}
	head.Write(make([]byte, 24))
	return append(head.Bytes(), body.Bytes()...)
}

func TestCertTable(t *testing.T) {
	table := certTable(t, "63da758d-e664-4564-adc5-f4b93be8accd", "4ab7b379-bbac-4fe4-a02f-05aef327c782",
		"c0b406a4-a803-4952-9743-3fb6014cd0ae", "ecae0c0f-9502-43b1-afa2-0ae2e0d565b6")
	got, err := parseCertTable(table)
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for i, e := range got {
		kinds = append(kinds, e.Kind)
		if want := fmt.Sprintf("certificate %d", i); string(e.DER) != want {
			t.Errorf("%s: %q, want %q", e.Kind, e.DER, want)
		}
	}
	if k := strings.Join(kinds, " "); k != "vek ask ark" {
		t.Errorf("kinds %q", k)
	}
	for n := 1; n < len(table); n++ {
		if part, err := parseCertTable(table[:n]); err == nil && len(part) == 3 {
			t.Errorf("table cut to %d bytes gave everything", n)
		}
	}
	if got, err := parseCertTable(nil); err != nil || len(got) != 0 {
		t.Errorf("empty table: %v, %v", got, err)
	}
}

func FuzzCertTable(f *testing.F) {
	f.Add(make([]byte, 48))
	f.Add([]byte("short"))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := parseCertTable(b)
		for _, e := range got {
			if err != nil || len(e.DER) == 0 || len(e.DER) > len(b) {
				t.Fatalf("%d bytes gave %d bytes of %s, %v", len(b), len(e.DER), e.Kind, err)
			}
		}
	})
}

// A tree of files with configfs-tsm's attributes stands in for the kernel: the
// driver's own file operations run on it.
type treeClient struct {
	t                *testing.T
	dir              string
	provider         string
	report, aux      []byte
	generation, made int
}

func (c *treeClient) path(name string) string {
	return filepath.Join(c.dir, strings.TrimPrefix(name, configfsi.TsmPrefix))
}

func (c *treeClient) MkdirTemp(dir, pattern string) (string, error) {
	c.made++
	name := filepath.Join(dir, fmt.Sprintf("%s%d", pattern, c.made))
	return name, os.MkdirAll(c.path(name), 0o700)
}

func (c *treeClient) ReadFile(name string) ([]byte, error) {
	switch filepath.Base(name) {
	case "generation":
		return fmt.Appendf(nil, "%d\n", c.generation), nil
	case "provider":
		return []byte(c.provider + "\n"), nil
	case "outblob":
		rep := bytes.Clone(c.report)
		in, err := os.ReadFile(c.path(filepath.Join(filepath.Dir(name), "inblob")))
		if err != nil {
			return nil, err
		}
		copy(rep[0x50:], in)
		return rep, nil
	case "auxblob":
		if c.aux == nil {
			return nil, os.ErrNotExist
		}
		return c.aux, nil
	}
	return nil, os.ErrNotExist
}

func (c *treeClient) WriteFile(name string, b []byte) error {
	c.generation++
	return os.WriteFile(c.path(name), b, 0o600)
}

func (c *treeClient) RemoveAll(p string) error { c.generation = 0; return os.RemoveAll(c.path(p)) }
func (c *treeClient) ReadDir(p string) ([]os.DirEntry, error) {
	return os.ReadDir(c.path(p))
}

func TestConfigfsTSM(t *testing.T) {
	data := [64]byte{1, 2, 3}
	for _, aux := range [][]byte{nil, certTable(t, "63da758d-e664-4564-adc5-f4b93be8accd"), []byte("garbage")} {
		c := &treeClient{t: t, dir: t.TempDir(), provider: "sev_guest", report: make([]byte, reportSize), aux: aux}
		p, err := openTSM(c)
		if err != nil {
			t.Fatal(err)
		}
		ev, err := p.Report(context.Background(), data)
		if err != nil {
			t.Fatalf("aux %q: %v", aux, err)
		}
		if ev.Platform != platform.AMDSEVSNP || !bytes.Equal(ev.Report[0x50:0x90], data[:]) {
			t.Errorf("evidence of %q with REPORT_DATA %x", ev.Platform, ev.Report[0x50:0x90])
		}
		if want := len(aux) > 40; (len(ev.Endorsements) == 1) != want {
			t.Errorf("aux of %d bytes: %d endorsements", len(aux), len(ev.Endorsements))
		}
	}
}

func TestConfigfsTSMOfAnotherTEE(t *testing.T) {
	c := &treeClient{t: t, dir: t.TempDir(), provider: "tdx_guest", report: make([]byte, reportSize)}
	if _, err := openTSM(c); err == nil || !strings.Contains(err.Error(), "tdx_guest") {
		t.Errorf("a TDX provider was taken: %v", err)
	}
}

func TestShortReport(t *testing.T) {
	c := &treeClient{t: t, dir: t.TempDir(), provider: "sev_guest", report: make([]byte, reportSize-1)}
	p, err := openTSM(c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Report(context.Background(), [64]byte{}); err == nil {
		t.Error("a short report was taken")
	}
}

// However large a table the host makes, the evidence fits into one frame, and
// a certificate that fits is not lost to one that does not.
func TestHugeCertTable(t *testing.T) {
	vek, _ := hex.DecodeString("63da758de6644564adc5f4b93be8accd")
	crl, _ := hex.DecodeString("92f81bc358114d3d97ffd19f88dc67ea")
	const size = 64 << 10
	table := make([]byte, size)
	put := func(at int, guid []byte, off, n uint32) {
		copy(table[at:], guid)
		binary.LittleEndian.PutUint32(table[at+16:], off)
		binary.LittleEndian.PutUint32(table[at+20:], n)
	}
	put(0, crl, 96, size-96)
	put(24, vek, 96, 1500)
	put(48, crl, 96, 30<<10)
	ev, err := evidence(make([]byte, reportSize), table)
	if err != nil || len(ev.Endorsements) != 2 || ev.Endorsements[0].Kind != "vek" {
		t.Fatalf("%d endorsements, %v", len(ev.Endorsements), err)
	}
	if err := wire.Write(io.Discard, &wire.Evidence{Platform: ev.Platform, Report: ev.Report, Endorsements: ev.Endorsements}); err != nil {
		t.Error(err)
	}
}
