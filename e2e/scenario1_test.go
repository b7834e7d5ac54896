package e2e

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"attestbox/internal/testenv"
)

// TestScenario1 is make scenario1: the commands of docs/scenario1.md as they
// stand there, with every VM booted. demo/scenario1.sh reads the page, says
// what it changes, and checks each step; what is left to check here is that no
// secret stays behind.
func TestScenario1(t *testing.T) {
	testenv.Tool(t, "qemu-system-x86_64", "qemu-system-x86")
	testenv.Tool(t, "mke2fs", "e2fsprogs")
	for _, v := range []string{"ATTESTBOX_KERNEL", "ATTESTBOX_MODULES", "ATTESTBOX_BUSYBOX"} {
		if os.Getenv(v) == "" {
			testenv.Skip(t, v+": run `eval \"export $(scripts/kernel.sh)\"`")
		}
	}
	// A folder of this run's own: others may run beside it.
	shm, err := os.MkdirTemp("/dev/shm", "attestbox-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(shm)
	dir := filepath.Join(t.TempDir(), "scenario1")
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(testenv.Root(), "demo", "scenario1.sh"))
	cmd.Env = append(os.Environ(), "ATTESTBOX_DEMO_DIR="+dir, "ATTESTBOX_SHM="+shm)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 30 * time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	t.Logf("%s", out.String())
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(dir, "commands.log"))
		t.Fatalf("%v\n%s", err, log)
	}
	if !strings.HasSuffix(out.String(), "\nscenario 1: ok\n") {
		t.Error("it did not end well")
	}
	left, err := os.ReadDir(shm)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range left {
		t.Errorf("%s was left behind in /dev/shm", e.Name())
	}
}
