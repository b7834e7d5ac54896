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
	fmt.Println("CASE done")
	guestinit.PowerOff()
}

// unlock runs the applet by its own name.
func unlock(name string, key []byte, args ...string) {
	cmd := exec.Command("/bin/unlock-luks", args...)
	cmd.Stdin = bytes.NewReader(key)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	_ = cmd.Run()
	fmt.Printf("CASE %s: exit %d, out %q, err %q\n", name, cmd.ProcessState.ExitCode(), out.String(), errs.String())
}
