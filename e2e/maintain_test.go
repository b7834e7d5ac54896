package e2e

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"attestbox/internal/luks"
	"attestbox/internal/secret"
	"attestbox/internal/testenv"
	"attestbox/internal/wire"
)

// maintained is the script of a system that changes its own disk's key and
// names a successor, by the binary and the configuration that an image has.
const maintained = `#!/bin/sh
echo "` + upLine + `"
/bin/attestbox-guest unlock-luks rotate /dev/vda >/run/record
echo "demo: rotate: exit $?"
/bin/attestbox-guest nominate -digest $(cat /etc/next) -kernel /etc/hostname -initrd /etc/hostname -cmdline /etc/hostname -source "an update"
echo "demo: nominate: exit $?"
poweroff -f
`

// A VM that is up changes the key of the disk that it runs from, boots with the
// new one and changes it again; the first key opens nothing any more.
func TestRotateInRunningVM(t *testing.T) {
	w := theWorld(t)
	rootfs := filepath.Join(t.TempDir(), "rootfs")
	w.run(t, filepath.Join(testenv.Root(), "demo", "rootfs.sh"), os.Getenv("ATTESTBOX_BUSYBOX"), rootfs)
	if err := os.Mkdir(filepath.Join(rootfs, "etc", "attestbox"), 0o755); err != nil {
		t.Fatal(err)
	}
	_, port, _ := strings.Cut(w.address, ":")
	config, err := json.Marshal(map[string]any{"servers": []string{"tcp://10.0.2.2:" + port}, "pins": []string{w.pin}})
	if err != nil {
		t.Fatal(err)
	}
	next := strings.Repeat("ab", 48)
	w.write(t, filepath.Join(rootfs, "etc", "attestbox", "fetch-secret.json"), config)
	w.write(t, filepath.Join(rootfs, "etc", "next"), []byte(next+"\n"))
	w.run(t, "cp", filepath.Join(w.bin, "attestbox-guest"), filepath.Join(rootfs, "bin"))
	w.write(t, filepath.Join(rootfs, "etc", "init.d", "rcS"), []byte(maintained))
	if err := os.Chmod(filepath.Join(rootfs, "etc", "init.d", "rcS"), 0o755); err != nil {
		t.Fatal(err)
	}
	w.disk(t, "rotate", rootfs)
	id := w.instance(t, "tcp", "rotate")
	w.attestbox(t, append(append([]string{"verifier", "instance", "allow", "-may-rotate"}, w.seal...), id)...)
	show := func() string {
		return w.attestbox(t, append(append([]string{"verifier", "instance", "show"}, w.seal...), id)...)
	}
	seen := map[string]bool{}
	for range 2 {
		b := w.from(t, "tcp", id, "rotate")
		b.inPlace = w.path("rotate.img")
		console := b.run(t, w)
		for _, want := range []string{"demo: rotate: exit 0", "writing the secondary header", "pending\n", "demo: nominate: exit 0"} {
			if !strings.Contains(console, want) {
				t.Errorf("the console lacks %q", want)
			}
		}
		_, header, _ := strings.Cut(show(), "LUKS header  ")
		seen[header[:min(64, len(header))]] = true
	}
	var first wire.HeaderRecord
	text, err := os.ReadFile(w.path("rotate.json"))
	if err == nil {
		err = json.Unmarshal(text, &first)
	}
	if err != nil {
		t.Fatal(err)
	}
	now := show()
	if len(seen) != 2 || seen[first.Digest] || strings.Count(now, "LUKS header  ") != 1 || strings.Contains(now, "being changed") || !strings.Contains(now, "nominated    "+next) {
		t.Errorf("after two rotations:\n%s", now)
	}
	img, err := os.ReadFile(w.path("rotate.img"))
	if err != nil {
		t.Fatal(err)
	}
	keyFile, err := os.ReadFile(w.keyFile("rotate"))
	if err != nil {
		t.Fatal(err)
	}
	key := secret.Take(keyFile)
	defer key.Zero()
	known, err := luks.KnownRecords(img)
	if err != nil || len(known) != 1 || !seen[known[0].Digest] {
		t.Fatalf("the disk's header is not the registered one: %v, %v", known, err)
	}
	for _, r := range append(known, first) {
		if v, err := luks.Open(bytes.NewReader(img), &r, key); err == nil {
			v.Close()
			t.Error("the first key opens the disk")
		}
	}
	w.attestbox(t, append(append([]string{"verifier", "instance", "approve"}, w.seal...), id, next)...)
	if now := show(); !strings.Contains(now, "launch       "+next) || strings.Contains(now, "nominated    ") {
		t.Errorf("after the owner's word:\n%s", now)
	}
}
