// Command guest is PID 1 of the virtual machine in which package unlock is
// tested against a real device-mapper. It prints one line per case and powers
// off; the test on the host compares.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	devmapper "github.com/anatol/devmapper.go"
	"golang.org/x/sys/unix"

	"attestbox/internal/code"
	"attestbox/internal/secret"
	"attestbox/internal/unlock"
	"attestbox/internal/wire"
)

func main() {
	defer unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	if err := setup(); err != nil {
		fmt.Println("SETUP", err)
		return
	}
	run()
	unix.Sync()
	fmt.Println("DONE")
}

func setup() error {
	for _, m := range [][3]string{{"devtmpfs", "/dev", "devtmpfs"}, {"proc", "/proc", "proc"}, {"sysfs", "/sys", "sysfs"}} {
		if err := unix.Mount(m[0], m[1], m[2], 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mounting %s: %w", m[1], err)
		}
	}
	mods, _ := filepath.Glob("/modules/*")
	sort.Strings(mods)
	for _, m := range mods {
		f, err := os.Open(m)
		if err != nil {
			return err
		}
		flags := 0
		if !strings.HasSuffix(m, ".ko") {
			flags = 4 // MODULE_INIT_COMPRESSED_FILE
		}
		if err := unix.FinitModule(int(f.Fd()), "", flags); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("loading %s: %w", m, err)
		}
		f.Close()
	}
	for _, d := range []string{"/dev/vda", "/dev/vdb", "/dev/vdc"} {
		// Probing of virtio devices ends some time after the module is loaded.
		for until := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			if _, err := os.Stat(d); err == nil {
				break
			}
			if time.Now().After(until) {
				return errors.New("no " + d)
			}
		}
	}
	return nil
}

func say(name string, err error) {
	c, ok := code.Of(err)
	switch {
	case err == nil:
		c = "ok"
	case !ok:
		c = "error"
	}
	fmt.Printf("CASE %s: %s # refusal %v, %v\n", name, c, unlock.IsRefusal(err), err)
}

func run() {
	ctx := context.Background()
	key, err := os.ReadFile("/key")
	if err != nil {
		fmt.Println("SETUP", err)
		return
	}
	var rec wire.HeaderRecord
	text, _ := os.ReadFile("/record.json")
	if err := json.Unmarshal(text, &rec); err != nil {
		fmt.Println("SETUP", err)
		return
	}
	try := func(name, dev string, change func(*wire.HeaderRecord, []byte)) error {
		r, k := rec, secret.Copy(key)
		if change != nil {
			change(&r, k.Bytes())
		}
		_, err := unlock.Unlock(ctx, dev, name, &r, k)
		if k.Len() != 0 {
			return errors.New("the key was not wiped")
		}
		return err
	}
	say("wrong key", try("root", "/dev/vda", func(_ *wire.HeaderRecord, k []byte) { k[0] ^= 1 }))
	say("wrong digest", try("root", "/dev/vda", func(r *wire.HeaderRecord, _ []byte) { r.Digest = strings.Repeat("0", 64) }))
	say("other sector size", try("root", "/dev/vda", func(r *wire.HeaderRecord, _ []byte) { r.SectorSize = 512 }))
	say("header of another disk", try("root", "/dev/vdb", nil))
	say("truncated disk", try("root", "/dev/vdc", nil))
	say("no block device", try("root", "/record.json", nil))
	say("bad name", try("../root", "/dev/vda", nil))
	entries, _ := filepath.Glob("/dev/mapper/*")
	fmt.Printf("CASE nothing mapped: %v\n", entries)

	res, err := unlock.Unlock(ctx, "/dev/vda", "root", &rec, secret.Copy(key))
	say("open", err)
	if err != nil {
		return
	}
	fmt.Printf("CASE digest: %v\n", fmt.Sprintf("%x", res.HeaderDigest) == rec.Digest)
	say("same name again", try("root", "/dev/vda", nil))
	say("check", res.Mapping.Check())

	keys, _ := os.ReadFile("/proc/keys")
	fmt.Printf("CASE key left in a keyring: %v\n", liveKey(string(keys)))

	os.Mkdir("/mnt", 0o755)
	say("mount", unix.Mount(res.Node, "/mnt", "ext4", 0, ""))
	motd, err := os.ReadFile("/mnt/etc/motd")
	fmt.Printf("CASE read: %q %v\n", motd, err)
	// Written by the guest; must not be found on the raw disk.
	say("write", os.WriteFile("/mnt/etc/written", bytes.Repeat([]byte("GUEST-CANARY-"), 10000), 0o600))
	say("remove while mounted", res.Mapping.Remove())
	say("check while mounted", res.Mapping.Check())
	say("unmount", unix.Unmount("/mnt", 0))

	// Somebody puts another table in place.
	tables := map[string]devmapper.Table{
		"linear table":   devmapper.LinearTable{Length: 1 << 20, BackendDevice: "/dev/vda"},
		"cleartext key":  devmapper.CryptTable{Length: 1 << 20, BackendDevice: "/dev/vda", Encryption: "aes-xts-plain64", Key: make([]byte, 64)},
		"another device": devmapper.CryptTable{Length: 1 << 20, BackendDevice: "/dev/vdb", Encryption: "aes-xts-plain64", Key: make([]byte, 64)},
	}
	for _, name := range []string{"linear table", "cleartext key", "another device"} {
		if err := errors.Join(devmapper.Suspend("root"), devmapper.Load("root", 0, tables[name]), devmapper.Resume("root")); err != nil {
			fmt.Println("SETUP", name, err)
		}
		say(name, res.Mapping.Check())
	}
	say("suspended", errors.Join(devmapper.Suspend("root"), res.Mapping.Check()))
	devmapper.Resume("root")
	say("remove", res.Mapping.Remove())
	say("check after remove", res.Mapping.Check())
	entries, _ = filepath.Glob("/dev/mapper/*")
	fmt.Printf("CASE nodes after remove: %v\n", entries)

	// Mapped again, the file is still there.
	res, err = unlock.Unlock(ctx, "/dev/vda", "again", &rec, secret.Copy(key))
	say("open again", err)
	if err != nil {
		return
	}
	say("mount again", unix.Mount(res.Node, "/mnt", "ext4", unix.MS_RDONLY, ""))
	got, err := os.ReadFile("/mnt/etc/written")
	fmt.Printf("CASE read again: %d %v\n", len(got), err)
	say("unmount again", unix.Unmount("/mnt", 0))
	say("remove again", res.Mapping.Remove())
}

// liveKey looks for a key of ours that was not revoked (flags "I..R").
func liveKey(keys string) bool {
	for line := range strings.Lines(keys) {
		f := strings.Fields(line)
		if strings.Contains(line, "attestbox") && len(f) > 1 && !strings.Contains(f[1], "R") {
			return true
		}
	}
	return false
}
