package server

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"attestbox/internal/client"
	"attestbox/internal/code"
	"attestbox/internal/wire"
)

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// The real client against the real server: release, outcome, ack, and nothing
// for a second request in the same boot.
func TestLaunch(t *testing.T) {
	w := newWorld(t, nil)
	id := newID()
	inst, key := w.add(id, Takeover)
	g := w.guest(id, nil)
	ctx := ctxFor(t)
	rel, err := client.Launch(ctx, w.client(g.Platform()))
	if err != nil {
		t.Fatalf("launch: %v\n%s", err, w.log)
	}
	defer rel.Close()
	p := rel.Payload
	if !p.DiskKey.Equal(key) || p.Boot != 1 || p.Committed != 0 || len(p.Headers) != 1 || p.Headers[0] != inst.Headers[0] ||
		len(p.Secrets) != 1 || string(p.Secrets[0].Value.Bytes()) != "sesame, twice over" {
		t.Errorf("payload: boot %d, committed %d, headers %v, %d secrets", p.Boot, p.Committed, p.Headers, len(p.Secrets))
	}
	b, err := w.state.Boots(ctx, id)
	if err != nil || len(b.Current) != 1 || !b.Current[0].Unfinished() {
		t.Errorf("before the outcome: %+v, %v; want an unfinished boot", b, err)
	}
	var h wire.Hex32
	if err := h.UnmarshalText([]byte(inst.Headers[0].Digest)); err != nil {
		t.Fatal(err)
	}
	ack, err := rel.Report(ctx, wire.ResultOpened, "", []wire.Hex32{h})
	if err != nil || ack.Boot != 1 {
		t.Fatalf("outcome: %+v, %v\n%s", ack, err, w.log)
	}
	if b, err = w.state.Boots(ctx, id); err != nil || b.Committed != 1 || b.Current[0].Result != wire.ResultOpened {
		t.Errorf("after the outcome: %+v, %v", b, err)
	}
	if _, err := client.Launch(ctx, w.client(g.Platform())); !errors.Is(err, client.ErrRefused) {
		t.Errorf("second request after opened: %v, want refused", err)
	}
	if !strings.Contains(w.log.String(), "NOT AMD HARDWARE") {
		t.Errorf("the decision does not say NOT AMD HARDWARE:\n%s", w.log)
	}
}

// What was released is in no file of the state and not in the log, in no form.
func TestSecretsAreNowhere(t *testing.T) {
	w := newWorld(t, nil)
	id := newID()
	_, key := w.add(id, Takeover)
	ctx := ctxFor(t)
	rel, err := client.Launch(ctx, w.client(w.guest(id, nil).Platform()))
	if err != nil {
		t.Fatal(err)
	}
	defer rel.Close()
	if _, err := rel.Report(ctx, wire.ResultOpened, "", nil); err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{"log": []byte(w.log.String())}
	if err := filepath.WalkDir(w.dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		files[p], err = os.ReadFile(p)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if len(files) < 3 {
		t.Fatalf("only %d files looked at", len(files))
	}
	for name, s := range map[string][]byte{
		"disk key": key.Bytes(), "named secret": []byte("sesame, twice over"), "outcome key": rel.Payload.OutcomeKey.Bytes(),
		"outcome root": w.state.outcomeRoot.Bytes(),
	} {
		for form, needle := range map[string]string{
			"raw": string(s), "hex": hex.EncodeToString(s), "HEX": strings.ToUpper(hex.EncodeToString(s)),
			"base64": base64.StdEncoding.EncodeToString(s)[:len(s)], "base64url": base64.URLEncoding.EncodeToString(s)[:len(s)],
		} {
			for file, content := range files {
				if bytes.Contains(content, []byte(needle)) {
					t.Errorf("%s (%s) is in %s", name, form, file)
				}
			}
		}
	}
}

// An ID that is not registered gets a challenge, and after evidence the same
// refusal as any other.
func TestUnknownIDLooksLikeAnyRefusal(t *testing.T) {
	w := newWorld(t, nil)
	unknown, known, gone := newID(), newID(), newID()
	w.add(known, Takeover)
	w.add(gone, Takeover)
	if err := w.state.Decommission(context.Background(), gone, w.server.Now(), true); err != nil {
		t.Fatal(err)
	}
	var shapes []string
	for _, c := range []struct {
		name string
		id   wire.Hex32
		want code.Code
	}{{"unknown", unknown, code.InstanceUnknown}, {"decommissioned", gone, code.InstanceDecommissioned}, {"other image", known, code.MeasurementUnknown}} {
		conn := w.begin(c.id)
		g := w.guest(c.id, nil)
		if c.id == known {
			other := w.guest(c.id, nil).Config
			other.Measurement[0]++
			g = w.psp.Launch(other)
		}
		conn.send(conn.evidence(g))
		_, err := conn.release()
		w.refused(c.name, err, c.want)
		ans, _ := err.(*wire.AnswerError)
		if ans != nil {
			shapes = append(shapes, string(ans.Code))
		}
	}
	for _, s := range shapes {
		if s != shapes[0] {
			t.Errorf("refusals differ: %q", shapes)
		}
	}
	if b, err := w.state.Boots(context.Background(), known); err != nil || b.Issued != 0 {
		t.Errorf("a refused guest moved the counter: %+v, %v", b, err)
	}
}
