// Command guest is PID 1 of the machine in which unlock-luks, as it lies in an
// image, opens a disk: it prints what the applet said and how it ended.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	devmapper "github.com/anatol/devmapper.go"
	"golang.org/x/sys/unix"

	"attestbox/internal/snpsim/qemu/guesttest/guestinit"
)

func main() {
	guestinit.Prepare()
	for range 1000 { // the disk appears some time after its driver
		if _, err := os.Stat("/dev/vda"); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	key, err := os.ReadFile("/disk.key")
	fmt.Println("CASE key:", len(key), err)
	unlock("wrong key", append([]byte{key[0] ^ 1}, key[1:]...), "-record", "/disk.json", "/dev/vda", "root")
	unlock("other record", key, "-record", "/other.json", "/dev/vda", "root")
	nodes, _ := filepath.Glob("/dev/mapper/[^c]*")
	fmt.Println("CASE mapped after refusals:", len(nodes))
	unlock("open", key, "-record", "/disk.json", "/dev/vda", "root")
	if err := errors.Join(os.MkdirAll("/mnt", 0o755), unix.Mount("/dev/mapper/root", "/mnt", "ext4", unix.MS_RDONLY, "")); err != nil {
		fmt.Println("CASE mount:", err)
	}
	motd, err := os.ReadFile("/mnt/motd")
	fmt.Printf("CASE read: %q %v\n", motd, err)
	unlock("again", key, "-record", "/disk.json", "/dev/vda", "root")
	rotate()
	fmt.Println("CASE done")
	guestinit.PowerOff()
}

// rotate changes the key of the disk while it is mounted, and opens it anew.
func rotate() {
	record, errs, exit := run(nil, "rotate", "-key", "/disk.key", "-new-key", "/new.key", "/dev/vda")
	fmt.Printf("CASE rotate: exit %d, err %q\n", exit, errs)
	if err := errors.Join(os.WriteFile("/next.json", []byte(record), 0o600), os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0)); err != nil {
		fmt.Println("CASE rotate:", err)
	}
	motd, err := os.ReadFile("/mnt/motd")
	fmt.Printf("CASE read while rotated: %q %v\n", motd, err)
	fmt.Println("CASE close:", errors.Join(unix.Unmount("/mnt", 0), errors.Join(devmapper.Remove("root"), devmapper.Remove("root_dif")), os.Remove("/dev/mapper/root")))
	oldKey, err1 := os.ReadFile("/disk.key")
	newKey, err2 := os.ReadFile("/new.key")
	if err := errors.Join(err1, err2); err != nil {
		fmt.Println("CASE rotate:", err)
	}
	unlock("old record", oldKey, "-record", "/disk.json", "/dev/vda", "root")
	unlock("old key", oldKey, "-record", "/next.json", "/dev/vda", "root")
	unlock("new key", newKey, "-record", "/next.json", "/dev/vda", "root")
	err = unix.Mount("/dev/mapper/root", "/mnt", "ext4", unix.MS_RDONLY, "")
	motd, _ = os.ReadFile("/mnt/motd")
	fmt.Printf("CASE read after rotation: %q %v\n", motd, err)
}

func run(in []byte, args ...string) (out, errs string, exit int) {
	cmd := exec.Command("/bin/unlock-luks", args...)
	cmd.Stdin = bytes.NewReader(in)
	var o, e strings.Builder
	cmd.Stdout, cmd.Stderr = &o, &e
	_ = cmd.Run()
	return o.String(), e.String(), cmd.ProcessState.ExitCode()
}

// unlock runs the applet by its own name.
func unlock(name string, key []byte, args ...string) {
	out, errs, exit := run(key, args...)
	fmt.Printf("CASE %s: exit %d, out %q, err %q\n", name, exit, out, errs)
}
