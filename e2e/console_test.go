package e2e

import (
	"bytes"
	"context"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// runUntil runs snp-sim until its console shows until, or, if that is empty,
// until the guest powered itself off, which it must. It returns the console.
func runUntil(t *testing.T, cmd *exec.Cmd, until string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { cmd.Process.Signal(syscall.SIGTERM) })
	defer stop()
	cmd.WaitDelay = 10 * time.Second
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var console strings.Builder
	reached := false
	for buf := make([]byte, 8192); ; {
		n, err := stdout.Read(buf)
		console.Write(bytes.ReplaceAll(buf[:n], []byte("\r"), nil))
		if !reached && until != "" && strings.Contains(console.String(), until) {
			reached = true
			cmd.Process.Signal(syscall.SIGTERM)
		}
		if err != nil {
			if err != io.EOF {
				t.Error(err)
			}
			break
		}
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
