package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"attestbox/internal/snpsim/qemu"
)

// forms are the ways in which a key could lie around.
func forms(key []byte) map[string][]byte {
	return map[string][]byte{
		"raw": key, "hex": []byte(hex.EncodeToString(key)), "HEX": []byte(strings.ToUpper(hex.EncodeToString(key))),
		"base64": []byte(base64.StdEncoding.EncodeToString(key)), "base64url": []byte(base64.RawURLEncoding.EncodeToString(key)),
		// base64 of a longer message that holds the key at another phase
		"base64+1": inner64(append([]byte{0}, key...)), "base64+2": inner64(append([]byte{0, 0}, key...)),
		// half of it is as bad
		"first half": key[:len(key)/2], "second half": key[len(key)/2:],
	}
}

// inner64 is the part of base64(b) that does not depend on its neighbours.
func inner64(b []byte) []byte {
	s := base64.StdEncoding.EncodeToString(b)
	return []byte(s[4 : len(s)/4*4-4])
}

func scan(t *testing.T, what string, b []byte, key []byte) {
	t.Helper()
	for form, needle := range forms(key) {
		if n := bytes.Count(b, needle); n != 0 {
			t.Errorf("the released key lies %d times in %s (%s)", n, what, form)
		}
	}
}

// After switch_root the released key is nowhere: not in the guest's whole RAM,
// not in any file that the run left, not in argv or environment of any process.
func TestReleasedKeyIsNowhere(t *testing.T) {
	w := theWorld(t)
	key, err := os.ReadFile(w.keyFile("hold"))
	if err != nil {
		t.Fatal(err)
	}
	b := w.from(t, "tcp", w.instance(t, "tcp", "hold"), "hold")
	dump := filepath.Join(t.TempDir(), "ram")
	scanned := false
	b.whileUp = func(path string) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		q, err := qemu.DialQMP(ctx, path)
		if err != nil {
			t.Error(err)
			return
		}
		defer q.Close()
		if err := q.DumpMemory(ctx, dump); err != nil {
			t.Error(err)
			return
		}
		ram, err := os.ReadFile(dump)
		if err != nil {
			t.Error(err)
			return
		}
		if len(ram) < 512<<20 {
			t.Errorf("the dump has only %d bytes", len(ram))
		}
		// The dump is of the running system: what its script holds is there.
		if bytes.Count(ram, []byte(upLine)) == 0 {
			t.Error("the dump does not show the real system")
		}
		scan(t, "the guest's RAM", ram, key)
		scanProcesses(t, key)
		scanned = true
	}
	console := b.run(t, w)
	if !strings.Contains(console, upLine) || !scanned {
		t.Fatal("the real system was not reached")
	}
	scan(t, "the console", []byte(console), key)
	scan(t, "the verifier's log", []byte(w.verifierLog.String()), key)
	scanned = false
	err = filepath.WalkDir(w.dir, func(path string, d fs.DirEntry, err error) error {
		// Systems of gigabytes whose own tests made them, with other keys.
		if n := d.Name(); err == nil && (strings.HasPrefix(n, "debian-") || strings.HasPrefix(n, "dracut-")) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		scan(t, path, b, key)
		scanned = true
		return nil
	})
	if err != nil || !scanned {
		t.Errorf("scanning the files: %v", err)
	}
}

func scanProcesses(t *testing.T, key []byte) {
	t.Helper()
	var seen int
	for _, what := range []string{"cmdline", "environ"} {
		files, _ := filepath.Glob("/proc/[0-9]*/" + what)
		for _, f := range files {
			if b, err := os.ReadFile(f); err == nil {
				scan(t, f, b, key)
				seen++
			}
		}
	}
	if seen < 4 {
		t.Errorf("only %d files of processes were readable", seen)
	}
}
