// The init of the tests of package qemu: it says hello, answers on its
// virtio-serial port, reads its disk and waits for what to do on the console.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"attestbox/internal/snpsim/qemu/guesttest/guestinit"
)

func main() {
	guestinit.Prepare()
	cmdline, _ := os.ReadFile("/proc/cmdline")
	fmt.Printf("cmdline %q\n", strings.TrimSpace(string(cmdline)))
	for _, d := range []string{"/dev/vda", "/dev/vdb"} {
		if f, err := os.Open(d); err == nil {
			b := make([]byte, 512)
			io.ReadFull(f, b)
			fmt.Printf("disk %s %q\n", d, strings.TrimRight(string(b), "\x00"))
			f, err := os.OpenFile(d, os.O_RDWR, 0)
			if err == nil {
				_, err = f.WriteString("written by the guest")
				err = errors.Join(err, f.Sync(), f.Close())
			}
			fmt.Println("disk", d, "written:", err)
		}
	}
	if strings.Contains(string(cmdline), "attestbox.test") {
		if port, err := guestinit.Port("attestbox.snp-sim"); err != nil {
			fmt.Println("port:", err)
		} else {
			io.WriteString(port, "hello\n")
			answer, err := bufio.NewReader(port).ReadString('\n')
			fmt.Printf("port says %q %v\n", answer, err)
		}
	}
	nets, _ := filepath.Glob("/sys/bus/virtio/devices/*/device")
	for _, n := range nets {
		id, _ := os.ReadFile(n)
		fmt.Println("virtio device", strings.TrimSpace(string(id)))
	}
	fmt.Println("ready")
	in := bufio.NewReader(os.Stdin)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			fmt.Println("console:", err)
		}
		switch strings.TrimSpace(line) {
		case "off":
			guestinit.PowerOff()
		case "reset":
			unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
		case "panic":
			os.Exit(1)
		}
	}
}
