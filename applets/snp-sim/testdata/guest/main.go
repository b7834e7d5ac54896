// The init of the tests of `snp-sim run`: it asks the simulated secure
// processor for a report over the bare line, without /dev/sev-guest, prints it
// in hex and powers off.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"

	"attestbox/internal/snpsim/link"
	"attestbox/internal/snpsim/qemu/guesttest/guestinit"
)

func main() {
	guestinit.Prepare()
	cmdline, _ := os.ReadFile("/proc/cmdline")
	switch {
	case strings.Contains(string(cmdline), "test=hang"):
		fmt.Println("hanging")
		unix.Pause()
	case strings.Contains(string(cmdline), "test=panic"):
		os.Exit(1)
	case strings.Contains(string(cmdline), "test=vsock"):
		if err := hello(); err != nil {
			fmt.Println("failed:", err)
		}
		guestinit.PowerOff()
	}
	if err := report(); err != nil {
		fmt.Println("failed:", err)
	}
	guestinit.PowerOff()
}

func hello() error {
	cid, err := vsock.ContextID()
	if err != nil {
		return err
	}
	if c, err := vsock.Dial(vsock.Host, 9, nil); err == nil {
		c.Close()
		return fmt.Errorf("port 9 was connected")
	}
	fmt.Println("port 9: refused")
	c, err := vsock.Dial(vsock.Host, 8451, nil)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := fmt.Fprintf(c, "hello from CID %d", cid); err != nil {
		return err
	}
	if err := c.CloseWrite(); err != nil {
		return err
	}
	_, err = c.Read(make([]byte, 1)) // until the host has all of it
	if err == io.EOF {
		err = nil
	}
	return err
}

func report() error {
	port, err := guestinit.Port("attestbox.snp-sim")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	req := make([]byte, link.ReportReqSize)
	copy(req, "from the test's guest")
	a, err := link.NewClient(port).Do(ctx, link.KindReport, req)
	if err != nil {
		return err
	}
	fmt.Printf("exitinfo %d\nreport %x\n", a.ExitInfo, a.Message[32:])
	return nil
}
