package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// How a machine may end, other than by powering itself off.
var (
	// ErrReset: the guest asked for a reset, which is what a kernel panic with
	// panic=1 and a reboot look like; the machine does not start again.
	ErrReset = errors.New("the guest reset itself (a reboot or a kernel panic)")
	// ErrStopped: it was ended from outside, by Stop or by QMP's quit.
	ErrStopped = errors.New("the machine was stopped from outside")
)

// termGrace is how long QEMU has between SIGTERM and SIGKILL.
const termGrace = 3 * time.Second

// VM is a machine that was started.
type VM struct {
	Console *Console
	QMP     *QMP

	pid    int
	cancel context.CancelCauseFunc
	done   chan struct{}
	err    error // valid once done is closed

	mu     sync.Mutex
	reason string // of the SHUTDOWN event
}

// Start starts the machine. When ctx ends, QEMU gets SIGTERM and, after a
// grace, SIGKILL; Wait then returns ctx's cause.
func (m *Machine) Start(ctx context.Context) (*VM, error) {
	m, err := m.withDefaults()
	if err != nil {
		return nil, err
	}
	path, err := Find(ctx, m.Binary)
	if err != nil {
		return nil, err
	}
	in := &inherit{}
	started := false
	defer func() {
		if !started {
			in.close()
		}
	}()
	var f fds
	if f.kernel, err = in.memory("kernel", m.Kernel); err != nil {
		return nil, err
	}
	if len(m.Initrd) > 0 {
		if f.initrd, err = in.memory("initrd", m.Initrd); err != nil {
			return nil, err
		}
	}
	var console, qmp, vsock *net.UnixConn
	if console, f.console, err = in.socket("console"); err != nil {
		return nil, err
	}
	if qmp, f.qmp, err = in.socket("qmp"); err != nil {
		return nil, err
	}
	if m.VhostVsock != nil {
		if vsock, f.vsock, err = in.socket("vhost-user-vsock"); err != nil {
			return nil, err
		}
	}
	var ports []*net.UnixConn
	for _, p := range m.Ports {
		c, fd, err := in.socket(p.Name)
		if err != nil {
			return nil, err
		}
		ports, f.ports = append(ports, c), append(f.ports, fd)
	}

	vctx, cancel := context.WithCancelCause(ctx)
	vm := &VM{cancel: cancel, done: make(chan struct{})}
	stderr := &tail{max: 8 << 10}
	cmd := exec.CommandContext(vctx, path, m.args(f)...)
	cmd.ExtraFiles = in.files
	cmd.Stdout, cmd.Stderr = stderr, stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = termGrace
	// Its own process group: an interrupt from the terminal reaches QEMU
	// through ctx, after the console was read.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}

	// Pdeathsig follows the thread that forked, so that thread stays with QEMU.
	startErr, exit := make(chan error), make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		if err := cmd.Start(); err != nil {
			startErr <- err
			return
		}
		startErr <- nil
		exit <- cmd.Wait()
	}()
	if err := <-startErr; err != nil {
		cancel(nil)
		return nil, fmt.Errorf("starting %q: %w", path, err)
	}
	started = true
	in.closeFiles()
	vm.pid = cmd.Process.Pid
	vm.Console = newConsole(console, time.Now(), m.ConsoleOut, m.Timestamps)
	vm.QMP = newQMP(qmp, vm.event)

	var serving sync.WaitGroup
	serving.Go(vm.Console.read)
	for i, p := range m.Ports {
		serving.Go(func() { p.Serve(vctx, ports[i]) })
	}
	if vsock != nil {
		serving.Go(func() {
			if err := m.VhostVsock(vctx, vsock); err != nil && vctx.Err() == nil {
				cancel(fmt.Errorf("serving the guest's vsock: %w", err))
			}
		})
	}
	go func() {
		err := <-exit
		<-vm.QMP.closed
		vm.err = vm.verdict(vctx, err, stderr)
		cancel(nil)
		for _, c := range ports {
			c.Close()
		}
		if vsock != nil {
			vsock.Close()
		}
		serving.Wait()
		console.Close()
		qmp.Close()
		close(vm.done)
	}()

	// QEMU answers once its machine is built: a wrong option shows here.
	nctx, stop := context.WithTimeout(vctx, 60*time.Second)
	defer stop()
	if err := vm.QMP.negotiate(nctx); err != nil {
		cancel(err)
		<-vm.done
		if vm.err != nil {
			err = vm.err
		}
		return nil, fmt.Errorf("starting QEMU: %w", err)
	}
	return vm, nil
}

func (vm *VM) event(e Event) {
	if r := shutdownReason(e); r != "" {
		vm.mu.Lock()
		vm.reason = r
		vm.mu.Unlock()
	}
}

// verdict says how the machine ended; nil for a guest that powered itself off.
func (vm *VM) verdict(ctx context.Context, exit error, stderr *tail) error {
	vm.mu.Lock()
	reason := vm.reason
	vm.mu.Unlock()
	text := strings.TrimSpace(stderr.String())
	if text != "" {
		text = ": " + strings.ReplaceAll(text, "\n", "; ")
	}
	switch {
	case reason == "guest-shutdown":
		return nil
	case reason == "guest-reset":
		return ErrReset
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case reason == "host-qmp-quit" || reason == "host-signal":
		return ErrStopped
	case reason == "guest-panic":
		return fmt.Errorf("the guest panicked%s", text)
	case exit != nil:
		return fmt.Errorf("QEMU failed: %w%s", exit, text)
	default:
		return fmt.Errorf("QEMU ended without saying why (%q)%s", reason, text)
	}
}

// Wait waits until the machine has ended and its console was read to the end.
// nil means that the guest powered itself off.
func (vm *VM) Wait() error {
	<-vm.done
	return vm.err
}

// Done is closed when the machine has ended.
func (vm *VM) Done() <-chan struct{} { return vm.done }

// PID is QEMU's process.
func (vm *VM) PID() int { return vm.pid }

// Stop ends the machine at once and waits for it. Not an error when it had
// ended already.
func (vm *VM) Stop() {
	vm.cancel(ErrStopped)
	<-vm.done
}

// tail keeps the last max bytes written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte
	max int
}

var _ io.Writer = (*tail)(nil)

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if n := len(t.buf) - t.max; n > 0 {
		t.buf = append(t.buf[:0], t.buf[n:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.buf)
}
