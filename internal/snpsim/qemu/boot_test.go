package qemu_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"attestbox/internal/snpsim/qemu"
	"attestbox/internal/snpsim/qemu/guesttest"
)

func initramfs(t *testing.T) []byte {
	t.Helper()
	files := guesttest.Modules(t, append(guesttest.Virtio, "drivers/char/virtio_console", "drivers/block/virtio_blk")...)
	return guesttest.Initramfs(append(files,
		guesttest.File{Name: "init", Mode: 0o755, Data: guesttest.Build(t, "testdata/guest")})...)
}

func start(t *testing.T, ctx context.Context, m *qemu.Machine) *qemu.VM {
	t.Helper()
	vm, err := m.Start(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		vm.Stop()
		if t.Failed() {
			t.Logf("console:\n%s", vm.Console)
		}
	})
	return vm
}

func waitFor(t *testing.T, ctx context.Context, vm *qemu.VM, text string) string {
	t.Helper()
	line, err := vm.Console.WaitFor(ctx, text)
	if err != nil {
		t.Fatalf("waiting for %q on the console: %v", text, err)
	}
	return line
}

// One boot that uses every channel: console both ways, port, disks, QMP.
func TestBoot(t *testing.T) {
	kernel := guesttest.Kernel(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	dir := t.TempDir()
	rw, ro := filepath.Join(dir, "a,readonly=on.img"), filepath.Join(dir, "b.img")
	for _, p := range []string{rw, ro} {
		if err := os.WriteFile(p, append([]byte("disk "+filepath.Base(p)), make([]byte, 1<<20)...), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var out strings.Builder // written by one goroutine, read after Wait
	asked := make(chan string, 1)
	qmpPath := filepath.Join(dir, "qmp.sock")
	vm := start(t, ctx, &qemu.Machine{
		Kernel: kernel, Initrd: initramfs(t), Append: guesttest.CommandLine + " attestbox.test=a,b",
		MemoryMiB: 256,
		Disks:     []qemu.Disk{{Path: rw}, {Path: ro, ReadOnly: true}},
		Ports: []qemu.Port{{Name: "attestbox.snp-sim", Serve: func(ctx context.Context, c net.Conn) {
			s, _ := bufio.NewReader(c).ReadString('\n')
			asked <- s
			io.WriteString(c, "welcome\n")
		}}},
		ConsoleOut: &out, Timestamps: true, QMPPath: qmpPath,
	})
	waitFor(t, ctx, vm, "ready")
	if got := <-asked; got != "hello\n" {
		t.Errorf("the port's server read %q", got)
	}
	for _, want := range []string{
		`attestbox.test=a,b"`, `port says "welcome\n"`,
		`disk /dev/vda "disk a,readonly=on.img"`, "disk /dev/vda written: <nil>", "disk /dev/vdb written: write /dev/vdb: operation not permitted",
		"virtio device 0x0003",
	} {
		waitFor(t, ctx, vm, want)
	}
	if strings.Contains(vm.Console.String(), "virtio device 0x0001") {
		t.Error("a machine without network has a network device")
	}
	if s, err := vm.QMP.Status(ctx); err != nil || s != "running" {
		t.Errorf("status %q, %v", s, err)
	}

	// The second monitor, and a dump of the whole memory: the disk's text, read
	// by the guest into its memory, is there.
	q, err := qemu.DialQMP(ctx, qmpPath)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	dump := filepath.Join(dir, "ram")
	if err := q.DumpMemory(ctx, dump); err != nil {
		t.Fatal(err)
	}
	ram, err := os.ReadFile(dump)
	if err != nil {
		t.Fatal(err)
	}
	if len(ram) < 256<<20 || !strings.Contains(string(ram), "written by the guest") {
		t.Errorf("the dump has %d bytes, or lacks what the guest wrote", len(ram))
	}
	if err := vm.QMP.SaveMemory(ctx, dump, 0, 1<<20); err != nil {
		t.Error(err)
	}
	if err := vm.QMP.SendBreak(ctx); err != nil {
		t.Error(err)
	}
	if _, err := vm.QMP.Execute(ctx, "no-such-command", nil); err == nil {
		t.Error("an unknown QMP command succeeded")
	}

	io.WriteString(vm.Console, "off\n")
	if err := vm.Wait(); err != nil {
		t.Errorf("a guest that powered off: %v", err)
	}
	if !strings.Contains(out.String(), "] ready\n") {
		t.Errorf("console output lacks time stamps:\n%s", out.String())
	}
	if _, err := vm.QMP.Status(ctx); !errors.Is(err, qemu.ErrQMPClosed) && err == nil {
		t.Error("QMP answers after the end")
	}
	disk, err := os.ReadFile(rw)
	if err != nil || !strings.HasPrefix(string(disk), "written by the guest") {
		t.Errorf("the guest's write did not reach the disk image: %q, %v", disk[:32], err)
	}
	if disk, _ := os.ReadFile(ro); !strings.HasPrefix(string(disk), "disk b.img") {
		t.Error("a read-only disk image changed")
	}
}

// What the other ends look like: reset, panic, cancellation, a dead monitor.
func TestEnds(t *testing.T) {
	kernel, initrd := guesttest.Kernel(t), initramfs(t)
	for _, tc := range []struct {
		name string
		act  func(t *testing.T, ctx context.Context, cancel context.CancelFunc, vm *qemu.VM)
		want error
	}{
		{"reset", func(_ *testing.T, _ context.Context, _ context.CancelFunc, vm *qemu.VM) {
			io.WriteString(vm.Console, "reset\n")
		}, qemu.ErrReset},
		{"panic", func(_ *testing.T, _ context.Context, _ context.CancelFunc, vm *qemu.VM) {
			io.WriteString(vm.Console, "panic\n")
		}, qemu.ErrReset},
		{"cancel", func(_ *testing.T, _ context.Context, cancel context.CancelFunc, _ *qemu.VM) { cancel() }, context.Canceled},
		{"quit", func(t *testing.T, ctx context.Context, _ context.CancelFunc, vm *qemu.VM) {
			if err := vm.QMP.Quit(ctx); err != nil {
				t.Error(err)
			}
		}, qemu.ErrStopped},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			vm := start(t, ctx, &qemu.Machine{Kernel: kernel, Initrd: initrd, Append: guesttest.CommandLine})
			waitFor(t, ctx, vm, "ready")
			tc.act(t, ctx, cancel, vm)
			if err := vm.Wait(); !errors.Is(err, tc.want) {
				t.Errorf("Wait: %v, want %v", err, tc.want)
			}
			if err := syscall.Kill(vm.PID(), 0); !errors.Is(err, syscall.ESRCH) {
				t.Errorf("QEMU, process %d, is still there: %v", vm.PID(), err)
			}
		})
	}
}
