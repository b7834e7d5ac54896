package e2e

import (
	"bytes"
	"context"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"attestbox/internal/snpsim/qemu"
)

// keys are what a person in front of the machine would try.
var keys = []string{"\n", "\x03", "\x1a", "\x04", "\x1b", "\x1c"}

// runUntil runs snp-sim until its console shows until, or, if that is empty,
// until the guest powered itself off, which it must. It returns the console.
// All the way keys are pressed, and SysRq-b by a BREAK on the line.
func runUntil(t *testing.T, cmd *exec.Cmd, until string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { cmd.Process.Signal(syscall.SIGTERM) })
	defer stop()
	cmd.WaitDelay = 10 * time.Second
	qmpPath := filepath.Join(t.TempDir(), "qmp")
	cmd.Args = append(cmd.Args, "-stdin", "-qmp", qmpPath)
	typed, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// Whoever sits there presses Enter when nothing moves, too: a prompt that was
	// lost among other output comes again.
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		for tick := time.NewTicker(20 * time.Second); ; {
			select {
			case <-ended:
				tick.Stop()
				return
			case <-tick.C:
				io.WriteString(typed, "\n")
			}
		}
	}()
	var console strings.Builder
	reached := false
	var qmp *qemu.QMP
	pressed := 0
	for buf := make([]byte, 8192); ; {
		n, err := stdout.Read(buf)
		console.Write(bytes.ReplaceAll(buf[:n], []byte("\r"), nil))
		if !reached && until != "" && strings.Contains(console.String(), until) {
			reached = true
			cmd.Process.Signal(syscall.SIGTERM)
		}
		if qmp == nil {
			qmp, _ = qemu.DialQMP(ctx, qmpPath)
		}
		// The machine may be gone by now.
		io.WriteString(typed, keys[pressed%len(keys)])
		if pressed++; pressed%16 == 0 && qmp != nil && qmp.SendBreak(ctx) == nil {
			io.WriteString(typed, "b")
		}
		if err != nil {
			if err != io.EOF {
				t.Error(err)
			}
			break
		}
	}
	if qmp == nil {
		t.Error("no BREAK could be sent")
	} else {
		qmp.Close()
	}
	err = cmd.Wait()
	t.Logf("console:\n%s", console.String())
	switch {
	case until != "" && !reached:
		t.Errorf("the console never showed %q: %v\n%s", until, err, stderr.String())
	case until == "" && err != nil:
		t.Errorf("the guest did not power itself off: %v\n%s", err, stderr.String())
	}
	return console.String()
}
