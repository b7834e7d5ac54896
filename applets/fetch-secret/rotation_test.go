package fetchsecret

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"attestbox/internal/applet"
	"attestbox/internal/code"
	"attestbox/internal/luks"
	"attestbox/internal/secret"
	"attestbox/internal/server"
	"attestbox/internal/snpsim/verifiertest"
	"attestbox/internal/wire"
)

// half is a disk whose machine dies once so many sectors of 512 are written.
type half struct {
	b    []byte
	left int
}

func (d *half) ReadAt(p []byte, off int64) (int, error) { return bytes.NewReader(d.b).ReadAt(p, off) }
func (d *half) Sync() error                             { return nil }
func (d *half) WriteAt(p []byte, off int64) (int, error) {
	n := min(len(p), d.left*512)
	copy(d.b[off:], p[:n])
	if d.left -= n / 512; n < len(p) {
		return n, os.ErrDeadlineExceeded
	}
	return n, nil
}

// While the disk's key is being changed there are two keys and several records:
// the disk says which are handed out, before and after its headers changed.
func TestDiskInRotation(t *testing.T) {
	w := verifiertest.New(t)
	oldKey := secret.Random(32)
	header, v, rec, err := luks.Format(oldKey, luks.Params{UUID: "0b0e1a6c-6a33-4f3c-9f53-3e2f3b1f2a10", Integrity: luks.IntegrityNone})
	if err != nil {
		t.Fatal(err)
	}
	v.Close()
	id := w.Add(rec, oldKey)
	keys, err := w.State.OpenRotation(t.Context(), id, true)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := luks.ToNewKey(header, []wire.HeaderRecord{*rec}, oldKey, keys.DiskKey, nil, luks.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	w.Edit(id, func(i *server.Instance) { i.Headers = append(i.Headers, plan.Records()...) })
	shm, err := os.MkdirTemp("/dev/shm", "attestbox-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(shm) })
	img, recFile := filepath.Join(t.TempDir(), "disk.img"), filepath.Join(shm, "record")
	fetched := func(crypttab string, args ...string) (string, error) {
		var out, talk bytes.Buffer
		env := &applet.Env{Name: "fetch-secret", Stdin: strings.NewReader(""), Stdout: &out, Stderr: &talk, Getenv: func(name string) string {
			if crypttab != "" && (name == "CRYPTTAB_NAME" || name == "CRYPTTAB_SOURCE") {
				return crypttab
			}
			return ""
		}}
		args = append([]string{"-server", w.Addr, "-pin", w.Server.Pin().String()}, args...)
		err := fetch(context.Background(), env, args, w.Launch(id, verifiertest.Digest).Open)
		return out.String(), err
	}
	for _, tc := range []struct {
		name  string
		left  int
		want  *secret.Bytes
		scope string
	}{
		{"nothing written", 0, oldKey, wire.ScopeWhole},
		{"in the new keyslot", 100, oldKey, wire.ScopePrimary},
		{"in the primary header", 504 + 32 + 1, keys.DiskKey, wire.ScopeSecondary},
		{"all written", 1 << 20, keys.DiskKey, wire.ScopeWhole},
	} {
		d := &half{bytes.Clone(header), tc.left}
		plan.Run(d, keys.DiskKey, func(string) {})
		if err := os.WriteFile(img, d.b, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := fetched("", "-device", img, "-record", recFile)
		if err != nil || got != string(tc.want.Bytes()) {
			t.Errorf("%s: another key, %v", tc.name, err)
			continue
		}
		var r wire.HeaderRecord
		text, err := os.ReadFile(recFile)
		if err == nil {
			err = json.Unmarshal(text, &r)
		}
		if err != nil || r.Scope != tc.scope {
			t.Errorf("%s: record %+v, %v", tc.name, r, err)
		}
		if got, err := fetched(img); err != nil || got != string(tc.want.Bytes()) {
			t.Errorf("%s, as keyscript: another key, %v", tc.name, err)
		}
	}
	if got, err := fetched(""); err == nil || got != "" {
		t.Errorf("without the disk: %d bytes, %v", len(got), err)
	}
	if err := os.WriteFile(img, bytes.Repeat([]byte{1}, len(header)), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := fetched("", "-device", img)
	if c, _ := code.Of(err); c != code.LUKSHeaderDigest || got != "" || applet.ExitCode(err) != applet.ExitRefused {
		t.Errorf("another disk: %d bytes, %v", len(got), err)
	}
}
