package qemu_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"attestbox/internal/snpsim/qemu"
	"attestbox/internal/snpsim/qemu/guesttest"
)

// helperEnv makes the test binary start a machine, print QEMU's process and
// wait to be killed.
const helperEnv = "ATTESTBOX_TEST_QEMU_PARENT"

// TestNoOrphan kills the process that started QEMU, without warning: QEMU goes
// with it.
func TestNoOrphan(t *testing.T) {
	kernel := guesttest.Kernel(t)
	if os.Getenv(helperEnv) != "" {
		// -S: the guest need not even run.
		vm, err := (&qemu.Machine{Kernel: kernel, Args: []string{"-S"}}).Start(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Println("qemu", vm.PID())
		vm.Wait()
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestNoOrphan$")
	cmd.Env = append(os.Environ(), helperEnv+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := 0
	for sc := bufio.NewScanner(out); pid == 0 && sc.Scan(); {
		if s, ok := strings.CutPrefix(sc.Text(), "qemu "); ok {
			pid, _ = strconv.Atoi(s)
		}
	}
	// A descriptor of the process, so that its number cannot be another's later.
	fd, ferr := os.FindProcess(pid)
	cmd.Process.Kill()
	cmd.Wait()
	if pid == 0 || ferr != nil {
		t.Fatalf("the helper did not start QEMU: %v", ferr)
	}
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		// Nobody here is its parent, so there is nothing to wait on. A zombie that
		// nobody reaps yet is dead too.
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
	}
	fd.Signal(syscall.SIGKILL)
	t.Error("QEMU outlived the process that started it")
}
